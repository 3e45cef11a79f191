"""An add-on folder: what FaceSnap trained once for everybody, beside a model of one family.

    mixer/config.json, mixer/diffusion_pytorch_model.safetensors      face features -> tokens
    controlnet/config.json, controlnet/diffusion_pytorch_model...     a stock ControlNetModel
    addon.json, README.md                                             what it was made of, and how to open it

addon.json is written last: a folder without it is no add-on.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax

from idejax.errors import UserError
from idejax.model import controlnets
from idejax.model.backbone import Backbone, make_config, net_shapes
from idejax.nets import mixer
from idejax.nets.controlnet import ControlNetConfig
from idejax.nets.mixer import MixerConfig
from idejax.storage import tensorfiles, weights
from idejax.storage.files import replacing, write_json

VERSION = 1
_STEM = "diffusion_pytorch_model"


@dataclasses.dataclass(frozen=True)
class About:
  """What an add-on was made of. Using it needs the same recogniser and vision tower."""

  model: str  # the base, by name
  recogniser: str  # the face pack
  licence: str  # of the face pack
  vision: str  # the CLIP image encoder
  data: str
  steps: int

  @classmethod
  def from_json(cls, config: Mapping[str, Any]) -> "About":
    """Reads the content of `addon.json`. ValueError, one sentence, for another version or a missing field."""
    if config.get("version") != VERSION:
      raise ValueError(f"its version is {config.get('version')!r}, not {VERSION}")
    values: dict[str, Any] = {f.name: config.get(f.name) for f in dataclasses.fields(cls)}
    for name, x in values.items():
      if type(x) is not (int if name == "steps" else str):
        raise ValueError(f"{name} is {x!r}, not {'a whole number' if name == 'steps' else 'text'}")
    return cls(**values)


class Addon(NamedTuple):
  backbone: Backbone  # with the add-on's ControlNet
  mixer: MixerConfig
  params: dict[str, Any]  # of the mixer, in the backbone's dtype
  about: About


def write(
  folder: Path, mixed: tuple[MixerConfig, Any], steering: tuple[ControlNetConfig, Any], about: About, dtype: Any = None
):
  """Writes the mixer and the ControlNet, each (config, parameters), with parameters as `dtype`.

  UserError for contexts of different widths, or if a file cannot be written.
  """
  (m, m_params), (c, c_params) = mixed, steering
  if m.context_dim != c.unet.context_dim:
    raise UserError(
      f"{folder}: the mixer's tokens have {m.context_dim} features, the ControlNet reads {c.unet.context_dim}"
    )
  cast = (lambda tree: tree) if dtype is None else (lambda tree: weights.with_dtype(tree, dtype))
  (folder / "addon.json").unlink(missing_ok=True)
  tensorfiles.write(folder / "mixer" / f"{_STEM}.safetensors", weights.to_torch(cast(m_params)))
  write_json(folder / "mixer" / "config.json", m.to_json())
  controlnets.write(folder / "controlnet", c, cast(c_params))
  with replacing(folder / "README.md") as temporary:
    temporary.write_text(_card(folder.name, m, about), "utf-8")
  write_json(folder / "addon.json", {"version": VERSION, **dataclasses.asdict(about)})


def load(b: Backbone, folder: Path) -> Addon:
  """Opens an add-on for a backbone. UserError if the folder is no add-on, or one of another family."""
  path = folder / "addon.json"
  if not path.is_file():
    raise UserError(f"{folder} is no add-on folder: it has no addon.json")
  about = make_config(About, path)
  config = folder / "mixer" / "config.json"
  cfg = make_config(MixerConfig, config)
  if cfg.context_dim != b.nets.unet.context_dim:
    raise UserError(
      f"{folder}: an add-on of another family: its tokens have {cfg.context_dim} features, "
      f"the model reads {b.nets.unet.context_dim}; it was made for {about.model}"
    )
  b = controlnets.with_controlnet(b, folder / "controlnet")
  want = weights.with_dtype(net_shapes(mixer.shapes, cfg, config), b.nets.dtype)
  params = weights.from_torch(want, tensorfiles.read(folder / "mixer", _STEM), name=f"{folder}/mixer")
  return Addon(b, cfg, params, about)


def tokens(a: Addon, identity: jax.Array | None, clip: jax.Array | None) -> jax.Array:
  """Face features -> the ControlNet's context [B, L, D], for `Conditioning.control_context`; see `mixer.Mixer`."""
  out: Any = mixer.Mixer(a.mixer, a.backbone.nets.dtype).apply({"params": a.params}, identity, clip)
  return out


def _card(name: str, m: MixerConfig, about: About) -> str:
  return f"""---
library_name: diffusers
tags: [idejax, facesnap, controlnet]
---

# {name}: a FaceSnap add-on

For {about.model} and models of its family. `controlnet/` is a stock ControlNetModel; its context is not the prompt
but the {m.tokens} tokens of {m.context_dim} features that `mixer/` makes of a face.

```python
from diffusers import ControlNetModel
controlnet = ControlNetModel.from_pretrained("{name}/controlnet")
```

```python
from pathlib import Path
from idejax.model import addon, backbone
both = addon.load(backbone.load(Path("FOLDER_OF_THE_MODEL")), Path("{name}"))
context = addon.tokens(both, embedding, clip)   # [B, {m.identity_dim}], [B, T, {m.clip_dim}]
```

- face recogniser: {about.recogniser}; licence: {about.licence}
- vision tower, its penultimate layer: {about.vision}
- trained on: {about.data}; {about.steps} steps
- pictures made with this are synthetic; say so where you show them
"""
