#!/usr/bin/env bash
# A TPU pod slice as VMs: the same command on all workers, by gcloud, from your own machine.
#
#   launch/tpu_vm.sh ACTION --name NAME --zone ZONE [options] [-- COMMAND...]
#
#   create    make the slice (--type v5litepod-16, and --version, --spot)
#   install   idejax on all workers (--source: what pip installs, default idejax[tpu])
#   run       start COMMAND on all workers; it goes on when this connection ends
#   watch     follow worker 0's output (--worker I for another's)
#   status    which workers still run it
#   stop      SIGTERM to all workers: the run saves and stops, the same `run` continues
#   delete    the slice, its disks and what is on them
#
#   launch/tpu_vm.sh create --name idejax --zone us-west4-a --type v5litepod-16
#   launch/tpu_vm.sh run --name idejax --zone us-west4-a -- \
#     idejax personalize gs-mount/people --model FOLDER --out gs-mount/runs/people
#
# --project P    default: gcloud's own        --dry-run    print what would run
# Every worker must see --out: a mounted bucket or network disk.
set -euo pipefail

usage() { sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "$0"; }
die() {
  printf 'tpu_vm.sh: %s\n' "$*" >&2
  exit 2
}

action='' name='' zone='' project='' type='' version='v2-alpha-tpuv5-lite' spot='' source='idejax[tpu]' worker=0 dry=''
case ${1-} in
  create | install | run | watch | status | stop | delete) action=$1; shift ;;
  -h | --help) usage; exit 0 ;;
  *) die "the action is '${1-}'; it must be create, install, run, watch, status, stop or delete" ;;
esac
while (($#)); do
  case $1 in
    --dry-run) dry=1 ;;
    --spot) spot=1 ;;
    --) shift; break ;;
    --name | --zone | --project | --type | --version | --source | --worker)
      (($# > 1)) || die "$1 is without its value"
      printf -v "${1#--}" '%s' "$2"
      shift ;;
    *) die "unknown option $1; see --help (the command comes after --)" ;;
  esac
  shift
done
[[ $name ]] || die "--name is missing: the slice's name"
[[ $zone ]] || die "--zone is missing, such as us-west4-a"
where=("--zone=$zone" ${project:+"--project=$project"})

call() {
  if [[ $dry ]]; then
    printf '%q ' "$@"
    printf '\n'
  else "$@"
  fi
}
on() { call gcloud compute tpus tpu-vm ssh "$name" "${where[@]}" "--worker=$1" "--command=$2"; }

# Where a worker keeps the running command's id and output.
pid="\"\$HOME/idejax.pid\"" log="\"\$HOME/idejax.log\""
alive="kill -0 \"\$(cat $pid 2>/dev/null)\" 2>/dev/null"
case $action in
  create)
    [[ $type ]] || die "--type is missing, such as v5litepod-16"
    call gcloud compute tpus tpu-vm create "$name" "${where[@]}" "--accelerator-type=$type" \
      "--version=$version" ${spot:+--spot} ;;
  install)
    on all "python3 -m venv ~/idejax-venv && ~/idejax-venv/bin/pip install --quiet --upgrade $(printf '%q' "$source")" ;;
  run)
    (($#)) || die "no command; usage: tpu_vm.sh run --name NAME --zone ZONE -- COMMAND..."
    command=$(printf '%q ' "$@")
    # A session of its own, so that it outlives ssh; one at a time, for two would fight for the chips.
    on all "if $alive; then echo \"\$(hostname): already running\" >&2; exit 1; fi; PATH=\$HOME/idejax-venv/bin:\$PATH setsid nohup $command>>$log 2>&1 </dev/null & echo \$! >$pid" ;;
  watch) on "$worker" "tail -n 50 -F $log" ;;
  status) on all "if $alive; then echo \"\$(hostname): running\"; else echo \"\$(hostname): not running\"; fi" ;;
  stop) on all "if $alive; then kill -TERM \"\$(cat $pid)\"; fi" ;;
  delete) call gcloud compute tpus tpu-vm delete "$name" "${where[@]}" ;;
esac
