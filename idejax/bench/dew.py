"""Dew's side of `idejax bench unet --vs dew`: the UNet of a JAX library that opens the same folders."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from idejax import config
from idejax.errors import UserError
from idejax.model.backbone import Backbone, Conditioning
from idejax.storage import weights


class Dew:
  """Dew's UNet2DCondition with our weights, compiled."""

  def __init__(self, c: config.Bench, configs: Any, core: Backbone):
    try:
      from dew.diffusion.process import DenoisingCondition
      from dew.interop import diffusion
      from dew.nn.backbones import UNet2DCondition
    except ImportError as e:
      raise UserError("--vs dew needs Dew: pip install dewml (Python 3.12 or later, jax 0.11)") from e
    net = UNet2DCondition(**diffusion.unet_fields(configs["unet"], dtype=c.dtype))
    tensors = {k: np.asarray(v) for k, v in weights.to_torch(core.params["unet"]).items()}
    params, _ = diffusion.translate_unet_weights(tensors, net, param_dtype=c.dtype)
    self.params = jax.tree.map(jnp.asarray, params)

    def run(params, x, t, cond: Conditioning):
      condition = DenoisingCondition(cond.k[0], cond.pooled, cond.time_ids)
      return net.apply({"params": params}, x, jnp.broadcast_to(t, (len(x),)), conditioning=condition)

    self.run = jax.jit(run)

  def unet(self, x, t, cond: Conditioning):
    return self.run(self.params, x, t, cond).block_until_ready()
