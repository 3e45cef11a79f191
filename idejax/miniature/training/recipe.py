"""Sizes and settings of the miniature: the config.json of every component, and how it is trained.

The layout is Stable Diffusion 2.1's or SDXL's, v-prediction; only sizes differ (64 px, f = 4, 40
tokens). Both families have one tokenizer and one VAE.
"""

import dataclasses
from typing import Any

Config = dict[str, Any]
LENGTH = 40  # tokens of a prompt; captions have at most 37
TEXTS = ("text_encoder", "text_encoder_2")
# What suits models of this size: noise that is renewed at every step corrects what the step before drew wrongly, and
# stronger guidance smears faces. Of pictures by 3 and without renewal the faces were nearly three times as far from real ones.
GUIDANCE, SAMPLER = 2.0, "dpmpp_2m_sde"


@dataclasses.dataclass(frozen=True)
class Recipe:
  """Sizes first, then training. `TINY` is the same for a minute or two of CPU."""

  counts: tuple[tuple[str, int], ...] = (("celebrity", 90), ("train", 12))  # pictures per person
  validation_each: int = 2  # pictures of each person of the development split, for validation
  people: int = 200  # of that split
  vae_widths: tuple[int, ...] = (16, 32, 64)
  latent_channels: int = 8
  widths: tuple[int, ...] = (96, 96, 160)
  heads: tuple[int, ...] = (3, 3, 5)
  groups: int = 16
  depths: tuple[int, ...] = (1, 1, 1)  # transformer blocks per level
  layers: tuple[int, ...] = (1, 1, 1)  # residual blocks per level, on the way down
  fine: tuple[bool, bool] = (False, True)  # attention at the finest level, on the way down and up
  text_width: int = 128
  text_layers: int = 3
  text2_width: int = 0  # 0: there is no second text encoder, as before SDXL
  text2_layers: int = 3
  projection: int = 0  # width of the second encoder's pooled vector
  time_width: int = 0  # of the embedding of each of SDXL's six sizes
  vae_steps: int = 3000
  vae_batch: int = 16
  vae_lr: float = 2.5e-3
  kl: float = 1e-3
  words_steps: int = 2000
  words_batch: int = 64
  words2_steps: int = 2000  # of the second encoder
  words_lr: float = 2e-3
  steps: int = 40000
  batch: int = 64
  lr: float = 1.6e-3
  muon: bool = True  # for matrices and convolutions, Adam for the rest; Adam for all otherwise
  snr: float = 5.0  # errors of x0 count as min(signal to noise, this) (arXiv 2303.09556); 0: errors of v as 1
  least: float = 0.1  # lower bound of these weights for v: where noise is strongest only the words decide
  decay: float = 0.2  # the last share of the steps, over which the rate falls to 1 %
  empty: float = 0.1  # share of captions dropped, for classifier-free guidance
  ema: float = 0.999
  clip: float = 1.0
  face: float = 8.0  # how much more the UNet's loss counts at the features of faces
  look: int = 500  # steps between validations
  look_pictures: int = 96  # pictures that judges compare with real ones at each look

  @property
  def xl(self) -> bool:
    return self.text2_width > 0


FULL = Recipe()
# Its UNet grows out of the other's: `--unet miniature`.
FULL_SDXL = dataclasses.replace(
  FULL, depths=(1, 2, 1), text2_width=64, projection=64, time_width=16,
  words_steps=1000, words2_steps=1600, words_batch=32, steps=4000)  # fmt: skip
TINY = Recipe(
  counts=(("celebrity", 4),), people=20, vae_widths=(8, 16, 16), latent_channels=4,
  widths=(16, 32), heads=(1, 2), groups=8, depths=(1, 1), layers=(1, 1), text_width=32, text_layers=1,
  vae_steps=100, vae_batch=8, words_steps=200, words2_steps=200, words_batch=16, steps=100, batch=16, look=100, look_pictures=0, ema=0.95)  # fmt: skip
TINY_SDXL = dataclasses.replace(
  TINY, depths=(1, 2), fine=(False, False), text_layers=2, text2_width=16, text2_layers=2, projection=16, time_width=4,
  muon=False, snr=0.0, least=0.0)  # fmt: skip
RECIPES = {("sd", False): FULL, ("sd", True): TINY, ("sdxl", False): FULL_SDXL, ("sdxl", True): TINY_SDXL}


def vae(r: Recipe, size: int = 64) -> Config:
  levels = len(r.vae_widths)
  return dict(
    _class_name="AutoencoderKL", act_fn="silu", block_out_channels=list(r.vae_widths),
    down_block_types=["DownEncoderBlock2D"] * levels, up_block_types=["UpDecoderBlock2D"] * levels,
    in_channels=3, out_channels=3, latent_channels=r.latent_channels, layers_per_block=1,
    norm_num_groups=8, sample_size=size, scaling_factor=1.0, force_upcast=True)  # fmt: skip


def unet(r: Recipe, size: int = 64) -> Config:
  coarse, (down, up) = len(r.widths) - 1, ("CrossAttn" * attends for attends in r.fine)
  sdxl: Config = dict(
    transformer_layers_per_block=list(r.depths), addition_embed_type="text_time",
    addition_time_embed_dim=r.time_width,
    projection_class_embeddings_input_dim=r.projection + 6 * r.time_width)  # fmt: skip
  return dict(
    _class_name="UNet2DConditionModel", act_fn="silu", block_out_channels=list(r.widths),
    attention_head_dim=list(r.heads), center_input_sample=False, cross_attention_dim=r.text_width + r.text2_width,
    down_block_types=[f"{down}DownBlock2D"] + ["CrossAttnDownBlock2D"] * coarse,
    up_block_types=["CrossAttnUpBlock2D"] * coarse + [f"{up}UpBlock2D"],
    downsample_padding=1, flip_sin_to_cos=True, freq_shift=0, in_channels=r.latent_channels,
    out_channels=r.latent_channels, layers_per_block=_one(r.layers), mid_block_scale_factor=1, norm_eps=1e-5,
    norm_num_groups=r.groups, sample_size=size // 2 ** (len(r.vae_widths) - 1),
    use_linear_projection=True, **(sdxl if r.xl else {}))  # fmt: skip


def _one(levels: tuple[int, ...]) -> int | list[int]:
  return levels[0] if len(set(levels)) == 1 else list(levels)


def text(r: Recipe, vocabulary: int) -> Config:
  """A text encoder's config.json. The two last ids frame a prompt; "!", id 0, pads it, as in SD 2.1.

  eos_token_id is stated: the default of old configs, 2, makes transformers pool at the largest
  id, which is wrong as soon as placeholder tokens are added above it. torch_dtype is stated:
  transformers 5 would compute in the file's float16, and diffusers' UNet in float32.
  """
  return dict(
    architectures=["CLIPTextModel"], model_type="clip_text_model", hidden_size=r.text_width,
    intermediate_size=4 * r.text_width, num_attention_heads=max(1, r.text_width // 32),
    num_hidden_layers=r.text_layers, hidden_act="gelu", max_position_embeddings=LENGTH,
    vocab_size=vocabulary, layer_norm_eps=1e-5, projection_dim=r.text_width,
    bos_token_id=vocabulary - 2, eos_token_id=vocabulary - 1, pad_token_id=0,
    attention_dropout=0.0, dropout=0.0, initializer_factor=1.0, initializer_range=0.02,
    torch_dtype="float32")  # fmt: skip


def texts(r: Recipe, vocabulary: int) -> dict[str, Config]:
  """config.json by component: the text encoder, or SDXL's two, of which the second projects its pooled row."""
  first, second = TEXTS
  configs = {first: text(r, vocabulary)}
  if r.xl:
    configs[second] = text(r, vocabulary) | dict(
      architectures=["CLIPTextModelWithProjection"], hidden_size=r.text2_width,
      intermediate_size=4 * r.text2_width, num_attention_heads=max(1, r.text2_width // 32),
      num_hidden_layers=r.text2_layers, projection_dim=r.projection)  # fmt: skip
  return configs


SCHEDULER = dict(
  _class_name="DDIMScheduler", beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear",
  num_train_timesteps=1000, trained_betas=None, steps_offset=1, clip_sample=False,
  set_alpha_to_one=False, prediction_type="v_prediction")  # fmt: skip

_EULER = SCHEDULER | dict(
  _class_name="EulerDiscreteScheduler", timestep_spacing="leading", interpolation_type="linear",
  use_karras_sigmas=False)  # fmt: skip


def scheduler(r: Recipe) -> Config:
  """The default sampler's config: DDIM, or Euler as in SDXL."""
  return _EULER if r.xl else SCHEDULER
