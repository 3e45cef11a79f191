"""Prompts to pictures: the Python interface, and what `idejax sample` runs.

    pipe = idejax.load("path/to/stable-diffusion")
    images = pipe.sample(["a photo of a cat", "a photo of a dog"], seeds=0)   # uint8 [2, H, W, 3]

Three programs are compiled, each once per shape: encode prompts, run the sampler, decode.
Prompts, negative prompts, seeds, guidance, sampler and number of steps are their arguments.
"""

import collections
import contextlib
import dataclasses
import functools
import hashlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from idejax import sharding
from idejax.errors import UserError
from idejax.model import backbone, controlnets, tokens
from idejax.model.backbone import Backbone, Conditioning
from idejax.nets import vae
from idejax.sampling import batching, controls, learned, requests, sampler, steering
from idejax.sampling import rows as rows_of
from idejax.sampling.learned import Learned
from idejax.sampling.pieces import Pieces, Progress
from idejax.sampling.requests import Request, Settings
from idejax.sampling.steering import Faces
from idejax.sampling.texts import Texts, Weights
from idejax.storage import hub, tensorfiles


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
  people: Mapping[str, Learned] = dataclasses.field(default_factory=dict)  # by their words in prompts
  faces: Faces | None = None  # an add-on, by which photos steer pictures
  controls: str = ""  # digest of the ControlNet that the backbone holds, an add-on's or a stock one
  shares: bool = True  # whether the job's processes divide the pictures; all must then request the same

  def with_people(self, *people: Learned, other: bool = False) -> "Pipeline":
    """The pipeline with people who may be named in prompts.

    UserError for a person of another model (with `other`: only if the widths differ), and for equal names.
    """
    by_word, core, held = dict(self.people), self.backbone, self.controls
    for p in people:
      if p.word in by_word:
        raise UserError(f"two people are called {p.word}; rename one of them: idejax rename RUN NEW_NAME")
      learned.check(p, self.backbone.nets.text, self.digest, str(self.folder), other=other)
      if p.is_face and held != p.addon_digest:
        core = sharding.replicate(steering.with_addon_of(core, held, p), self.mesh)
        held = p.addon_digest
      identity = sharding.replicate(dict(p.identity), self.mesh)
      by_word[p.word] = dataclasses.replace(p, identity=identity)
    return dataclasses.replace(self, people=by_word, backbone=core, controls=held)

  def with_faces(self, added: Faces) -> "Pipeline":
    """The pipeline with an add-on, so that `sample` takes faces; of what it samples without them nothing changes."""
    controls.check_alone(self.controls, added.digest, str(added.folder))
    core = sharding.replicate(added.addon.backbone, self.mesh)
    return dataclasses.replace(self, backbone=core, faces=added, controls=added.digest)

  def with_controlnet(self, folder: str | os.PathLike[str], **how: Any) -> "Pipeline":
    """The pipeline with a stock ControlNet's folder, so that `sample` takes control pictures. how: variant, allow_pickle."""
    path = Path(folder)
    core = controlnets.with_controlnet(self.backbone, path, **how)
    controls.check_alone(self.controls, digest := tensorfiles.digest(path), str(path))
    return dataclasses.replace(self, backbone=sharding.replicate(core, self.mesh), controls=digest)

  def size(self, settings: Settings) -> tuple[int, int]:
    """Height and width in pixels. UserError unless both are multiples of the VAE's factor."""
    nets = self.backbone.nets
    own = nets.unet.sample_size * nets.factor
    sides = tuple(own if s is None else s for s in (settings.height, settings.width))
    for name, side in zip(("height", "width"), sides):
      if side <= 0 or side % nets.factor:
        below, above = side // nets.factor * nets.factor, (side // nets.factor + 1) * nets.factor
        near = f"{below} or {above}" if below > 0 else str(nets.factor)
        raise UserError(f"{name} {side} is not a positive multiple of {nets.factor}; use {near}")
    return sides[0], sides[1]

  def latent_shape(self, settings: Settings) -> tuple[int, int, int]:
    """(h, w, C) of one picture's latents."""
    (height, width), nets = self.size(settings), self.backbone.nets
    return height // nets.factor, width // nets.factor, nets.latent_channels

  @functools.cached_property
  def digest(self) -> str:
    """sha256 over the components' digests: names the model in every picture's record."""
    names = {*self.backbone.params, "scheduler", "tokenizer", "tokenizer_2"} - {"controlnet"}
    parts = sorted(p for p in self.folder.iterdir() if p.is_dir() and p.name in names)
    lines = [f"{p.name} {tensorfiles.digest(p)}\n" for p in parts]
    return hashlib.sha256("".join(lines).encode()).hexdigest()

  def sample(
    self,
    prompts: str | Sequence[str],
    *,
    negative: str | Sequence[str | None] | None = None,
    seeds: int | np.integer | Sequence[int] | np.ndarray = 0,
    guidance: float | Sequence[float] | np.ndarray | None = None,
    init_latents: Any = None,
    face: Any = None,
    pose: Any = None,
    face_strength: float | Sequence[float] | np.ndarray = 1.0,
    face_until: float | Sequence[float] | np.ndarray = 1.0,
    control: Any = None,
    control_strength: float | Sequence[float] | np.ndarray = 1.0,
    control_from: float | Sequence[float] | np.ndarray = 0.0,
    control_until: float | Sequence[float] | np.ndarray = 1.0,
    progress: bool | Progress = False,
    **settings: Any,
  ) -> np.ndarray:
    """Pictures for prompts, one each: uint8 [N, H, W, 3].

    Args:
      prompts, negative, guidance: one for all, or one a picture; lists or arrays.
      seeds: an int s gives picture i the noise (s, i); several give each picture (seed, 0).
      init_latents: unit noise [N, h, w, C] in place of the seeds'.
      face, pose, face_strength, face_until: of a pipeline with an add-on, see `steering.Faces.steer`; one for all
        pictures, or a list with one a picture. A tuple of faces is several photos of one person. pose is also that of
        people by facesnap whom prompts name.
      control, control_strength, control_from, control_until: of a pipeline with a stock ControlNet, see
        `controls.steer`; one for all pictures, or a list with one a picture.
      progress: True shows a bar; a function is called with (pictures' steps done, of how many, {}).
      settings: fields of `Settings` (steps, sampler, height, width, batch, ...). UserError says what cannot be.
    """
    rows = requests.build(prompts, negative, seeds, guidance, default_guidance(self))
    common = requests.settings(settings)
    size = self.size(common)
    rows = steering.with_faces(self.faces, self.people, rows, face, pose, face_strength, face_until, size)
    rows = controls.with_pictures(self.stock, rows, control, control_strength, control_from, control_until, size)
    if init_latents is not None:
      init_latents = requests.latents(init_latents, len(rows), self.latent_shape(common))
    batches = list(generate(self, rows, common, init_latents, progress=progress))
    if not self.divides:
      return np.concatenate([b.images for b in batches])
    images = np.zeros((len(rows), *self.size(common), 3), np.uint8)
    for b in batches:
      images[b.positions] = b.images
    return sharding.sum_all(images)

  def __repr__(self) -> str:
    nets, (height, width) = self.backbone.nets, self.size(Settings())
    kinds = collections.Counter(d.device_kind for d in self.mesh.devices.flat)
    on = ", ".join(f"{n} {kind}" for kind, n in kinds.items())
    people = f", people {' '.join(self.people)}" if self.people else ""
    return (
      f"<Pipeline {self.name}: {'SDXL' if nets.xl else 'Stable Diffusion'} ({nets.schedule.prediction_type}), "
      f"{width} x {height} pixels, {jnp.dtype(nets.dtype).name}, "
      f"on {on} device{'s' * (self.mesh.size > 1)}{people}>"
    )

  @property
  def name(self) -> str:
    """As --model names it: the built-in model's name, or the folder."""
    return next((name for name, folder in hub.BUILT_IN.items() if folder == self.folder), str(self.folder))

  @property
  def stock(self) -> bool:
    """Whether the backbone holds a stock ControlNet, which reads control pictures and the text."""
    faces = self.faces is not None or any(p.is_face for p in self.people.values())
    return bool(self.controls) and not faces

  @property
  def divides(self) -> bool:
    """Whether this process makes only its part of the pictures."""
    return self.shares and jax.process_count() > 1


def load(
  name: str | os.PathLike[str],
  *,
  dtype: Any = jnp.float32,
  variant: str | None = None,
  allow_pickle: bool = False,
  attention: str | None = None,
  remat: bool = False,
  devices=None,
  notify: Callable[[str], None] = print,
) -> Pipeline:
  """Open a pipeline folder in diffusers layout, or a hub id, on all devices of this process.

  dtype: float32 or bfloat16, of weights and computation; dtype and remat: see `backbone.load`. attention: see
  `nets.attention`.
  """
  folder = hub.resolve(str(name))
  mesh = sharding.make_mesh(jax.local_devices() if devices is None else devices)
  core = backbone.load(
    folder, dtype=jnp.dtype(dtype), variant=variant, allow_pickle=allow_pickle, attention=attention, remat=remat
  )
  if core.nets.dtype != jnp.dtype(dtype):
    notify(f"this CPU has no units for {jnp.dtype(dtype)}: weights are held in it, {core.nets.dtype} is computed")
  tokenizers = tuple(tokens.load(folder / f) for f in ("tokenizer", "tokenizer_2")[: len(core.nets.text)])
  for tokenizer, text in zip(tokenizers, core.nets.text):
    if tokenizer.length > text.max_position_embeddings:
      raise UserError(
        f"{folder}: the tokenizer makes {tokenizer.length} tokens, the text encoder "
        f"reads {text.max_position_embeddings}"
      )
  return Pipeline(sharding.replicate(core, mesh), tokenizers, folder, mesh, notify)


def default_guidance(pipe: Pipeline) -> float:
  """The folder's own, else that of the paper by which its people were learned, if it is one for all of them; else
  diffusers' default of the family: 5 for SDXL, 7.5 for the others."""
  nets = pipe.backbone.nets
  own = learned.guidance(pipe.people.values(), nets) if nets.guidance is None else nets.guidance
  return own if own is not None else 5.0 if nets.xl else 7.5


def noise(seed: int, index: int, shape: tuple[int, int, int]) -> np.ndarray:
  """Unit-variance noise of picture (seed, index): float32 [h, w, C].

  Drawn on the host by a counter-based generator in PyTorch's (C, h, w) order, so it depends on
  nothing else: not on batch, devices, dtype or sampler.
  """
  h, w, c = shape
  rng = np.random.Generator(np.random.Philox(key=[seed % 2**64, index]))
  return rng.standard_normal((c, h, w), np.float32).transpose(1, 2, 0)


def generate(
  pipe: Pipeline,
  requests: Sequence[Request],
  settings: Settings,
  init_latents: np.ndarray | None = None,
  *,
  positions: Sequence[int] | None = None,
  progress: bool | Progress = False,
) -> Iterator[Batch]:
  """Yield finished batches, in order. Batches are padded on the device, not in what is yielded.

  Several processes form the same batches as one process would, and each yields the rows of its devices.

  positions: which requests to make (a resumed job leaves out finished ones); all by default. They
  do not change how requests form batches, so a resumed job's pictures have the same bytes.
  """
  if not requests:
    raise UserError("no prompt to sample")
  requests = steering.say_faces(pipe.people, requests, pipe.size(settings))
  todo = set(range(len(requests)) if positions is None else positions)
  shape = pipe.latent_shape(settings)
  # The compiler does not partition Pallas kernels; under the mesh they do it themselves.
  on_mesh = functools.partial(_under, pipe)
  table = make_table(pipe, settings)
  # diffusers' rule: guidance up to 1 means none, and then the negative branch is not computed.
  guided = any(r.guidance > 1 for r in requests)
  late, steered = any(r.start > 0 for r in requests), any(r.steer for r in requests)
  put = lambda x: jax.device_put(x, sharding.batch(pipe.mesh))
  changes = Weights(pipe.backbone, pipe.people, on_mesh)
  groups = [tokens.placeholders_in(r.prompt, pipe.people) for r in requests]
  size = batching.size(settings.batch, len(groups), jax.device_count() if pipe.divides else pipe.mesh.size)
  all_batches = batching.form(groups, size, changes.needs_own_batch)
  parts = [batching.part(b, pipe.mesh) if pipe.divides else (b, set(b)) for b in all_batches]
  batches = [(b, share & todo) for b, share in parts if share & todo]
  todo = {i for _, share in batches for i in share}
  if not batches:
    return
  all_rows = [requests[i] for b, _ in batches for i in b]
  all_texts = rows_of.texts(pipe.backbone, all_rows, guided) + ([r.plain for r in all_rows] if late else [])
  texts = Texts(pipe.backbone, pipe.tokenizers, pipe.people, all_texts, pipe.notify, on_mesh)

  with contextlib.closing(Pieces(progress, len(todo), int(table.active.sum()))) as bar:
    for batch, share in batches:
      rows, pictures = [requests[i] for i in batch], sorted(share)
      place = {i: j for j, i in reversed(list(enumerate(batch)))}  # padding repeats the last
      z = np.stack([noise(r.seed, r.index, shape) for r in rows]) if init_latents is None else init_latents[batch]
      keys = jnp.stack([_key(r.seed, r.index) for r in rows])
      scale = np.array([max(r.guidance, 1.0) for r in rows], np.float32)
      cond = rows_of.condition(pipe.backbone, pipe.mesh, texts, rows, guided, late, pipe.size(settings))
      if steered:
        cond = steering.join(pipe.backbone, cond, [r.steer for r in rows], pipe.size(settings), pipe.mesh)
        cond = on_mesh(steering.embed, pipe.backbone, cond)
      state = _start(put(z), table, pipe.mesh)
      people = [reader for i in batch for reader in changes.readers(groups[i], guided)]
      projected = changes.project(cond, people, pipe.mesh)
      program = functools.partial(
        _run,
        changes.backbone_of(people[0]),
        plain=pipe.backbone if guided and changes.needs_own_batch(people[0]) and people[1] != people[0] else None,
        cond=cond,
        projected=projected,
        scale=put(scale),
        keys=put(keys),
        guided=guided,
        mesh=pipe.mesh,
      )
      latents = bar.run(functools.partial(on_mesh, program), state, table, len(pictures))
      images = np.asarray(on_mesh(decode, pipe.backbone, latents, settings.tiled))
      out = np.asarray(latents)
      good = [i for i in pictures if np.isfinite(out[place[i]]).all()]
      at = [place[i] for i in good]
      if good:
        yield Batch(good, images[at], out[at])
      if bad := sorted(set(pictures) - set(good)):
        r = requests[bad[0]]
        raise UserError(
          f"the latents of {r.prompt!r} (seed {r.seed}, index {r.index}) are not finite; try "
          "float32, lower guidance or more steps, and check the model's weights"
        )


def make_table(pipe: Pipeline, settings: Settings) -> sampler.Table:
  """The sampler's coefficients; UserError for a sampler, a number of steps or a knob out of range."""
  overrides = dict(timestep_spacing=settings.spacing, use_karras_sigmas=settings.karras)
  fields: dict[str, Any] = {k: v for k, v in overrides.items() if v is not None}
  nets, name = pipe.backbone.nets, settings.sampler
  name = nets.sampler or name if name == "folder" else name
  return sampler.table(name, nets.schedule, settings.steps, eta=settings.eta, **fields)


def _key(seed: int, index: int) -> jax.Array:
  """The key of a stochastic sampler's noise; all 64 bits of the seed count, of which jax.random.key keeps 32."""
  low, high = seed % 2**32, seed % 2**64 >> 32
  return jax.random.fold_in(jax.random.fold_in(jax.random.key(low), high), index)


# The compiled programs. `guided` and `tiled` choose between two programs each; everything else is data.


@functools.partial(jax.jit, static_argnames="mesh")
def _start(z: jax.Array, table: sampler.Table, mesh: jax.sharding.Mesh) -> sampler.State:
  return jax.lax.with_sharding_constraint(sampler.init(z, table), sharding.batch(mesh))


@functools.partial(jax.jit, static_argnames=("guided", "mesh"), donate_argnames="state")
def _run(
  b: Backbone,
  state: sampler.State,
  table: sampler.Table,
  cond: Conditioning,
  projected,
  scale: jax.Array,
  keys: jax.Array,
  guided: bool,
  mesh: jax.sharding.Mesh,
  plain: Backbone | None = None,
) -> sampler.State:
  """Steps of the sampler. plain: the backbone that reads negative prompts, where it is another."""

  def half(side):  # the rows of prompts (0) or of negative prompts (1)
    at = slice(side, None, 2)
    return dict(cond=backbone.rows(cond, at), projected=jax.tree.map(lambda y: y[..., at, :, :], projected))

  def model(x, t):
    if not guided:
      return backbone.predict(b, x, t, cond, projected=projected)
    n = x.shape[0]
    if plain is not None:
      positive, negative = (backbone.predict(w, x, t, **half(side)) for side, w in enumerate((b, plain)))
      return negative + scale.reshape(n, 1, 1, 1) * (positive - negative)
    both = backbone.predict(b, jnp.repeat(x, 2, axis=0), t, cond, projected=projected).reshape(n, 2, *x.shape[1:])
    positive, negative = both[:, 0], both[:, 1]
    return negative + scale.reshape(n, 1, 1, 1) * (positive - negative)

  # Explicit, because the program is called on its own output, whose layout must not change.
  return jax.lax.with_sharding_constraint(sampler.run(model, state, table, keys), sharding.batch(mesh))


@functools.partial(jax.jit, static_argnames="tiled")
def decode(b: Backbone, latents: jax.Array, tiled: bool) -> jax.Array:
  """The UNet's latents [B, h, w, C] -> pictures uint8 [B, H, W, 3]."""
  plain = lambda z: backbone.decode(b, z)
  images = vae.tiled_decode(plain, latents, b.nets.vae.latent_tile) if tiled else plain(latents)
  return jnp.round((images / 2 + 0.5).clip(0, 1) * 255).astype(jnp.uint8)


def _under(pipe: Pipeline, program: Callable, *args):
  """Call a program on the pipeline's mesh, in the arithmetic that its dtype promises."""
  # By default GPUs multiply float32 in TF32, TPUs in bfloat16.
  exact = pipe.backbone.nets.dtype == jnp.float32 and jax.default_backend() != "cpu"
  with jax.set_mesh(pipe.mesh), jax.default_matmul_precision("float32" if exact else None):
    return program(*args)
