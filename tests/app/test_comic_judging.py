"""Whose face is whole ranks first: synthetic boxes and points, and a drawn face that is pushed out of its picture."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
from support.drawn_people import PORTRAITS, render

from idejax.app import judging, script, studio
from idejax.faces.pack import Faces

_POINTS = np.array([[0.3, 0.4], [0.7, 0.4], [0.5, 0.6], [0.35, 0.8], [0.65, 0.8]])  # of a face's box
_TURNED = np.array([[0.15, 0.4], [0.4, 0.4], [0.2, 0.6], [0.2, 0.8], [0.4, 0.8]])
SIZE = (200, 100)


def seen(*boxes, points=_POINTS) -> Faces:
  """What a detector says of faces in these boxes."""
  b = np.array(boxes, np.float32).reshape(-1, 4)
  at = np.stack([x[:2] + points * (x[2:] - x[:2]) for x in b]) if len(b) else np.zeros((0, 5, 2))
  return Faces(b, np.ones(len(b), np.float32), at.astype(np.float32))


@pytest.mark.parametrize("box", [
  (50, 20, 100, 80), (0, 20, 50, 80), (150, 40, 200, 100), (60, -5, 120, 60), (2, 2, 90, 98),
])  # fmt: skip
def test_a_whole_face(box):
  """In the middle, at a border, with hair beyond it, and turned to the side at a border."""
  assert judging.cut(seen(box), SIZE) == judging.cut(seen(box, points=_TURNED), SIZE) == 0


@pytest.mark.parametrize("box", [
  (-25, 20, 25, 80), (175, 20, 225, 80), (50, -30, 100, 30), (50, 60, 100, 120), (-12, 20, 38, 80),
])  # fmt: skip
def test_a_border_cuts_a_face(box):
  assert judging.cut(seen(box), SIZE) == 1
  # The same face by a detector whose boxes end at the border: eyes or mouth are there, or beyond.
  at = seen(box)
  clipped = at._replace(boxes=np.clip(at.boxes, 0, [*SIZE, *SIZE]))
  assert judging.cut(clipped, SIZE) == 1


def test_a_larger_face_hides_a_smaller_one():
  back, front = (60, 30, 100, 80), (75, 20, 135, 95)
  assert judging.cut(seen(back, front), SIZE) == judging.cut(seen(front, back), SIZE) == 1
  assert judging.cut(seen(front, (10, 30, 50, 80)), SIZE) == judging.cut(seen((75, 30, 115, 80), (110, 20, 170, 95)), SIZE) == 0  # fmt: skip
  assert judging.cut(seen(front, front), SIZE) == 1  # one of two at the same place
  assert judging.cut(seen((-25, 20, 25, 80), back, front), SIZE) == 2 and judging.cut(seen(), SIZE) == 0


def test_a_cut_face_ranks_below_a_whole_one_and_above_nothing():
  best, half, two, blank = (
    script.Version("a", "i", 0, identity=0.2, prompt=0.1),
    script.Version("b", "i", 1, identity=0.9, prompt=0.4, cut=1),
    script.Version("c", "i", 2, identity=0.9, prompt=0.5, cut=2),
    script.Version("d", "i", 3, reason="flagged"),
  )
  panel = script.Panel("p1", "x", versions=(blank, two, half, best))
  assert script.current_version(panel) is best
  assert sorted(panel.versions, key=script.rank) == [blank, two, half, best]
  assert script.current_version(dataclasses.replace(panel, chosen=1)) is two  # the user's choice is the user's


def test_of_candidates_the_whole_face_is_shown(desk, tmp_path, monkeypatch):
  """A face at the border that is otherwise the same: the detector of the drawn world sees both."""
  face = render(435, "city")
  pushed = np.concatenate([face[:, 26:], np.repeat(face[:, -1:], 26, axis=1)], axis=1)
  show = [pushed, face]

  def generate(pipe, requests, settings):
    for i, r in enumerate(requests):
      yield SimpleNamespace(positions=[i], images=[show[r.index]])

  monkeypatch.setattr(studio.pl, "generate", generate)
  desk.judges = SimpleNamespace(  # praises the first, as judges of halves may
    embed=lambda images: [np.float32([not np.array_equal(i, face)]) for i in images],
    prompt=lambda images, texts: np.zeros(len(images)),
  )
  assert len(desk.pack.detect(pushed).boxes) == 1
  s, _ = desk.write("Anna Field is in the city.")
  (p,) = desk.draw(tmp_path, s.with_panel(dataclasses.replace(s.panels[0], candidates=2))).panels
  assert [v.cut for v in p.versions] == [1, 0] and p.versions[0].identity > p.versions[1].identity
  assert script.current_version(p) == p.versions[1]
  assert judging.cut(desk.pack.detect(PORTRAITS["Ben Stone"]), (64, 64)) == 0
