"""Stable Diffusion with a person learned by ID-EA: prompts that name the person pass the adapter.

Text encoders and tokenizers hold the person's words, the UNet or the adapter the person's keys and values.
"""

import functools

import torch
from diffusers import StableDiffusionPipeline


class PersonPipeline(StableDiffusionPipeline):
  """The stock pipeline; only the encoding of prompts differs."""

  _optional_components = [*StableDiffusionPipeline._optional_components, "id_adapter"]

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
    id_adapter=None,
    word="<id>",
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
    self.register_modules(id_adapter=id_adapter)
    self.register_to_config(word=word)
    self.add_changes()

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
    id_adapter=None,
    word="<id>",
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
    self.register_modules(id_adapter=id_adapter)
    self.register_to_config(word=word)
    self.add_changes()

  # -- both --
  def encode_prompt(self, prompt, *args, **kwargs):
    embeds, *rest = super().encode_prompt(prompt, *args, **kwargs)
    if prompt is None or self.id_adapter is None:
      return (embeds, *rest)  # ready-made embeddings stay
    prompts = [prompt] if isinstance(prompt, str) else prompt
    spread = lambda x: x.repeat_interleave(len(embeds) // len(prompts), dim=0).to(embeds.device)
    has_word = spread(torch.tensor([self.config.word in p for p in prompts]))[:, None, None]
    adapted = self.id_adapter(embeds.to(self.id_adapter.dtype), spread(self.text_places(prompts))).to(embeds.dtype)
    return (torch.where(has_word, adapted, embeds), *rest)

  def add_changes(self):
    """Let prompts meet the person's keys and values, negative prompts the base model's."""
    changes = {} if self.id_adapter is None else self.id_adapter.changes
    for name, module in self.unet.named_modules():
      if (key := name.replace(".", "-")) in changes:
        module.register_forward_hook(functools.partial(self.add_change, changes[key]))

  def add_change(self, change, module, args, out):
    """Keys or values of a batch; under guidance its first half are negative prompts'."""
    guided = getattr(self, "_guidance_scale", 1) > 1
    first = len(out) // 2 if guided else 0
    return torch.cat([out[:first], out[first:] + change(args[0][first:])])

  def text_places(self, prompts):
    """Where the text of prompts is, its end included, start and padding not: bool [B, L]."""
    words, tokenizer = self.maybe_convert_prompt(prompts, self.tokenizer), self.tokenizer
    length = tokenizer.model_max_length
    ids = tokenizer(words, padding="max_length", max_length=length, truncation=True, return_tensors="pt").input_ids
    end = (ids == tokenizer.eos_token_id).int().argmax(dim=1, keepdim=True)
    at = torch.arange(length)[None]
    return (at > 0) & (at <= end)
