"""An identity on disk, and the models that it fits or does not fit."""

import dataclasses

import numpy as np
import pytest

from idejax.errors import UserError
from idejax.methods import textual_inversion
from idejax.nets.clip import TextConfig
from idejax.sampling import learned
from idejax.sampling.learned import Learned

ANNA = Learned(
  "<anna>",
  "textual-inversion",
  textual_inversion.Config(vectors=2),
  {"rows": (np.ones((1, 1, 2, 768), np.float32),)},
  "a model",
  "ab" * 32,
  "non-commercial",
)
TEXT = (TextConfig(hidden_size=768),)


def test_a_person_comes_back_from_the_disk(tmp_path):
  learned.save(tmp_path, ANNA)
  back = learned.load(tmp_path)
  same = lambda x: {f.name: getattr(x, f.name) for f in dataclasses.fields(x) if f.name != "identity"}
  assert same(back) == same(ANNA) and back.rows == 2
  np.testing.assert_array_equal(back.identity["rows"][0], ANNA.identity["rows"][0])


def test_people_of_other_models_are_refused():
  learned.check(ANNA, TEXT, ANNA.digest, "a model")
  with pytest.raises(UserError, match="made on a model .abababababab., not on another .cdcdcdcdcdcd.; --other-model"):
    learned.check(ANNA, TEXT, "cd" * 32, "another")
  learned.check(ANNA, TEXT, "cd" * 32, "another", other=True)
  wide = (dataclasses.replace(TEXT[0], hidden_size=1024),)
  with pytest.raises(UserError, match="text width 768.* has width 1024: it cannot be used"):
    learned.check(ANNA, wide, ANNA.digest, "another", other=True)
