"""Writes what flax_pipeline.tar.xz holds: a tiny pipeline by diffusers' own Flax classes, and what they made of it.

The classes are gone, so this runs in an environment of its own, from a folder with any CLIP tokenizer:

  pip install diffusers==0.30.3 transformers==4.44.2 jax==0.4.31 jaxlib==0.4.31 flax==0.8.5 "numpy<2" "huggingface_hub<0.26"
  python write_flax_pipeline.py TOKENIZER OUT && tar cJf flax_pipeline.tar.xz -C OUT flax_pipeline
"""

import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np


def draw(tree, seed: int):
  """Random weights of 15 levels, which compress to half a byte each."""
  rng = np.random.default_rng(seed)

  def leaf(path, x):
    levels = rng.integers(-7, 8, x.shape) / 64
    if path[-1].key == "scale":
      levels = 1 + levels
    if path[-1].key == "kernel":
      levels *= min(1, 8 / np.sqrt(np.prod(x.shape[:-1])))
    return levels.astype(np.float16).astype(np.float32)

  return jax.tree_util.tree_map_with_path(leaf, tree)


def main(tokenizer: str, out: Path):
  from diffusers import FlaxAutoencoderKL, FlaxDDIMScheduler, FlaxStableDiffusionPipeline, FlaxUNet2DConditionModel
  from transformers import CLIPTextConfig, CLIPTokenizer, FlaxCLIPTextModel

  unet = FlaxUNet2DConditionModel(
    sample_size=8,
    block_out_channels=(32,),
    layers_per_block=1,
    attention_head_dim=4,
    cross_attention_dim=16,
    down_block_types=("CrossAttnDownBlock2D",),
    up_block_types=("CrossAttnUpBlock2D",),
  )
  vae = FlaxAutoencoderKL(
    block_out_channels=(32, 32),
    layers_per_block=1,
    sample_size=16,
    norm_num_groups=32,
    down_block_types=("DownEncoderBlock2D",) * 2,
    up_block_types=("UpDecoderBlock2D",) * 2,
  )
  text = FlaxCLIPTextModel(
    CLIPTextConfig(
      vocab_size=514,
      hidden_size=16,
      intermediate_size=32,
      num_hidden_layers=1,
      num_attention_heads=2,
      max_position_embeddings=77,
      bos_token_id=512,
      eos_token_id=513,
    )
  )
  scheduler = FlaxDDIMScheduler(
    beta_start=0.00085,
    beta_end=0.012,
    beta_schedule="scaled_linear",
    set_alpha_to_one=False,
    steps_offset=1,
    clip_sample=False,
  )
  zero = jax.random.PRNGKey(0)
  params = {
    "unet": draw(unet.init_weights(zero), 1),
    "vae": draw(vae.init_weights(zero), 2),
    "text_encoder": draw(text.params, 3),
    "scheduler": scheduler.create_state(),
  }
  pipe = FlaxStableDiffusionPipeline(
    vae=vae,
    text_encoder=text,
    tokenizer=CLIPTokenizer.from_pretrained(tokenizer),
    unet=unet,
    scheduler=scheduler,
    safety_checker=None,
    feature_extractor=None,
  )
  pipe.save_pretrained(out / "flax_pipeline", params=params)
  z = np.random.default_rng(4).standard_normal((2, 4, 8, 8)).astype(np.float32)
  ids = pipe.prepare_inputs(["a photo of a cat", "two dogs, at night"])
  images = pipe._generate(ids, params, zero, 5, 16, 16, 7.5, jnp.asarray(z), None)
  context, t = text(ids, params=params["text_encoder"])[0], jnp.array([981, 21])
  noise = unet.apply({"params": params["unet"]}, jnp.asarray(z), t, context).sample
  bchw = images.transpose(0, 3, 1, 2)
  mean = vae.apply({"params": params["vae"]}, bchw, method=vae.encode).latent_dist.mean
  np.savez_compressed(
    out / "flax_pipeline" / "made.npz",
    latents=z,
    ids=ids,
    images=images,
    context=context,
    timesteps=t,
    noise=noise,
    mean=mean,
  )


if __name__ == "__main__":
  main(sys.argv[1], Path(sys.argv[2]))
