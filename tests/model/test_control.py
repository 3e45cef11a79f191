"""A conditioning that carries a control image runs the backbone's ControlNet, row by row."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.fakes import fill, relative_error
from support.toys import configs

from idejax.model import backbone, families
from idejax.model.backbone import Conditioning
from idejax.nets import controlnet, unet

PREDICT = jax.jit(backbone.predict)
ROWS = 3


@pytest.fixture(scope="module", params=[pytest.param("sd15", marks=pytest.mark.slow), "sdxl"])
def opened(request, tmp_path_factory):
  """A small backbone with a ControlNet whose weights are all random, the zero convolutions' too."""
  folder = tmp_path_factory.mktemp("control") / request.param
  families.write_random(folder, request.param, configs=configs(request.param))
  b = backbone.load(folder)
  cfg = controlnet.ControlNetConfig(b.nets.unet, control_widths=(4, 6))
  nets = dataclasses.replace(b.nets, controlnet=cfg)
  return backbone.Backbone(nets, b.params | {"controlnet": fill(controlnet.shapes(cfg), 1, 0.1)})


@pytest.fixture(scope="module")
def inputs(opened):
  rng, n = np.random.default_rng(2), opened.nets.unet
  normal = lambda *shape: jnp.asarray(rng.standard_normal(shape), jnp.float32)
  pooled, ids = (normal(ROWS, 24), jnp.full((ROWS, 6), 64.0)) if opened.nets.xl else (None, None)
  context = normal(1, ROWS, 6, n.context_dim)
  side = n.sample_size
  plain = Conditioning(context, context, pooled, ids)
  steered = dataclasses.replace(
    plain,
    control=jnp.asarray(rng.uniform(0, 1, (ROWS, 2 * side, 2 * side, 3)), jnp.float32),
    control_context=normal(ROWS, 5, n.context_dim),
  )
  return normal(ROWS, side, side, n.channels[0]), jnp.array([900.0, 500.0, 10.0]), plain, steered


def test_predict_adds_the_residuals_of_its_controlnet(opened, inputs):
  x, t, plain, steered = inputs
  added = (plain.pooled, plain.time_ids) if opened.nets.xl else None
  net = controlnet.ControlNet(opened.nets.controlnet)

  @jax.jit
  def by_hand(params):
    residuals = net.apply({"params": params["controlnet"]}, x, t, steered.control_context, steered.control, added)
    kv = plain.k[0], plain.v[0]
    return unet.UNet(opened.nets.unet).apply({"params": params["unet"]}, x, t, kv, added, residuals)

  expected = by_hand(opened.params)
  assert relative_error(PREDICT(opened, x, t, steered), expected) < 1e-5
  assert relative_error(PREDICT(opened, x, t, plain), expected) > 1e-3


def test_each_row_is_steered_by_its_own_image_context_and_strength(opened, inputs):
  """A change to one row's inputs changes that row alone; strength 0 equals no ControlNet."""
  x, t, plain, steered = inputs
  strength = jnp.array([1.0, 0.0, 0.5])
  all_rows = PREDICT(opened, x, t, dataclasses.replace(steered, control_scale=strength))
  assert relative_error(all_rows[1], PREDICT(opened, x, t, plain)[1]) < 1e-5
  assert relative_error(all_rows[0], PREDICT(opened, x, t, steered)[0]) < 1e-5
  other = dataclasses.replace(
    steered, control=steered.control.at[0].set(1 - steered.control[0]), control_scale=strength
  )
  steered_otherwise = PREDICT(opened, x, t, other)
  assert relative_error(steered_otherwise[0], all_rows[0]) > 1e-4
  np.testing.assert_allclose(steered_otherwise[1:], all_rows[1:], atol=1e-6)


def test_without_a_context_of_its_own_it_reads_the_text_as_stock_controlnets_do(opened, inputs):
  x, t, plain, steered = inputs
  explicit = PREDICT(opened, x, t, dataclasses.replace(steered, control_context=plain.k[0]))
  assert relative_error(PREDICT(opened, x, t, dataclasses.replace(steered, control_context=None)), explicit) < 1e-6


def test_a_control_image_without_a_controlnet_is_refused(opened, inputs):
  x, t, _, steered = inputs
  bare = backbone.Backbone(dataclasses.replace(opened.nets, controlnet=None), opened.params)
  with pytest.raises(ValueError, match="no ControlNet"):
    backbone.predict(bare, x, t, steered)
