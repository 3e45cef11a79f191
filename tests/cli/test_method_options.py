"""The flags of `idejax personalize`, those of its methods among them."""

import json
from pathlib import Path

import pytest

from idejax.cli import method_options
from idejax.errors import UserError
from idejax.methods import METHODS


def parse(*args):
  return method_options.parse(list(args), "idejax personalize")


@pytest.mark.parametrize("method", METHODS)
def test_every_method_has_presets_for_both_worlds_and_no_field_of_the_command(method):
  small, large = (parse("--method", method, "--model", m) for m in ("miniature", "somewhere"))
  assert small.cfg == METHODS[method].PRESETS["miniature"] and large.cfg == METHODS[method].PRESETS["paper"]
  assert small.run.method == method


def test_flags_reach_the_command_and_the_method():
  got = parse("anna.png", "--method=textual-inversion", "--lr", "0.5", "--steps=7", "--name", "<anna>", "--seed", "3")
  assert got.run.photo == Path("anna.png") and got.run.name == "<anna>" and got.run.seed == 3
  assert got.cfg.lr == 0.5 and got.cfg.steps == 7
  assert got.cfg.start == METHODS["textual-inversion"].PRESETS["miniature"].start  # all else as the preset has it


def test_a_preset_by_name():
  assert parse("--method", "textual-inversion", "--preset", "cross-init").cfg.reg == 1e-5


@pytest.mark.parametrize(
  "args, said",
  [
    (["--method", "dreambuth"], "did you mean dreambooth"),
    (["--preset", "papr"], "did you mean paper"),
    (["--stepz", "3"], "--stepz"),
    (["--method", "textual-inversion", "--lr", "big"], "--lr is 'big'"),
    (["--config", "nowhere.json"], "nowhere.json"),
    (["--config"], "without its value"),
  ],
)
def test_mistakes_are_one_sentence(args, said):
  with pytest.raises(UserError, match=said) as e:
    parse(*args)
  assert "\n" not in str(e.value)


def test_config_json_repeats_the_run(tmp_path):
  first = parse("anna.png", "--method", "textual-inversion", "--lr", "0.25", "--prompts", "a {} b", "{} c")
  file = tmp_path / "config.json"
  file.write_text(json.dumps(method_options.to_json(first)))
  assert parse("--config", str(file)) == first
  assert parse("--config", str(file), "--lr", "0.1").cfg.lr == 0.1


def test_a_config_of_another_shape_is_refused(tmp_path):
  file = tmp_path / "config.json"
  for text, message in (
    ("[1]", "no JSON object"),
    ('{"lrr": 1}', "no setting 'lrr'"),
    ('{"seed": "x"}', "seed is 'x'"),
  ):
    file.write_text(text)
    with pytest.raises(UserError, match=message):
      parse("--config", str(file))


def test_a_python_config_sets_command_and_method(tmp_path):
  file = tmp_path / "c.py"
  file.write_text(
    "from idejax.config import Personalize\n"
    "config = Personalize(method='textual-inversion', seed=5)\nsettings = dict(lr=0.125)\n"
  )
  got = parse("--config", str(file))
  assert (got.run.seed, got.cfg.lr) == (5, 0.125)


def test_help_shows_the_methods_own_options(capsys):
  assert parse("--method", "textual-inversion", "--help") is None
  output = capsys.readouterr().out
  assert "--weight-decay" in output and "--photo" in output and "idejax personalize anna.png" in output
