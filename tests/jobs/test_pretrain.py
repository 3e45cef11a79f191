"""`idejax pretrain` on a tiny model: an add-on that steers, resumed to the bit; what is refused."""

import dataclasses

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file
from support import addons, facepack, tiny_pipelines

import idejax
from idejax import config
from idejax.errors import UserError
from idejax.jobs import pretrain
from idejax.methods import facesnap


@pytest.fixture(scope="module")
def root(tmp_path_factory):
  root = tiny_pipelines.write(tmp_path_factory.mktemp("pretrain"), "sd15")
  for name in ("anna", "bert"):
    (root / "people" / name).mkdir(parents=True)
    for n in range(2):
      picture = facepack.picture((1, 2), seed=n + 10 * (name == "bert"))
      Image.fromarray(picture).save(root / "people" / name / f"{n}.png")
  addons.tower(root / "tower")
  facepack.pack(root / "green", landmarks=True)
  return root


def command(root, out, **more):
  return config.Pretrain(
    out=root / out,
    data=str(root / "people"),
    model=str(root / "sd15"),
    preset="tiny",
    batch=2,
    pack=str(root / "green"),
    vision=str(root / "tower"),
    **more,
  )


@pytest.fixture(scope="module")
def small(monkeypatch_module):
  tiny = facesnap.Config(dim=8, head_dim=4, identity_tokens=3, tokens=4, layers=1, identity_weight=0, steps=4, lr=1e-2)
  monkeypatch_module.setitem(facesnap.PRESETS, "tiny", tiny)


@pytest.fixture(scope="module")
def monkeypatch_module():
  with pytest.MonkeyPatch.context() as m:
    yield m


def weights(folder):
  return {p: load_file(folder / p / "diffusion_pytorch_model.safetensors") for p in ("mixer", "controlnet")}


@pytest.mark.slow
def test_an_interrupted_run_ends_in_the_same_add_on(root, small):
  """Two steps, then two more, equal four at once to the bit; and the add-on steers."""
  pretrain.main(command(root, "whole"))
  pretrain.main(command(root, "parts", minutes=0.0))  # stops after a step, as after a kill
  assert "; 1 steps" in (root / "parts" / "addon" / "README.md").read_text()
  pretrain.main(command(root, "parts"))
  one, two = weights(root / "whole" / "addon"), weights(root / "parts" / "addon")
  for part in one:
    for name, x in one[part].items():
      np.testing.assert_array_equal(x, two[part][name], err_msg=name)
  pipe = idejax.load(
    root / "sd15", addon=root / "whole" / "addon", pack=str(root / "green"), devices=None, notify=lambda _: None
  )
  anna, bert = (root / "people" / who / "0.png" for who in ("anna", "bert"))
  images = pipe.sample(["at sea"] * 3, seeds=[1, 1, 1], steps=2, face=[anna, None, anna], pose=["none", None, "left"])
  assert (images[0] != images[1]).any() and (images[0] != images[2]).any()
  tokens = [pipe.faces.steer(who, "none", (32, 32)).tokens for who in (anna, bert)]
  assert np.abs(tokens[0] - tokens[1]).max() > 1e-4


@pytest.mark.slow
def test_other_settings_do_not_continue_a_run(root, small):
  if not (root / "whole" / "checkpoints").exists():
    pretrain.main(command(root, "whole"))
  with pytest.raises(UserError, match="begun with other settings: lr was 0.01 and is now 0.02"):
    pretrain.main(command(root, "whole", lr=0.02))


@pytest.mark.parametrize(
  "given, words",
  [
    (dict(data="nowhere"), "--data nowhere is no folder"),
    (dict(people=3), "--people and --each are of drawn people"),
    (dict(batch=3, accumulate=2), "a batch of 3 cannot be cut into 2 equal parts"),
    (dict(vision="nowhere"), "nowhere holds no CLIP image encoder"),
  ],
)
def test_bad_input(root, given, words):
  with pytest.raises(UserError, match=words):
    pretrain.main(dataclasses.replace(command(root, "bad"), **given))
  assert not (root / "bad").exists()


def test_the_drawn_world_has_its_own_pack():
  with pytest.raises(UserError, match="--pack buffalo_l knows no drawn people"):
    pretrain.main(config.Pretrain(pack="buffalo_l"))
