"""The presets of `idejax pretrain`, as files: what each trains, and that its commands are commands."""

import re
import shlex
import typing
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from idejax import config, tree
from idejax.cli import config_file, options
from idejax.jobs import pretrain
from idejax.methods import facesnap
from idejax.model import families
from idejax.person.subject import Frozen
from idejax.planning import model

ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / "configs").glob("facesnap_*.py"))


@pytest.mark.parametrize(
  "name, steps, batch, lr, pixels",
  [
    ("sdxl", 360_000, 14, 1e-5, 1024),
    ("sd15", 20_000, 8, 1e-5, 512),
    ("sd21", 20_000, 8, 1e-5, 512),
    ("miniature", 4000, 8, 1e-3, 64),
    ("tiny", 30, 4, 1e-3, 64),
  ],
)
def test_what_a_preset_trains(name, steps, batch, lr, pixels):
  file = ROOT / "configs" / f"facesnap_{name}.py"
  c = config_file.load(file, config.Pretrain)
  cfg = pretrain.settings(c)
  assert (cfg.steps, cfg.batch, cfg.lr) == (steps, batch, lr) and c.validate_every <= steps
  parts, _ = model.configs(c.model)
  factor = 2 ** (len(parts["vae"]["block_out_channels"]) - 1)
  assert parts["unet"]["sample_size"] * factor == pixels
  stored = re.findall(r"idejax prepare .*--size (\d+)", file.read_text())
  assert stored == ([] if c.data == "drawn" else [str(pixels)])


def test_every_preset_has_a_name_and_a_file():
  """--preset takes the method's presets; each file in configs/ is of one, and those of SD keep their pictures still."""
  assert set(typing.get_args(typing.get_type_hints(config.Pretrain)["preset"])) == {"default", *facesnap.PRESETS}
  used = {config_file.load(f, config.Pretrain).preset for f in FILES}
  assert used == set(facesnap.PRESETS)
  assert [n for n, c in facesnap.PRESETS.items() if c.augment] == ["paper"]


@pytest.mark.parametrize("file", FILES, ids=lambda f: f.stem)
def test_the_commands_in_a_preset_are_commands(file, monkeypatch):
  """Each line parses, and the training reads what the line before it wrote, by the nets that stored their work there."""
  monkeypatch.chdir(ROOT)
  lines = [shlex.split(x) for x in file.read_text().splitlines() if x.startswith("idejax ")]
  kinds = {"prepare": config.Prepare, "pretrain": config.Pretrain}
  parsed = {words[1]: options.parse(kinds[words[1]], words[2:], f"idejax {words[1]}") for words in lines}
  c = parsed["pretrain"]
  assert lines[-1][:4] == ["idejax", "pretrain", "--config", f"configs/{file.name}"]
  if one := parsed.get("prepare"):
    assert (str(one.out), one.model, one.vision, one.pack) == (c.data, c.model, c.vision, c.pack)


@pytest.mark.parametrize(
  "family, numbers", [("sdxl", 1_379_968_784), ("sd15", 488_591_504), ("sd21-base", 491_869_072)]
)
def test_how_many_numbers_train_beside_each_family(family, numbers):
  """Mixer and FFRNet at the paper's sizes, by shapes alone."""
  b = model.abstract(families.KNOWN.get(family, family), jnp.bfloat16, None)
  frozen = Frozen(b, {"clip": np.zeros(1280, np.float32), "recogniser": None}, None, None)
  cfg = facesnap.PRESETS["paper"]
  params = jax.eval_shape(lambda key: facesnap.init(key, jax_zeros(frozen), cfg), jax.random.key(0))
  assert tree.size(params) == numbers
  assert {x.dtype for x in jax.tree.leaves(params)} == {jnp.dtype("float32")}


def jax_zeros(frozen):
  """Shapes as arrays that exist only while shapes are computed."""
  return jax.tree.map(
    lambda x: jnp.zeros(x.shape, x.dtype) if isinstance(x, jax.ShapeDtypeStruct) else x,
    frozen,
    is_leaf=lambda x: isinstance(x, jax.ShapeDtypeStruct),
  )
