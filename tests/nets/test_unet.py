"""The UNet against diffusers' UNet2DConditionModel: numbers, hooks, keys and shapes."""

import functools
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from diffusers import ControlNetModel, UNet2DConditionModel
from support.fakes import fill, nchw, nhwc, relative_error, scramble, state_dict

from idejax.model.families import FAMILIES
from idejax.nets import attention, controlnet, cross_attention, target, unet
from idejax.storage import weights

TINY = dict(norm_num_groups=4, layers_per_block=1, cross_attention_dim=12, sample_size=8)
DOWN, CROSS_DOWN, UP, CROSS_UP = "DownBlock2D", "CrossAttnDownBlock2D", "UpBlock2D", "CrossAttnUpBlock2D"
CONFIGS = {
  "sd15": TINY
  | dict(
    block_out_channels=(8, 16, 16),
    attention_head_dim=2,
    down_block_types=(CROSS_DOWN, CROSS_DOWN, DOWN),
    up_block_types=(UP, CROSS_UP, CROSS_UP),
  ),
  "sd21": TINY
  | dict(
    block_out_channels=(8, 16),
    attention_head_dim=(1, 4),
    use_linear_projection=True,
    down_block_types=(CROSS_DOWN, DOWN),
    up_block_types=(UP, CROSS_UP),
    upcast_attention=True,
  ),
  "sdxl": TINY
  | dict(
    block_out_channels=(8, 16, 24),
    attention_head_dim=(1, 2, 4),
    use_linear_projection=True,
    down_block_types=(DOWN, CROSS_DOWN, CROSS_DOWN),
    up_block_types=(CROSS_UP, CROSS_UP, UP),
    transformer_layers_per_block=(1, 2, 3),
    addition_embed_type="text_time",
    addition_time_embed_dim=4,
    projection_class_embeddings_input_dim=10 + 6 * 4,
  ),
  # Attention at the first level only, and unlike runs of layers: one net with all its hooks both
  # on single blocks and on a scanned run (in the middle).
  "unusual": TINY
  | dict(
    block_out_channels=(8, 12, 16),
    attention_head_dim=(2, 3, 4),
    down_block_types=(CROSS_DOWN, DOWN, DOWN),
    up_block_types=(UP, UP, CROSS_UP),
    layers_per_block=[1, 2, 1],
    transformer_layers_per_block=[1, 1, 3],
    in_channels=5,
    out_channels=3,
    flip_sin_to_cos=False,
    freq_shift=1,
    norm_eps=1e-3,
  ),
}


@functools.cache
def twin(name):
  """(torch module, config, params) with the same random weights."""
  module = scramble(UNet2DConditionModel(**CONFIGS[name]))
  cfg = unet.UNetConfig.from_json(dict(module.config))
  return module, cfg, weights.from_torch(unet.shapes(cfg), state_dict(module))


@functools.partial(jax.jit, static_argnames=("cfg", "capture"))
def run(cfg, params, *args, capture=False, **kwargs):
  mutable = ["attention"] if capture else False
  return unet.UNet(cfg).apply({"params": params}, *args, **kwargs, mutable=mutable)


def inputs(cfg, rng, batch, hw, length=7):
  normal = lambda *shape: rng.standard_normal(shape).astype(np.float32)
  added = None
  if cfg.added_dims:
    ids = np.array([[48, 80, 0, 4, 48, 80]] * batch, np.float32)
    added = normal(batch, cfg.added_dims[1] - 6 * cfg.added_dims[0]), ids
  t = np.array([999, 0, 501.5], np.float32)[:batch]
  return normal(batch, *hw, cfg.channels[0]), t, normal(batch, length, cfg.context_dim), added


def theirs(module, x, t, context, added=None, **kwargs):
  tensor = torch.from_numpy
  if added:
    kwargs["added_cond_kwargs"] = dict(text_embeds=tensor(added[0]), time_ids=tensor(added[1]))
  with torch.no_grad():
    return nhwc(module(nchw(x), tensor(t), tensor(context), **kwargs).sample)


# 13 -> 7 -> 4 and 18 -> 9 -> 5: upsampling to sizes that are not double.
@pytest.mark.parametrize("name, batch, hw", [("sd15", 3, (13, 18)), ("sd21", 1, (8, 4)), ("sdxl", 3, (13, 18))])
def test_equal_to_diffusers(name, batch, hw, rng):
  module, cfg, params = twin(name)
  args = inputs(cfg, rng, batch, hw)
  ours = run(cfg, params, *args)
  assert ours.shape == (batch, *hw, cfg.channels[1]) and ours.dtype == jnp.float32
  assert relative_error(ours, theirs(module, *args)) < 1e-5


# The hooks, on "unusual".


class Processor:
  """diffusers' plain attention on a context of keys and values in one, with `extra` keys and
  values beside them; keeps the map that it made."""

  def __init__(self, extra):
    self.extra = extra

  def __call__(self, attn, x, encoder_hidden_states=None, attention_mask=None, temb=None):
    keys, values = encoder_hidden_states.chunk(2, 1)
    q, k, v = attn.to_q(x), attn.to_k(keys), attn.to_v(values)
    q, k, v, *extra = (attn.head_to_batch_dim(y) for y in (q, k, v, *self.extra))
    self.map = attn.get_attention_scores(q, k)
    y = self.map @ v
    if extra:
      y = y + attn.get_attention_scores(q, extra[0]) @ extra[1]
    return attn.to_out[0](attn.batch_to_head_dim(y))


@pytest.fixture(scope="module")
def hooked():
  """The outputs of our UNet and of torch's with everything that a method may pass to it."""
  module, cfg, params = twin("unusual")
  rng = np.random.default_rng(5)
  normal = lambda *shape: rng.standard_normal(shape).astype(np.float32)
  x, t, k, _ = inputs(cfg, rng, 3, (13, 18))
  v = normal(*k.shape)
  # Two paths of one block and the scanned run; the others go without.
  depth = {
    p: CONFIGS["unusual"]["transformer_layers_per_block"][-1] if "*" in p else None
    for p in cross_attention.attention_paths(params)
  }
  paths = ["mid_block.attentions.0.transformer_blocks.*.attn2", "up_blocks.2.attentions.1.transformer_blocks.0.attn2"]
  extra = {}
  for path in paths:
    shape = (3, 4, cross_attention.attention_paths(params)[path][1])
    shape = shape if depth[path] is None else (depth[path], *shape)
    extra[path] = normal(*shape), normal(*shape)
  # The skips' shapes come from the net itself: conv_in, then per level its layers and its stride.
  sides = [(13, 18), (13, 18), (7, 9), (7, 9), (7, 9), (4, 5), (4, 5)]
  skips = [(*hw, c) for hw, c in zip(sides, (8, 8, 8, 12, 12, 12, 16))]
  residuals = tuple(normal(3, *s) for s in skips), normal(3, 4, 5, 16)

  stock, processors = module.attn_processors, {}
  for name in stock:
    layer = name.removesuffix(".processor")
    if not layer.endswith("attn2"):
      continue
    path, index = layer, None
    if ".".join(layer.split(".")[:2]) == "mid_block.attentions":
      index = int(layer.split(".")[4])
      path = layer.replace(f"transformer_blocks.{index}", "transformer_blocks.*")
    pair = extra.get(path, ())
    pair = [torch.from_numpy(y if index is None else y[index]) for y in pair]
    processors[layer] = Processor(pair)
    module.get_submodule(layer).set_processor(processors[layer])
  want = theirs(
    module,
    x,
    t,
    np.concatenate([k, v], 1),
    mid_block_additional_residual=nchw(residuals[1]),
    down_block_additional_residuals=[nchw(r) for r in residuals[0]],
  )
  module.set_attn_processor(stock)
  args, more = (x, t, (k, v)), dict(residuals=residuals, extra=extra)
  return args, more, run(cfg, params, *args, **more), want, processors


def test_separate_keys_and_values_extra_ones_and_residuals_equal_diffusers(hooked):
  _, _, ours, want, _ = hooked
  assert relative_error(ours, want) < 1e-5


@pytest.mark.parametrize("change", ["keys", "values", "extra", "down", "middle"])
def test_every_hook_is_felt(hooked, change):
  """Without this the parity above could hold because neither side did anything."""
  _, cfg, params = twin("unusual")
  (x, t, (k, v)), more, ours, _, _ = hooked
  down, mid = more["residuals"]
  if change == "keys":
    k = k[:, ::-1]
  if change == "values":
    v = -v
  if change == "extra":
    more = more | {"extra": jax.tree.map(lambda y: -y, more["extra"])}
  if change == "down":
    more = more | {"residuals": (jax.tree.map(lambda y: -y, down), mid)}
  if change == "middle":
    more = more | {"residuals": (down, -mid)}
  assert relative_error(run(cfg, params, x, t, (k, v), **more), ours) > 1e-3


def test_projected_context_equals_the_direct_path(hooked):
  _, cfg, params = twin("unusual")
  (x, t, (k, v)), more, ours, _, _ = hooked
  projected = jax.jit(cross_attention.project_context)(params, k, v)
  paths = cross_attention.attention_paths(params)
  assert set(projected) == set(paths)
  for path, (width, dim) in paths.items():
    lead = (3,) if "*" in path else ()
    assert width == 12 and projected[path][0].shape == (*lead, 3, 7, dim)
  assert relative_error(run(cfg, params, x, t, projected, **more), ours) < 1e-5


def test_captured_queries_and_keys_give_torchs_maps_and_cost_no_bit(hooked):
  _, cfg, params = twin("unusual")
  args, more, ours, _, processors = hooked
  out, queries_keys = run(cfg, params, *args, **more, capture=True)
  np.testing.assert_array_equal(out, ours)
  found = {}
  for path, leaf in jax.tree_util.tree_leaves_with_path(
    queries_keys["attention"], is_leaf=lambda y: isinstance(y, tuple)
  ):
    *names, last = (p.key for p in path)
    assert last == "qk"
    found[".".join(names)] = leaf
  assert set(found) == set(cross_attention.attention_paths(params))
  for layer, processor in processors.items():
    index = None
    if layer not in found:
      index = int(layer.split(".")[4])
      layer = layer.replace(f"transformer_blocks.{index}", "transformer_blocks.*")
    q, k = found[layer] if index is None else (y[index] for y in found[layer])
    maps = attention.weights(q, k)
    assert relative_error(maps.reshape(processor.map.shape), processor.map) < 1e-5


@pytest.mark.parametrize("upcast, want", [(True, jnp.float32), (False, jnp.bfloat16)])
def test_bfloat16_computes_in_bfloat16_but_for_upcast_attention(upcast, want):
  """Only traced, for a TPU, where no convolution is rewritten: dtypes are known without computing."""
  cfg = unet.UNetConfig.from_json(CONFIGS["sd21"] | {"upcast_attention": upcast}, dtype=jnp.bfloat16)
  params = {"params": weights.with_dtype(unet.shapes(cfg), jnp.bfloat16)}
  apply = functools.partial(unet.UNet(cfg).apply, mutable=["attention"])
  with target.compiling_for("tpu"):
    program, (out, queries_keys) = jax.make_jaxpr(apply, return_shape=True)(params, *unet.example_inputs(cfg))
  assert out.dtype == jnp.float32
  assert {y.dtype for y in jax.tree.leaves(queries_keys)} == {jnp.dtype(want)}
  convolutions = [eqn for eqn in program.eqns if eqn.primitive.name == "conv_general_dilated"]
  assert len(convolutions) > 10
  assert {v.aval.dtype for c in convolutions for v in c.outvars} == {jnp.dtype(jnp.bfloat16)}


@pytest.mark.slow
def test_remat_changes_nothing_but_the_memory(rng):
  """One level with a scanned run has the same output and gradients when its layers are computed again."""
  json = TINY | dict(
    block_out_channels=(8,),
    attention_head_dim=2,
    down_block_types=(CROSS_DOWN,),
    up_block_types=(CROSS_UP,),
    transformer_layers_per_block=2,
  )
  plain, again = (unet.UNetConfig.from_json(json, remat=remat) for remat in (False, True))
  params = fill(unet.shapes(plain), std=0.3)
  x, t, context, _ = inputs(plain, rng, 2, (4, 6))

  @functools.partial(jax.jit, static_argnums=0)
  def gradients(cfg, params, x, context):
    def loss(x, context):
      out = unet.UNet(cfg).apply({"params": params}, x, t, context)
      return jnp.square(out).mean(), out

    return jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)(x, context)

  recomputed = [str(gradients.trace(cfg, params, x, context).jaxpr).count("remat") for cfg in (plain, again)]
  assert recomputed[0] == 0 and recomputed[1] > 0
  both = [jax.tree.leaves(gradients(cfg, params, x, context)) for cfg in (plain, again)]
  for a, b in zip(*both, strict=True):
    assert relative_error(a, b) < 1e-5


# Keys and shapes.


@pytest.mark.parametrize("name", CONFIGS)
def test_to_torch_is_the_state_dict_again(name):
  """Scanned runs included: what was stacked on reading is split on writing, to the bit."""
  module, cfg, params = twin(name)
  want, back = state_dict(module), weights.to_torch(params)
  assert set(back) == set(want)
  for key, value in want.items():
    np.testing.assert_array_equal(back[key], value)
  stars = {".".join(p.key for p in path) for path, _ in jax.tree_util.tree_leaves_with_path(params)}
  assert any("*" in s for s in stars) == (max(cfg.down_depths + (cfg.mid_depth,)) > 1)


@pytest.mark.parametrize("family, count", [("sd15", 859_520_964), ("sd21", 865_910_724), ("sdxl", 2_567_463_684)])
def test_full_size_keys_and_shapes(family, count):
  json = FAMILIES[family]["unet"]
  with torch.device("meta"):
    module = UNet2DConditionModel.from_config(json)
  ours = weights.keys(unet.shapes(unet.UNetConfig.from_json(json)))
  assert ours == {k: tuple(v.shape) for k, v in module.state_dict().items()}
  assert sum(map(np.prod, ours.values())) == count


@pytest.mark.parametrize("family, count", [("sd15", 361_279_120), ("sd21", 364_228_240), ("sdxl", 1_251_014_160)])
def test_full_size_controlnet_keys_and_shapes(family, count):
  with torch.device("meta"), warnings.catch_warnings():
    warnings.simplefilter("ignore")
    module = ControlNetModel.from_unet(
      UNet2DConditionModel.from_config(FAMILIES[family]["unet"]), load_weights_from_unet=False
    )
  cfg = controlnet.ControlNetConfig.from_json(dict(module.config))
  ours = weights.keys(controlnet.shapes(cfg))
  assert ours == {k: tuple(v.shape) for k, v in module.state_dict().items()}
  assert sum(map(np.prod, ours.values())) == count


def test_a_config_with_all_of_diffusers_fields_is_the_short_one():
  for name, json in CONFIGS.items():
    config = dict(twin(name)[0].config)
    assert len(config) > 45 and None in config.values()
    assert unet.UNetConfig.from_json(config) == unet.UNetConfig.from_json(json)
  with torch.device("meta"):
    default = UNet2DConditionModel()
  assert unet.UNetConfig.from_json(dict(default.config)) == unet.UNetConfig.from_json({})


def test_a_config_is_hashable_and_equal_by_value():
  """It is a static argument of jitted functions, which would fail on a list inside it."""
  lists = {k: list(v) if isinstance(v, tuple) else v for k, v in CONFIGS["sdxl"].items()}
  a, b = unet.UNetConfig.from_json(CONFIGS["sdxl"]), unet.UNetConfig.from_json(lists)
  assert len({a, b}) == 1
  assert len({a, unet.UNetConfig.from_json(lists, remat=True)}) == 2


@pytest.mark.parametrize(
  "field, value",
  [
    ("act_fn", "gelu"),
    ("resnet_time_scale_shift", "scale_shift"),
    ("mid_block_type", None),
    ("mid_block_type", "UNetMidBlock2DSimpleCrossAttn"),
    ("conv_in_kernel", 1),
    ("conv_out_kernel", 5),
    ("downsample_padding", 0),
    ("mid_block_scale_factor", 2),
    ("center_input_sample", True),
    ("only_cross_attention", True),
    ("only_cross_attention", [True, False, True]),
    ("dual_cross_attention", True),
    ("resnet_skip_time_act", True),
    ("resnet_out_scale_factor", 0.5),
    ("time_embedding_type", "fourier"),
    ("attention_type", "gated"),
    ("class_embed_type", "timestep"),
    ("num_class_embeds", 7),
    ("encoder_hid_dim_type", "image_proj"),
    ("encoder_hid_dim", 64),
    ("addition_embed_type", "image"),
    ("time_cond_proj_dim", 256),
    ("timestep_post_act", "silu"),
    ("time_embedding_dim", 64),
    ("time_embedding_act_fn", "silu"),
    ("cross_attention_norm", "layer_norm"),
    ("class_embeddings_concat", True),
    ("reverse_transformer_layers_per_block", [[1], [2, 2], [3]]),
    ("cross_attention_dim", [12, 12, 12]),
    ("layers_per_block", [1, 2]),
    ("layers_per_block", None),
    ("transformer_layers_per_block", [[1], [1, 2], [3]]),
    ("attention_head_dim", (2, 4, 4, 4)),
    ("global_pool_conditions", True),
    ("controlnet_conditioning_channel_order", "bgr"),
  ],
)
def test_what_is_not_supported_is_named(field, value):
  with pytest.raises(ValueError) as caught:
    unet.UNetConfig.from_json(CONFIGS["sdxl"] | {field: value})
  assert f"{field} is {value!r}; supported: " in str(caught.value)
  assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
  "field, types, named",
  [
    ("down_block_types", (DOWN, "AttnDownBlock2D", DOWN), "'AttnDownBlock2D'"),
    ("up_block_types", (UP, "SimpleCrossAttnUpBlock2D", UP), "'SimpleCrossAttnUpBlock2D'"),
  ],
)
def test_block_types_that_are_not_supported_are_named(field, types, named):
  with pytest.raises(ValueError, match=f"block type {named}; supported: '.*', '.*'"):
    unet.UNetConfig.from_json(CONFIGS["sdxl"] | {field: types})
