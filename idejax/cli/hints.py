"""Defaults in help texts that depend on the model, read from the configs in its folder."""

import json
from pathlib import Path
from typing import Any, NamedTuple

from idejax.storage.built_in import BUILT_IN


class Facts(NamedTuple):
  guidance: float
  multiple: int  # of pixels
  side: int | None  # pixels; None: not known here


def facts(model: str) -> Facts:
  """The facts in a model's folder; for a model that is not on this machine, those usual in its family."""
  folder = BUILT_IN.get(model, Path(model))
  xl = (folder / "text_encoder_2").is_dir() if folder.is_dir() else "xl" in model.lower()
  vae, unet, index = (_json(folder / f) for f in ("vae/config.json", "unet/config.json", "model_index.json"))
  channels, latent, guidance = vae.get("block_out_channels"), unet.get("sample_size"), index.get("_idejax_guidance")
  multiple = 2 ** (len(channels) - 1) if isinstance(channels, list) and channels else 8
  return Facts(
    float(guidance) if isinstance(guidance, int | float) else 5.0 if xl else 7.5,
    multiple,
    latent * multiple if isinstance(latent, int) else None,
  )


def of(model: str) -> dict[str, str]:
  """The facts in words, for help."""
  values = facts(model)
  side = "the size that the model was trained at" if values.side is None else f"{values.side}"
  return {"guidance": f"{values.guidance:g}", "multiple": f"{values.multiple}", "side": side}


def _json(path: Path) -> dict[str, Any]:
  try:
    value = json.loads(path.read_text("utf-8"))
  except (OSError, ValueError):
    return {}
  return value if isinstance(value, dict) else {}
