#!/usr/bin/env bash
# Does idejax run as it should on this machine's GPU or TPU, and how fast? Ten minutes at most, then a table.
#
#   launch/check_device.sh [options]
#
#   --out DIR       folder of the parts' results (default: device-check)
#   --seconds N     start nothing more, and stop what runs, after N seconds (default: 600)
#   --parts A,B     only these of: attention precision crowd fsdp speed people facesnap
#   --wheels DIR    wheels to use beside what is installed, at most 20 MB; nothing is fetched from anywhere
#   --small         tiny sizes, to see whether it runs, on a CPU too
#   --train         with what is left of the time, continue the training of the built-in model (in DIR/train)
#   --dry-run       print what would run
#
# What is finished stays in DIR: the same command again continues with the parts that are not, so that
# `--seconds 300` twice is one check. idejax is used from this checkout and need not be installed; Python is
# $IDEJAX_PYTHON, else python3. Exit code: 0 all is right, 1 something is not, 2 a mistake in the options,
# 3 the time was over, run it again.
set -euo pipefail

usage() { sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "$0"; }
die() {
  printf 'check_device.sh: %s\n' "$*" >&2
  exit 2
}

root=$(cd "$(dirname "$0")/.." && pwd)
python=${IDEJAX_PYTHON-python3}
out=device-check seconds=600 wheels='' small=() train='' dry=''
all=(attention precision crowd fsdp speed people facesnap)
parts=("${all[@]}")
while (($#)); do
  case $1 in
    --out | --seconds | --parts | --wheels) (($# > 1)) || die "$1 is without its value" ;;&
    --out) out=$2 && shift ;;
    --seconds) seconds=$2 && shift ;;
    --parts) IFS=, read -r -a parts <<<"$2" && shift ;;
    --wheels) wheels=$2 && shift ;;
    --small) small=(--small) ;;
    --train) train=1 ;;
    --dry-run) dry=1 ;;
    -h | --help) usage && exit 0 ;;
    *) die "unknown option $1; see --help" ;;
  esac
  shift
done
[[ $seconds =~ ^[1-9][0-9]*$ ]] || die "--seconds is '$seconds'; it must be a whole number above 0"
for part in "${parts[@]}"; do
  [[ " ${all[*]} " == *" $part "* ]] || die "--parts has '$part'; known: ${all[*]}"
done
if [[ $wheels ]]; then
  [[ -d $wheels ]] || die "--wheels $wheels is no folder"
  compgen -G "$wheels/*.whl" >/dev/null || die "--wheels $wheels holds no wheels (*.whl)"
  size=$(cat "$wheels"/*.whl | wc -c)
  ((size <= 20000000)) || die "--wheels $wheels holds $((size / 1000000)) MB; at most 20 are read"
fi

# A part in a process of its own: what it allocated is free again, and one that fails stops no other.
command_of() { printf '%s\n' "$python" -m idejax.bench.device "$1" --out "$out" "${small[@]}"; }
training=''
for stage in tokenizer data 'vae --start miniature' 'words --start miniature --steps 0' \
  'diffusion --start miniature --save-seconds 60 --batch 512'; do
  training+=$(printf '%q -m idejax.cli train-miniature --out %q --stage %s' "$python" "$out/train" "$stage")" && "
done
training=${training% && }
if [[ $dry ]]; then
  if [[ $wheels ]]; then echo "$python -m pip install --no-index --no-deps --target $out/wheels $wheels/*.whl"; fi
  for part in "${parts[@]}"; do
    if [[ ! -s $out/$part.json ]]; then command_of "$part" | paste -sd ' '; fi
  done
  if [[ $train ]]; then echo "$training"; fi
  exit 0
fi

# Those of the named packages that are not here.
missing() { "$python" -c 'import importlib.util as u, sys; print(*[m for m in sys.argv[1:] if not u.find_spec(m)])' "$@"; }
lacks=$(missing jax flax optax) || die "$python is no Python (IDEJAX_PYTHON names one)"
[[ ! $lacks ]] || die "$python has no $lacks (IDEJAX_PYTHON names another)"
mkdir -p "$out"
export PYTHONPATH=$root${PYTHONPATH:+:$PYTHONPATH} IDEJAX_CACHE=${IDEJAX_CACHE-$out/cache}
if [[ $wheels ]]; then
  if [[ ! -d $out/wheels ]]; then
    rm -rf "$out/wheels.new"
    "$python" -m pip install --quiet --no-index --no-deps --target "$out/wheels.new" "$wheels"/*.whl >&2 ||
      die "the wheels in $wheels do not fit this Python"
    mv "$out/wheels.new" "$out/wheels"
  fi
  PYTHONPATH=$PYTHONPATH:$(cd "$out/wheels" && pwd)
fi
lacks=$(missing insightface grain tensorflow_datasets diffusers torch)
if [[ $lacks ]]; then echo "not here: $lacks; what needs it is left out" >&2; fi

late=''
for part in "${parts[@]}"; do
  if [[ -s $out/$part.json ]]; then
    echo "$part: done before" >&2
    continue
  fi
  left=$((seconds - SECONDS))
  if ((left < 1)); then
    late=1
    break
  fi
  echo "$part ..." >&2
  mapfile -t line < <(command_of "$part")
  code=0
  timeout --kill-after=10 "$left" "${line[@]}" >"$out/$part.log" 2>&1 || code=$?
  if ((code == 124 || code == 137)); then
    echo "the time was over" >>"$out/$part.log"
    late=1
    break
  fi
  if ((code)); then echo "$part failed; $out/$part.log says why" >&2; fi
done

code=0
"$python" -m idejax.bench.device_table "$out" "${parts[@]}" | tee "$out/table.md" || code=1
if [[ $late ]]; then
  echo "the $seconds seconds are over: the same command again continues" >&2
  exit 3
fi
left=$((seconds - SECONDS))
if [[ $train ]] && ((left > 30)); then
  echo "training for $left seconds in $out/train" >&2
  timeout --signal=TERM --kill-after=60 "$left" bash -c "$training" >&2 || true # stopped, it has saved
fi
exit "$code"
