"""An estimate of a step that takes too long to compile: its repeating blocks, compiled one by one and summed.

Each distinct ResNet block and transformer of the UNet is compiled with its gradient, at a device's rows, on one
device, a transformer with a single block inside, beside that block alone where it has more; bytes are summed over
their repetitions. Temporaries are the sum of what all blocks keep for the backward pass, the largest working space
of one block, and the gradients. The optimiser reads gradients and state once and writes the state. The text encoder,
the UNet's first and last convolutions and those between levels are left out, and so are collectives: the share of
the step's FLOPs that is in the blocks says how much that is.
"""

import collections
import dataclasses
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from idejax import tree
from idejax.methods import METHODS
from idejax.methods.contract import Needs
from idejax.nets import target, unet
from idejax.nets.naming import parameter_shapes
from idejax.planning import compiler, figures, kept, work
from idejax.planning.topology import Topology
from idejax.runtime import flops


class Block(NamedTuple):
  kind: str  # resnet, transformer, or layer: a transformer's block alone
  level: int
  width: int  # channels of its input
  depth: int = 1  # transformer blocks inside


class Cost(NamedTuple):
  """Bytes of a block and its gradient, and its FLOPs."""

  accessed: float
  temporaries: int
  kept: int  # for the backward pass
  flops: int


Trained = tuple[str, ...]  # regexes of the UNet's own weights that get a gradient


def counted(c: unet.UNetConfig) -> Mapping[Block, int]:
  """The UNet's blocks and how often each occurs."""
  counts: collections.Counter[Block] = collections.Counter()
  last, skips, width = len(c.widths) - 1, [c.widths[0]], c.widths[0]

  def add(level: int, inputs: int, depth: int):
    counts[Block("resnet", level, inputs)] += 1
    if depth:
      counts[Block("transformer", level, c.widths[level], depth)] += 1

  for i, depth in enumerate(c.down_depths):
    for _ in range(c.layers[i]):
      add(i, width, depth)
      width = c.widths[i]
      skips.append(width)
    if i < last:
      skips.append(width)
  add(last, width, c.mid_depth)
  add(last, width, 0)
  for n, depth in enumerate(c.up_depths):
    i = last - n
    for _ in range(c.layers[i] + 1):
      add(i, width + skips.pop(), depth)
      width = c.widths[i]
  return counts


def estimate(
  w: work.Work, t: Topology, device: jax.Device, total_flops: int, notify: Callable[[str], None]
) -> dict[str, Any]:
  """Figures like those of `figures.of`, marked as an estimate."""
  c, trains, rows = w.backbone.nets.unet, needs(w).unet_gradients, rows_of(w, t)
  gradients = w.gradient_bytes
  accessed, kept, working, flops_ = 2.0 * (gradients + w.state_bytes), 0.0, 0, 0
  passes = w.settings.run.accumulate  # each of `rows` rows
  parts = []
  for (block, count), block_cost in zip(counted(c).items(), costs(list(counted(c)), c, rows, device, trains)):
    notify(f"{block.kind} of level {block.level}, {block.width} wide: {count} times {figures.gib(block_cost.accessed)}")
    accessed += passes * count * block_cost.accessed
    flops_ += passes * count * block_cost.flops
    kept += count * block_cost.kept
    working = max(working, block_cost.temporaries)
    parts.append(
      {
        "kind": block.kind,
        "level": block.level,
        "width": block.width,
        "count": count,
        "bytes": block_cost.accessed,
        "temporaries": block_cost.temporaries,
        "kept": block_cost.kept,
        "flops": block_cost.flops,
      }
    )
  arguments, state = w.state_bytes + w.frozen_bytes, w.state_bytes
  temporaries = int(kept + working + gradients)
  f = figures.derive(
    w,
    t,
    total_flops,
    arguments=arguments,
    temporaries=temporaries,
    outputs=state,
    donated=state,
    peak=arguments + temporaries,
    collectives={},
    bytes=accessed,
  )
  return f | {"estimate": True, "program": 0, "blocks": parts, "flops_of_blocks": flops_}


def rows_of(w: work.Work, t: Topology) -> int:
  """Rows of the UNet's batch on one device, with the class pictures beside the person's."""
  return max(1, round(figures.rows(w, t))) * (2 if needs(w).class_pictures else 1)


def needs(w: work.Work) -> Needs:
  """The needs of the work's method."""
  return METHODS[w.settings.run.method].needs(w.settings.cfg, w.backbone.nets)


_costs: dict[Any, Cost] = {}  # topologies of one kind of chip often need the same blocks
_AT_A_TIME = min(8, os.cpu_count() or 1)  # compilers, each of which keeps a core busy


def costs(asked: Sequence[Block], c: unet.UNetConfig, rows: int, device: jax.Device, trains: Trained) -> Iterator[Cost]:
  """`cost` of some blocks, in order; several are compiled at a time."""
  platform = target.compiling_for.value

  def one(block: Block) -> Cost:
    with target.compiling_for(platform):  # threads do not inherit it
      return cost(block, c, rows, device, trains)

  with ThreadPoolExecutor(_AT_A_TIME) as pool:
    yield from pool.map(one, asked)


def cost(block: Block, c: unet.UNetConfig, rows: int, device: jax.Device, trains: Trained) -> Cost:
  """What a block costs with its gradient at `rows` rows, on one device.

  Programs are compiled once, by any process with this cache: what trains elsewhere in the UNet makes no other block.
  """
  paths = list(tree.flatten(_shapes(block, c)))
  trains = tuple(r for r in trains if any(re.search(r, path) for path in paths))
  question = (block, c, rows, device.device_kind, trains)
  if question not in _costs:
    about = [*question, kept.sources(("nets", "planning")), kept.versions(target.platform())]
    path = kept.place("plan-blocks", about)
    if answer := kept.read(path):
      _costs[question] = Cost(**answer)
    else:
      _costs[question] = (_compile if block.depth == 1 else _deep)(block, c, rows, device, trains)
      kept.write(path, _costs[question]._asdict())
  return _costs[question]


def _deep(block: Block, c: unet.UNetConfig, rows: int, device: jax.Device, trains: Trained) -> Cost:
  """A transformer of many blocks, from one of a single block and from that block alone.

  Compiled as it is, it would be two loops, and XLA counts a loop's bytes as if it ran once.
  """
  first, more = (cost(block._replace(kind=k, depth=1), c, rows, device, trains) for k in (block.kind, "layer"))
  accessed = first.accessed + (block.depth - 1) * more.accessed
  return Cost(accessed, max(first.temporaries, more.temporaries), *_counts(block, c, rows, trains))


def _compile(block: Block, c: unet.UNetConfig, rows: int, device: jax.Device, trains: Trained) -> Cost:
  gradient, args, _ = _gradient(block, c, rows, trains)
  place = jax.sharding.SingleDeviceSharding(device)
  program = jax.jit(gradient, in_shardings=place, out_shardings=place)
  what = f"the {block.kind} of level {block.level}, {block.width} wide,"
  executable = compiler.compiled(device.device_kind, what, target.platform(), lambda: program.lower(*args))
  temporaries = int(executable.memory_analysis().temp_size_in_bytes)
  return Cost(figures.accessed(executable), temporaries, *_counts(block, c, rows, trains))


def _counts(block: Block, c: unet.UNetConfig, rows: int, trains: Trained) -> tuple[int, int]:
  """(bytes kept for the backward pass, FLOPs with plain attention) of the jaxpr."""
  _, _, residual_bytes = _gradient(block, c, rows, trains)
  plain, args, _ = _gradient(block, dataclasses.replace(c, dtype=jnp.float32, attention="plain"), rows, trains)
  return residual_bytes, flops.count(plain, *args)


def _net(block: Block, c: unet.UNetConfig, rows: int) -> tuple[Any, tuple[Any, ...], Callable]:
  """(a block's net, the shapes of its two inputs, how it is called with them)."""
  side, S = c.sample_size >> block.level, jax.ShapeDtypeStruct
  text = S((rows, 77, c.context_dim), c.dtype)
  if block.kind == "resnet":
    inputs = S((rows, side, side, block.width), c.dtype), S((rows, 4 * c.widths[0]), c.dtype)
    return unet.resnet(c)(c.widths[block.level], c), inputs, lambda call, x, temb: call(x, temb)
  if block.kind == "layer":
    layer = unet.transformer_block(c)(c.heads[block.level], c)
    x = S((rows, side * side, block.width), c.dtype)
    return layer, (x, text), lambda call, x, text: call(x, (text, text), {})
  x = S((rows, side, side, block.width), c.dtype)
  return unet.Transformer(c.heads[block.level], block.depth, c), (x, text), lambda call, x, text: call(x, text)


def _shapes(block: Block, c: unet.UNetConfig) -> dict[str, Any]:
  """A block's parameters, within a level of their own, as paths in the UNet have one above."""
  net, inputs, how = _net(block, c, 1)
  shapes = how(lambda *args: parameter_shapes(net, *args), *inputs)
  return {"block": jax.tree.map(lambda s: jax.ShapeDtypeStruct(s.shape, c.dtype), shapes)}


def _gradient(block: Block, c: unet.UNetConfig, rows: int, trains: Trained) -> tuple[Callable, tuple[Any, ...], int]:
  """(a block's gradient, the shapes of its arguments, bytes that it keeps for the backward pass)."""
  net, (x, other), how = _net(block, c, rows)
  params = _shapes(block, c)
  variables, rest = tree.split(params, trains)

  def backward(variables, rest, x, other):
    def call(variables, x, other):
      params = tree.merge(variables, rest)["block"]
      y = how(lambda *args: net.apply({"params": params}, *args), x, other)
      return y[0] if block.kind == "layer" else y

    return jax.vjp(call, variables, x, other)

  gradient = lambda variables, rest, x, other, dy: backward(variables, rest, x, other)[1](dy)
  y, residuals = jax.eval_shape(backward, variables, rest, x, other)
  return gradient, (variables, rest, x, other, y), max(0, work.size(residuals) - work.size(params))


__all__ = ["Block", "counted", "estimate", "needs", "rows_of"]
