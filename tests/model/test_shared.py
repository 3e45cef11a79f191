"""Folders of shared modules: they come back as they were, and what does not fit is refused."""

import json

import jax
import numpy as np
import pytest

from idejax.errors import UserError
from idejax.model import shared

MODULES = {
  "face": {"kernel": np.ones((3, 2), np.float32)},
  "kv": {"mid.0": {"to_k": {"kernel": np.zeros((2, 2), np.float32)}}},
}
ABOUT = shared.About(
  method="id-ea", model="sd", model_digest="m", recogniser="green", recogniser_digest="r", licence="", names="n",
  data="drawn", people=3, steps=7, structure={"heads": 4}, settings={"heads": 4, "lr": 0.1}, history=(0.2, 0.1),
  idejax="0",
)  # fmt: skip


@pytest.fixture
def folder(tmp_path):
  shared.write(tmp_path, MODULES, ABOUT)
  return tmp_path


def shapes(**more):
  return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), MODULES | more)


def test_modules_and_card_come_back_as_they_were(folder):
  """Of parameters that the modules have nothing of, none is asked."""
  got = shared.load(folder, shapes(adapter={"gamma": np.zeros(())}))
  jax.tree.map(np.testing.assert_array_equal, got, MODULES)
  assert shared.read(folder) == ABOUT
  before = shared.digest(folder)
  shared.write(folder, {"face": {"kernel": 2 * MODULES["face"]["kernel"]}}, ABOUT)
  assert shared.digest(folder) != before and set(shared.load(folder, shapes())) == {"face"}


@pytest.mark.parametrize(
  "like, said",
  [
    ({"face": {"kernel": np.zeros((3, 3))}}, r"face/kernel has shape \[3, 2\], not \[3, 3\]"),
    ({"face": {"kernel": np.zeros((3, 2)), "bias": np.zeros(2)}}, "face/bias is missing"),
    ({"face": {}}, "face/kernel is of no module"),
  ],
)
def test_modules_of_another_shape_are_refused(folder, like, said):
  with pytest.raises(UserError, match=said):
    shared.load(folder, MODULES | like)


@pytest.mark.parametrize(
  "change, said",
  [
    ({"version": 2}, "its version is 2, not 1"),
    ({"steps": "7"}, "steps is '7', not int"),
    ({"structure": []}, r"structure is \[\], not dict"),
    ({"method": None}, "method is None, not str"),
  ],
)
def test_a_card_that_is_none_is_refused(folder, change, said):
  card = json.loads((folder / shared.CARD).read_text())
  (folder / shared.CARD).write_text(json.dumps(card | change))
  with pytest.raises(UserError, match=said):
    shared.read(folder)


def test_a_folder_without_a_card_holds_none(tmp_path):
  with pytest.raises(UserError, match="holds no shared modules: it has no shared.json"):
    shared.read(tmp_path)
