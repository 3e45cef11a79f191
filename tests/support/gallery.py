"""A folder of rendered people as somebody's pictures, with its pictures.jsonl: no model is run."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

from idejax.miniature.world import data, people, scene

PROMPTS = {"a photo of {} on the beach": ("background", {"background": "beach"}),
           "a sketch of {}": ("style", {"style": "sketch"}),
           "a photo of {} smiling": ("expression", {"expression": "happy"})}  # fmt: skip


def write(folder: Path, methods=("right", "wrong"), count: int = 3, seeds: int = 2) -> Path:
  """`right` shows the person and what the prompt asks; `wrong` another person, in a plain photo."""
  folder.mkdir(parents=True, exist_ok=True)
  ids = people.split("heldout")[: count + 1]
  plain, other = scene.scene(clothes="red sweater", background="gray"), scene.scene(background="home", yaw=0.1)
  files = [f"{kind}-{i}.png" for kind in ("person", "second") for i in ids]
  whom, wanted = [*ids, *ids], [plain] * len(ids) + [other] * len(ids)
  rows = []
  for method in methods:
    for k in range(count):
      for text, (category, factors) in PROMPTS.items():
        for s in range(seeds):
          shown = factors if method == "right" else {}
          wanted.append(scene.scene(**{"background": "gray", "yaw": 0.1 * s, "light": 0.3 - 0.6 * s} | shown))
          whom.append(ids[k] if method == "right" else ids[k + 1])
          files.append(f"{method}-{len(rows)}.png")
          rows.append({"file": files[-1], "method": method, "person": f"p{ids[k]}", "reference": f"person-{ids[k]}.png",
                       "second": f"second-{ids[k]}.png", "prompt": text, "category": category, "seed": s})  # fmt: skip
  images, _ = data.render_all(people.people(np.array(whom)), data.stack(wanted))
  for name, image in zip(files, np.asarray(images)):
    Image.fromarray(image).save(folder / name)
  path = folder / "pictures.jsonl"
  path.write_text("".join(json.dumps(r) + "\n" for r in rows))
  return path
