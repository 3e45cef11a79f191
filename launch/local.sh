#!/usr/bin/env bash
# Several processes of one command on this host: to try a multi-host run, or one process a GPU.
#
#   launch/local.sh [options] N COMMAND...
#   launch/local.sh --devices 4 2 idejax personalize people --out runs/people
#   launch/local.sh --gpus 8 idejax personalize people --model sdxl --out runs/people
#
#   --devices D   each process has D virtual CPU devices
#   --gpus        each process sees one GPU, the one of its number
#   --port P      of process 0, for the others to find it (default: 9876)
#   --logs DIR    output of process i goes to DIR/i.log too (default: only process 0 is shown)
#   --dry-run     print what would run
#
# Ends when all processes have ended; when one fails, the others are stopped and its code is the
# script's. Ctrl-C and SIGTERM reach every process: a run saves and stops, the same command continues.
set -euo pipefail

usage() { sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "$0"; }
die() {
  printf '%s: %s\n' "${0##*/}" "$*" >&2
  exit 2
}
whole() { [[ $1 =~ ^[1-9][0-9]*$ ]]; }

devices='' gpus='' port=9876 logs='' dry=''
while [[ ${1-} == -* ]]; do
  case $1 in
    --devices) devices=${2-}; whole "$devices" || die "--devices is '$devices'; it must be a whole number"; shift ;;
    --port) port=${2-}; whole "$port" || die "--port is '$port'; it must be a whole number"; shift ;;
    --logs) logs=${2-}; [[ $logs ]] || die "--logs is without its folder"; shift ;;
    --gpus) gpus=1 ;;
    --dry-run) dry=1 ;;
    -h | --help) usage; exit 0 ;;
    *) die "unknown option $1; see --help" ;;
  esac
  shift
done
count=${1-}
whole "$count" || die "the number of processes is '$count'; usage: local.sh [options] N COMMAND..."
shift
(($#)) || die "no command; usage: local.sh [options] N COMMAND..."

# The variables of process $1, one a line.
variables() {
  printf '%s\n' "IDEJAX_COORDINATOR=localhost:$port" "IDEJAX_PROCESSES=$count" "IDEJAX_PROCESS=$1"
  if [[ $devices ]]; then
    printf '%s\n' JAX_PLATFORMS=cpu \
      "XLA_FLAGS=${XLA_FLAGS:+$XLA_FLAGS }--xla_force_host_platform_device_count=$devices"
  fi
  if [[ $gpus ]]; then printf '%s\n' "CUDA_VISIBLE_DEVICES=$1"; fi
}

pids=()
for ((i = 0; i < count; i++)); do
  mapfile -t env < <(variables "$i")
  if [[ $dry ]]; then
    printf '%q ' env "${env[@]}" "$@"
    printf '&\n'
    continue
  fi
  # No pipe behind a process: its own id is needed, to stop it and to see how it ended.
  if [[ $logs ]]; then mkdir -p "$logs"; fi
  if ((i == 0)) && [[ $logs ]]; then env "${env[@]}" "$@" > >(tee "$logs/0.log") 2>&1 &
  elif ((i == 0)); then env "${env[@]}" "$@" &
  elif [[ $logs ]]; then env "${env[@]}" "$@" >"$logs/$i.log" 2>&1 &
  else env "${env[@]}" "$@" >/dev/null & # errors are shown
  fi
  pids+=($!)
done
if [[ $dry ]]; then exit 0; fi

pass_on() { kill -s "$1" "${pids[@]}" 2>/dev/null || true; }
trap 'pass_on TERM' TERM INT HUP

code=0
while ((${#pids[@]})); do
  sleep 0.1 &
  wait $! || true # not for the processes themselves: a signal to this script must not end it
  alive=()
  for pid in "${pids[@]}"; do
    if kill -0 "$pid" 2>/dev/null; then
      alive+=("$pid")
      continue
    fi
    status=0
    wait "$pid" || status=$?
    if ((status && !code)); then
      code=$status
      if ((${#pids[@]} > 1)); then
        printf '%s: a process ended with code %d; stopping the other %d\n' "${0##*/}" "$status" "$((${#pids[@]} - 1))" >&2
        pass_on TERM
      fi
    fi
  done
  pids=("${alive[@]}")
done
exit "$code"
