"""Random weights without `init`: numpy into `eval_shape`, and PyTorch twins with every leaf moved."""

import jax
import numpy as np


def fill(shapes, seed: int = 0, std: float = 0.05):
  """Random float32 arrays shaped like a tree of `jax.ShapeDtypeStruct`."""
  rng = np.random.default_rng(seed)
  return jax.tree.map(lambda s: (std * rng.standard_normal(s.shape)).astype(np.float32), shapes)


def scramble(module, seed: int = 0):
  """Move every parameter and buffer of a torch module off its neutral start (norms too)."""
  import torch

  gen = torch.Generator().manual_seed(seed)
  with torch.no_grad():
    for name, p in module.named_parameters():
      noise = torch.randn(p.shape, generator=gen)
      if p.ndim > 1:
        p.copy_(noise * (p[0].numel() ** -0.5))  # keeps activations near unit scale
      elif name.endswith("bias"):
        p.copy_(0.1 * noise)
      else:
        p.copy_(1 + 0.1 * noise)
    for name, b in module.named_buffers():
      if "running_mean" in name:
        b.copy_(0.1 * torch.randn(b.shape, generator=gen))
      if "running_var" in name:
        b.copy_(0.5 + torch.rand(b.shape, generator=gen))
  return module.eval()


def state_dict(module) -> dict[str, np.ndarray]:
  """A torch module's tensors as numpy, without integer buffers."""
  tensors = {k: v.detach().numpy() for k, v in module.state_dict().items()}
  return {k: v for k, v in tensors.items() if np.issubdtype(v.dtype, np.floating)}


def relative_error(ours, theirs) -> float:
  """max |ours - theirs| / max |theirs|, in float64; torch tensors and arrays alike."""
  a, b = (np.asarray(x.detach() if hasattr(x, "detach") else x, np.float64) for x in (ours, theirs))
  assert a.shape == b.shape, (a.shape, b.shape)
  return float(np.abs(a - b).max() / np.abs(b).max())


def nchw(x):
  """[B, H, W, C] -> a torch tensor [B, C, H, W]."""
  import torch

  return torch.from_numpy(np.asarray(x).transpose(0, 3, 1, 2).copy())


def nhwc(x) -> np.ndarray:
  """A torch tensor [B, C, H, W] -> [B, H, W, C]."""
  return x.detach().permute(0, 2, 3, 1).numpy()
