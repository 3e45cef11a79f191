"""Pictures of a class are sampled once for a model and then read from the cache."""

import dataclasses
import types

import numpy as np
import pytest

from idejax.sampling import class_pictures


@dataclasses.dataclass(frozen=True)
class Pipe:
  """Counts how often it must sample."""

  digest: str = "abc"
  dtype: str = "float32"
  shares: bool = True
  made: list = dataclasses.field(default_factory=list)

  @property
  def backbone(self):
    return types.SimpleNamespace(nets=types.SimpleNamespace(dtype=self.dtype))

  def sample(self, prompts, *, seeds, **_):
    self.made.append((tuple(prompts), tuple(seeds)))
    return np.random.default_rng(0).integers(0, 256, (len(prompts), 8, 8, 3), np.uint8)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
  monkeypatch.setenv("IDEJAX_CACHE", str(tmp_path))
  return tmp_path / "class_pictures"


def test_they_are_made_once(cache):
  pipe = Pipe()
  first = class_pictures.make(pipe, "a person", 3)
  assert pipe.made == [(("a person",) * 3, (0, 1, 2))]
  np.testing.assert_array_equal(class_pictures.make(pipe, "a person", 3), first)
  assert len(pipe.made) == 1 and len(list(cache.iterdir())) == 1


@pytest.mark.parametrize("change", [dict(prompt="a dog"), dict(count=2), dict(digest="other"), dict(dtype="bfloat16")])
def test_others_are_others(change):
  pipe = Pipe()
  class_pictures.make(pipe, "a person", 3)
  model = {k: change.pop(k) for k in ("digest", "dtype") if k in change}
  class_pictures.make(dataclasses.replace(pipe, **model), **({"prompt": "a person", "count": 3} | change))
  assert len(pipe.made) == 2


def test_a_damaged_file_or_no_cache_costs_time_only(cache, monkeypatch):
  pipe = Pipe()
  class_pictures.make(pipe, "a person", 1)
  (file,) = cache.iterdir()
  file.write_bytes(b"PK rubbish")
  class_pictures.make(pipe, "a person", 1)
  assert len(pipe.made) == 2
  monkeypatch.setenv("IDEJAX_CACHE", "off")
  class_pictures.make(pipe, "a person", 1)
  assert len(pipe.made) == 3
