"""The benchmark of training: the peer's step is the same arithmetic, the crowd's costs are linear."""

import json

import pytest
from command import tiny_model

from idejax import bench, config
from idejax.errors import UserError


def run(tmp_path, **options):
  out = tmp_path / "bench.json"
  bench.main(config.Bench(what=("personalize",), repeats=1, steps=1, out=out, **options))
  return json.loads(out.read_text())["figures"]["personalize"]


@pytest.mark.slow
def test_textual_inversion_is_the_peers(tmp_path, capsys):
  found = run(tmp_path, method="textual-inversion", model=str(tiny_model()), train_batch=2, people=(), vs="diffusers")
  assert found["peer"]["loss_differs"] < 1e-5 and found["peer"]["gradient_differs"] < 1e-4
  assert found["peer"]["ratio"] == pytest.approx(found["peer"]["seconds_a_step"] / found["peer"]["peer_seconds_a_step"])
  # Forward and backward, the text encoder's forward twice (remat), and no gradient of any weight.
  assert 1.9 < found["forward"]["step_over_forward"] < 3.1
  assert "ours/theirs" in capsys.readouterr().out


@pytest.mark.slow
def test_a_crowd_costs_as_much_as_its_people(tmp_path):
  found = run(tmp_path, method="id-ea", model=str(tiny_model()), train_batch=2, people=(8,))
  assert found["crowd_8"]["flops_per_person"] < 1.02
  assert found["crowd_8"]["flop_a_step"] == 8 * found["one"]["flop_a_step"]


def test_what_cannot_be_measured(tmp_path):
  with pytest.raises(UserError, match="--method is 'magic'"): run(tmp_path, method="magic")
  with pytest.raises(UserError, match="no preset 'none'"): run(tmp_path, preset="none")
  with pytest.raises(UserError, match="--people start at 1"): run(tmp_path, people=(0,))
