"""Curves of results: identity against prompt over the identity's strength, ID (P) over its threshold; sheets."""

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from idejax.evaluation.rows import Row
from idejax.faces import photo
from idejax.storage.files import replacing

SIDE, PEOPLE = 112, 8  # pixels of a thumbnail; people on a sheet


def tradeoff(results: Mapping[str, Any], path: Path) -> bool:
  """Identity against prompt, a line per method over its strengths, with intervals. False: nothing to draw."""
  lines = {}
  for name, m in results["methods"].items():
    points = [x for x in (m["scores"], *m["strengths"].values()) if "identity" in x and "prompt" in x]
    if points:
      lines[name] = sorted(points, key=lambda x: x["prompt"]["mean"])
  if not lines:
    return False
  figure, axes = _figure()
  for k, (name, points) in enumerate(lines.items()):
    x, y = ([p[n]["mean"] for p in points] for n in ("prompt", "identity"))
    error = lambda n, ps=points: np.abs(
      [[p[n]["mean"] - p[n]["low"] for p in ps], [p[n]["high"] - p[n]["mean"] for p in ps]]
    )
    axes.errorbar(x, y, xerr=np.nan_to_num(error("prompt")), yerr=np.nan_to_num(error("identity")), label=name,
                  marker="os^Dv<>p*"[k % 9], capsize=2, linewidth=1)  # fmt: skip
  axes.set(xlabel="prompt (CLIP cosine)", ylabel="identity (cosine)", title="Identity against prompt, 95 % intervals")
  return _save(figure, axes, path)


def thresholds(results: Mapping[str, Any], path: Path) -> bool:
  """ID (P) of every method at every threshold."""
  curves = {n: m["identity_prompt_curve"] for n, m in results["methods"].items() if "identity_prompt_curve" in m}
  if not curves:
    return False
  figure, axes = _figure()
  for name, c in curves.items():
    axes.plot(c["thresholds"], c["values"], label=name)
  axes.axvline(0.23, color="grey", linestyle=":", linewidth=1)
  axes.set(
    xlabel="prompt score from which identity counts",
    ylabel="ID (P)",
    title="ID (P) over its threshold; dotted: the paper's",
  )
  return _save(figure, axes, path)


def _figure():
  from matplotlib.figure import Figure

  figure = Figure(figsize=(7, 4.5), dpi=110)
  return figure, figure.subplots()


def _save(figure, axes, path: Path) -> bool:
  axes.legend(fontsize=8)
  axes.grid(alpha=0.3)
  figure.tight_layout()
  with replacing(path) as temporary:
    figure.savefig(temporary, format="png", metadata={"Software": None})
  return True


def sheet(rows: Sequence[Row], method: str, path: Path):
  """The first people, every prompt, the first seed: none picked by hand. One row per person, the photo at the left."""
  mine = [r for r in rows if r.method == method and r.person is not None and r.strength is None]
  people = list(dict.fromkeys(r.person for r in mine))[:PEOPLE]
  prompts = list(dict.fromkeys(r.prompt for r in mine))
  first: dict[tuple[str | None, str], Row] = {}
  for r in mine:
    first.setdefault((r.person, r.prompt), r)
  gap, top = 4, 52
  canvas = Image.new("RGB", ((1 + len(prompts)) * (SIDE + gap), top + len(people) * (SIDE + gap)), "white")
  text = ImageDraw.Draw(canvas)
  for k, words in enumerate(["photo", *(p.replace("{}", "...") for p in prompts)]):
    text.multiline_text((k * (SIDE + gap) + 2, 2), "\n".join(textwrap.wrap(words, SIDE // 6)[:4]), "black")
  for y, person in enumerate(people):
    reference = next((r.reference for r in mine if r.person == person), None)
    for k, file in enumerate([reference, *(first[person, p].file if (person, p) in first else None for p in prompts)]):
      if file is not None:
        canvas.paste(_thumb(file), (k * (SIDE + gap), top + y * (SIDE + gap)))
  with replacing(path) as temporary:
    canvas.save(temporary, "PNG")


def _thumb(file: Path) -> Image.Image:
  image = Image.fromarray(photo.read(file).pixels)
  scale = SIDE / max(image.size)
  return image.resize(
    (max(1, round(image.width * scale)), max(1, round(image.height * scale))), Image.Resampling.BICUBIC
  )
