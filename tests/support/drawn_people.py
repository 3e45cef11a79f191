"""Two drawn people as if they had been learned, and a studio whose sampler is the drawn world's own renderer."""

import dataclasses
import functools
from types import SimpleNamespace

import numpy as np

from idejax.app import edits, script, studio
from idejax.app.store import Consent, Record
from idejax.app.visitors import Visitor
from idejax.methods import textual_inversion
from idejax.miniature.world import people, scene, world
from idejax.model import tokens
from idejax.sampling.learned import Learned
from idejax.storage import hub

MODEL = "a" * 64
STORY = 'Anna Field is in the city. She meets Ben Stone on the beach. "Hello!" he says. It is night.'


@functools.cache
def render(who: int, background: str) -> np.ndarray:
  return (world.render(np, people.person(who), scene.scene(background=background)) * 255 + 0.5).astype(np.uint8)


PORTRAITS = {"Anna Field": render(435, "gray"), "Ben Stone": render(341, "gray")}


def person(name: str, model_digest=MODEL, value=0.0) -> Learned:
  rows = {"rows": (np.full((1, 1, 2, 8), value, np.float32),)}
  return Learned(
    f"<{name.lower().replace(' ', '_')}>",
    "textual-inversion",
    textual_inversion.Config(vectors=2),
    rows,
    "miniature",
    model_digest,
  )


def record(name: str, **change) -> Record:
  r = Record(
    name,
    f"{abs(hash(name)):064x}"[:64],
    Consent("Anna herself"),
    "textual-inversion",
    "miniature",
    MODEL,
    {},
    0,
    "miniature",
    "p",
    "free",
    "2026-01-01",
    "she" if "A" in name else "he",
  )
  return dataclasses.replace(r, **change)


def desk(store, pack, checker, judges, monkeypatch) -> studio.Studio:
  """A studio that renders a known person for each signal word, and keeps what it was asked in `asked`."""
  asked = []
  pipe = SimpleNamespace(tokenizers=[tokens.load(hub.BUILT_IN["miniature"] / "tokenizer")], digest=MODEL, with_people=lambda *p: pipe,
                         mesh=SimpleNamespace(size=1), size=lambda _: (64, 64), people={},
                         backbone=SimpleNamespace(nets=SimpleNamespace(sampler=None, guidance=2.0)))  # fmt: skip

  def picture(prompt):
    who = 435 if "anna" in prompt else 341 if "ben" in prompt else 500
    return render(who, "beach" if "beach" in prompt else "city")

  def generate(pipe, requests, settings):
    for i, r in enumerate(requests):
      asked.append(r)
      yield SimpleNamespace(positions=[i], images=[picture(r.prompt)])

  def compose(pipe, whole, parts, settings):
    """Everybody in the middle of their box."""
    asked.append(whole)
    canvas = np.full((settings.height, settings.width, 3), 128, np.uint8)
    for part in parts:
      x0, x1 = (round(v * settings.width) for v in (part.box[0], part.box[2]))
      left = 32 - (x1 - x0) // 2
      canvas[:, x0:x1] = picture(part.prompt)[:, left : left + x1 - x0]
    return canvas

  monkeypatch.setattr(studio.pl, "generate", generate)
  monkeypatch.setattr(studio.regions, "compose", compose)
  s = studio.Studio(pipe, pack, store, "miniature", checker, judges)
  s.asked = asked  # type: ignore[attr-defined]
  return s


def edit(desk: studio.Studio, v: Visitor, panel: str, **change) -> script.Panel:
  """Saves a panel's card with these fields changed; returns the panel."""
  s = v.script()
  card = dataclasses.replace(edits.card(s, s.panel(panel)), **change)
  return edits.edit(desk, v, panel, card).panel(panel)
