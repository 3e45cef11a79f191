"""`idejax convert` as tests call it."""

import pytest

from idejax import config
from idejax.errors import UserError
from idejax.jobs import convert


def go(*paths, **fields):
  convert.main(config.Convert(tuple(paths), **fields))


def refused(*paths, words=(), **fields):
  """The call fails with one sentence that has these words, and leaves nothing behind."""
  with pytest.raises(UserError) as e:
    go(*paths, **fields)
  assert all(w in str(e.value) for w in words), e.value
  assert "\n" not in str(e.value) and not paths[-1].exists()
