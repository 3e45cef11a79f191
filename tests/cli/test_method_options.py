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
    (["--heads", "0"], "--heads is 0; it must be at least 1"),
    (["--rank=0"], "--rank is 0"),
    (["--beta", "50"], "--beta is 50.0; it must be from 0 to 1"),
    (["--lr", "-1"], "--lr is -1.0; it must be from 0 to 1"),
    (["--lr", "1e9"], "--lr is 1000000000.0"),
    (["--checkpoint-every=0"], "--checkpoint-every is 0"),
    (["--drawn", "0"], "--drawn is 0"),
    (["--minutes", "-1"], "--minutes is -1.0"),
    (["--sample-steps", "999"], "--sample-steps is 999; it must be from 1 to 128"),
    (["--guidance", "-5"], "--guidance is -5.0"),
    (["--strength=-4"], "--strength is -4.0"),
    (["--templates", "a photo"], "--templates is 'a photo'; it must contain {}"),
    (["--phrase", "x"], "--phrase is 'x'; it must contain {}"),
    *((["--name", n], "--name is .*one word of letters or digits") for n in ("!", "{}", ".", "<|endoftext|>", "a b")),
    (["--name=-"], "--name is '-'"),
    (["--compare", "id-ea/heads=0"], "--compare has 'id-ea/heads=0': heads is 0"),
  ],
)
def test_mistakes_are_one_sentence(args, said):
  with pytest.raises(UserError, match=said) as e:
    method_options.entries(parse(*args))
  assert "\n" not in str(e.value)


def test_config_json_repeats_the_run(tmp_path):
  first = parse("anna.png", "--method", "textual-inversion", "--lr", "0.25", "--prompts", "a {} b", "{} c")
  file = tmp_path / "config.json"
  file.write_text(json.dumps(method_options.to_json(first)))
  assert parse("--config", str(file)) == first
  assert parse("--config", str(file), "--lr", "0.1").cfg.lr == 0.1


def test_a_config_of_another_shape_is_refused(tmp_path):
  file = tmp_path / "config.json"
  for text, said in (("[1]", "no JSON object"), ('{"lrr": 1}', "no setting 'lrr'"), ('{"seed": "x"}', "seed is 'x'")):
    file.write_text(text)
    with pytest.raises(UserError, match=said):
      parse("--config", str(file))


def test_a_python_config_sets_command_and_method(tmp_path):
  file = tmp_path / "c.py"
  file.write_text(
    "from idejax.config import Personalize\n"
    "config = Personalize(method='textual-inversion', seed=5)\nsettings = dict(lr=0.125)\n"
  )
  got = parse("--config", str(file))
  assert (got.run.seed, got.cfg.lr) == (5, 0.125)


def test_presets_are_listed_with_their_values(capsys):
  assert parse("--method", "sefi-ide", "--preset", "list") is None
  said = capsys.readouterr().out
  assert "pairs-7              stages=7" in said and "the defaults: stages=5" in said
  assert all(f"  {name} " in said for name in METHODS["sefi-ide"].PRESETS)


def test_names_of_earlier_versions_are_understood(tmp_path):
  """config.json of a run that began before ID-EA's switches were turned round."""
  file = tmp_path / "config.json"
  plain = method_options.to_json(parse("--heads", "4"))
  old = {k: v for k, v in plain.items() if k != "adapter"}
  for names, adapter, enhancer in (
    ((False, False), True, "paper"),
    ((True, False), False, "paper"),
    ((False, True), True, "none"),
  ):
    file.write_text(json.dumps(old | dict(zip(("no_adapter", "no_enhancer"), names))))
    cfg = parse("--config", str(file)).cfg
    assert (cfg.adapter, cfg.enhancer, cfg.heads) == (adapter, enhancer, 4)


def test_help_shows_the_methods_own_options(capsys):
  assert parse("--method", "textual-inversion", "--help-all") is None
  said = capsys.readouterr().out
  assert "--weight-decay" in said and "--photo" in said and "idejax personalize anna.png" in said
