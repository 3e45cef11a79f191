"""Where the whole step takes too long to compile: its repeating blocks, compiled one by one and summed.

Each distinct ResNet block and transformer of the UNet is compiled with its gradient, at a device's rows,
on one device; bytes are summed over their repetitions. Temporaries are what the blocks keep for the
backward pass, all together, and the greatest working space of one. Text encoder, optimiser and the
UNet's first and last convolutions are left out: a few per cent.
"""

import collections
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax

from idejax.nets import unet
from idejax.planning import figures, work


class Block(NamedTuple):
  kind: str  # resnet or transformer
  level: int
  width: int  # of its input
  depth: int = 1  # transformer blocks inside, compiled as one loop


def counted(c: unet.UNetConfig) -> Mapping[Block, int]:
  """The UNet's blocks and how often each occurs."""
  found: collections.Counter[Block] = collections.Counter()
  last, skips, width = len(c.widths) - 1, [c.widths[0]], c.widths[0]

  def add(level: int, inputs: int, depth: int):
    found[Block("resnet", level, inputs)] += 1
    if depth: found[Block("transformer", level, c.widths[level], depth)] += 1

  for i, depth in enumerate(c.down_depths):
    for _ in range(c.layers[i]):
      add(i, width, depth)
      width = c.widths[i]
      skips.append(width)
    if i < last: skips.append(width)
  add(last, width, c.mid_depth)
  add(last, width, 0)
  for n, depth in enumerate(c.up_depths):
    i = last - n
    for _ in range(c.layers[i] + 1):
      add(i, width + skips.pop(), depth)
      width = c.widths[i]
  return found


def estimate(w: work.Work, t: Any, device: Any, total_flops: int,
             notify: Callable[[str], None]) -> dict[str, Any]:  # fmt: skip
  """Figures like `figures.of`, marked as an estimate."""
  c, trains = w.backbone.nets.unet, _trains_unet(w)
  rows = max(1, round(figures.rows(w, t)))
  accessed = kept = working = 0.0
  parts = []
  for block, count in counted(c).items():
    bytes_, temporary, residuals = _compile(block, c, rows, device, trains)
    notify(f"{block.kind} of level {block.level}, {block.width} wide: {count} times {figures.gib(bytes_)}")
    accessed += count * bytes_
    kept += count * residuals
    working = max(working, temporary)
    parts.append({"kind": block.kind, "level": block.level, "width": block.width, "count": count,
                  "bytes": bytes_, "temporaries": temporary, "kept": residuals})  # fmt: skip
  arguments, state = w.state_bytes + w.frozen_bytes, w.state_bytes
  temporaries = int(kept + working)
  f = figures.derive(w, t, total_flops, arguments=arguments, temporaries=temporaries, outputs=state, donated=state,
                       peak=arguments + temporaries, collectives={}, bytes=accessed)  # fmt: skip
  return f | {"estimate": True, "program": 0, "blocks": parts}


def _compile(block: Block, c: unet.UNetConfig, rows: int, device: Any, trains: bool) -> tuple[float, int, int]:
  """(bytes accessed, temporaries, bytes kept for the backward pass) of a block and its gradient."""
  side, S = c.sample_size >> block.level, jax.ShapeDtypeStruct
  x = S((rows, side, side, block.width), c.dtype)
  net: Any
  if block.kind == "resnet": net, other = unet.ResBlock(c.widths[block.level], c), S((rows, 4 * c.widths[0]), c.dtype)
  else:
    net = unet.Transformer(c.heads[block.level], block.depth, c)
    other = S((rows, 77, c.context_dim), c.dtype)
  shapes = jax.eval_shape(net.init, jax.random.key(0), x, other)["params"]
  params = jax.tree.map(lambda s: S(s.shape, c.dtype), shapes)

  def gradient(p, x, other, dy):
    _, back = jax.vjp(lambda *a: net.apply({"params": a[0]}, *a[1:]), p, x, other)
    grads = back(dy)
    return grads if trains else grads[1:]

  y = jax.eval_shape(lambda p, x, o: net.apply({"params": p}, x, o), params, x, other)
  place = jax.sharding.SingleDeviceSharding(device)
  compiled: Any = jax.jit(gradient, in_shardings=place, out_shardings=place).lower(params, x, other, y).compile()
  memory = compiled.memory_analysis()
  forward = lambda p, x, o: jax.vjp(lambda x, o: net.apply({"params": p}, x, o), x, o)[1]
  closed = jax.eval_shape(forward, params, x, other)
  residuals = max(0, work.size(closed) - work.size(params))
  return figures.accessed(compiled), int(memory.temp_size_in_bytes), residuals


def _trains_unet(w: work.Work) -> bool:
  return work.size(w.args[0].params) > 0.5 * work.size(w.backbone.params["unet"]) * max(1, w.people)


__all__ = ["Block", "counted", "estimate"]
