#!/usr/bin/env bash
# Several nodes with GPUs under Slurm, one process a GPU; options of sbatch come before the script.
#
#   sbatch --nodes 4 --gpus-per-node 8 --ntasks-per-node 8 launch/slurm.sh COMMAND...
#   sbatch --nodes 2 launch/slurm.sh idejax personalize people --model FOLDER --out /shared/runs/people
#   launch/slurm.sh --dry-run COMMAND...      print what would run, here and now
#
# --out must be on a file system that all nodes share. The environment is the submitting shell's:
# activate the virtual environment first, or name one in IDEJAX_VENV (a folder that all nodes see).
#
#SBATCH --job-name=idejax
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-node=8
#SBATCH --time=24:00:00
#SBATCH --output=idejax-%j.log
#SBATCH --open-mode=append
#SBATCH --requeue
#SBATCH --signal=TERM@180
#
# Three minutes before the time is up every process gets SIGTERM, so the run saves and stops; after
# a preemption the job is queued again. Either way the same command continues where it stopped.
set -euo pipefail

usage() { sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "$0"; }
die() {
  printf 'slurm.sh: %s\n' "$*" >&2
  exit 2
}

dry=''
while [[ ${1-} == -* ]]; do
  case $1 in
    --dry-run) dry=1 ;;
    -h | --help) usage; exit 0 ;;
    *) die "unknown option $1; sbatch's options come before the script" ;;
  esac
  shift
done
(($#)) || die "no command; usage: sbatch [options] launch/slurm.sh COMMAND..."
if [[ ! $dry && ! ${SLURM_JOB_ID-} ]]; then die "no Slurm job here: submit it with sbatch, or look with --dry-run"; fi

# One process that dies ends the job: the others would wait for it in their next collective.
run=(srun --kill-on-bad-exit=1 --label)
if [[ ${IDEJAX_VENV-} ]]; then
  [[ $dry || -x $IDEJAX_VENV/bin/python ]] || die "IDEJAX_VENV is $IDEJAX_VENV, which holds no bin/python"
  run=(env "PATH=$IDEJAX_VENV/bin:$PATH" "${run[@]}")
fi
if [[ $dry ]]; then
  grep '^#SBATCH' "$0"
  printf '%q ' "${run[@]}" "$@"
  printf '\n'
  exit 0
fi
exec "${run[@]}" "$@"
