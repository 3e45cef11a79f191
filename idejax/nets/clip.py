"""CLIP text encoders: CLIP-L (SD 1.x), OpenCLIP-H (SD 2.x), OpenCLIP-bigG (SDXL).

Submodule names are transformers' keys with the `text_model.` prefix. The run of identical
layers is scanned: its parameters are stacked and their path holds a star.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from idejax.nets.attention import attention, split_heads
from idejax.nets.layers import Dense, Dtype, LayerNorm, param
from idejax.nets.naming import parameter_shapes

_ACTIVATIONS = {
  "quick_gelu": lambda x: x * jax.nn.sigmoid(1.702 * x),
  "gelu": lambda x: jax.nn.gelu(x, approximate=False),
}


@dataclasses.dataclass(frozen=True)
class TextConfig:
  """transformers' CLIPTextConfig: its names, its defaults."""

  vocab_size: int = 49408
  hidden_size: int = 512
  intermediate_size: int = 2048
  projection_dim: int | None = None  # None: the checkpoint holds no projection
  num_hidden_layers: int = 12
  num_attention_heads: int = 8
  max_position_embeddings: int = 77
  hidden_act: str = "quick_gelu"
  layer_norm_eps: float = 1e-5
  eos_token_id: int = 49407  # 2 is what older configs say; see `TextEncoder`

  @classmethod
  def from_json(cls, json: Mapping[str, Any]) -> "TextConfig":
    """From transformers' config.json of CLIPTextModel, ...WithProjection, or a whole CLIPModel.

    Raises ValueError for a config that is not CLIP's, such as one with several end tokens.
    """
    cfg = tower_from_json(cls, json, "text")
    if not isinstance(cfg.eos_token_id, int):
      raise ValueError(f"CLIP text config: eos_token_id is {cfg.eos_token_id}, not one integer.")
    return cfg


class TextOutput(NamedTuple):
  last: jax.Array  # [B, L, D] after the final norm
  penultimate: jax.Array  # [B, L, D] the last layer's input, without the final norm
  pooled: jax.Array  # [B, P] the end token's row of `last`, projected where there is a projection


class TextEncoder(nn.Module):
  cfg: TextConfig
  dtype: Dtype = None  # computes in this; None: the dtype of the embeddings
  remat: bool = False  # recompute each layer in the backward pass

  @nn.compact
  def __call__(
    self, ids: jax.Array, rows: jax.Array | None = None, where: jax.Array | None = None, eos: jax.Array | None = None
  ) -> TextOutput:
    """Token ids [B, L] int32, causal, no padding mask -> TextOutput.

    `rows` [B, P, D] replace the input embeddings at the positions `where` [B, P], before the
    position embedding is added. A position outside [0, L), such as -1, marks an unused slot; if
    two slots name one position, the first wins. Ids at replaced positions may be anything;
    other ids are clamped to the table.

    `eos` [B] is the position whose row is pooled. By default it is transformers' choice, with
    replaced positions left out: the first `eos_token_id`, or, where the config says 2 (a mistake
    kept for old checkpoints such as SDXL's), the largest id. There, transformers would pool at a
    placeholder whose id is above the end token's; pass `eos=ids.argmax(-1)` to get its numbers.

    Raises ValueError if L exceeds the config's context length, or if `rows` and `where` do not
    come together.
    """
    c, length = self.cfg, ids.shape[1]
    if length > c.max_position_embeddings:
      raise ValueError(
        f"prompt of {length} tokens, but the text encoder's context length is {c.max_position_embeddings}."
      )
    if (rows is None) != (where is None):
      raise ValueError("rows and where must be given together.")
    embed = lambda n, name: Embed(n, c.hidden_size, self.dtype, name=f"text_model.embeddings.{name}")
    x = embed(c.vocab_size, "token_embedding")(ids)
    is_row = jnp.zeros(ids.shape, bool)
    if rows is not None and where is not None:
      # A gather, not a scatter: exact in every dtype, and its gradient sums over equal slots.
      hit = where[:, None, :] == jnp.arange(length)[None, :, None]  # [B, L, P]
      is_row = hit.any(-1)
      row = jnp.take_along_axis(rows.astype(x.dtype), hit.argmax(-1)[..., None], axis=1)
      x = jnp.where(is_row[..., None], row, x)
    x += embed(c.max_position_embeddings, "position_embedding")(jnp.arange(length)[None])

    x, penultimate = encoder("text_model", c, True, self.dtype, self.remat)(x)
    last = LayerNorm(c.layer_norm_eps, self.dtype, name="text_model.final_layer_norm")(x)
    if eos is None:
      score = ids if c.eos_token_id == 2 else (ids == c.eos_token_id).astype(jnp.int32)
      eos = jnp.where(is_row, -1, score).argmax(-1)
    pooled = jnp.take_along_axis(last, eos[:, None, None], axis=1)[:, 0]
    if c.projection_dim:
      pooled = Dense(c.projection_dim, False, self.dtype, name="text_projection")(pooled)
    return TextOutput(last, penultimate, pooled)


def shapes(cfg: TextConfig):
  """The parameters as float32 ShapeDtypeStructs; nothing is computed or allocated."""
  ids = jax.ShapeDtypeStruct((1, cfg.max_position_embeddings), jnp.int32)
  return parameter_shapes(TextEncoder(cfg), ids)


# Shared with the vision towers (clip_vision.py).


class Embed(nn.Module):
  """A table looked up with ids clamped into it: int [...] -> [..., features]."""

  count: int
  features: int
  dtype: Dtype = None

  @nn.compact
  def __call__(self, ids: jax.Array) -> jax.Array:
    shape = (self.count, self.features)
    table = param(self, "embedding", nn.initializers.normal(0.02), shape)
    return jnp.take(table, ids, axis=0, mode="clip").astype(self.dtype or table.dtype)


class Attention(nn.Module):
  heads: int
  causal: bool
  dtype: Dtype

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    dense = lambda name: Dense(x.shape[-1], dtype=self.dtype, name=name)
    q, k, v = (split_heads(dense(name)(x), self.heads) for name in ("q_proj", "k_proj", "v_proj"))
    return dense("out_proj")(attention(q, k, v, causal=self.causal).reshape(x.shape))


class Layer(nn.Module):
  """One layer as a scan body: (x, anything) -> (next x, x)."""

  cfg: Any  # TextConfig or VisionConfig
  causal: bool
  dtype: Dtype

  @nn.compact
  def __call__(self, carry: tuple[jax.Array, jax.Array], _):
    c, x = self.cfg, carry[0]
    norm = lambda name: LayerNorm(c.layer_norm_eps, self.dtype, name=name)
    y = norm("layer_norm1")(x)
    h = x + Attention(c.num_attention_heads, self.causal, self.dtype, name="self_attn")(y)
    y = Dense(c.intermediate_size, dtype=self.dtype, name="mlp.fc1")(norm("layer_norm2")(h))
    y = Dense(c.hidden_size, dtype=self.dtype, name="mlp.fc2")(_ACTIVATIONS[c.hidden_act](y))
    return (h + y, x), None


def encoder(tower: str, cfg: Any, causal: bool, dtype: Dtype, remat: bool):
  """The scanned run of layers: x -> (output, the last layer's input)."""
  # Under scan, XLA cannot merge the recomputation with the forward pass: prevent_cse only costs.
  body = nn.remat(Layer, prevent_cse=False) if remat else Layer
  scan = nn.scan(body, variable_axes={"params": 0}, split_rngs={"params": True}, length=cfg.num_hidden_layers)
  layers = scan(cfg, causal, dtype, name=f"{tower}.encoder.layers.*")
  return lambda x: layers((x, x), None)[0]


def tower_from_json(cls, json: Mapping[str, Any], tower: str):
  """A TextConfig or VisionConfig (`cls`) from transformers' config.json. Raises ValueError."""
  if (kind := json.get("model_type", "clip")) not in ("clip", f"clip_{tower}_model"):
    raise ValueError(f"CLIP {tower} config: model_type is {kind!r}, not CLIP's.")
  fields = {f.name for f in dataclasses.fields(cls)}
  both_towers = f"{tower}_config" in json  # a CLIPModel's config: both towers and both projections
  tower_json = json[f"{tower}_config"] if both_towers else json
  values = {k: v for k, v in tower_json.items() if k in fields - {"projection_dim"} and v is not None}
  if both_towers or any(a.endswith("WithProjection") for a in json.get("architectures") or ()):
    values["projection_dim"] = json.get("projection_dim", 512)
  cfg = cls(**values)
  if cfg.hidden_act not in _ACTIVATIONS:
    raise ValueError(
      f"CLIP {tower} config: hidden_act is {cfg.hidden_act!r}, supported are {' and '.join(_ACTIVATIONS)}."
    )
  if cfg.hidden_size % cfg.num_attention_heads:
    raise ValueError(
      f"CLIP {tower} config: hidden_size {cfg.hidden_size} cannot be divided into {cfg.num_attention_heads} heads."
    )
  return cfg
