"""Training makes a word look like the person of the photo, and like nobody else; by a judge that it never saw."""

import dataclasses
import functools

import jax
import numpy as np
import pytest
from support import drawn

from idejax import faces
from idejax.evaluation import report
from idejax.methods import textual_inversion as ti
from idejax.methods.contract import encode_captions
from idejax.miniature.judging import scoring
from idejax.miniature.world import people, portraits
from idejax.person import subjects
from idejax.person.subject import Frozen
from idejax.sampling import pipeline
from idejax.sampling.learned import Learned
from idejax.training import step

CFG = dataclasses.replace(
  ti.PRESETS["miniature"],
  steps=40,
  batch=4,
  templates=tuple(f"{t} {portraits.SURROUNDINGS}" for t in ti.PRESETS["miniature"].templates),
)
SEEDS = 4  # pictures of each


def scores(seed=0):
  """[3, 2]: mean similarity of pictures of the untrained word, of the first and of the second person's word, to
  the photos of both. The same photos in the other order only change whose is whose."""
  pipe, pack = (
    f(notify=lambda _: None)
    for f in (functools.partial(pipeline.load, "miniature", devices=jax.devices()[:1]), faces.open_pack)
  )
  b, two, judges = pipe.backbone, drawn.portraits(2, pack), scoring.Judges(pack=pack)
  needs = ti.needs(CFG, b.nets)
  constants = needs.constants(b, pipe.tokenizers, people.celebrity_names(), CFG)
  captions = encode_captions(needs, pipe.tokenizers, "<id>")
  frozen = [Frozen(b, constants, captions, subjects.build(b, p.photos, pack, needs.augment, 0)) for p in two]
  tx = step.by_path(*ti.rates(CFG))
  run = jax.jit(step.make_step(functools.partial(ti.loss, cfg=CFG), tx))
  start = ti.init(jax.random.key(0), frozen[0], CFG)
  learned = [start]
  for f in frozen:
    state = step.init(start, tx)
    for _ in range(CFG.steps):
      state, _ = run(state, f, {"index": np.arange(CFG.batch)}, jax.random.key(seed))
    learned.append(state.params)
  named = [
    Learned(
      f"<{n}>", "textual-inversion", CFG, jax.device_get(ti.represent(x, frozen[0], CFG)), "miniature", pipe.digest
    )
    for n, x in zip("nab", learned)
  ]
  texts = [f"a photo of {p.word}" for p in named for _ in range(SEEDS)]
  pictures = pipe.with_people(*named).sample(
    texts, seeds=[*range(SEEDS)] * 3, steps=8, sampler="dpmpp_2m", batch=len(texts)
  )
  embeddings = [np.zeros(512) if e is None else e for e in judges.embed(list(pictures))]
  return (
    (np.stack(embeddings) @ np.stack(judges.embed([report.reference(p) for p in two])).T).reshape(3, SEEDS, 2).mean(1)
  )


@pytest.fixture(scope="module")
def found():
  with pytest.MonkeyPatch.context() as patch:
    patch.setenv("IDEJAX_CACHE", "off")
    return scores()


def test_forty_steps_move_a_word_towards_the_person(found):
  nobody, *both = found
  for i, mine in enumerate(both):
    assert mine[i] - nobody[i] > 0.08, found


def test_swapped_photos_move_it_towards_the_other_one(found):
  _, a, b = found
  assert a[0] - b[0] > 0.12 and b[1] - a[1] > 0.12, found
