"""`idejax bench sample --addon`: what is counted once a picture and what at every step; the goal at released sizes."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest
from support import addons, tiny_pipelines, toys
from support.command import assert_one_sentence, run

from idejax import config
from idejax.bench import one_face as faces
from idejax.bench import run as bench
from idejax.errors import UserError
from idejax.model import addon, backbone
from idejax.nets import controlnet, vae
from idejax.nets.clip_vision import VisionConfig
from idejax.nets.controlnet import ControlNetConfig
from idejax.nets.mixer import MixerConfig
from idejax.runtime import flops
from idejax.sampling import pipeline, sampler


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
  root = tiny_pipelines.write(tmp_path_factory.mktemp("bench"), "sd15")
  b = backbone.load(root / "sd15")
  return root, addon.load(b, addons.write(root / "addon", b))


def test_a_step_has_the_controlnet_and_a_picture_all_else(opened):
  _, a = opened
  two, four = (faces.count(a.backbone, a.mixer, None, n) for n in (2, 4))
  assert four["face"] - two["face"] == 2 * two["step"] and two["once"] == four["once"]
  assert set(two["once"]) == {"control picture", "mixer"} and min(two["once"].values()) > 0
  assert two["ratio"] > four["ratio"] > 1


def test_the_sampler_runs_no_more_than_that(opened):
  """In the compiled program of the steps, FLOPs are those of as many steps: no mixer and no control picture in it."""
  _, a = opened
  b, m, S = a.backbone, a.mixer, lambda *shape: jax.ShapeDtypeStruct(shape, jnp.float32)
  n = b.nets.unet
  side = n.sample_size
  cond = backbone.Conditioning(*(S(1, 2, 77, n.context_dim),) * 2, control_context=S(2, m.tokens, m.context_dim))
  image = S(2, side * b.nets.factor, side * b.nets.factor, 3)
  cond = dataclasses.replace(
    cond, control_embedded=jax.eval_shape(backbone.embed_control, b, image), control_scale=S(2)
  )
  table = sampler.table("ddim", b.nets.schedule, 4)
  state = jax.eval_shape(sampler.init, S(1, side, side, n.channels[0]), table)
  keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), 1))
  projected = jax.eval_shape(backbone.project, b, cond)
  mesh = pipeline.sharding.make_mesh(jax.devices()[:1])
  run = lambda *args: pipeline._run(*args, guided=True, mesh=mesh)
  total = flops.count(run, b, state, table, cond, projected, S(1), keys)
  assert total == sampler.MAX_ROWS * faces.count(b, m, None, 1)["step"]


@pytest.mark.parametrize("family", ["sd15", "sdxl"])
def test_the_goal_at_released_sizes(family):
  """Counted without memory: 30 steps at the family's size, CLIP ViT-H/14, the paper's mixer."""
  b = toys.full_size(family)
  cfg = ControlNetConfig.of(b.nets.unet, b.nets.factor)
  nets = dataclasses.replace(b.nets, controlnet=cfg)
  params = b.params | {"controlnet": controlnet.shapes(cfg), "vae": vae.shapes(nets.vae)}
  tower = VisionConfig.from_json(dict(
    model_type="clip_vision_model", hidden_size=1280, intermediate_size=5120, num_hidden_layers=32,
    num_attention_heads=16, image_size=224, patch_size=14, projection_dim=1024, hidden_act="gelu"))  # fmt: skip
  figures = faces.count(backbone.Backbone(nets, params), MixerConfig(context_dim=b.nets.unet.context_dim), tower, 30)
  assert 1.3 < figures["ratio"] < faces.GOAL


@pytest.mark.slow
def test_the_command(opened, capsys, tmp_path):
  root, _ = opened
  c = config.Bench(
    ("sample",), addon=root / "addon", model=str(root / "sd15"), steps=2, repeats=1, out=tmp_path / "f.json"
  )
  bench.main(c)
  said = capsys.readouterr().out
  assert "times (goal: at most 1.45)" in said and "image encoder" in said and "picture(s)" in said
  assert (tmp_path / "f.json").is_file()
  with pytest.raises(UserError, match="no add-on folder"):
    bench.main(dataclasses.replace(c, addon=root / "sd15"))
  with pytest.raises(UserError, match="name sample among the measurements"):
    bench.main(dataclasses.replace(c, what=("vae",)))


@pytest.mark.slow
def test_from_the_command_line(opened):
  root, _ = opened
  assert_one_sentence(run("bench", "unet", "--addon", str(root / "addon")), "name sample among the measurements")
