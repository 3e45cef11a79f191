"""Run an exported folder with stock diffusers and record UNet calls and pictures: `python stock.py JOB.json ...`.

This is the other half of a certificate. It never imports idejax, and loads the folder as its README says.
"""

import json
import sys
from pathlib import Path

sys.modules["idejax"] = None  # type: ignore[assignment]  # an import of it would fail from here on

import diffusers
import numpy as np
import torch
import transformers
from safetensors.torch import save_file


def open_pipeline(job):
  """The folder itself, or its base with the folder's load.py applied."""
  how = dict(torch_dtype=torch.float32, local_files_only=True)
  if job["standalone"]:
    return diffusers.DiffusionPipeline.from_pretrained(job["folder"], trust_remote_code=job["code"], **how)
  pipe = diffusers.DiffusionPipeline.from_pretrained(job["base"], **how)
  sys.path.insert(0, job["folder"])
  from load import load  # type: ignore[import-not-found]

  return load(pipe, job["folder"])


class Calls:
  """Inputs and outputs of the UNet's calls with the given `numbers`, counted from 0."""

  def __init__(self, pipe, numbers):
    self.count, self.numbers, self.tensors, self.timesteps = 0, set(numbers), {}, []
    self.hook = pipe.unet.register_forward_hook(self.keep, with_kwargs=True)

  def keep(self, unet, args, kwargs, out):
    if self.count in self.numbers:
      name, t = f"call{len(self.timesteps)}", kwargs.get("timestep", args[1] if len(args) > 1 else None)
      self.timesteps.append(float(t))
      self.tensors[f"{name}.sample"] = kwargs.get("sample", args[0] if args else None).clone()
      self.tensors[f"{name}.output"] = out[0].clone()
      self.tensors[f"{name}.context"] = kwargs["encoder_hidden_states"].clone()
      extra = kwargs.get("added_cond_kwargs") or {}
      if "text_embeds" in extra:
        self.tensors[f"{name}.pooled"] = extra["text_embeds"].clone()
    self.count += 1


@torch.no_grad()
def main(job):
  pipe = open_pipeline(job)
  pipe.set_progress_bar_config(disable=True)
  pipe.scheduler = diffusers.DDIMScheduler.from_config(pipe.scheduler.config)
  out, timesteps = {}, []
  for steps in job["steps"]:
    first = steps == job["steps"][0]
    calls = Calls(pipe, job["calls"] if first else [])
    latents = torch.from_numpy(np.load(job["latents"]))
    final = pipe(
      prompt=job["prompts"],
      latents=latents,
      num_inference_steps=steps,
      guidance_scale=job["guidance"],
      height=job["height"],
      width=job["width"],
      output_type="latent",
      **job["more"],
    ).images
    calls.hook.remove()
    if first:
      out, timesteps = calls.tensors, calls.timesteps
    pictures = pipe.vae.decode(unscaled(pipe, final)).sample
    out[f"latents{steps}"] = final
    out[f"pictures{steps}"] = ((pictures / 2 + 0.5).clamp(0, 1) * 255).round().to(torch.uint8)
  save_file({k: v.contiguous() for k, v in out.items()}, job["out"])
  versions = {m.__name__: m.__version__ for m in (torch, diffusers, transformers)}
  try:
    import peft

    versions["peft"] = peft.__version__
  except ImportError:
    versions["peft"] = "not installed"
  Path(job["about"]).write_text(json.dumps({"timesteps": timesteps, "versions": versions}))


def unscaled(pipe, latents):
  config = pipe.vae.config
  mean, std = getattr(config, "latents_mean", None), getattr(config, "latents_std", None)
  if mean is None or std is None:
    return latents / config.scaling_factor + (getattr(config, "shift_factor", None) or 0.0)
  row = lambda x: torch.tensor(x).view(1, -1, 1, 1)
  return latents * row(std) / config.scaling_factor + row(mean)


if __name__ == "__main__":
  for path in sys.argv[1:]:
    main(json.loads(Path(path).read_text()))
