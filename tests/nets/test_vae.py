"""The VAE against diffusers' AutoencoderKL, by number, by key and by tile."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL
from support.fakes import nchw, nhwc, relative_error, scramble, state_dict

from idejax.model.backbone import Nets
from idejax.nets import vae
from idejax.storage import weights

SD15 = dict(
  block_out_channels=[128, 256, 512, 512],
  layers_per_block=2,
  sample_size=512,
  down_block_types=["DownEncoderBlock2D"] * 4,
  up_block_types=["UpDecoderBlock2D"] * 4,
)


def tiny(*channels, **kwargs):
  n = len(channels)
  return dict(
    block_out_channels=channels,
    norm_num_groups=4,
    down_block_types=("DownEncoderBlock2D",) * n,
    up_block_types=("UpDecoderBlock2D",) * n,
    **kwargs,
  )


CONFIGS = {
  "f8": tiny(8, 8, 16, 16, layers_per_block=1),
  "f4": tiny(8, 12, 16, layers_per_block=2, latent_channels=8, use_quant_conv=False, use_post_quant_conv=False),
  "plain_mid": tiny(8, 16, latent_channels=3, mid_block_add_attention=False),
}


def twin(json, seed=0):
  with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    module = scramble(AutoencoderKL(**json), seed)
  cfg = vae.VAEConfig.from_json(dict(module.config))
  return module, cfg, weights.from_torch(vae.shapes(cfg), state_dict(module))


@pytest.fixture(scope="module", params=CONFIGS)
def model(request):
  return twin(CONFIGS[request.param])


@pytest.mark.parametrize("batch", [1, 3])
def test_encode_and_decode_equal_diffusers(model, batch, rng):
  module, cfg, params = model
  f = cfg.factor
  x = rng.uniform(-1, 1, (batch, 3 * f, 5 * f, 3)).astype(np.float32)
  mean, logvar = jax.jit(vae.Encoder(cfg).apply)({"params": params}, x)
  with torch.no_grad():
    dist = module.encode(nchw(x)).latent_dist
  assert mean.shape == (batch, 3, 5, cfg.latent_channels)
  assert relative_error(mean, nhwc(dist.mean)) < 1e-5
  assert relative_error(logvar, nhwc(dist.logvar)) < 1e-5

  z = rng.standard_normal((batch, 3, 5, cfg.latent_channels)).astype(np.float32)
  ours = jax.jit(vae.Decoder(cfg).apply)({"params": params}, z)
  with torch.no_grad():
    theirs = module.decode(nchw(z)).sample
  assert ours.shape == (batch, 3 * f, 5 * f, 3)
  assert relative_error(ours, nhwc(theirs)) < 1e-5


def test_logvar_is_clipped_as_in_diffusers(rng):
  module, cfg, _ = twin(CONFIGS["plain_mid"])
  with torch.no_grad():
    module.quant_conv.weight.mul_(100)
  params = weights.from_torch(vae.shapes(cfg), state_dict(module))
  x = rng.uniform(-1, 1, (1, 8, 8, 3)).astype(np.float32)
  _, logvar = jax.jit(vae.Encoder(cfg).apply)({"params": params}, x)
  assert logvar.min() == -30 and logvar.max() == 20
  with torch.no_grad():
    theirs = module.encode(nchw(x)).latent_dist.logvar
  assert relative_error(logvar, nhwc(theirs)) < 1e-4


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_a_decoder_computes_in_the_dtype_that_it_is_given(rng, dtype):
  _, cfg, params = twin(CONFIGS["plain_mid"])
  z = rng.standard_normal((1, 2, 2, 3)).astype(np.float32)
  apply = lambda dtype: jax.jit(vae.Decoder(cfg, dtype).apply)({"params": params}, z)
  half = apply(dtype)
  assert half.dtype == dtype and 0 < relative_error(half.astype(jnp.float32), apply(None)) < 0.1


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16, jnp.float32])
def test_a_config_that_asks_for_float32_gets_it_whatever_the_pipeline_computes_in(dtype):
  rule = lambda upcast: (
    Nets(None, vae.VAEConfig.from_json(CONFIGS["plain_mid"] | {"force_upcast": upcast}), (), None, dtype).vae_dtype
  )
  assert (rule(True), rule(False)) == (jnp.float32, dtype)


@pytest.mark.parametrize("json", [SD15, SD15 | {"sample_size": 1024, "scaling_factor": 0.13025}], ids=["sd15", "sdxl"])
def test_full_size_keys_and_shapes(json):
  with torch.device("meta"):
    module = AutoencoderKL(**json)
  ours = weights.keys(vae.shapes(vae.VAEConfig.from_json(json)))
  assert ours == {k: tuple(v.shape) for k, v in module.state_dict().items()}
  assert sum(map(np.prod, ours.values())) == 83_653_863


# Tiles: f = 2, tile 8 x 8 latent cells, overlap 2.
TILED = tiny(8, 8, sample_size=16)


@pytest.fixture(scope="module")
def tiled():
  module, cfg, params = twin(TILED, seed=1)
  module.enable_tiling()
  return module, cfg, params


@pytest.mark.parametrize("size", [(13, 6), (14, 9)])
def test_tiled_decode_equals_diffusers(tiled, size, rng):
  module, cfg, params = tiled
  z = rng.standard_normal((2, *size, 4)).astype(np.float32)
  traced = []

  def decode(z):
    traced.append(z.shape[1:3])
    return vae.Decoder(cfg).apply({"params": params}, z)

  ours = jax.jit(lambda z: vae.tiled_decode(decode, z, cfg.latent_tile))(z)
  with torch.no_grad():
    theirs = module.decode(nchw(z)).sample
  assert ours.shape == (2, 2 * size[0], 2 * size[1], 3)
  assert relative_error(ours, nhwc(theirs)) < 1e-5
  assert len(traced) == len(set(traced))  # compiled once per tile shape
  full = jax.jit(vae.Decoder(cfg).apply)({"params": params}, z)
  assert relative_error(ours, full) > 1e-3  # the tiles are really there


def test_small_latents_are_decoded_whole(rng):
  z = rng.standard_normal((1, 8, 7, 4)).astype(np.float32)
  calls = []
  out = vae.tiled_decode(lambda z: calls.append(z.shape) or z, z, 8)
  assert calls == [z.shape] and out is z


def test_tiles_of_a_local_decoder_leave_no_seam(rng):
  z = rng.standard_normal((1, 15, 10, 4)).astype(np.float32)
  decode = lambda z: jnp.repeat(jnp.repeat(z, 2, 1), 2, 2)[..., :3]
  tiled = jax.jit(lambda z, overlap: vae.tiled_decode(decode, z, 8, overlap), static_argnums=1)
  for overlap in (0.25, 0.5, 0.0):
    np.testing.assert_allclose(tiled(z, overlap), decode(z), atol=1e-6)


@pytest.mark.parametrize("tile, overlap", [(10, 0.25), (8, 1.0)])
def test_tile_and_overlap_must_fit(tile, overlap):
  with pytest.raises(ValueError, match="whole number"):
    vae.tiled_decode(lambda z: z, jnp.zeros((1, 12, 12, 4)), tile, overlap)


def test_config_has_diffusers_defaults_and_is_hashable():
  with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    module = AutoencoderKL()
  assert vae.VAEConfig.from_json({}) == vae.VAEConfig.from_json(dict(module.config))
  cfg = vae.VAEConfig.from_json(
    {"latents_mean": [0.1, 0.2], "latents_std": [1, 2], "shift_factor": 0.5, "sample_size": [64, 64]}
  )
  assert cfg.latents_mean == (0.1, 0.2) and cfg.shift_factor == 0.5 and cfg.sample_size == 64
  assert len({cfg, vae.VAEConfig()}) == 2
  sd15 = vae.VAEConfig.from_json(SD15)
  assert (sd15.factor, sd15.latent_tile) == (8, 64)


@pytest.mark.parametrize(
  "change, said",
  [
    ({"act_fn": "relu"}, "relu"),
    ({"_class_name": "AutoencoderDC"}, "AutoencoderDC"),
    ({"down_block_types": ["AttnDownEncoderBlock2D"] * 4}, "AttnDownEncoderBlock2D"),
    ({"up_block_types": ["UpDecoderBlock2D"] * 3}, "up_block_types"),
    ({"norm_num_groups": 24}, "norm_num_groups"),
    ({"sample_size": [64, 32]}, "square"),
  ],
)
def test_unsupported_configs_are_named(change, said):
  with pytest.raises(ValueError, match=said):
    vae.VAEConfig.from_json(SD15 | change)
