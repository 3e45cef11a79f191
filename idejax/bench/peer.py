"""PyTorch's side of `idejax bench personalize --vs diffusers`: Textual Inversion's training step."""

from typing import Any

import jax
import numpy as np

from idejax import config
from idejax.errors import UserError
from idejax.person.subject import Example, Frozen
from idejax.storage import weights


class TextualInversion:
  """diffusers' UNet and transformers' text encoder with our weights; the learned rows alone train.

  Every step has the same rows of noise: the arithmetic is that of any step.
  """

  def __init__(self, c: config.Bench, configs: Any, frozen: Frozen, params: Any, e: Example, cfg: Any):
    try:
      import diffusers
      import torch
      import transformers
    except ImportError as error:
      raise UserError('--vs diffusers needs PyTorch: pip install -e ".[export]"') from error
    if len(params["rows"]) > 1:
      raise UserError("--vs diffusers compares models with one text encoder; SDXL has two")
    diffusers.utils.logging.set_verbosity_error()
    if c.threads:
      torch.set_num_threads(c.threads)
    self.torch, self.device = torch, "cuda" if torch.cuda.is_available() else "cpu"
    self.dtype = getattr(torch, c.dtype)
    put = lambda x, kind=None: torch.from_numpy(np.array(x, np.float32)).to(self.device, kind or self.dtype)
    with torch.device("meta"):
      unet = diffusers.UNet2DConditionModel.from_config(configs["unet"])
    text: Any = transformers.CLIPTextModel(
      transformers.CLIPTextConfig(**configs["text_encoder"])
    )  # its buffers are no weights
    for net, name in ((unet, "unet"), (text, "text_encoder")):
      state = {k: put(v) for k, v in weights.to_torch(frozen.backbone.params[name]).items()}
      own = net.state_dict().keys()
      if name == "text_encoder" and not any(k.startswith("text_model.") for k in own):
        state = {k.removeprefix("text_model."): v for k, v in state.items()}
      net.load_state_dict(state, assign=True, strict=name == "unet")
      net.to(self.device).eval().requires_grad_(False)
    self.unet, self.text = unet, text
    nchw = lambda x: put(np.asarray(x).transpose(0, 3, 1, 2))
    self.t = torch.from_numpy(np.array(e.t)).to(self.device)
    z, noise = nchw(e.latents), nchw(e.noise)
    schedule = diffusers.DDPMScheduler.from_config(configs["scheduler"])
    self.noisy = schedule.add_noise(z, noise, self.t)
    self.target = (
      schedule.get_velocity(z, noise, self.t) if schedule.config.prediction_type == "v_prediction" else noise
    )
    caption = np.asarray(e.caption)
    ids, where = (np.asarray(x[0])[caption] for x in (frozen.captions.ids, frozen.captions.where))
    self.ids, self.where = (torch.from_numpy(x.astype(np.int64)).to(self.device) for x in (ids, where))
    self.rows = put(jax.device_get(params["rows"][0]), torch.float32).requires_grad_(True)
    self.optimizer = torch.optim.AdamW([self.rows], lr=cfg.lr, weight_decay=cfg.weight_decay)
    embedding = next(m for n, m in text.named_modules() if n.endswith("token_embedding"))
    embedding.register_forward_hook(self._splice)

  def _splice(self, module, inputs, outputs):
    """The learned rows in the placeholder's positions."""
    batch = self.torch.arange(len(self.ids), device=self.device)[:, None]
    return outputs.index_put((batch, self.where), self.rows.to(outputs.dtype).expand(len(self.ids), -1, -1))

  def _loss(self):
    context = self.text(self.ids).last_hidden_state
    prediction = self.unet(self.noisy, self.t, context).sample
    return (prediction.float() - self.target.float()).square().mean()

  def gradient(self) -> tuple[float, np.ndarray]:
    """Loss, and its gradient with respect to the rows [P, d]."""
    loss = self._loss()
    (grad,) = self.torch.autograd.grad(loss, self.rows)
    return loss.item(), grad.cpu().numpy()

  def step(self):
    """One step; done when it returns."""
    self.optimizer.zero_grad()
    self._loss().backward()
    self.optimizer.step()
    if self.device == "cuda":
      self.torch.cuda.synchronize()
