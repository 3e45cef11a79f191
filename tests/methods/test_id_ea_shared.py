"""ID-EA from modules that were trained for everybody: frozen or not, with a face in them that tells people apart."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support import subjects, tiny_pipelines

from idejax import sharding
from idejax.methods import id_ea
from idejax.model import conditioning
from idejax.person import subjects as people
from idejax.person.subject import Frozen
from idejax.training import fit, joint

CFG = id_ea.Config(templates=("a photo of {}",), phrase="{}", steps=2, batch=2, kv="none", lr=0.05, lr_modules=0.02)
DIGESTS = [f"{i:02d}abcdef0123456789" for i in range(2)]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
  """(pipeline, what two people's training reads with modules that are wide open, those modules)."""
  root = tiny_pipelines.write(tmp_path_factory.mktemp("models"), "sd21-base")
  b, words = subjects.opened(root, "sd21-base")
  plain = [subjects.frozen(root, "sd21-base", id_ea, CFG, seed=i) for i in (1, 2)]
  params = jax.jit(lambda f: id_ea.init(jax.random.key(0), f, CFG))(plain[0])
  rng = np.random.default_rng(0)
  modules = {k: v for k, v in params.items() if k != "rows"}
  modules = jax.tree.map(lambda x: np.asarray(x + 0.2 * rng.standard_normal(x.shape), np.float32), modules)
  given = [f._replace(constants={**f.constants, "modules": modules}) for f in plain]
  return (b, words), given, modules


def begin(frozen, cfg=CFG):
  return jax.jit(lambda f: id_ea.init(jax.random.key(0), f, cfg))(frozen)


def untrained(frozen, cfg=CFG):
  return fit.represent(id_ea, cfg, frozen, begin(frozen, cfg))


def test_untrained_people_are_what_the_modules_make_of_their_faces(world):
  _, given, modules = world
  who = [untrained(f) for f in given]
  for f, identity in zip(given, who):
    tokens = id_ea.face_rows(modules["face"], jnp.asarray(f.subject.face), CFG)
    want = id_ea.enhance(modules["enhancer"], tokens, f.constants["anchor"], CFG)
    np.testing.assert_allclose(identity["face"], want, rtol=1e-4, atol=1e-5)
    jax.tree.map(np.testing.assert_array_equal, identity["adapter"], modules["adapter"])
    np.testing.assert_array_equal(identity["rows"][0][0, 0], f.constants["start"][0])
  apart = np.abs(who[0]["face"] - who[1]["face"]).max() / np.abs(who[0]["face"]).max()
  assert apart > 0.05, apart


def test_swapped_faces_swap_what_the_adapter_does(world):
  (b, words), given, _ = world
  swapped = [f._replace(subject=f.subject._replace(face=g.subject.face)) for f, g in zip(given, given[::-1])]
  prompts = conditioning.tokenise(words, ["a photo of <id>"], {"<id>": 2})
  context = jax.jit(lambda identity: id_ea.condition([identity], b, prompts, CFG).k[0])
  (a, c), (x, y) = ([context(untrained(f)) for f in fs] for fs in (given, swapped))
  np.testing.assert_allclose(x, c, atol=1e-5)
  np.testing.assert_allclose(y, a, atol=1e-5)
  assert np.abs(a - c).max() > 1e-3


def test_the_words_alone_train_unless_more_is_asked(world):
  _, given, modules = world
  assert set(begin(given[0])) == {"rows"}
  whole = begin(given[0], dataclasses.replace(CFG, shared_trains=True))
  assert set(whole) == {"rows", *modules}
  for name, x in modules.items():
    jax.tree.map(np.testing.assert_array_equal, whole[name], x)
  own = begin(given[0], dataclasses.replace(CFG, kv="lora", rank=2))  # what the modules lack trains for the person
  assert set(own) == {"rows", "kv"}
  constants = {**given[0].constants, "modules": {**modules, "kv": jax.tree.map(np.asarray, own["kv"])}}
  shared = begin(given[0]._replace(constants=constants), dataclasses.replace(CFG, kv="lora", rank=2))
  assert set(shared) == {"rows"}


@pytest.fixture
def no_unet(monkeypatch):
  """A UNet that is a gain for each picture, by its context: its gradient compiles in a moment."""
  monkeypatch.setattr(id_ea, "predict", lambda b, x, t, cond: x * cond.k.mean((0, 2, 3))[:, None, None, None])


def walk(step, state, frozen, batch, key):
  for i in range(CFG.steps):
    state, _ = step(state, frozen, batch(i), key)
  return jax.device_get(state.params)


def test_one_person_alone_is_that_person_in_a_crowd(world, no_unet):
  (b, _), given, _ = world
  mesh, keys, captions = sharding.make_mesh(jax.devices()[:1]), fit.keys(0, DIGESTS), given[0].captions
  both = people.stack([f.subject for f in given])
  crowd = fit.crowd(id_ea, CFG, b, given[0].constants, captions, both, keys, mesh)
  params = walk(*crowd, fit.rows(crowd[0], CFG.batch), keys)
  assert set(params) == {"rows"}
  alone = fit.one(id_ea, CFG, given[1], keys[1], mesh)
  want = walk(*alone, fit.rows(alone[0], CFG.batch), keys[1])
  np.testing.assert_allclose(params["rows"][0][1], want["rows"][0], rtol=1e-4, atol=1e-6)
  assert np.abs(want["rows"][0] - given[1].constants["start"][0]).max() > 1e-3  # it did train
  identities = fit.represent_all(id_ea, CFG, crowd[2], params, 2)
  np.testing.assert_allclose(identities[1]["face"], untrained(given[1])["face"], rtol=1e-4, atol=1e-5)


def test_jointly_all_have_one_set_of_modules_and_words_of_their_own(world, no_unet):
  """The gate opens first, and everybody's words move, from the average name; of everyone there is an identity."""
  (b, _), given, modules = world
  constants = {k: v for k, v in given[0].constants.items() if k != "modules"}
  both, mesh, key = people.stack([f.subject for f in given]), sharding.make_mesh(jax.devices()[:1]), jax.random.key(0)
  together, *rest = joint.together(id_ea, CFG, b, constants, given[0].captions, both, key, mesh)
  frozen = rest[2]
  params = walk(*rest, joint.rows(rest[0], CFG.batch, 2, 0), key)
  assert set(params) == {"rows", *modules} and params["rows"][0].shape[:2] == (2, 2)
  moved = np.abs(params["rows"][0] - np.asarray(constants["start"][0])).max((1, 2))
  assert (moved > 1e-3).all() and params["adapter"]["gamma"] != 0
  who = joint.represent_all(together, CFG, frozen, params, 2)
  assert np.abs(who[0]["face"] - who[1]["face"]).max() > 0
  jax.tree.map(np.testing.assert_array_equal, who[0]["adapter"], who[1]["adapter"])
  mine = Frozen(b, constants, given[1].captions, given[1].subject)
  np.testing.assert_allclose(
    who[1]["face"], fit.represent(id_ea, CFG, mine, together.person(params, 1))["face"], rtol=1e-5
  )
