"""What help says of defaults that depend on the model at hand, read from its folder's configs."""

import json
from pathlib import Path
from typing import Any

from idejax.storage import hub


def of(model: str) -> dict[str, str]:
  """{guidance, multiple, side} in words; of a model that is not on this machine, what its family has."""
  folder = hub.BUILT_IN.get(model, Path(model))
  xl = (folder / "text_encoder_2").is_dir() if folder.is_dir() else "xl" in model.lower()
  vae, unet, index = (_json(folder / f) for f in ("vae/config.json", "unet/config.json", "model_index.json"))
  channels, latent = vae.get("block_out_channels"), unet.get("sample_size")
  factor = 2 ** (len(channels) - 1) if isinstance(channels, list) and channels else 8
  known = isinstance(latent, int)
  return {
    "guidance": f"{index.get('_idejax_guidance') or (5.0 if xl else 7.5):g}",
    "multiple": f"{factor}",
    "side": f"{latent * factor}" if known else "the size that the model was trained at",
  }


def _json(path: Path) -> dict[str, Any]:
  try:
    found = json.loads(path.read_text("utf-8"))
  except (OSError, ValueError):
    return {}
  return found if isinstance(found, dict) else {}
