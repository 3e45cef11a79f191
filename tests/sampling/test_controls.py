"""Stock ControlNets in sampling: diffusers' latents, knobs that are data, the command, and what is refused."""

import json
import warnings

import jax
import numpy as np
import pytest
from PIL import Image
from support import tiny_pipelines
from support.fakes import fill, relative_error

import idejax
from idejax import config
from idejax.errors import UserError
from idejax.jobs import sample
from idejax.model import controlnets
from idejax.nets import controlnet
from idejax.nets.controlnet import ControlNetConfig
from idejax.sampling import controls, pipeline
from idejax.sampling.pipeline import Request, Settings

PROMPTS = ["a fox at sea", "a hat"]
SIZE = (16, 24)
FAMILIES = ["sd15", "sd21-base", "sdxl"]
quiet = lambda _: None


def picture(seed, height=20, width=20):
  return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
  root = tiny_pipelines.write(tmp_path_factory.mktemp("controls"), *FAMILIES)
  for n in (1, 2):
    Image.fromarray(picture(n)).save(root / f"{n}.png")
  (root / "torn.png").write_bytes(b"no picture")
  return root


@pytest.fixture(scope="module")
def opened(root):
  """{family: (a pipeline, the same with a ControlNet whose every weight is random)}, as they are asked for."""
  cache = {}

  def get(family):
    if family not in cache:
      plain = idejax.load(root / family, devices=jax.devices()[:1], notify=quiet)
      cfg = ControlNetConfig.of(plain.backbone.nets.unet, plain.backbone.nets.factor)
      controlnets.write(root / f"{family}-net", cfg, fill(controlnet.shapes(cfg), 3, 0.1))
      cache[family] = plain, plain.with_controlnet(root / f"{family}-net")
    return cache[family]

  return get


def latents(pipe, knobs, init=None, steps=4):
  """Latents [N, C, h, w] of PROMPTS with a control picture each and (strength, start, until)."""
  steers = [controls.steer(picture(n), SIZE, *knobs) for n in (1, 2)]
  requests = [Request(p, steer=s, seed=5) for p, s in zip(PROMPTS, steers)]
  init = None if init is None else init.transpose(0, 2, 3, 1)
  (batch,) = pipeline.generate(pipe, requests, Settings(steps, "ddim", *SIZE, batch=2), init)
  return batch.latents.transpose(0, 3, 1, 2)


def theirs(root, family):
  import diffusers

  diffusers.utils.logging.set_verbosity_error()
  kind = "StableDiffusionXLControlNetPipeline" if family == "sdxl" else "StableDiffusionControlNetPipeline"
  with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    base = diffusers.DiffusionPipeline.from_pretrained(root / family, local_files_only=True)
    net = diffusers.ControlNetModel.from_pretrained(root / f"{family}-net", low_cpu_mem_usage=False)
    more = {} if family == "sdxl" else {"requires_safety_checker": False}
    pipe = getattr(diffusers, kind)(**base.components, controlnet=net, **more)
  pipe.scheduler = diffusers.DDIMScheduler.from_config(pipe.scheduler.config)
  pipe.set_progress_bar_config(disable=True)
  return pipe


@pytest.mark.parametrize("family", FAMILIES)
def test_final_latents_equal_diffusers(root, opened, family):
  """Pictures of another size than the latents', one a prompt; all steps, a weaker one, and a share of the steps."""
  import torch

  plain, pipe = opened(family)
  factor = plain.backbone.nets.factor
  init = np.random.default_rng(1).standard_normal((2, 4, SIZE[0] // factor, SIZE[1] // factor)).astype(np.float32)
  other = theirs(root, family)
  outs = []
  for strength, start, until in ((1.0, 0.0, 1.0), (0.6, 0.0, 1.0), (1.0, 0.25, 0.75)):
    want = other(
      prompt=PROMPTS,
      image=[Image.fromarray(picture(n)) for n in (1, 2)],
      latents=torch.from_numpy(init),
      num_inference_steps=4,
      guidance_scale=7.5,
      height=SIZE[0],
      width=SIZE[1],
      controlnet_conditioning_scale=strength,
      control_guidance_start=start,
      control_guidance_end=until,
      output_type="latent",
    ).images.numpy()
    outs.append(latents(pipe, (strength, start, until), init))
    assert relative_error(outs[-1], want) < 1e-4, (strength, start, until)
  assert relative_error(outs[0], outs[1]) > 1e-3 and relative_error(outs[0], outs[2]) > 1e-3


def test_knobs_and_pictures_compile_nothing_and_strength_0_is_the_model_alone(opened):
  plain, pipe = opened("sd15")
  first = latents(pipe, (1.0, 0.0, 1.0))
  count = pipeline._run._cache_size()
  off = latents(pipe, (0.0, 0.0, 1.0))
  late = latents(pipe, (1.0, 1.0, 1.0))  # it acts in no step
  assert pipeline._run._cache_size() == count
  requests = [Request(p, seed=5) for p in PROMPTS]
  (own,) = pipeline.generate(plain, requests, Settings(4, "ddim", *SIZE, batch=2))
  for x in (off, late):
    assert relative_error(x, own.latents.transpose(0, 3, 1, 2)) < 1e-5
  assert relative_error(first, off) > 1e-3


def test_from_python(opened):
  """One picture for all, or one a prompt with plain prompts between."""
  plain, pipe = opened("sd15")
  images = pipe.sample(["at sea"] * 3, seeds=[7] * 3, control=[picture(1), None, picture(2)], steps=2, batch=3)
  assert len({x.tobytes() for x in images}) == 3
  np.testing.assert_array_equal(images[1], plain.sample("at sea", seeds=[7], steps=2)[0])
  with pytest.raises(UserError, match=r"has no ControlNet that reads control pictures: idejax.load\(model, controlnet"):
    plain.sample("at sea", control=picture(1), steps=2)
  with pytest.raises(UserError, match="control_from is 2; it must be from 0 to 1"):
    pipe.sample("at sea", control=picture(1), control_from=2, steps=2)


def command(root, out, **more):
  usual = dict(model=str(root / "sd15"), controlnet=root / "sd15-net", control=root / "1.png", steps=2, num=1)
  given = usual | dict(out=root / out, prompt=() if more.get("prompts") else ("at sea",)) | more
  sample.main(config.Sample(**given))
  return [np.asarray(Image.open(f)) for f in sorted((root / out).glob("0*.png"))]


def test_the_command(root, opened, capsys):
  """Its record says what steered; a file's rows have pictures of their own, and a bad one is skipped."""
  opened("sd15")
  (own,) = command(root, "own")
  row = json.loads((root / "own" / "manifest.jsonl").read_text())
  assert (row["control_strength"], row["control_from"], row["control_until"]) == (1.0, 0.0, 1.0)
  assert len(row["control"]) == len(row["controlnet"]) == 64
  (off,) = command(root, "off", control_strength=0.0)
  (plain,) = command(root, "plain", controlnet=None, control=None)
  np.testing.assert_array_equal(off, plain)
  assert (own != plain).any()
  with pytest.raises(UserError, match="was made with another control"):
    command(root, "own", control=root / "2.png")
  file = root / "rows.jsonl"
  rows = [{"control": str(root / f"{n}.png")} for n in ("1", "torn", "2")]
  file.write_text("\n".join(json.dumps({"prompt": "at sea"} | r) for r in rows))
  a, b = command(root, "rows", prompts=file, control=None)
  np.testing.assert_array_equal(a, own)
  assert (a != b).any() and "skipped: row 2: " in capsys.readouterr().err


@pytest.mark.parametrize(
  "change, words",
  [
    (dict(controlnet=None), "--control is a picture that a ControlNet reads: give --controlnet FOLDER"),
    (dict(control=None), "--controlnet reads a control picture: give --control PICTURE"),
    (dict(control="absent.png"), "--control .*absent.png does not exist"),
    (dict(control="torn.png"), "torn.png is no picture that can be read"),
    (dict(addon="x"), "--addon and --controlnet are both given"),
    (dict(controlnet="sd15"), "sd15 is no ControlNet folder in diffusers' layout"),
    (dict(controlnet="sdxl-net"), "a ControlNet of another family"),
  ],
)
def test_bad_input(root, opened, change, words):
  opened("sd15"), opened("sdxl")
  given = {k: root / x if k != "addon" and x else x for k, x in change.items()}
  with pytest.raises(UserError, match=words):
    command(root, "bad", **given)
