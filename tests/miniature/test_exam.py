"""The exam behind `idejax evaluate`: what a perfect painter scores, and one who does not listen."""

import functools
import json

import jax
import numpy as np
import pytest
from support import drawn

from idejax import config
from idejax.jobs import evaluate
from idejax.miniature.judging import exam, scoring
from idejax.miniature.world import data, people
from idejax.sampling import pipeline

ANYBODY = people.people(np.arange(200, 260))


@pytest.fixture(autouse=True)
def few(monkeypatch):
  """Eight people a split, rendered by numpy; everything on one device."""
  split = people.split
  monkeypatch.setattr(people, "split", lambda name: split(name)[:8])
  monkeypatch.setattr(data, "render_all", drawn.render)
  monkeypatch.setattr(pipeline, "load", functools.partial(pipeline.load, devices=jax.devices()[:1]))


@functools.cache
def painted(prompt):
  """What a prompt asks for, in the renderer's own hand."""
  ids = [i for i, name in enumerate(people.celebrity_names()) if name in prompt]
  if ids:
    return drawn.picture(people.take(people.people(ids), 0))
  gender = people.GENDERS.index("woman" if "woman" in prompt else "man")
  plain = (ANYBODY.gender == gender) & (ANYBODY.hair_style == people.HAIR_STYLES.index("short"))
  person = people.take(ANYBODY, int(np.flatnonzero(plain)[0]))
  for n, colour in enumerate(people.HAIR_COLOURS):
    if f"{colour} hair" in prompt:
      person = person._replace(hair_colour=np.int32(n))
  return drawn.picture(person, **scoring.asked(prompt))


def run(monkeypatch, tmp_path, capsys, paint):
  monkeypatch.setattr(pipeline.Pipeline, "sample", lambda self, prompts, **how: np.stack([paint(p) for p in prompts]))
  evaluate.main(config.Evaluate(quick=True, out=tmp_path / "found.json"))
  return json.loads((tmp_path / "found.json").read_text()), capsys.readouterr().out


def test_a_perfect_painter_passes(monkeypatch, tmp_path, capsys):
  scores, text = run(monkeypatch, tmp_path, capsys, painted)
  assert scores["model"] == "miniature" and len(scores["digest"]) == 64
  # The VAE that ships, on people whom it was not trained on.
  assert 26 < scores["reconstruction"]["psnr_db"] < 60 and 0.8 < scores["reconstruction"]["similarity"] < 1
  assert scores["reconstruction"]["pictures"] == 16
  for name in exam.ATTRIBUTES:
    assert scores["obedience"][name]["right"] > 0.75 and scores["obedience"][name]["judge"] > 0.8, name
  assert scores["names"]["top1"] == 1 and scores["names"]["among"] == 8 and scores["names"]["face_found"] == 1
  assert scores["names"]["own"] > 0.6 > 0.3 > scores["names"]["others"]
  assert text.count("reached") + text.count("MISSED") == len(exam.GOALS) and "difference" in text
  assert [line for line in text.splitlines() if "names" in line and "MISSED" in line] == []


def test_a_painter_who_does_not_listen_fails(monkeypatch, tmp_path, capsys):
  scores, text = run(monkeypatch, tmp_path, capsys, lambda prompt: painted("a photo of a man"))
  count = {"background": 11, "accessory": 5, "expression": 6, "hair": 7}
  for name, n in count.items():
    assert scores["obedience"][name]["right"] <= 1.5 / n, name
  assert scores["names"]["top1"] <= 0.25 and abs(scores["names"]["difference"]) < 0.2
  assert text.count("MISSED") >= 6
