"""Stable Diffusion with a person whose word changes along the denoising, separately for keys and for values.

Stage s (0 is the noisiest) of the word <id> is in the tokenizer as <id>-k0, <id>-v0, ...: the first
makes the keys of every cross-attention, the second the values.
"""

import torch
import torch.nn.functional as F
from diffusers import StableDiffusionPipeline


class PersonPipeline(StableDiffusionPipeline):
  """The stock pipeline; `prompt_embeds` hold all stages one after another, [B, stages * 2 * L, D]."""

  # -- Stable Diffusion 1.x and 2.x --
  def __init__(
    self,
    vae,
    text_encoder,
    tokenizer,
    unet,
    scheduler,
    safety_checker,
    feature_extractor,
    image_encoder=None,
    requires_safety_checker=True,
    word="<id>",
    stages=1,
  ):
    super().__init__(
      vae,
      text_encoder,
      tokenizer,
      unet,
      scheduler,
      safety_checker,
      feature_extractor,
      image_encoder,
      requires_safety_checker,
    )
    self.register_to_config(word=word, stages=stages)
    self.teach(unet)

  # -- SDXL --
  def __init__(  # type: ignore[no-redef]  # noqa: F811
    self,
    vae,
    text_encoder,
    text_encoder_2,  # type: ignore[no-redef]
    tokenizer,
    tokenizer_2,
    unet,
    scheduler,
    image_encoder=None,
    feature_extractor=None,
    force_zeros_for_empty_prompt=True,
    add_watermarker=None,
    word="<id>",
    stages=1,
  ):
    super().__init__(
      vae,
      text_encoder,
      text_encoder_2,
      tokenizer,
      tokenizer_2,
      unet,
      scheduler,
      image_encoder,
      feature_extractor,
      force_zeros_for_empty_prompt,
      add_watermarker,
    )
    self.register_to_config(word=word, stages=stages)
    self.teach(unet)

  # -- both --
  def teach(self, unet):
    """Let the UNet choose the stage at each call, and read keys and values from halves of the context."""
    processors = unet.attn_processors
    unet.set_attn_processor({n: KeysAndValues() if ".attn2." in n else p for n, p in processors.items()})
    unet.register_forward_pre_hook(self.choose_stage, with_kwargs=True)

  def choose_stage(self, unet, args, kwargs):
    stages, steps = self.config.stages, self.scheduler.config.num_train_timesteps
    t = float(kwargs["timestep"] if "timestep" in kwargs else args[1])
    s = min(max(stages - 1 - int(stages * t / steps), 0), stages - 1)
    kwargs["encoder_hidden_states"] = kwargs["encoder_hidden_states"].chunk(stages, dim=1)[s]
    extra = kwargs.get("added_cond_kwargs")
    if extra and "text_embeds" in extra:
      kwargs["added_cond_kwargs"] = {**extra, "text_embeds": extra["text_embeds"].chunk(stages, dim=-1)[s]}
    return args, kwargs

  def encode_prompt(self, prompt, *args, **kwargs):
    encode = super().encode_prompt
    if prompt is None:
      return encode(prompt, *args, **kwargs)  # ready-made embeddings, all stages in them
    prompts = [prompt] if isinstance(prompt, str) else prompt

    def encode_stage(name):
      other = kwargs.get("prompt_2")
      others = [other] if isinstance(other, str) else other
      more = {"prompt_2": [self.rename(p, name) for p in others]} if others is not None else {}
      return encode([self.rename(p, name) for p in prompts], *args, **{**kwargs, **more})

    encodings = [[encode_stage(f"{kind}{s}") for kind in "kv"] for s in range(self.config.stages)]

    def context(i):  # context of text (0) and of no text (1): keys then values of each stage
      if encodings[0][0][i] is None:
        return None
      return torch.cat([kv[i] for pair in encodings for kv in pair], dim=1)

    def pooled(i):  # SDXL: the values' vector
      return None if encodings[0][1][i] is None else torch.cat([pair[1][i] for pair in encodings], dim=-1)

    return (context(0), context(1), *(pooled(i) for i in range(2, len(encodings[0][0]))))

  def rename(self, prompt, name):
    return prompt.replace(self.config.word, f"{self.config.word}-{name}")


class KeysAndValues:
  """Cross-attention whose context is [keys' | values'] along the tokens."""

  def __call__(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None, temb=None, **kwargs):
    for_keys, for_values = encoder_hidden_states.chunk(2, dim=1)
    split = lambda x: x.unflatten(-1, (attn.heads, -1)).transpose(1, 2)
    q, k, v = attn.to_q(hidden_states), attn.to_k(for_keys), attn.to_v(for_values)
    attended = F.scaled_dot_product_attention(split(q), split(k), split(v))
    attended = attended.transpose(1, 2).flatten(2)
    return attn.to_out[1](attn.to_out[0](attended))
