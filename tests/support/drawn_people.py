"""Two drawn people as if they had been learned, and a studio whose sampler is the drawn world's own renderer."""

import dataclasses
import functools
from types import SimpleNamespace

import numpy as np

from idejax.app import studio
from idejax.app.store import Consent, Record
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
                         mesh=SimpleNamespace(size=1), size=lambda _: (64, 64))  # fmt: skip

  def generate(pipe, requests, settings):
    for i, r in enumerate(requests):
      asked.append(r)
      who = 435 if "anna" in r.prompt else 341 if "ben" in r.prompt else 500
      yield SimpleNamespace(positions=[i], images=[render(who, "beach" if "beach" in r.prompt else "city")])

  monkeypatch.setattr(studio.pl, "generate", generate)
  s = studio.Studio(pipe, pack, store, "miniature", checker, judges)
  s.asked = asked  # type: ignore[attr-defined]
  return s
