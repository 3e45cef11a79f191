"""Pipeline folders as backbones: loading, refusals, stages and spliced rows."""

import dataclasses
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.fakes import relative_error

from idejax.errors import UserError
from idejax.model import backbone, families, tokens
from idejax.model.backbone import Conditioning
from idejax.nets import target, unet, vae
from idejax.storage import tensorfiles, weights

STAGES, TRAIN_STEPS = 5, 1000


def tiny(family):
  """Two levels and norms of four channels: loading or compiling it takes half a second."""
  full, xl = families.small(family), family == "sdxl"
  levels = dict(block_out_channels=[8, 16], norm_num_groups=4, layers_per_block=1)
  attends = dict(
    down_block_types=["DownBlock2D", "CrossAttnDownBlock2D"],
    attention_head_dim=[1, 2],
    up_block_types=["CrossAttnUpBlock2D", "UpBlock2D"],
    transformer_layers_per_block=[1, 2],
  )
  plain = dict(
    down_block_types=["CrossAttnDownBlock2D", "DownBlock2D"], up_block_types=["UpBlock2D", "CrossAttnUpBlock2D"]
  )
  autoencoder = dict(down_block_types=["DownEncoderBlock2D"] * 2, up_block_types=["UpDecoderBlock2D"] * 2)
  return full | dict(
    unet=full["unet"] | levels | (attends if xl else plain),
    vae=full["vae"] | levels | autoencoder | dict(force_upcast=xl),
  )


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
  root = tmp_path_factory.mktemp("tiny")
  for family in ("sd15", "sdxl"):
    families.write_random(root / family, family, configs=tiny(family))
  return root


@pytest.fixture(scope="module", params=["sd15", "sdxl"])
def opened(request, folders):
  return folders / request.param, backbone.load(folders / request.param)


@pytest.fixture
def copy(folders, tmp_path):
  """A copy of the folder that a test may damage."""
  return lambda family: shutil.copytree(folders / family, tmp_path / family)


def edit(path, **changes):
  path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def refuse(folder, *said, **options):
  """Loading fails with one sentence that contains everything in `said`."""
  with pytest.raises(UserError) as caught:
    backbone.load(folder, **options)
  message = str(caught.value)
  assert "\n" not in message
  for text in said:
    assert text in message, message


# What loads.


def test_every_tensor_of_the_files_arrives(opened):
  folder, b = opened
  for name, params in b.params.items():
    stem = "model" if name.startswith("text") else "diffusion_pytorch_model"
    on_disk = tensorfiles.read(folder / name, stem)
    back = weights.to_torch(params)
    assert set(back) == set(on_disk)
    for key in on_disk:
      np.testing.assert_array_equal(back[key], on_disk[key])


def test_what_is_static_about_it(opened):
  folder, b = opened
  xl = folder.name == "sdxl"
  assert set(b.params) == {"unet", "vae", "text_encoder"} | ({"text_encoder_2"} if xl else set())
  assert (b.nets.xl, b.nets.factor, b.nets.latent_channels, len(b.nets.text)) == (xl, 2, 4, 1 + xl)
  assert b.nets.zero_empty_negative == xl
  assert b.nets.schedule.class_name == ("EulerDiscreteScheduler" if xl else "PNDMScheduler")
  assert hash(b.nets) == hash(dataclasses.replace(b.nets))
  leaves, tree = jax.tree.flatten(b)
  assert all(isinstance(leaf, np.ndarray) for leaf in leaves)
  assert jax.tree.unflatten(tree, leaves).nets is b.nets


def test_old_sd_schedulers_are_mended_as_in_diffusers(copy):
  """SD 1.4's file says clip_sample and no offset; diffusers' pipeline overrules both."""
  folder = copy("sd15")
  edit(folder / "scheduler" / "scheduler_config.json", clip_sample=True, steps_offset=0)
  schedule = backbone.load(folder).nets.schedule
  assert (schedule.clip_sample, schedule.steps_offset) == (False, 1)


def test_bfloat16_but_for_a_vae_that_asks_for_float32(opened, monkeypatch):
  monkeypatch.setattr(target, "cpu_multiplies_bfloat16", lambda: True)
  folder, _ = opened
  b = backbone.load(folder, dtype=jnp.bfloat16)
  dtypes = {name: {leaf.dtype for leaf in jax.tree.leaves(p)} for name, p in b.params.items()}
  upcast = folder.name == "sdxl"
  assert b.nets.vae_dtype == (jnp.float32 if upcast else jnp.bfloat16)
  for name, kinds in dtypes.items():
    assert kinds == {jnp.dtype(jnp.float32 if name == "vae" and upcast else jnp.bfloat16)}
  z = jax.ShapeDtypeStruct((1, 4, 4, 4), jnp.float32)
  assert jax.eval_shape(backbone.decode, b, z).dtype == jnp.float32  # pixels always are
  ids = (jnp.zeros((1, 77), jnp.int32),) * len(b.nets.text)
  context, _ = jax.eval_shape(lambda b: backbone.encode_text(b, ids, tuple(i[:, 0] for i in ids)), b)
  assert context.dtype == jnp.bfloat16


def test_a_cpu_without_units_for_bfloat16_holds_it_and_computes_float32(opened, monkeypatch):
  """There every bfloat16 operation is a float32 one and a rounding, so computing in it would be slower."""
  monkeypatch.setattr(target, "cpu_multiplies_bfloat16", lambda: False)
  folder, full = opened
  b = backbone.load(folder, dtype=jnp.bfloat16)
  assert b.nets == full.nets and b.nets.dtype == b.nets.unet.dtype == b.nets.vae_dtype == jnp.float32
  assert {x.dtype for x in jax.tree.leaves(b.params["unet"])} == {jnp.dtype(jnp.bfloat16)}
  with target.compiling_for("tpu"):
    assert backbone.load(folder, dtype=jnp.bfloat16).nets.dtype == jnp.bfloat16


# What does not load.


@pytest.mark.parametrize(
  "file",
  [
    "model_index.json",
    "unet/config.json",
    "vae/config.json",
    "text_encoder/config.json",
    "scheduler/scheduler_config.json",
  ],
)
@pytest.mark.parametrize(
  "content, said",
  [
    (None, "is missing"),
    ("{", "cannot be read"),
    ("[1, 2]", "holds no JSON object"),
    ("\udcff", "cannot be read"),
    ("[" * 100_000, "cannot be read"),
  ],
  ids=["missing", "cut", "list", "bytes", "deep"],
)
def test_a_json_file_that_is_none(copy, file, content, said):
  folder = copy("sd15")
  if content is None:
    (folder / file).unlink()
  else:
    (folder / file).write_text(content, errors="surrogateescape")
  refuse(folder, str(folder / file), said)


@pytest.mark.parametrize(
  "file, changes, said",
  [
    ("unet", dict(act_fn="relu"), "act_fn is 'relu'"),
    ("unet", dict(block_out_channels=[8, 17]), "no net can be built from it"),
    ("unet", dict(block_out_channels="ab"), "no net can be built from it"),
    ("unet", dict(norm_num_groups=0), "no net can be built from it"),
    ("unet", dict(attention_head_dim=3), "no net can be built from it"),
    ("unet", dict(sample_size=[8, 8]), "unhashable"),
    ("unet", dict(down_block_types=7), "unet/config.json"),
    ("vae", dict(act_fn="relu"), "relu"),
    ("vae", dict(latent_channels=-1), "no net can be built from it"),
    ("text_encoder", dict(hidden_act="relu"), "relu"),
  ],
)
def test_a_config_that_no_net_fits(copy, file, changes, said):
  folder = copy("sd15")
  edit(folder / file / "config.json", **changes)
  refuse(folder, str(folder / file / "config.json"), said)


@pytest.mark.parametrize(
  "changes, said",
  [
    (dict(_class_name="FlowMatchEulerDiscreteScheduler"), "FlowMatchEulerDiscreteScheduler"),
    (dict(prediction_type="noise"), "prediction_type"),
    (dict(beta_start="much"), "beta_start"),
  ],
)
def test_a_scheduler_that_is_not_supported(copy, changes, said):
  folder = copy("sd15")
  file = folder / "scheduler" / "scheduler_config.json"
  edit(file, **changes)
  refuse(folder, str(file), said)


@pytest.mark.parametrize("component", ["unet", "vae", "text_encoder"])
def test_a_component_that_is_not_there(copy, component):
  folder = copy("sd15")
  shutil.rmtree(folder / component)
  refuse(folder, str(folder / component))
  for part in ([None, None], None, 5, "diffusers", []):
    edit(folder / "model_index.json", **{component: part})
    refuse(folder, str(folder / "model_index.json"), f"has no {component}:")


def test_a_folder_without_weights(copy):
  folder = copy("sd15")
  (folder / "vae" / "diffusion_pytorch_model.safetensors").unlink()
  refuse(folder, str(folder / "vae"), "diffusion_pytorch_model.safetensors")


def test_an_sdxl_refiner_is_named_as_such(copy):
  """Its folder has no first text encoder."""
  folder = copy("sdxl")
  edit(folder / "model_index.json", text_encoder=[None, None], _class_name="StableDiffusionXLImg2ImgPipeline")
  refuse(folder, "model_index.json", "StableDiffusionXLImg2ImgPipeline", "no text_encoder:", "SDXL base")


def test_the_unet_of_another_model(copy, folders):
  folder = copy("sd15")
  shutil.rmtree(folder / "unet")
  shutil.copytree(folders / "sdxl" / "unet", folder / "unet")
  refuse(folder, str(folder), "32 features, the UNet takes 72", "components of different models")


def test_an_sdxl_unet_without_its_second_text_encoder(copy, folders, tmp_path):
  configs = tiny("sdxl")
  del configs["text_encoder_2"]
  configs["unet"] |= dict(cross_attention_dim=32)
  families.write_random(tmp_path / "half", "sdxl", configs=configs)
  refuse(tmp_path / "half", str(tmp_path / "half"), "1 text encoder(s) do not fit this UNet")


@pytest.mark.parametrize("channels", [9, 5])
def test_an_inpainting_or_depth_unet(tmp_path, channels):
  configs = tiny("sd15")
  configs["unet"] |= dict(in_channels=channels)
  families.write_random(tmp_path / "inpaint", "sd15", configs=configs)
  refuse(
    tmp_path / "inpaint", str(tmp_path / "inpaint"), f"the UNet takes {channels} channels, the VAE has 4", "inpainting"
  )


KEY = "down_blocks.0.resnets.0.time_emb_proj.weight"


@pytest.mark.parametrize(
  "spoil, said",
  [
    (lambda t: t.pop(KEY), [f"1 missing: {KEY}"]),
    (lambda t: t.update({"unheard.of": t.pop(KEY)}), [f"1 missing: {KEY}", "1 not used by the model: unheard.of"]),
    (lambda t: t.update({KEY: t[KEY].T.copy()}), [f"{KEY} is float32[32, 8] there and float32[8, 32]"]),
    (lambda t: t.update({KEY: t[KEY].astype(np.int8)}), [f"{KEY} is int8[8, 32] there"]),
  ],
  ids=["missing", "renamed", "transposed", "integer"],
)
def test_a_spoilt_tensor_is_named(copy, spoil, said):
  folder = copy("sd15")
  path = folder / "unet" / "diffusion_pytorch_model.safetensors"
  tensors = dict(tensorfiles.read(folder / "unet", path.stem))
  spoil(tensors)
  tensorfiles.write(path, tensors)
  refuse(folder, "sd15/unet", *said)


# Stages.


def test_stages_of_the_paper():
  """SeFi-IDE's five stages, counted from 0: the noisiest fifth is stage 0."""
  t = np.arange(TRAIN_STEPS)
  at = np.asarray(jax.jit(lambda t: backbone.stage(t, STAGES, TRAIN_STEPS))(t))
  assert {int(k): int(at[k]) for k in (999, 800, 799, 200, 199, 0)} == {999: 0, 800: 0, 799: 1, 200: 3, 199: 4, 0: 4}
  np.testing.assert_array_equal(np.bincount(at), [200] * 5)
  ddim = np.arange(50) * 20 + 1
  np.testing.assert_array_equal(np.bincount(at[ddim]), [10] * 5)


@pytest.mark.parametrize("stages", [1, 2, 3, 7, 9, 10])
def test_stages_equal_whole_numbers_and_stay_in_range(stages):
  t = np.arange(TRAIN_STEPS + 1)
  at = jax.jit(lambda t: backbone.stage(t, stages, TRAIN_STEPS))
  np.testing.assert_array_equal(at(t[:-1].astype(np.float32)), stages - 1 - stages * t[:-1] // TRAIN_STEPS)
  assert at(np.float32(1000)) == 0 and at(np.float32(-1)) == stages - 1  # samplers' end points


PREDICT = jax.jit(backbone.predict)


def conditioning(b, rng, stages, batch):
  normal = lambda *shape: jnp.asarray(rng.standard_normal(shape), jnp.float32)
  context = lambda: normal(stages, batch, 6, b.nets.unet.context_dim)
  pooled, ids = (normal(batch, 24), jnp.full((batch, 6), 64.0)) if b.nets.xl else (None, None)
  return Conditioning(context(), context(), pooled, ids)


def test_each_row_reads_the_context_of_its_own_stage(opened, rng):
  _, b = opened
  t = np.array([999, 0, 450, 700], np.float32)  # stages 0, 4, 2, 1 in one batch
  cond = conditioning(b, rng, STAGES, 4)
  x = rng.standard_normal((4, 4, 6, 4)).astype(np.float32)
  ours = PREDICT(b, x, t, cond)
  pick = lambda y: jnp.stack([jnp.stack([y[s, i] for i, s in enumerate((0, 4, 2, 1))])] * STAGES)
  picked = dataclasses.replace(cond, k=pick(cond.k), v=pick(cond.v))  # no stage to choose any more
  np.testing.assert_array_equal(ours, PREDICT(b, x, t, picked))
  # Projected once, gathered afterwards: the same, on single and on scanned blocks.
  projected = jax.jit(backbone.project)(b, cond)
  assert any("*" in path for path in projected) == b.nets.xl
  assert relative_error(PREDICT(b, x, t, cond, projected=projected), ours) < 1e-5
  wrong = dataclasses.replace(cond, k=cond.k[::-1], v=cond.v[::-1])
  assert relative_error(PREDICT(b, x, t, wrong), ours) > 1e-3


@pytest.mark.parametrize("stages", [1, STAGES])
def test_predict_hands_everything_to_the_unet(opened, stages, rng, monkeypatch):
  """Only the arguments are checked; the UNet's own tests show what it computes from them."""
  _, b = opened
  calls = {}

  class FakeUNet:
    def __init__(self, cfg):
      calls["cfg"] = cfg

    def apply(self, variables, x, t, context, added, residuals, extra, mutable):
      calls.update(
        params=variables["params"],
        x=x,
        t=t,
        context=context,
        added=added,
        residuals=residuals,
        extra=extra,
        mutable=mutable,
      )
      return ("output", {"attention": "captured"}) if mutable else "output"

  monkeypatch.setattr(unet, "UNet", FakeUNet)
  cond, x = conditioning(b, rng, stages, 2), np.zeros((2, 4, 6, 4), np.float32)
  assert backbone.predict(b, x, 321, cond) == "output"  # a scalar timestep is everybody's
  np.testing.assert_array_equal(calls["t"], [321, 321])
  at = 0 if stages == 1 else 3
  np.testing.assert_array_equal(calls["context"][0], cond.k[at])
  np.testing.assert_array_equal(calls["context"][1], cond.v[at])
  assert calls["cfg"] is b.nets.unet and calls["params"] is b.params["unet"] and calls["x"] is x
  assert calls["added"] == ((cond.pooled, cond.time_ids) if b.nets.xl else None)
  assert calls["residuals"] is calls["extra"] is None and not calls["mutable"]
  got = backbone.predict(b, x, 321, cond, residuals="r", extra="e", capture=True)
  assert got == ("output", "captured")
  assert (calls["residuals"], calls["extra"], calls["mutable"]) == ("r", "e", ["attention"])


# Prompts with learned rows.


PROMPTS = ["a photo of <me> and <you>.", "<you>, <me>", "nobody", "<me>"]
PLACEHOLDERS = {"<me>": 3, "<you>": 2}


def encode(b, encoded, rows):
  """rows: one [5, D] table per encoder, spliced into every prompt."""
  where = tuple(e.where for e in encoded)
  spread = tuple(jnp.broadcast_to(r[None], (len(PROMPTS), *r.shape)) for r in rows)
  return backbone.encode_text(b, tuple(e.ids for e in encoded), tuple(e.eos for e in encoded), spread, where)


@pytest.fixture(scope="module")
def prompts(opened):
  """The prompts with placeholders, encoded by each tokenizer of a folder."""
  folder, b = opened
  names = ["tokenizer", "tokenizer_2"][: len(b.nets.text)]
  return b, [tokens.load(folder / name).encode(PROMPTS, PLACEHOLDERS) for name in names]


def test_spliced_rows_are_read_where_the_placeholders_stand(prompts):
  """Rows taken from the token table give what the tokens themselves give, in every encoder."""
  b, encodings = prompts
  table = lambda n: b.params[n]["text_model.embeddings.token_embedding"]["embedding"]
  names = [n for n in b.params if n.startswith("text")]
  letters = np.array([65, 66, 67, 68, 69])
  rows = [table(n)[letters] for n in names]
  context, pooled = jax.jit(lambda b, rows: encode(b, encodings, rows))(b, rows)
  ids = []
  for e in encodings:
    plain = e.ids.copy()
    for n, positions in enumerate(e.where):
      for row, at in enumerate(positions):
        if at >= 0:
          plain[n, at] = letters[row]
    ids.append(plain)
  spelled, spelled_pooled = jax.jit(backbone.encode_text)(b, tuple(ids), tuple(e.eos for e in encodings))
  np.testing.assert_array_equal(context, spelled)
  assert context.shape == (4, 77, b.nets.unet.context_dim)
  assert (pooled is None) == (not b.nets.xl)
  if pooled is not None:
    np.testing.assert_array_equal(pooled, spelled_pooled)
    assert pooled.shape == (4, b.nets.text[1].projection_dim)


def test_every_row_of_every_encoder_gets_a_gradient_if_a_prompt_uses_it(prompts, rng):
  b, encodings = prompts
  rows = [0.02 * rng.standard_normal((5, t.hidden_size)).astype(np.float32) for t in b.nets.text]

  def loss(rows, used):
    context, pooled = encode(b, encodings, rows)
    total = jnp.square(context * used[:, None, None]).sum()
    return total if pooled is None else total + jnp.square(pooled * used[:, None]).sum()

  gradient = jax.jit(jax.grad(loss))
  for used, moved in (([1, 1, 1, 1], [1, 1, 1, 1, 1]), ([0, 0, 0, 1], [1, 1, 1, 0, 0]), ([0, 0, 1, 0], [0] * 5)):
    for g in gradient(rows, np.array(used, np.float32)):
      np.testing.assert_array_equal(np.abs(g).max(-1) > 0, moved)


# The VAE.


def test_latents_have_the_scale_and_shift_of_the_config(folders, rng):
  b = backbone.load(folders / "sd15")
  b = dataclasses.replace(b, nets=dataclasses.replace(b.nets, vae=dataclasses.replace(b.nets.vae, shift_factor=0.25)))
  z = rng.standard_normal((1, 4, 4, 4)).astype(np.float32)
  np.testing.assert_allclose(backbone.scale_latents(b, z), (z - 0.25) * 0.18215, rtol=1e-6)
  pixels = jax.jit(backbone.decode)(b, backbone.scale_latents(b, z))
  want = jax.jit(vae.Decoder(b.nets.vae).apply)({"params": b.params["vae"]}, z)
  assert relative_error(pixels, want) < 1e-5
  mean, logvar = jax.eval_shape(backbone.encode_image, b, pixels)
  assert mean.shape == logvar.shape == z.shape


def test_latent_statistics_of_the_config(random_folder):
  """SDXL finetunes may state a mean and deviation per channel; diffusers' SDXL applies them."""
  b = backbone.load(random_folder("sdxl"))
  plain = dataclasses.replace(b.nets.vae, scaling_factor=0.5)
  stated = dataclasses.replace(plain, latents_mean=(1.0, 2.0, 3.0, 4.0), latents_std=(2.0, 2.0, 4.0, 4.0))
  with_vae = lambda v: backbone.Backbone(dataclasses.replace(b.nets, vae=v), b.params)
  z = np.random.default_rng(0).standard_normal((1, 4, 4, 4)).astype(np.float32)
  scaled = backbone.scale_latents(with_vae(stated), z)
  want = (z - np.arange(1, 5, dtype=np.float32).reshape(1, 1, 1, 4)) * 0.5 / np.array([2, 2, 4, 4]).reshape(1, 1, 1, 4)
  np.testing.assert_allclose(scaled, want, rtol=1e-6)
  decode = jax.jit(backbone.decode)
  back = decode(with_vae(stated), scaled)  # the same VAE latents on both ways
  assert relative_error(back, decode(with_vae(plain), backbone.scale_latents(with_vae(plain), z))) < 1e-5
