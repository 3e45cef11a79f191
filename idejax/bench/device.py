"""What `launch/check_device.sh` asks of a machine with accelerators: one part a call, its rows as JSON.

    python -m idejax.bench.device attention --out check --small

A row is (what, figure, whether it is as it should be, or null where it is only a figure).
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from idejax import config, sharding
from idejax.bench import run as bench
from idejax.bench import training
from idejax.errors import UserError
from idejax.methods import METHODS
from idejax.model import families
from idejax.nets import attention as attend
from idejax.runtime.timing import alternate, words
from idejax.storage.files import write_json
from idejax.training import fit

Row = tuple[str, str, bool | None]
_PAPER = 483.0  # seconds that ID-EA takes for a person on an A40
_KERNELS = {"cpu": ("chunk",), "gpu": ("cudnn",), "cuda": ("cudnn",), "tpu": ("flash", "splash")}


def attention(small: bool) -> list[Row]:
  """The kernels of this platform, forward and backward, against plain attention in float32; odd lengths by choice."""
  platform = jax.default_backend()
  shapes = ((128, 128, 8),) if small else ((4096, 4096, 40), (4096, 4096, 64), (1024, 1024, 80))
  odd = 65 if small else 4095
  rows = [_kernel(name, *shape) for shape in shapes for name in _KERNELS.get(platform, ())]
  return [*rows, _kernel(None, odd, odd, shapes[0][2])]


def _kernel(name: str | None, l: int, s: int, d: int) -> Row:
  low = jnp.float32 if jax.default_backend() == "cpu" else jnp.bfloat16
  rng = np.random.default_rng(0)
  q, k, v = (jnp.asarray(rng.standard_normal((2, n, 4, d)), low) for n in (l, s, s))

  def both(impl):
    loss = lambda *x: jnp.square(attend.attention(*x, impl=impl).astype(jnp.float32)).sum()
    return jax.jit(jax.value_and_grad(loss, (0, 1, 2)))

  with jax.default_matmul_precision("float32"):
    want = both("plain")(*(x.astype(jnp.float32) for x in (q, k, v)))
  ours, plain = both(name), both("plain")
  far = max(_far(a, b) for a, b in zip(jax.tree.leaves(ours(q, k, v)), jax.tree.leaves(want)))
  plain(q, k, v)
  sides = {"ours": lambda: jax.block_until_ready(ours(q, k, v)), "plain": lambda: jax.block_until_ready(plain(q, k, v))}
  times = {n: statistics.median(t) for n, t in alternate(sides, 5).items()}
  what = f"attention {name or 'as chosen'} {l}x{s}, heads of {d}, with gradient"
  return what, f"{words(times['ours'])}, plain {words(times['plain'])}; differs by {far:.1e}", far < 0.03


def precision(small: bool) -> list[Row]:
  """A UNet's output with bfloat16 weights and computation against float32."""
  configs = families.small("sd15") if small else families.FAMILIES["sd15"]
  c = config.Bench(small=small)
  core = bench.make_backbone(configs, jnp.dtype(jnp.float32))
  x, cond = bench.inputs(c, core, configs["unet"]["sample_size"], 1)
  with jax.default_matmul_precision("float32"):
    want = np.asarray(bench.forward(core, x, np.float32(500), cond))
  del core
  output = bench.forward(bench.make_backbone(configs, jnp.dtype(jnp.bfloat16)), x, np.float32(500), cond)
  far = _far(output, want)
  return [("UNet of SD 1.5, bfloat16 against float32", f"differs by {far:.1e}", far < 0.05), *_memory("that UNet")]


def _far(a: Any, b: Any) -> float:
  a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
  return float(np.abs(a - b).max() / np.abs(b).max())


def _memory(after: str) -> list[Row]:
  stats = jax.local_devices()[0].memory_stats() or {}
  if "peak_bytes_in_use" not in stats:
    return [(f"memory after {after}", "this device does not tell", None)]
  peak, limit = stats["peak_bytes_in_use"], stats.get("bytes_limit", 0)
  return [(f"memory after {after}", f"at most {peak / 2**30:.1f} GiB, of {limit / 2**30:.1f}", None)]


def crowd(small: bool) -> list[Row]:
  """ID-EA's step on the built-in model, one person and several."""
  return _people("miniature", (jax.device_count(),) if small else (8, 32), small)


def people(small: bool) -> list[Row]:
  """ID-EA at the size of SD 2.1: seconds a person, alone and in crowds."""
  rows = _people("miniature" if small else "sd21-base", (jax.device_count(),) if small else (8, 32), small)
  return [*rows, *_memory("the largest crowd")]


def _people(model: str, sizes: tuple[int, ...], small: bool) -> list[Row]:
  low = "float32" if jax.default_backend() == "cpu" else "bfloat16"
  c = config.Bench(what=("personalize",), model=model, method="id-ea", people=sizes, dtype=low, steps=1, repeats=2)  # type: ignore[arg-type]
  s = training.settings(c)
  frozen = training.fill(training.shapes(s, low))
  rows: list[Row] = []
  for n in (1, *sizes):
    t = training.alone(c, s, frozen) if n == 1 else training.crowd(c, s, frozen, n)
    each = s.cfg.steps * t.seconds / n
    versus = f", the paper on an A40 {_PAPER:.0f} s" if model == "sd21-base" else ""
    rows.append(
      (f"ID-EA on {model}, {n} at once", f"{each:.1f} s a person{versus}; compiled in {words(t.compile_seconds)}", None)
    )
  return rows


def fsdp(small: bool) -> list[Row]:
  """One step with the weights in parts over all devices, against the same on one."""
  c = config.Bench(
    what=("personalize",), model="miniature", method="dreambooth", train_batch=max(2, jax.device_count())
  )
  s = training.settings(c)
  losses, n = [], jax.device_count()
  for devices in (jax.devices()[:1], jax.devices()):
    mesh, key = sharding.make_mesh(devices, fsdp=len(devices)), jax.random.key(0)
    frozen = training.fill(training.shapes(s, "float32"))
    step, state, frozen = fit.one(METHODS[s.run.method], s.cfg, frozen, key, mesh)
    _, metrics = step(state, frozen, {"index": np.arange(s.cfg.batch, dtype=np.int32)}, key)
    losses.append(float(np.asarray(metrics["loss"])))
  far = abs(losses[1] - losses[0]) / abs(losses[0])
  note = "; one device alone has nothing to share" if n == 1 else ""
  return [
    (
      f"DreamBooth's step, weights in {n} parts",
      f"loss {losses[1]:.4f}, on one device {losses[0]:.4f}{note}",
      far < 1e-2,
    )
  ]


def speed(small: bool) -> list[Row]:
  """UNet and sampling of SD 1.5 against diffusers with torch.compile, where PyTorch is here."""
  on_cpu = jax.default_backend() == "cpu"
  c = config.Bench(what=("unet", "sample"), small=small, vs="diffusers", dtype="float32" if on_cpu else "bfloat16",
                   torch_compile=not on_cpu, repeats=3 if small else 5)  # fmt: skip
  try:
    figures = bench.inference(c, c.what)
  except UserError as e:
    return [("UNet and sampling against diffusers", f"left out: {e}", None)]
  return [
    (f"{n} of SD 1.5 ({c.dtype}), against diffusers", f"{words(f['seconds'])}, theirs {words(f['peer_seconds'])}: "
     f"{f['ratio']:.2f}; differs by {f['relative_error']:.0e}", f["relative_error"] < (1e-3 if on_cpu else 0.1))
    for n, f in figures.items()
  ]  # fmt: skip


def facesnap(small: bool) -> list[Row]:
  """FaceSnap's training step, where there is one."""
  if "facesnap" not in METHODS:
    return [("FaceSnap's step", "left out: it is no method here yet", None)]
  c = config.Bench(what=("personalize",), model="miniature", method="facesnap", repeats=2, steps=1)
  s = training.settings(c)
  t = training.alone(c, s, training.fill(training.shapes(s, c.dtype)))
  return [("FaceSnap's step", f"{words(t.seconds)}, compiled in {words(t.compile_seconds)}", None)]


PARTS: dict[str, Callable[[bool], list[Row]]] = {
  "attention": attention,
  "precision": precision,
  "crowd": crowd,
  "fsdp": fsdp,
  "speed": speed,
  "people": people,
  "facesnap": facesnap,
}


def main(argv: list[str] | None = None) -> int:
  parser = argparse.ArgumentParser(description="One part of a device's check.")
  parser.add_argument("part", choices=PARTS)
  parser.add_argument("--out", type=Path, required=True, help="folder of the parts' files")
  parser.add_argument("--small", action="store_true", help="tiny sizes: does it run?")
  c = parser.parse_args(argv)
  start = time.perf_counter()
  rows = PARTS[c.part](c.small)
  device = jax.devices()[0]
  write_json(
    c.out / f"{c.part}.json",
    dict(
      rows=rows,
      seconds=time.perf_counter() - start,
      device=f"{jax.device_count()} {device.device_kind} ({device.platform})",
      versions=bench.versions(),
      small=c.small,
      date=time.strftime("%Y-%m-%d"),
    ),
  )
  return 0


if __name__ == "__main__":
  sys.exit(main())
