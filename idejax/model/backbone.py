"""A pretrained Stable Diffusion as a pytree: static nets, arrays, and four pure functions.

`encode_text`, `predict`, `encode_image` and `decode` are functions of (backbone, inputs); nothing
here holds state, reads a clock or draws a random number.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from idejax import tree
from idejax.errors import UserError
from idejax.model.diffusion import NoiseSchedule
from idejax.nets import clip, cross_attention, unet, vae
from idejax.nets.controlnet import ControlEmbedding, ControlNet, ControlNetConfig
from idejax.nets.target import computed_in
from idejax.storage import files, flaxfiles, tensorfiles, weights

# (component, config class, parameter shapes, file stem, historic key spellings)
_COMPONENTS = {
  "unet": (unet.UNetConfig, unet.shapes, "diffusion_pytorch_model", None),
  "vae": (vae.VAEConfig, vae.shapes, "diffusion_pytorch_model", weights.rename_vae),
  "text_encoder": (clip.TextConfig, clip.shapes, "model", weights.rename_clip),
  "text_encoder_2": (clip.TextConfig, clip.shapes, "model", weights.rename_clip),
}


@dataclasses.dataclass(frozen=True)
class Nets:
  """Everything static about a backbone; hashable, so a jitted function may depend on it."""

  unet: unet.UNetConfig
  vae: vae.VAEConfig
  text: tuple[clip.TextConfig, ...]  # SDXL has two
  schedule: NoiseSchedule
  dtype: Any = jnp.float32
  zero_empty_negative: bool = False  # SDXL base: no negative prompt means zeros, not "" encoded
  guidance: float | None = None  # what suits the model, where its folder says
  sampler: str | None = None  # the same
  controlnet: ControlNetConfig | None = None  # None: `params` has no ControlNet

  @classmethod
  def from_json(
    cls,
    configs: Mapping[str, Any],
    *,
    dtype: Any = jnp.float32,
    attention: str | None = None,
    remat: bool = False,
    zero_empty_negative: bool = False,
  ) -> "Nets":
    """From the config.json of "unet", "vae", "text_encoder"[, "text_encoder_2"] and "scheduler"."""
    return cls(
      unet=unet.UNetConfig.from_json(configs["unet"], dtype=dtype, attention=attention, remat=remat),
      vae=vae.VAEConfig.from_json(configs["vae"]),
      text=tuple(clip.TextConfig.from_json(configs[n]) for n in ("text_encoder", "text_encoder_2") if n in configs),
      schedule=NoiseSchedule.from_json(configs["scheduler"]),
      dtype=dtype,
      zero_empty_negative=zero_empty_negative,
    )

  @property
  def xl(self) -> bool:
    return self.unet.added_dims is not None

  @property
  def factor(self) -> int:
    """Pixels per latent along a side (8 in SD, 4 in the miniature)."""
    return self.vae.factor

  @property
  def latent_channels(self) -> int:
    return self.unet.channels[0]

  @property
  def vae_dtype(self) -> Any:
    """Float32 where the config asks for it: 16-bit decoding overflows (fp16) or bands (bf16)."""
    return jnp.float32 if self.vae.force_upcast else self.dtype


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Backbone:
  nets: Nets = dataclasses.field(metadata=dict(static=True))
  params: dict[str, Any]  # {"unet", "vae", "text_encoder"[, "text_encoder_2"][, "controlnet"]}


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Conditioning:
  """What the UNet is conditioned on, from a prompt and a method. The one type that methods return.

  k, v: contexts [S, B, L, D] for keys and for values, S stages of diffusion, noisiest first.
  pooled, time_ids: SDXL's [B, P] or, by stage, [S, B, P]; and [B, 6].
  control, control_context: a ControlNet's image [B, H, W, 3] in [0, 1], and its context [B, L', D]; without
    one it reads the text, as stock ControlNets do. control_embedded: in place of the image, see `embed_control`.
  control_scale: how strongly it acts, [B]; 1 without it. control_until, control_from: timesteps [B]; below the first it
    no longer acts, above the second not yet.
  bounds: timesteps [B, S - 1], descending: row b leaves stage s below bounds[b, s]. None: stages of
    equal length (`stage`).
  """

  k: jax.Array
  v: jax.Array
  pooled: jax.Array | None = None
  time_ids: jax.Array | None = None
  control: jax.Array | None = None
  control_context: jax.Array | None = None
  control_scale: jax.Array | None = None
  control_until: jax.Array | None = None
  bounds: jax.Array | None = None
  control_from: jax.Array | None = None
  control_embedded: jax.Array | None = None


def rows(cond: Conditioning, at: slice) -> Conditioning:
  """The conditioning of some of a batch's rows."""
  pick = lambda y: None if y is None else y[at]
  staged = cond.pooled is not None and cond.pooled.ndim == 3
  plain = {f.name: pick(getattr(cond, f.name)) for f in dataclasses.fields(cond)}
  plain |= {"k": cond.k[:, at], "v": cond.v[:, at]} | ({"pooled": cond.pooled[:, at]} if staged else {})
  return Conditioning(**plain)


def load(
  folder: Path,
  *,
  dtype=jnp.float32,
  variant: str | None = None,
  allow_pickle: bool = False,
  attention: str | None = None,
  remat: bool = False,
) -> Backbone:
  """Read a pipeline folder in diffusers' layout. UserError names the file and what is wrong.

  Weights are held in `dtype`, except a VAE whose config asks for float32 (`force_upcast`); computation is in it
  too, except of bfloat16 on a CPU without units for it (`nets.target.computed_in`). `remat`: a gradient through
  the UNet recomputes its blocks instead of keeping what they computed.
  """
  index = read_json(folder / "model_index.json")
  parts = [name for name in _COMPONENTS if is_component(index.get(name))]
  if missing := {"unet", "vae", "text_encoder"} - set(parts):
    raise UserError(
      f"{folder}/model_index.json ({index.get('_class_name')}) has no {', '.join(sorted(missing))}: "
      "idejax opens Stable Diffusion 1.x, 2.x and SDXL base pipelines"
    )
  configs, params = {}, {}
  for name in parts:
    configs[name], params[name] = load_part(folder, name, dtype, variant, allow_pickle)
  schedule = make_config(NoiseSchedule, folder / "scheduler" / "scheduler_config.json")
  if "text_encoder_2" not in parts:
    # diffusers' StableDiffusionPipeline mends old configs this way; without it SD 1.x latents are clipped.
    schedule = schedule.override(clip_sample=False, steps_offset=1)
  compute = computed_in(dtype)
  nets = Nets(
    unet=dataclasses.replace(configs["unet"], dtype=compute, attention=attention, remat=remat),
    vae=configs["vae"],
    text=tuple(configs[n] for n in parts if n.startswith("text")),
    schedule=schedule,
    dtype=compute,
    zero_empty_negative=bool(index.get("force_zeros_for_empty_prompt")),
    guidance=_number(index.get("_idejax_guidance")),
    sampler=str(index["_idejax_sampler"]) if index.get("_idejax_sampler") else None,
  )
  _check_widths(folder, nets)
  return Backbone(nets, params)


def load_part(
  folder: Path, name: str, dtype: Any, variant: str | None = None, allow_pickle: bool = False
) -> tuple[Any, Any]:
  """(config, parameters) of one component of a pipeline folder, such as "vae"; see `load`."""
  make, shapes, stem, rename = _COMPONENTS[name]
  path = folder / name / "config.json"
  config = make_config(make, path)
  kind = jnp.float32 if name == "vae" and config.force_upcast else dtype
  tensors = tensorfiles.read(folder / name, stem, variant=variant, allow_pickle=allow_pickle)
  if rename:
    tensors = rename(tensors)
  want = weights.with_dtype(net_shapes(shapes, config, path), kind)
  return config, weights.from_torch(want, tensors, name=f"{folder.name}/{name}")


def _number(x: Any) -> float | None:
  return float(x) if isinstance(x, int | float) and 0 <= x < 100 else None


def make_config(make, path: Path, **run):
  """A config from its JSON file. Raises UserError with the file's name and what is wrong with it."""
  json = read_json(path)
  try:
    config = make.from_json(json, **run)
    hash(config)  # it will be a static argument of jitted functions; a list inside would not do
    return config
  except (UserError, ValueError, TypeError, KeyError) as e:
    raise UserError(f"{path}: {e}") from e


def net_shapes(shapes, config, path: Path):
  """The parameters' shapes of a net; UserError with the file's name where its numbers fit no net."""
  try:
    return shapes(config)
  except Exception as e:  # numbers from a stranger's file may break any operation of a net
    reason = str(e).splitlines()[0][:200] if str(e) else type(e).__name__
    raise UserError(f"{path}: no net can be built from it: {reason}") from e


def read_json(path: Path) -> dict[str, Any]:
  """A JSON file of a pipeline folder, with PyTorch's class names if Flax classes wrote it. UserError."""
  if not path.exists():
    raise UserError(f"{path} is missing: not a complete pipeline folder in diffusers layout")
  return flaxfiles.class_names(files.read_json(path))


def is_component(entry: Any) -> bool:
  """Whether an entry of model_index.json is a component's [library, class]; absent ones are [null, null]."""
  return isinstance(entry, list) and len(entry) == 2 and None not in entry


def _check_widths(folder: Path, nets: Nets):
  width = sum(t.hidden_size for t in nets.text)
  if width != nets.unet.context_dim:
    raise UserError(
      f"{folder}: the text encoders give {width} features, the UNet takes "
      f"{nets.unet.context_dim}: components of different models"
    )
  if nets.latent_channels != nets.vae.latent_channels:
    raise UserError(
      f"{folder}: the UNet takes {nets.latent_channels} channels, the VAE has "
      f"{nets.vae.latent_channels}; inpainting and depth UNets are not supported"
    )
  if nets.xl != (len(nets.text) == 2):
    raise UserError(f"{folder}: {len(nets.text)} text encoder(s) do not fit this UNet")


def encode_text(
  b: Backbone,
  ids: tuple[jax.Array, ...],
  eos: tuple[jax.Array, ...],
  rows: tuple[jax.Array, ...] | None = None,
  where: tuple[jax.Array, ...] | None = None,
  remat: bool = False,
) -> tuple[jax.Array, jax.Array | None]:
  """Token ids, one array [B, L] per text encoder -> (context [B, L, D], pooled [B, P] or None).

  SD 1.x and 2.x take the last layer after its norm; SDXL both encoders' penultimate layers side
  by side and the second's pooled row. `rows`, `where`: see `clip.TextEncoder`. `remat` recomputes
  each layer in a backward pass.
  """
  names = ["text_encoder", "text_encoder_2"][: len(ids)]
  outs = [
    clip.TextEncoder(cfg, b.nets.dtype, remat).apply(
      {"params": b.params[n]}, i, rows and rows[j], where and where[j], e
    )
    for j, (n, cfg, i, e) in enumerate(zip(names, b.nets.text, ids, eos))
  ]
  if not b.nets.xl:
    return outs[0].last, None
  return jnp.concatenate([o.penultimate for o in outs], axis=-1), outs[-1].pooled


def stage(t: jax.Array, stages: int, train_steps: int) -> jax.Array:
  """Index of the diffusion stage of timestep t, 0 the noisiest: S - 1 - floor(S t / T)."""
  return jnp.clip(stages - 1 - jnp.floor(stages * t / train_steps).astype(jnp.int32), 0, stages - 1)


def with_unet(b: Backbone, changes: dict[str, Any]) -> Backbone:
  """The backbone with a subtree of its UNet's parameters replaced; the same one if that is empty."""
  if not changes:
    return b
  return Backbone(b.nets, b.params | {"unet": tree.override(b.params["unet"], changes)})


def project(b: Backbone, cond: Conditioning) -> dict[str, tuple[jax.Array, jax.Array]]:
  """The UNet's cross-attention keys and values for a fixed conditioning, computed once instead of per step."""
  return cross_attention.project_context(b.params["unet"], cond.k, cond.v, b.nets.dtype)


def predict(
  b: Backbone,
  x: jax.Array,
  t: jax.Array,
  cond: Conditioning,
  *,
  projected=None,
  residuals=None,
  extra=None,
  capture: bool = False,
):
  """The UNet's output for noisy latents [B, H, W, C] at timesteps [B] (or a scalar for all).

  projected: `project(b, cond)`, to save its matmuls at every step.
  residuals, extra: see `unet.UNet`.
  capture: also return {"...": {"qk": (q, k)}}, queries and keys of every cross-attention.
  """
  stages, n = cond.k.shape[0], x.shape[0]
  t = jnp.broadcast_to(jnp.asarray(t, jnp.float32), (n,))
  if cond.bounds is None:
    at = stage(t, stages, b.nets.schedule.num_train_timesteps)
  else:
    at = (t[:, None] < cond.bounds).sum(-1)

  def select(y, lead=0):  # [.., S, B, L, C] -> [.., B, L, C] at each row's stage
    y = jnp.moveaxis(y, (lead, lead + 1), (0, 1))
    y = y[0] if stages == 1 else y[at, jnp.arange(n)]
    return jnp.moveaxis(y, 0, lead)

  context: unet.Context
  if projected is None:
    context = (select(cond.k), select(cond.v))
  else:
    context = {p: tuple(select(y, int("*" in p)) for y in kv) for p, kv in projected.items()}
  pooled = cond.pooled
  if pooled is not None and pooled.ndim == 3:
    pooled = select(pooled)
  added = (pooled, cond.time_ids) if b.nets.xl else None
  picture = cond.control if cond.control_embedded is None else cond.control_embedded
  if picture is not None:
    text = select(cond.k) if cond.control_context is None else cond.control_context
    strength = cond.control_scale
    if cond.control_until is not None:
      strength = jnp.where(t >= cond.control_until, 1.0 if strength is None else strength, 0.0)
    if cond.control_from is not None:
      strength = jnp.where(t <= cond.control_from, 1.0 if strength is None else strength, 0.0)
    residuals = control(b, x, t, text, picture, added, strength, embedded=cond.control_embedded is not None)
  out = unet.UNet(b.nets.unet).apply(
    {"params": b.params["unet"]}, x, t, context, added, residuals, extra, mutable=["attention"] if capture else False
  )
  return (out[0], out[1]["attention"]) if capture else out


def control(
  b: Backbone,
  x: jax.Array,
  t: jax.Array,
  context: jax.Array,
  image: jax.Array,
  added: tuple[jax.Array, jax.Array] | None,
  scale: jax.Array | None = None,
  embedded: bool = False,
) -> unet.Residuals:
  """The ControlNet's residuals for noisy latents [B, h, w, C] at timesteps [B]; `scale` [B]. `embedded`: `image` is
  `embed_control`'s result.

  Where no row is steered at a step, the ControlNet does not run. Raises ValueError if the backbone has none.
  """
  if b.nets.controlnet is None:
    raise ValueError("the conditioning has a control image, the backbone no ControlNet")
  net, params = ControlNet(b.nets.controlnet), {"params": b.params["controlnet"]}
  if scale is None:
    return net.apply(params, x, t, context, image, added, embedded=embedded)

  def run() -> unet.Residuals:
    return net.apply(params, x, t, context, image, added, scale[:, None, None, None], embedded)

  idle = lambda: jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), jax.eval_shape(run))
  return jax.lax.cond((scale != 0).any(), run, idle)


def embed_control(b: Backbone, image: jax.Array) -> jax.Array:
  """Control images [B, H, W, 3] -> what the ControlNet adds to its first features, [B, h, w, C]: once, not per step."""
  assert b.nets.controlnet is not None  # whoever has a control image has a ControlNet
  params = b.params["controlnet"]["controlnet_cond_embedding"]
  out: Any = ControlEmbedding(b.nets.controlnet).apply({"params": params}, image)
  return out


def encode_image(b: Backbone, images: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Images [B, H, W, 3] in [-1, 1] -> mean and log-variance of their latents, unscaled."""
  return vae.Encoder(b.nets.vae, b.nets.vae_dtype).apply({"params": b.params["vae"]}, images)


def scale_latents(b: Backbone, z: jax.Array) -> jax.Array:
  """VAE latents -> the UNet's, unit variance."""
  mean, std = _latent_statistics(b.nets.vae)
  return (z - mean) * (b.nets.vae.scaling_factor / std)


def _latent_statistics(v: vae.VAEConfig) -> tuple[jax.Array, jax.Array]:
  """Mean and deviation [1, 1, 1, C or 1] that a config may state beside its scaling factor."""
  row = lambda x: jnp.asarray(x, jnp.float32).reshape(1, 1, 1, -1)
  if v.latents_mean is not None and v.latents_std is not None:
    return row(v.latents_mean), row(v.latents_std)
  return row(v.shift_factor or 0.0), row(1.0)


def decode(b: Backbone, latents: jax.Array) -> jax.Array:
  """The UNet's latents [B, h, w, C] -> images [B, H, W, 3] in [-1, 1], float32."""
  mean, std = _latent_statistics(b.nets.vae)
  z = latents * (std / b.nets.vae.scaling_factor) + mean
  decoder = vae.Decoder(b.nets.vae, b.nets.vae_dtype)
  return decoder.apply({"params": b.params["vae"]}, z).astype(jnp.float32)
