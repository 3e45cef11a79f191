"""Prompts to pictures: the Python interface, and what `idejax sample` runs.

    pipe = idejax.load("path/to/stable-diffusion")
    images = pipe.sample(["a photo of a cat", "a photo of a dog"], seeds=0)   # uint8 [2, H, W, 3]

Three programs are compiled, each once per shape: encode prompts, run the sampler, decode.
Prompts, negative prompts, seeds, guidance, sampler and number of steps are their arguments.
"""

import dataclasses
import functools
import hashlib
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from idejax import backbone, hub, sampler, sharding, tensorfiles, tokens
from idejax.backbone import Backbone, Conditioning
from idejax.errors import UserError
from idejax.nets import vae


@dataclasses.dataclass(frozen=True)
class Request:
  """One picture. `(seed, index)` names its noise; `negative` None is the family's default."""

  prompt: str
  negative: str | None = None
  seed: int = 0
  index: int = 0
  guidance: float = 7.5


@dataclasses.dataclass(frozen=True)
class Settings:
  """What all pictures of a run share."""

  steps: int = 50
  sampler: str = "folder"  # the scheduler that the model folder names
  height: int | None = None  # pixels; None: the size that the model was trained at
  width: int | None = None
  batch: int | None = None  # pictures at a time over all devices
  spacing: str | None = None  # timestep spacing: leading, trailing, linspace
  karras: bool | None = None  # Karras noise levels
  eta: float | None = None  # noise of stochastic samplers
  tiled: bool = False  # decode in overlapping tiles: large pictures in little memory


class Batch(NamedTuple):
  """Finished pictures: positions in the list of requests, uint8 [n, H, W, 3], latents [n, h, w, C]."""

  positions: list[int]
  images: np.ndarray
  latents: np.ndarray


@dataclasses.dataclass(frozen=True)
class Pipeline:
  """A backbone on a mesh, and what only the host knows."""

  backbone: Backbone
  tokenizers: tuple[tokens.Tokenizer, ...]
  folder: Path
  mesh: jax.sharding.Mesh
  notify: Callable[[str], None] = print

  def size(self, settings: Settings) -> tuple[int, int]:
    """Height and width in pixels. UserError unless both are multiples of the VAE's factor."""
    nets = self.backbone.nets
    sides = tuple(s if s is not None else nets.unet.sample_size * nets.factor
                  for s in (settings.height, settings.width))  # fmt: skip
    for name, side in zip(("height", "width"), sides):
      if side <= 0 or side % nets.factor:
        below, above = side // nets.factor * nets.factor, (side // nets.factor + 1) * nets.factor
        near = f"{below} or {above}" if below > 0 else str(nets.factor)
        raise UserError(f"{name} {side} is not a positive multiple of {nets.factor}; use {near}")
    return sides[0], sides[1]

  def latent_shape(self, settings: Settings) -> tuple[int, int, int]:
    """(h, w, C) of one picture's latents."""
    height, width = self.size(settings)
    nets = self.backbone.nets
    return height // nets.factor, width // nets.factor, nets.latent_channels

  @functools.cached_property
  def digest(self) -> str:
    """sha256 over the components' digests: names the model in every picture's record."""
    parts = [p for p in sorted(self.folder.iterdir()) if p.is_dir() and p.name in
             {*self.backbone.params, "scheduler", "tokenizer", "tokenizer_2"}]  # fmt: skip
    lines = [f"{p.name} {tensorfiles.digest(p)}\n" for p in parts]
    return hashlib.sha256("".join(lines).encode()).hexdigest()

  def sample(self, prompts: str | Sequence[str], *, negative: str | Sequence[str] | None = None,
             seeds: int | Sequence[int] = 0, guidance: float | Sequence[float] | None = None,
             init_latents: np.ndarray | None = None, progress: bool = False,
             **settings: Any) -> np.ndarray:  # fmt: skip
    """Pictures for prompts, one each: uint8 [N, H, W, 3].

    Args:
      prompts, negative, guidance: one for all, or one a picture.
      seeds: an int s gives picture i the noise (s, i); a list gives each picture (seed, 0).
      init_latents: unit noise [N, h, w, C] float32 in place of the seeds'.
      settings: fields of `Settings` (steps, sampler, height, width, batch, ...).
    """
    prompts = [prompts] if isinstance(prompts, str) else list(prompts)
    n = len(prompts)
    each = lambda x: list(x) if isinstance(x, list | tuple | np.ndarray) else [x] * n
    names = [(seeds, i) for i in range(n)] if isinstance(seeds, int) else [(s, 0) for s in seeds]
    scale = default_guidance(self) if guidance is None else guidance
    columns = [prompts, each(negative), names, each(scale)]
    if uneven := {len(c) for c in columns} - {n}:
      raise UserError(f"{n} prompts, but a list of {min(uneven)} beside them")
    requests = [Request(p, m, s, i, g) for p, m, (s, i), g in zip(*columns)]
    made = list(generate(self, requests, Settings(**settings), init_latents, progress=progress))
    return np.concatenate([b.images for b in made])


def load(name: str | Path, *, dtype: Any = jnp.float32, variant: str | None = None,
         allow_pickle: bool = False, attention: str | None = None, devices=None,
         notify: Callable[[str], None] = print) -> Pipeline:  # fmt: skip
  """Open a pipeline folder in diffusers layout, or a hub id, on all devices.

  dtype: float32 or bfloat16, of weights and computation. attention: see `nets.attention`.
  """
  folder = hub.resolve(str(name))
  mesh = sharding.make_mesh(devices)
  core = backbone.load(folder, dtype=jnp.dtype(dtype), variant=variant, allow_pickle=allow_pickle,
                       attention=attention)  # fmt: skip
  folders = ["tokenizer", "tokenizer_2"][: len(core.nets.text)]
  tokenizers = tuple(tokens.load(folder / f) for f in folders)
  for tokenizer, text in zip(tokenizers, core.nets.text):
    if tokenizer.length > text.max_position_embeddings:
      raise UserError(f"{folder}: the tokenizer makes {tokenizer.length} tokens, the text encoder "
                      f"reads {text.max_position_embeddings}")  # fmt: skip
  return Pipeline(sharding.replicate(core, mesh), tokenizers, folder, mesh, notify)


def default_guidance(pipe: Pipeline) -> float:
  """diffusers' default of the family: 5 for SDXL, 7.5 for the others."""
  return 5.0 if pipe.backbone.nets.xl else 7.5


def noise(seed: int, index: int, shape: tuple[int, int, int]) -> np.ndarray:
  """Unit-variance noise of picture (seed, index): float32 [h, w, C].

  Drawn on the host by a counter-based generator in PyTorch's (C, h, w) order, so it depends on
  nothing else: not on batch, devices, dtype or sampler.
  """
  h, w, c = shape
  rng = np.random.Generator(np.random.Philox(key=[seed % 2**64, index]))
  return rng.standard_normal((c, h, w), np.float32).transpose(1, 2, 0)


def generate(pipe: Pipeline, requests: Sequence[Request], settings: Settings,
             init_latents: np.ndarray | None = None, *, positions: Sequence[int] | None = None,
             progress: bool = False) -> Iterator[Batch]:  # fmt: skip
  """Yield finished batches, in order. The last is padded on the device, not in what is yielded.

  positions: which requests to make (a resumed job leaves out finished ones); all by default.
  """
  if not requests: raise UserError("no prompt to sample")
  todo = list(range(len(requests)) if positions is None else positions)
  shape = pipe.latent_shape(settings)
  devices = pipe.mesh.size
  size = min(settings.batch or 4 * devices, len(todo))
  if size < 1: return
  size = -(-size // devices) * devices  # a multiple of the devices, so that rows split evenly
  # Pallas kernels are not partitioned by the compiler; the mesh tells them to do it themselves.
  on_mesh = lambda program, *args: _under(pipe.mesh, program, *args)
  table = sampler.table(
    settings.sampler, pipe.backbone.nets.schedule, settings.steps, eta=settings.eta,
    **{k: v for k, v in (("timestep_spacing", settings.spacing),
                         ("use_karras_sigmas", settings.karras)) if v is not None})  # fmt: skip
  rows = int(table.active.sum())
  # diffusers' rule: guidance up to 1 means none, and then the negative branch is not computed.
  guided = any(requests[i].guidance > 1 for i in todo)
  texts = _encode_prompts(pipe, [requests[i] for i in todo], guided)
  put = lambda x: jax.device_put(x, sharding.batch(pipe.mesh))

  bar = _Bar(progress, len(todo), rows)
  for at in range(0, len(todo), size):
    batch = [todo[min(at + j, len(todo) - 1)] for j in range(size)]  # padding repeats the last
    real = len(todo[at : at + size])
    if init_latents is None:
      z = np.stack([noise(requests[i].seed, requests[i].index, shape) for i in batch])
    else:
      z = init_latents[batch]
    keys = jnp.stack([jax.random.fold_in(jax.random.key(requests[i].seed % 2**63), requests[i].index)
                      for i in batch])  # fmt: skip
    scale = np.array([max(requests[i].guidance, 1.0) for i in batch], np.float32)
    cond = _gather(pipe, texts, [requests[i] for i in batch], guided, pipe.size(settings))
    state = _start(put(z), table, pipe.mesh)
    projected = _project(pipe.backbone, cond)
    program = functools.partial(
      _run, pipe.backbone, cond=cond, projected=projected, scale=put(scale), keys=put(keys),
      guided=guided, mesh=pipe.mesh)  # fmt: skip
    latents = bar.run(functools.partial(on_mesh, program), state, table, real)
    images = on_mesh(_decode, pipe.backbone, latents, settings.tiled)
    out = np.asarray(latents)[:real]
    if bad := [j for j in range(real) if not np.isfinite(out[j]).all()]:
      r = requests[batch[bad[0]]]
      raise UserError(
        f"the latents of {r.prompt!r} (seed {r.seed}, index {r.index}) are not finite; try "
        "float32, lower guidance or more steps, and check the model's weights")  # fmt: skip
    yield Batch(batch[:real], np.asarray(images)[:real], out)
  bar.close()


def _encode_prompts(pipe: Pipeline, requests: Sequence[Request], guided: bool):
  """Every distinct text once: {text: row} and (contexts [U, L, D], pooled [U, P] or None).

  The text None is the zero context of SDXL without a negative prompt.
  """
  negatives = {r.negative for r in requests} if guided else set()
  zero = pipe.backbone.nets.zero_empty_negative and None in negatives
  unique = list(dict.fromkeys([r.prompt for r in requests]
                              + sorted("" if n is None else n for n in negatives)))  # fmt: skip
  encoded = [t.encode(unique) for t in pipe.tokenizers]
  for text, cut in zip(unique, encoded[0].cut):
    if cut: pipe.notify(f"warning: the prompt is longer than {pipe.tokenizers[0].length - 2} tokens; "
                        f"cut off: {cut!r} (from {text[:60]!r}...)")  # fmt: skip
  chunk, parts = 8, []
  for at in range(0, len(unique), chunk):  # one shape, however many prompts
    pick = lambda x, at=at: np.resize(x[at : at + chunk], (chunk, *x.shape[1:]))
    ids, eos = tuple(pick(e.ids) for e in encoded), tuple(pick(e.eos) for e in encoded)
    parts.append(jax.device_get(_under(pipe.mesh, _encode, pipe.backbone, ids, eos)))
  context = np.concatenate([c for c, _ in parts])[: len(unique)]
  pooled = np.concatenate([p for _, p in parts])[: len(unique)] if pipe.backbone.nets.xl else None
  where: dict[str | None, int] = {text: i for i, text in enumerate(unique)}
  if not zero and None in negatives: where[None] = where[""]
  if zero:
    where[None] = len(unique)
    context = np.concatenate([context, np.zeros_like(context[:1])])
    pooled = np.concatenate([pooled, np.zeros_like(pooled[:1])])
  return where, context, pooled


def _gather(pipe: Pipeline, texts, batch: Sequence[Request], guided: bool, size) -> Conditioning:
  """The conditioning of a batch; under guidance twice as many rows, (positive, negative) in turn.

  Interleaved, not stacked, so that a picture's two rows live on one device.
  """
  where, context, pooled = texts
  rows = [w for r in batch for w in ([where[r.prompt], where[r.negative]] if guided else [where[r.prompt]])]
  put = lambda x: jax.device_put(x, sharding.batch(pipe.mesh))
  k = jax.device_put(context[rows][None], jax.sharding.NamedSharding(
    pipe.mesh, jax.sharding.PartitionSpec(None, sharding.AXES)))  # fmt: skip
  if pooled is None: return Conditioning(k, k)
  height, width = size
  ids = np.tile(np.array([height, width, 0, 0, height, width], np.float32), (len(rows), 1))
  return Conditioning(k, k, put(pooled[rows]), put(ids))


# The compiled programs. `guided` and `tiled` choose between two programs each; all else is data.


@jax.jit
def _encode(b: Backbone, ids, eos):
  context, pooled = backbone.encode_text(b, ids, eos)
  return context.astype(jnp.float32), None if pooled is None else pooled.astype(jnp.float32)


@jax.jit
def _project(b: Backbone, cond: Conditioning):
  return backbone.project(b, cond)


@functools.partial(jax.jit, static_argnames="mesh")
def _start(z: jax.Array, table: sampler.Table, mesh: jax.sharding.Mesh) -> sampler.State:
  return jax.lax.with_sharding_constraint(sampler.init(z, table), sharding.batch(mesh))


@functools.partial(jax.jit, static_argnames=("guided", "mesh"), donate_argnames="state")
def _run(b: Backbone, state: sampler.State, table: sampler.Table, cond: Conditioning, projected,
         scale: jax.Array, keys: jax.Array, guided: bool, mesh: jax.sharding.Mesh) -> sampler.State:  # fmt: skip
  def model(x, t):
    if not guided: return backbone.predict(b, x, t, cond, projected=projected)
    n = x.shape[0]
    both = backbone.predict(b, jnp.repeat(x, 2, axis=0), t, cond, projected=projected)
    both = both.reshape(n, 2, *x.shape[1:])
    positive, negative = both[:, 0], both[:, 1]
    return negative + scale.reshape(n, 1, 1, 1) * (positive - negative)

  # Said outright: the program is called on its own output, which must not change its layout.
  return jax.lax.with_sharding_constraint(
    sampler.run(model, state, table, keys), sharding.batch(mesh))  # fmt: skip


@functools.partial(jax.jit, static_argnames="tiled")
def _decode(b: Backbone, latents: jax.Array, tiled: bool) -> jax.Array:
  decode = lambda z: backbone.decode(b, z)
  images = vae.tiled_decode(decode, latents, b.nets.vae.latent_tile) if tiled else decode(latents)
  return jnp.round((images / 2 + 0.5).clip(0, 1) * 255).astype(jnp.uint8)


def _under(mesh: jax.sharding.Mesh, program: Callable, *args):
  with jax.set_mesh(mesh):
    return program(*args)


class _Bar:
  """Progress over rows of the table. A batch runs in a few calls of one program: short jobs in
  one, long ones in pieces of about a second, by masking rows, so the bar moves and Ctrl-C works."""

  def __init__(self, show: bool, pictures: int, rows: int):
    from tqdm import tqdm

    self.rows, self.piece = rows, 1
    self.bar = tqdm(total=pictures * rows, disable=not show, unit="step", delay=1.0, leave=False,
                    bar_format="{percentage:3.0f}% |{bar}| {elapsed} elapsed, {remaining} left")  # fmt: skip

  def run(self, program, state: sampler.State, table: sampler.Table, real: int) -> jax.Array:
    at = 0
    while at < self.rows:
      end = min(at + self.piece, self.rows)
      index = np.arange(table.active.size)
      start = time.perf_counter()
      state = program(state, table._replace(active=table.active & (at <= index) & (index < end)))
      jax.block_until_ready(state.x)
      if at and time.perf_counter() - start < 1.0: self.piece *= 2
      elif not at: self.piece = 2  # the first call may have compiled
      self.bar.update((end - at) * real)
      at = end
    return state.x

  def close(self):
    self.bar.close()
