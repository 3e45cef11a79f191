"""Checkpoints in one file, in the original code's layout, and the names of diffusers' tensors in them.

    model.diffusion_model.*                  UNet
    first_stage_model.*                      VAE
    cond_stage_model.transformer.*           SD 1.x: CLIP text under transformers' names
    cond_stage_model.model.*                 SD 2.x: OpenCLIP, whose q, k and v are one tensor
    conditioner.embedders.{0.transformer,1.model}.*   SDXL's two

Folders are converted to files and back, equal to the bit.
"""

import functools
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from idejax.errors import UserError
from idejax.exporting import folders
from idejax.model.backbone import read_json
from idejax.nets import clip, unet, vae
from idejax.storage import tensorfiles, weights

Config = Mapping[str, Any]
PREFIX = {"unet": "model.diffusion_model.", "vae": "first_stage_model."}
_IGNORE = re.compile(  # tensors of files that folders do not have: buffers, and layers that the UNet does not read
  r"position_ids$|logit_scale$|^cond_stage_model\.model\.(text_projection$|transformer\.resblocks\.23\.)|^first_stage_model\.loss\."
)


class Place(NamedTuple):
  """Where tensors of a component lie in the file."""

  name: str  # in the file
  keys: tuple[str, ...]  # in the component
  form: str = "same"  # or "1x1": a convolution there; "transposed"; "fused": stacked along the first axis


# Names.

Rules = list[tuple[str, Any]]  # (regex, replacement)


def _rename(key: str, rules: Rules) -> str:
  for pattern, new in rules:
    key = re.sub(pattern, new, key)
  return key


_RESNET: Rules = [
  (r"\.norm1\.", ".in_layers.0."),
  (r"\.conv1\.", ".in_layers.2."),
  (r"\.time_emb_proj\.", ".emb_layers.1."),
  (r"\.norm2\.", ".out_layers.0."),
  (r"\.conv2\.", ".out_layers.3."),
  (r"\.conv_shortcut\.", ".skip_connection."),
]
_UNET: Rules = [
  (r"^time_embedding\.linear_(\d)", lambda m: f"time_embed.{2 * int(m[1]) - 2}"),
  (r"^add_embedding\.linear_(\d)", lambda m: f"label_emb.0.{2 * int(m[1]) - 2}"),
  (r"^conv_in\.", "input_blocks.0.0."),
  (r"^conv_norm_out\.", "out.0."),
  (r"^conv_out\.", "out.2."),
  (r"^mid_block\.attentions\.0", "middle_block.1"),
  (r"^mid_block\.resnets\.(\d)", lambda m: f"middle_block.{2 * int(m[1])}"),
]
_VAE: Rules = [
  (r"\.mid_block\.resnets\.(\d)", lambda m: f".mid.block_{int(m[1]) + 1}"),
  (r"\.conv_norm_out\.", ".norm_out."),
  (r"\.mid_block\.attentions\.0\.", ".mid.attn_1."),
  (r"\.group_norm\.", ".norm."),
  (r"\.to_([qkv])\.", r".\1."),
  (r"\.to_out\.0\.", ".proj_out."),
  (r"\.conv_shortcut\.", ".nin_shortcut."),
]
_OPENCLIP: Rules = [
  (r"^text_model\.embeddings\.token_embedding\.", "token_embedding."),
  (r"^text_model\.embeddings\.position_embedding\.weight$", "positional_embedding"),
  (r"^text_model\.final_layer_norm\.", "ln_final."),
  (r"^text_projection\.weight$", "text_projection"),
  (r"^text_model\.encoder\.layers\.", "transformer.resblocks."),
  (r"\.layer_norm(\d)\.", r".ln_\1."),
  (r"\.mlp\.fc1\.", ".mlp.c_fc."),
  (r"\.mlp\.fc2\.", ".mlp.c_proj."),
  (r"\.self_attn\.", ".attn."),
  (r"\.[qkv]_proj\.(weight|bias)$", r".in_proj_\1"),
]


def _unet_name(key: str, config: Config) -> str:
  n = config.get("layers_per_block", 2)
  if not isinstance(n, int):
    raise UserError(f"a UNet with layers_per_block {n} has no single-file form")
  if m := re.match(r"(down|up)_blocks\.(\d+)\.(resnets|attentions|downsamplers|upsamplers)\.(\d+)\.(.*)", key):
    way, block, what, i, rest = m[1], int(m[2]), m[3], int(m[4]), m[5]
    at = block * (n + 1) + (way == "down")
    attends = "CrossAttn" in config[f"{way}_block_types"][block]
    if what == "downsamplers":
      return f"input_blocks.{at + n}.0.op.{rest.removeprefix('conv.')}"
    if what == "upsamplers":
      return f"output_blocks.{at + n}.{1 + attends}.{rest}"
    side = {"down": "input", "up": "output"}[way]
    if what == "attentions":
      return f"{side}_blocks.{at + i}.1.{rest}"
    return _rename(f"{side}_blocks.{at + i}.0.{rest}", _RESNET)
  return _rename(key, [*_UNET, *(_RESNET if key.startswith("mid_block.resnets") else [])])


def _vae_name(key: str, config: Config) -> str:
  last = len(config["block_out_channels"]) - 1
  rules: Rules = [
    (r"\.down_blocks\.(\d+)\.downsamplers\.0\.", r".down.\1.downsample."),
    (r"\.down_blocks\.(\d+)\.resnets\.", r".down.\1.block."),
    (r"\.up_blocks\.(\d+)\.upsamplers\.0\.", lambda m: f".up.{last - int(m[1])}.upsample."),
    (r"\.up_blocks\.(\d+)\.resnets\.", lambda m: f".up.{last - int(m[1])}.block."),
  ]
  return _rename(key, [*rules, *_VAE])


def places(part: str, keys: Iterable[str], config: Config, *, xl: bool, open_clip: bool) -> list[Place]:
  """The file's names for the tensors of a component: unet, vae, text_encoder or text_encoder_2."""
  if part in PREFIX:
    name = _unet_name if part == "unet" else _vae_name
    flat = re.compile(r"mid_block\.attentions\.0\.to_(q|k|v|out\.0)\.weight$") if part == "vae" else re.compile(r"(?!)")
    return [Place(PREFIX[part] + name(k, config), (k,), "1x1" if flat.search(k) else "same") for k in keys]
  embedder = f"conditioner.embedders.{int(part.endswith('_2'))}" if xl else "cond_stage_model"
  if not open_clip:
    return [Place(f"{embedder}.transformer.{k}", (k,)) for k in keys]
  groups: dict[str, list[str]] = {}
  for k in keys:
    groups.setdefault(f"{embedder}.model.{_rename(k, _OPENCLIP)}", []).append(k)
  form = lambda name: "fused" if ".in_proj_" in name else "transposed" if name.endswith(".text_projection") else "same"
  order = lambda k: [x in k for x in (".v_proj.", ".k_proj.", ".q_proj.")]  # q, k, v
  return [Place(name, tuple(sorted(ks, key=order)), form(name)) for name, ks in groups.items()]


# From a folder to a file.


def original(parts: Mapping[str, tuple[Mapping[str, np.ndarray], list[Place]]]) -> tensorfiles.Lazy:
  """A folder's tensors under the file's names."""
  return tensorfiles.Lazy(
    {p.name: functools.partial(_join, tensors, p) for tensors, locations in parts.values() for p in locations}
  )


def _join(tensors: Mapping[str, np.ndarray], p: Place) -> np.ndarray:
  parts = [tensors[k] for k in p.keys]
  if p.form == "fused":
    return np.concatenate(parts)
  if p.form == "1x1":
    return parts[0].reshape(*parts[0].shape[:2], 1, 1)
  return parts[0].T if p.form == "transposed" else parts[0]


def write(
  source: Path, target: Path, *, dtype: str | None = None, variant: str | None = None, allow_pickle: bool = False
) -> str:
  """Write a pipeline folder as one safetensors file -> a phrase that says what was written."""
  index, parts = folders.index_of(source), {}
  xl = "text_encoder_2" in folders.components(index)
  for part, config in configs(source, index).items():
    tensors: Mapping[str, np.ndarray] = tensorfiles.read(
      source / part, stem(part), variant=variant, allow_pickle=allow_pickle
    )
    tensors = modern(part, tensors)
    # The activation tells the two original text encoders apart: OpenCLIP's is the plain GELU.
    open_clip = part == "text_encoder_2" or part == "text_encoder" and not xl and config.get("hidden_act") == "gelu"
    parts[part] = tensors, places(part, tensors, config, xl=xl, open_clip=open_clip)
  out = original(parts)
  kind = None if dtype is None else folders.DTYPES[dtype]
  tensorfiles.write(target, folders.View(out, {}, kind, str(source)), {"made_from": source.resolve().name})
  return f"{len(out)} tensors in one file" + (f" as {dtype}" if dtype else "")


def modern(part: str, tensors: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
  """The tensors under diffusers' current keys, whichever version wrote them."""
  if part == "unet":
    return tensors
  return weights.rename_vae(tensors) if part == "vae" else weights.rename_clip(tensors)


def stem(part: str) -> str:
  """The stem of a component's weight file."""
  return "model" if part.startswith("text") else "diffusion_pytorch_model"


def configs(folder: Path, index: Config) -> dict[str, dict[str, Any]]:
  """{component: config.json} of the networks that a checkpoint holds."""
  names = folders.components(index)
  if odd := [p for p in ("unet", "vae", "text_encoder") if p not in names]:
    raise UserError(f"{folder}/model_index.json has no {odd[0]}: it is no Stable Diffusion pipeline")
  return {
    p: read_json(folder / p / "config.json") for p in ("unet", "vae", "text_encoder", "text_encoder_2") if p in names
  }


# From a file to a folder.


def family(source: Path) -> str:
  """sdxl, or sd for both 1.x and 2.x. UserError for a file that is no Stable Diffusion checkpoint."""
  keys = set(tensorfiles.read(source.parent, source.stem))
  if any(k.startswith("conditioner.embedders.1.") for k in keys):
    return "sdxl"
  if any(k.startswith(("cond_stage_model.", PREFIX["unet"])) for k in keys):
    return "sd"
  raise UserError(
    f"{source} is no Stable Diffusion checkpoint (its first tensor is {min(keys, default='none')}); "
    "for a person's file say --kind identity"
  )


def dtype_of(source: Path) -> str:
  """The dtype of the UNet's first tensor, as torch calls it."""
  tensors = tensorfiles.read(source.parent, source.stem)
  return next((tensors[k].dtype.name for k in tensors if k.startswith(PREFIX["unet"])), "float32")


def component_tensors(
  tensors: Mapping[str, np.ndarray], locations: list[Place], names: Mapping[str, str]
) -> tensorfiles.Lazy:
  """One component's tensors, read from the tensors of the file."""
  return tensorfiles.Lazy(
    {k: functools.partial(_part, tensors, names[p.name], p, i) for p in locations for i, k in enumerate(p.keys)}
  )


def _part(tensors: Mapping[str, np.ndarray], name: str, p: Place, i: int) -> np.ndarray:
  x = tensors[name]
  if p.form == "1x1" and x.ndim == 4 and x.shape[2:] == (1, 1):
    return x[:, :, 0, 0]
  if p.form == "transposed":
    return x.T
  if p.form == "fused" and len(x) % len(p.keys) == 0:
    return np.split(x, len(p.keys))[i]
  return x


def read(
  source: Path,
  like: Path,
  target: Path,
  *,
  dtype: str | None = None,
  max_shard_size: str | None = None,
  allow_pickle: bool = False,
) -> str:
  """Write a single file as a pipeline folder, with all else from `like` -> what was written, in words.

  Only pickles need PyTorch. UserError unless the file has every tensor that the configs of `like` describe,
  in the right shape, and no other.
  """
  tensors = tensorfiles.read(source.parent, source.stem, allow_pickle=allow_pickle)
  if tensors.source != source:
    raise UserError(f"{source}: beside it lies {tensors.source.name}, which needs no pickle: convert that one")
  index, names_read, report = folders.index_of(like), set[str](), []
  nets = configs(like, index)
  for part, config in nets.items():
    expected = shapes(part, config)
    open_clip = any(k.startswith(_open_prefix(part, nets)) for k in tensors)
    locations = places(part, expected, config, xl="text_encoder_2" in nets, open_clip=open_clip)
    names = {p.name: _there(p.name, tensors) for p in locations}
    if missing := [n for n, there in names.items() if there not in tensors]:
      raise UserError(
        f"{source} has no {missing[0]} ({len(missing)} of {len(locations)} tensors of {like.name}'s {part} are missing): "
        "it is of another family than --model"
      )
    names_read |= set(names.values())
    report.append(
      _write_part(
        part, component_tensors(tensors, locations, names), expected, source, like, target, dtype, max_shard_size
      )
    )
  ours = tuple({*PREFIX.values(), "cond_stage_model.", "conditioner."})
  if odd := [k for k in tensors if k.startswith(ours) and k not in names_read and not _IGNORE.search(k)]:
    raise UserError(
      f"{source} has {odd[0]} ({len(odd)} such tensors), which {like} has no place for: it is of another family than --model"
    )
  for name in folders.components(index):
    if name in nets:
      continue
    if (like / name).is_dir():
      folders.component(like / name, target / name)
    else:
      index[name] = [None, None]
  folders.finish(index, like, target)
  return "; ".join(report)


def _write_part(part, tensors, expected, source, like, target, dtype, max_shard_size) -> str:
  for key, shape in expected.items():
    if tensors[key].shape != shape:
      raise UserError(
        f"{source}: {part}'s {key} is {list(tensors[key].shape)} there and {list(shape)} in {like}: made for another model"
      )
  folders.write(like / part, target / part, tensors, stem(part), dtype=dtype, max_shard_size=max_shard_size)
  return f"{part}: {len(tensors)} tensors" + (f" as {dtype}" if dtype else "")


def shapes(part: str, config: Config) -> dict[str, tuple[int, ...]]:
  """{torch key: shape} of a component with this config."""
  return weights.keys(net(part, config))


def net(part: str, config: Config) -> Any:
  """A component's parameters as ShapeDtypeStructs."""
  nets: dict[str, tuple[Any, Any]] = {"unet": (unet.UNetConfig, unet.shapes), "vae": (vae.VAEConfig, vae.shapes)}
  config_class, shapes_of = nets.get(part, (clip.TextConfig, clip.shapes))
  try:
    return shapes_of(config_class.from_json(config))
  except (ValueError, KeyError, TypeError) as e:
    raise UserError(f"{part}/config.json describes no net that idejax knows: {e}") from e


def _open_prefix(part: str, nets: Config) -> str:
  if "text_encoder_2" not in nets:
    return "cond_stage_model.model."
  return f"conditioner.embedders.{int(part.endswith('_2'))}.model."


def _there(name: str, tensors: Mapping[str, Any]) -> str:
  """A name in the file's own spelling: very old files leave text_model out."""
  return name if name in tensors else name.replace(".transformer.text_model.", ".transformer.")
