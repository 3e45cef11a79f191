"""Parameter shapes without arithmetic are those of flax's own init, and nothing of it stays behind."""

import jax
import numpy as np
import pytest

from idejax.model import families
from idejax.nets import clip, layers, naming, unet, vae


def by_init(net, *args):
  return jax.eval_shape(lambda *x: net.init(jax.random.key(0), *x)["params"], *args)


def same(found, wanted):
  assert jax.tree.structure(found) == jax.tree.structure(wanted)
  assert jax.tree.all(jax.tree.map(lambda a, b: (a.shape, a.dtype) == (b.shape, b.dtype), found, wanted))


@pytest.mark.parametrize("family", ["sd15", "sdxl"])
def test_a_unet_has_the_shapes_that_init_gives_it(family):
  cfg = unet.UNetConfig.from_json(families.small(family)["unet"])
  same(unet.shapes(cfg), by_init(unet.UNet(cfg), *unet.example_inputs(cfg)))


def test_so_have_the_autoencoder_and_the_text_encoder():
  cfg = vae.VAEConfig.from_json(families.small("sd15")["vae"])
  x, z = np.zeros((1, 2 * cfg.factor, cfg.factor, 3), np.float32), np.zeros((1, 2, 1, cfg.latent_channels), np.float32)
  same(vae.shapes(cfg), {**by_init(vae.Encoder(cfg), x), **by_init(vae.Decoder(cfg), z)})
  text = clip.TextConfig.from_json(families.small("sdxl")["text_encoder_2"])
  same(clip.shapes(text), by_init(clip.TextEncoder(text), np.zeros((2, 9), np.int32)))


@pytest.mark.parametrize("stride, padding", [(1, None), (2, None), (2, 0), (2, ((0, 1), (0, 1)))])
def test_a_convolution_without_arithmetic_gives_as_many_places(stride, padding):
  conv = layers.Conv(6, 3, stride, padding)
  calls = []

  class Net(layers.nn.Module):
    @layers.nn.compact
    def __call__(self, x):
      y = conv.copy(name="conv", parent=self)(x)
      calls.append(y.shape)
      return y

  x = np.zeros((2, 8, 5, 3), np.float32)
  naming.parameter_shapes(Net(), x)
  by_init(Net(), x)
  assert calls[0] == calls[1] and not naming.naming()


def test_layers_compute_again_after_a_mistake():
  with pytest.raises(TypeError):
    naming.parameter_shapes(layers.Dense(3), np.zeros((1, 3), np.float32), np.zeros(1))
  y = layers.Dense(2).apply({"params": {"kernel": np.ones((3, 2)), "bias": np.ones(2)}}, np.ones((1, 3)))
  np.testing.assert_array_equal(y, [[4, 4]])
