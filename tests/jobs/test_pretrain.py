"""`idejax pretrain` on a tiny model: an add-on that steers, resumed to the bit; what is refused."""

import dataclasses

import numpy as np
import pytest
from safetensors.numpy import load_file
from support import pretraining

import idejax
from idejax import config
from idejax.errors import UserError
from idejax.jobs import pretrain


@pytest.fixture(scope="module")
def root(tmp_path_factory):
  return pretraining.world(tmp_path_factory.mktemp("pretrain"))


def command(root, out, **more):
  return pretraining.command(root, root / out, **({"data": "people"} | more))


@pytest.fixture(scope="module")
def small():
  with pretraining.settings():
    yield


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
def test_records_on_the_disk_train_the_same_add_on_to_the_bit(root, small, capsys):
  """Read step by step, and stopped after a step, against all in memory."""
  data = pretraining.prepared(root, root / "faces", root / "people", 32).name
  pretrain.main(command(root, "memory", data=data))
  pretrain.main(command(root, "disk", data=data, memory=0.0, minutes=0.0))
  assert "4 faces of 2 people, read step by step\n" in capsys.readouterr().err
  pretrain.main(command(root, "disk", data=data, memory=0.0))
  one, two = weights(root / "memory" / "addon"), weights(root / "disk" / "addon")
  for part in one:
    for name, x in one[part].items():
      np.testing.assert_array_equal(x, two[part][name], err_msg=name)


@pytest.mark.slow
def test_pictures_that_move_train_the_same_add_on_however_often_it_stopped(root, small, capsys):
  """Records with stored latents, which are those of unmoved pictures; another add-on than without moves."""
  data = pretraining.prepared(root, root / "still", root / "people", 32).name
  moving = dict(data=data, augment=1.0, steps=2)
  pretrain.main(command(root, "moving", **moving))
  assert "read step by step, their latents computed anew (pictures move)" in capsys.readouterr().err
  pretrain.main(command(root, "moving-parts", **moving, minutes=0.0))
  pretrain.main(command(root, "moving-parts", **moving))
  pretrain.main(command(root, "not-moving", data=data, steps=2))
  one, two, other = (weights(root / n / "addon")["controlnet"] for n in ("moving", "moving-parts", "not-moving"))
  for name, x in one.items():
    np.testing.assert_array_equal(x, two[name], err_msg=name)
  assert any((x != other[name]).any() for name, x in one.items())
  with pytest.raises(UserError, match="augment was 1.0 and is now 0.5"):
    pretrain.main(command(root, "moving", **moving | {"augment": 0.5}))


@pytest.mark.slow
def test_the_average_of_the_steps_is_kept(root, small):
  """After one step of two an average that begins with nine tenths of it: of what was 0, nine tenths of what it became."""
  pretrain.main(command(root, "last", minutes=0.0))
  pretrain.main(command(root, "average", minutes=0.0, ema=0.99))
  last, average = (weights(root / name / "addon")["controlnet"] for name in ("last", "average"))
  zero = [n for n in last if n.startswith("controlnet_down_blocks") and n.endswith("weight")]
  assert zero and all(np.abs(last[n]).max() > 0 for n in zero)
  for name in zero:
    np.testing.assert_allclose(average[name], 0.9 * last[name].astype(np.float32), rtol=2e-3, atol=1e-6, err_msg=name)


@pytest.mark.slow
def test_it_learns_from_several_photos_at_once(root, small):
  """Batches hold one or two references of each person, and the add-on says so and fuses."""
  pretrain.main(command(root, "several", photos=2, minutes=0.0))
  folder = root / "several" / "addon"
  pipe = idejax.load(root / "sd15", addon=folder, pack=str(root / "green"), devices=None, notify=lambda _: None)
  assert pipe.faces.addon.mixer.photos == 2 and pipe.faces.fuses(2)
  both = [root / "people" / "anna" / f"{n}.png" for n in (0, 1)]
  assert pipe.faces.steer(both, "none", (32, 32)).tokens.shape == (4, 32)


@pytest.mark.slow
def test_other_settings_do_not_continue_a_run(root, small):
  if not (root / "whole" / "checkpoints").exists():
    pretrain.main(command(root, "whole"))
  with pytest.raises(UserError, match="begun with other settings: lr was 0.01 and is now 0.02"):
    pretrain.main(command(root, "whole", lr=0.02))


@pytest.mark.parametrize(
  "given, words",
  [
    (dict(data="nowhere"), "--data .*nowhere is no folder"),
    (dict(people=3), "--people and --each are of drawn people"),
    (dict(contrast=0.5, identity_weight=0.0), "--contrast 0.5 is a part of the identity loss, whose weight is 0"),
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
