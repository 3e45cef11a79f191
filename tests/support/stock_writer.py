"""Stock diffusers, transformers and peft write a person's files, load them again and sample: `python stock_writer.py JOB.json`.

A process that cannot import idejax. The job: {"base", "out", "cases", "noise", "steps", "guidance"}. For each
case, which is the name of a function here, it makes out/case/ with the files, and latents.npy and pictures.npy of what
diffusers samples once it has loaded them.
"""

import json
import sys
from pathlib import Path

import diffusers
import numpy as np
import safetensors.torch
import torch

sys.modules["idejax"] = None  # type: ignore[assignment]  # an import of it would fail from here on

PROMPTS = ["a photo of {}", "a photo of {} on the beach"]
WORD = "<sks-toy>"  # what the scripts of diffusers call it


def learned_rows(pipe, number, count, seed):
  """Rows of a text encoder as the scripts train them: new tokens in its own table."""
  encoder, tokenizer = (getattr(pipe, f"{n}{number}") for n in ("text_encoder", "tokenizer"))
  names = [WORD, *(f"{WORD}_{i}" for i in range(1, count))]
  assert tokenizer.add_tokens(names) == count
  encoder.resize_token_embeddings(len(tokenizer))
  ids = tokenizer.convert_tokens_to_ids(names)
  table = encoder.get_input_embeddings().weight.data
  rows = 0.05 * torch.randn(count, table.shape[1], generator=torch.Generator().manual_seed(seed))
  for i, row in zip(ids, rows):
    table[i] = row
  return table[min(ids) : max(ids) + 1].detach().cpu()


def words(open_, folder):
  """examples/textual_inversion: {placeholder: rows}."""
  rows = learned_rows(open_(), "", 2, 0)
  safetensors.torch.save_file(
    {WORD: rows.contiguous()}, folder / "learned_embeds.safetensors", metadata={"format": "pt"}
  )
  return with_words(open_(), folder / "learned_embeds.safetensors")


def words_bin(open_, folder):
  """The same, --no_safe_serialization."""
  torch.save({WORD: learned_rows(open_(), "", 2, 0)}, folder / "learned_embeds.bin")
  return with_words(open_(), folder / "learned_embeds.bin")


def raw(open_, folder):
  """One tensor under a name that says nothing, as other front ends write it."""
  safetensors.torch.save_file({"emb_params": learned_rows(open_(), "", 3, 1).contiguous()}, folder / "raw.safetensors")
  return with_words(open_(), folder / "raw.safetensors")


def with_words(pipe, file):
  pipe.load_textual_inversion(str(file), token=WORD)
  return pipe, WORD


def both_encoders(open_, folder):
  """One file for SDXL: clip_l and clip_g."""
  pipe = open_()
  rows = {"clip_l": learned_rows(pipe, "", 2, 0), "clip_g": learned_rows(pipe, "_2", 2, 1)}
  safetensors.torch.save_file({k: v.contiguous() for k, v in rows.items()}, folder / "both.safetensors")
  return with_both(open_(), rows)


def two_files(open_, folder):
  """examples/textual_inversion_sdxl: a file for each encoder."""
  pipe = open_()
  for number, name in (("", "learned_embeds"), ("_2", "learned_embeds_2")):
    rows = learned_rows(pipe, number, 1, 2).contiguous()
    safetensors.torch.save_file({WORD: rows}, folder / f"{name}.safetensors", metadata={"format": "pt"})
  rows = [
    safetensors.torch.load_file(folder / f"{n}.safetensors")[WORD] for n in ("learned_embeds", "learned_embeds_2")
  ]
  return with_both(open_(), dict(zip(("clip_l", "clip_g"), rows)))


def with_both(pipe, rows):
  for key, number in (("clip_l", ""), ("clip_g", "_2")):
    encoder, tokenizer = (getattr(pipe, f"{n}{number}") for n in ("text_encoder", "tokenizer"))
    pipe.load_textual_inversion(rows[key], token=WORD, text_encoder=encoder, tokenizer=tokenizer)
    for m in encoder.modules():  # else stock pools at the word, whose id is above the end token's
      if getattr(m, "eos_token_id", None) == 2:
        m.eos_token_id = tokenizer.eos_token_id
  return pipe, WORD


def lora(open_, folder, alpha=4):
  """examples/dreambooth/train_dreambooth_lora: peft's adapter, `save_lora_weights`."""
  import peft
  from diffusers.training_utils import _collate_lora_metadata
  from diffusers.utils import convert_state_dict_to_diffusers

  pipe = open_()
  pipe.unet.add_adapter(peft.LoraConfig(r=4, lora_alpha=alpha, target_modules=["to_k", "to_q", "to_v", "to_out.0"]))
  generator = torch.Generator().manual_seed(3)
  for name, p in pipe.unet.named_parameters():
    if "lora_" in name:
      p.data = 0.15 * torch.randn(p.shape, generator=generator)
  layers = convert_state_dict_to_diffusers(peft.utils.get_peft_model_state_dict(pipe.unet))
  about = _collate_lora_metadata({"unet": pipe.unet}) if alpha != 4 else {}
  type(pipe).save_lora_weights(save_directory=str(folder), unet_lora_layers=layers, safe_serialization=True, **about)
  pipe = open_()
  pipe.load_lora_weights(str(folder), weight_name="pytorch_lora_weights.safetensors")
  return pipe, "q x"


def lora_with_alpha(open_, folder):
  """alpha other than the rank, which only the file's metadata tells."""
  return lora(open_, folder, alpha=6)


def custom_diffusion(open_, folder):
  """examples/custom_diffusion: keys and values of cross-attention, and a word."""
  from diffusers.models.attention_processor import CustomDiffusionAttnProcessor

  pipe, processors = open_(), {}
  state, generator = pipe.unet.state_dict(), torch.Generator().manual_seed(4)
  for name in pipe.unet.attn_processors:
    attention, module = pipe.unet.get_submodule(name.removesuffix(".processor")), name.removesuffix(".processor")
    cross = module.endswith("attn2")
    processor = CustomDiffusionAttnProcessor(
      train_kv=cross,
      train_q_out=False,
      hidden_size=attention.to_q.in_features,
      cross_attention_dim=attention.to_k.in_features if cross else None,
    )
    for x in ("to_k", "to_v") if cross else ():
      weight = state[f"{module}.{x}.weight"]
      change = weight + 0.1 * torch.randn(weight.shape, generator=generator)
      processor.get_submodule(f"{x}_custom_diffusion").weight.data = change
    processors[name] = processor
  pipe.unet.set_attn_processor(processors)
  pipe.unet.save_attn_procs(str(folder), weight_name="pytorch_custom_diffusion_weights.bin", safe_serialization=False)
  pipe.unet.save_attn_procs(str(folder), safe_serialization=True)
  torch.save({WORD: learned_rows(pipe, "", 1, 5)[0]}, folder / f"{WORD}.bin")
  pipe = open_()
  pipe.unet.load_attn_procs(
    str(folder), weight_name="pytorch_custom_diffusion_weights.bin", use_safetensors=False, _pipeline=pipe
  )
  pipe.load_textual_inversion(str(folder), weight_name=f"{WORD}.bin")
  return pipe, WORD


@torch.no_grad()
def sample(job, pipe, called):
  pipe.set_progress_bar_config(disable=True)
  pipe.scheduler = diffusers.DDIMScheduler.from_config(pipe.scheduler.config)
  noise = np.load(job["noise"])
  size = noise.shape[-1] * (2 ** (len(pipe.vae.config.block_out_channels) - 1))
  z = pipe(
    prompt=[p.format(called) for p in PROMPTS],
    latents=torch.from_numpy(noise),
    num_inference_steps=job["steps"],
    guidance_scale=job["guidance"],
    height=size,
    width=size,
    output_type="latent",
  ).images
  pictures = pipe.vae.decode(z / pipe.vae.config.scaling_factor).sample
  return z.numpy(), ((pictures / 2 + 0.5).clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()


def main(job):
  open_ = lambda: diffusers.DiffusionPipeline.from_pretrained(job["base"], local_files_only=True)
  for case in job["cases"]:
    folder = Path(job["out"], case)
    folder.mkdir()
    latents, pictures = sample(job, *globals()[case](open_, folder))
    np.save(folder / "latents.npy", latents)
    np.save(folder / "pictures.npy", pictures)


if __name__ == "__main__":
  main(json.loads(Path(sys.argv[1]).read_text()))
