"""Name inversion: where vectors begin, what the penalty holds, and that every vector of every encoder learns."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support import subjects, tiny_pipelines

from idejax.methods import name_inversion as ni
from idejax.model import anchors

CFG = ni.Config(vectors=3, templates=("a photo of {}",), lr=1e-2)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  return tiny_pipelines.write(tmp_path_factory.mktemp("tiny"), "sd21-base", "sdxl")


@pytest.fixture(scope="module")
def xl(folder):
  return subjects.frozen(folder, "sdxl", ni, CFG)


def test_vectors_begin_as_first_and_second_names_in_turn_and_apart(folder, xl):
  b, tokenizers = subjects.opened(folder, "sdxl")
  rows = ni.init(jax.random.key(0), xl, CFG)["rows"]
  for row, mean, table in zip(rows, anchors.mean(b, tokenizers, subjects.NAMES), anchors.tables(b)):
    assert row.shape == (3, table.shape[1])
    off = np.linalg.norm(row - mean[jnp.array([0, 1, 0])], axis=-1) / np.linalg.norm(table, axis=-1).mean()
    assert (off < 0.05).all()
    assert np.abs(row[0] - row[2]).max() > 1e-4  # the first and the third begin from one name


def test_the_penalty_is_zero_where_vectors_are_as_long_as_names_and_grows_both_ways(xl):
  lengths = xl.constants["length"]
  unit = [np.eye(3, 8, dtype=np.float32)] * 2
  at = lambda scale: float(ni.penalty([scale * n[:, None] * u for n, u in zip(lengths, unit)], lengths))
  assert at(1.0) < 1e-10
  np.testing.assert_allclose([at(2.0), at(0.5), at(0.0)], [1.0, 0.25, 1.0], atol=1e-4)


def test_every_vector_of_every_encoder_gets_a_gradient_and_the_penalty_pulls_long_ones_back(xl):
  params = ni.init(jax.random.key(0), xl, CFG)
  keys = jax.random.split(jax.random.key(1), 2)
  gradient = jax.jit(jax.grad(_loss))
  assert all((np.abs(g).max(-1) > 0).all() for g in gradient(params, xl, keys, 0.0)["rows"])
  long = jax.tree.map(lambda r: 6 * r, params)
  plain, penalised = gradient(long, xl, keys, 0.0), gradient(long, xl, keys, 10.0)
  outwards = lambda g: [float((a * r).sum()) for a, r in zip(g["rows"], long["rows"])]
  assert all(with_ > without for with_, without in zip(outwards(penalised), outwards(plain)))  # descent shortens them


def _loss(params, frozen, keys, norm):
  """The loss with a traced weight of the penalty, so that one program serves both."""
  value, metrics = ni.loss(params, frozen, {}, keys, dataclasses.replace(CFG, norm=0.0))
  return metrics["diffusion"] + norm * metrics["length"] + 0 * value


def test_the_loss_is_the_error_and_the_weighted_penalty(xl):
  params = jax.tree.map(lambda r: 6 * r, ni.init(jax.random.key(0), xl, CFG))
  keys = jax.random.split(jax.random.key(1), 2)
  value, metrics = jax.jit(functools.partial(ni.loss, cfg=CFG))(params, xl, {}, keys)
  np.testing.assert_allclose(value, metrics["diffusion"] + CFG.norm * metrics["length"], rtol=1e-6)
  assert metrics["length"] > 0.1
