#!/usr/bin/env bash
# TPU slices in a GKE cluster, by xpk (pip install xpk): one workload, a pod a host.
#
#   launch/gke.sh ACTION --cluster C --workload W [options] [-- COMMAND...]
#
#   run       start COMMAND (--type v5litepod-256, --slices N, --image IMAGE with idejax[tpu] inside)
#   watch     follow the output of the first host
#   status    of the cluster's workloads
#   stop      delete the workload: its pods get SIGTERM, the run saves; the same `run` continues
#
#   launch/gke.sh run --cluster pod --workload people-1 --type v5litepod-256 --image IMAGE -- \
#     idejax personalize /mnt/people --model /mnt/sd21 --out /mnt/runs/people
#
# --zone Z, --project P    default: gcloud's own        --restarts N   after a failure (default 3)
# --dry-run                print what would run
# Every pod must see --out: storage that is attached to the cluster (xpk storage attach).
set -euo pipefail

usage() { sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "$0"; }
die() {
  printf 'gke.sh: %s\n' "$*" >&2
  exit 2
}

action='' cluster='' workload='' type='' slices=1 image='' zone='' project='' restarts=3 dry=''
case ${1-} in
  run | watch | status | stop) action=$1; shift ;;
  -h | --help) usage; exit 0 ;;
  *) die "the action is '${1-}'; it must be run, watch, status or stop" ;;
esac
while (($#)); do
  case $1 in
    --dry-run) dry=1 ;;
    --) shift; break ;;
    --cluster | --workload | --type | --slices | --image | --zone | --project | --restarts)
      (($# > 1)) || die "$1 is without its value"
      printf -v "${1#--}" '%s' "$2"
      shift ;;
    *) die "unknown option $1; see --help (the command comes after --)" ;;
  esac
  shift
done
[[ $cluster ]] || die "--cluster is missing"
if [[ $action != status ]]; then
  [[ $workload =~ ^[a-z]([-a-z0-9]*[a-z0-9])?$ ]] ||
    die "--workload is '$workload'; it must be small letters, digits and dashes, such as people-1"
fi
where=("--cluster=$cluster" ${zone:+"--zone=$zone"} ${project:+"--project=$project"})

call() {
  if [[ $dry ]]; then
    printf '%q ' "$@"
    printf '\n'
  else "$@"
  fi
}
case $action in
  run)
    [[ $type ]] || die "--type is missing, such as v5litepod-256"
    [[ $image ]] || die "--image is missing: a container image in which idejax[tpu] is installed"
    (($#)) || die "no command; usage: gke.sh run [options] -- COMMAND..."
    # `exec`: the command itself gets the pod's SIGTERM, no shell in between.
    call xpk workload create "${where[@]}" "--workload=$workload" "--tpu-type=$type" \
      "--num-slices=$slices" "--docker-image=$image" "--max-restarts=$restarts" \
      "--command=exec $(printf '%q ' "$@")" ;;
  watch)
    call kubectl logs --follow --prefix \
      --selector "jobset.sigs.k8s.io/jobset-name=$workload,batch.kubernetes.io/job-completion-index=0" ;;
  status) call xpk workload list "${where[@]}" ;;
  stop) call xpk workload delete "${where[@]}" "--workload=$workload" ;;
esac
