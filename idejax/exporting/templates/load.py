"""Apply the files in this folder to a stock diffusers pipeline.

    from diffusers import DiffusionPipeline
    pipe = DiffusionPipeline.from_pretrained(BASE)
    load(pipe, "this/folder")

Needs diffusers only; peft too, if you want to switch a LoRA on and off later.
"""

from pathlib import Path

from safetensors import safe_open
from safetensors.torch import load_file


def load(pipe, folder):
  """The pipeline with the person's words, and with LoRA or keys and values where the folder has them."""
  folder = Path(folder)
  if (folder / "learned_embeds.safetensors").exists():
    load_words(pipe, folder / "learned_embeds.safetensors")
  if (folder / "pytorch_lora_weights.safetensors").exists():
    load_lora(pipe, folder / "pytorch_lora_weights.safetensors")
  if (folder / "pytorch_custom_diffusion_weights.safetensors").exists():
    pipe.unet.load_attn_procs(str(folder), weight_name="pytorch_custom_diffusion_weights.safetensors", _pipeline=pipe)
  return pipe


def load_words(pipe, file):
  """Textual inversion: one text encoder (key: the word), or SDXL's two (keys clip_l and clip_g)."""
  tensors = load_file(file)
  with safe_open(file, "pt") as f:
    word = f.metadata()["word"]
  if "clip_g" not in tensors:
    return pipe.load_textual_inversion(str(file), token=word)
  pairs = (pipe.text_encoder, pipe.tokenizer), (pipe.text_encoder_2, pipe.tokenizer_2)
  for tensor, (encoder, tokenizer) in zip((tensors["clip_l"], tensors["clip_g"]), pairs):
    pipe.load_textual_inversion(tensor, token=word, text_encoder=encoder, tokenizer=tokenizer)
    pool_at_the_end(encoder, tokenizer)


def pool_at_the_end(encoder, tokenizer):
  """SDXL pools at the end of the text. Its config names a wrong end token (2), for which transformers pools
  at the largest id: with new words, whose ids are larger than the end token's, at the word."""
  for module in encoder.modules():
    if getattr(module, "eos_token_id", None) == 2:
      module.eos_token_id = tokenizer.eos_token_id


def load_lora(pipe, file):
  """Load the LoRA with diffusers if peft is installed; otherwise add it to the weights for good."""
  try:
    import peft  # noqa: F401
  except ImportError:
    tensors = load_file(file)
    for key, down in tensors.items():
      if not key.endswith(".lora_A.weight"):
        continue
      up = tensors[key.replace(".lora_A.", ".lora_B.")]
      component, _, name = key.replace(".lora_A.", ".").partition(".")  # unet, text_encoder, text_encoder_2
      parameters = dict(getattr(pipe, component).named_parameters())
      # transformers 5 has no text_model. before the names of a CLIPTextModel's parameters
      weight = parameters[name if name in parameters else name.removeprefix("text_model.")]
      weight.data += (up.float() @ down.float()).to(weight)
  else:
    pipe.load_lora_weights(str(file.parent), weight_name=file.name)
