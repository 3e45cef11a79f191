"""The benchmark of training: the peer's step computes the same, and a crowd's cost is linear in its people."""

import json
from pathlib import Path

import pytest
from support.command import tiny_model

from idejax import config
from idejax.bench import commands as bench_commands
from idejax.bench import run as bench
from idejax.cli import method_options
from idejax.errors import UserError


def run(tmp_path, **options):
  out = tmp_path / "bench.json"
  bench.main(config.Bench(what=("personalize",), repeats=1, steps=1, out=out, **options))
  return json.loads(out.read_text())["figures"]["personalize"]


@pytest.mark.slow
def test_textual_inversion_is_the_peers(tmp_path, capsys):
  figures = run(tmp_path, method="textual-inversion", model=str(tiny_model()), train_batch=2, people=(), vs="diffusers")
  assert figures["peer"]["loss_differs"] < 1e-5 and figures["peer"]["gradient_differs"] < 1e-4
  assert figures["peer"]["ratio"] == pytest.approx(
    figures["peer"]["seconds_a_step"] / figures["peer"]["peer_seconds_a_step"]
  )
  # Forward and backward, the text encoder's forward twice (remat), and no gradient of any weight.
  assert 1.9 < figures["forward"]["step_over_forward"] < 3.1
  assert "ours/theirs" in capsys.readouterr().out


@pytest.mark.slow
def test_a_crowd_costs_as_much_as_its_people(tmp_path):
  figures = run(tmp_path, method="id-ea", model=str(tiny_model()), train_batch=2, people=(8,))
  assert figures["crowd_8"]["flops_per_person"] < 1.02
  assert figures["crowd_8"]["flop_a_step"] == 8 * figures["one"]["flop_a_step"]


def test_what_cannot_be_measured(tmp_path):
  with pytest.raises(UserError, match="--method is 'magic'"):
    run(tmp_path, method="magic")
  with pytest.raises(UserError, match="no preset 'none'"):
    run(tmp_path, preset="none")
  with pytest.raises(UserError, match="--people start at 1"):
    run(tmp_path, people=(0,))


# ---- Whole commands -------------------------------------------------------------------------------


def test_jobs_are_compared_with_the_second_of_one_person(tmp_path, monkeypatch, capsys):
  """The arithmetic, with stand-in commands that take a stated time."""
  ran, seconds = [], iter([60.0, 30.0, 120.0])

  def pretend(line, folder):
    ran.append(line)
    to = Path(line[line.index("--out") + 1])
    to.mkdir()
    (to / "report.json").write_text('{"seconds": {"train": 17.0}}')
    return next(seconds)

  monkeypatch.setattr(bench_commands, "_seconds", pretend)
  out = tmp_path / "bench.json"
  bench.main(config.Bench(what=("jobs",), people=(8,), train_batch=4, out=out))
  figures = json.loads(out.read_text())["figures"]["jobs"]
  assert figures["crowd_8"] == {"seconds": 120, "people_an_hour": 240, "gain": 2, "phases": {"train": 17}}
  assert figures["first"]["seconds"] == 60 and figures["one"]["people_an_hour"] == 120
  assert [line[line.index("--drawn") + 1] for line in ran] == ["1", "1", "8"]
  assert "2.00 times those of one after another" in capsys.readouterr().out
  for _, *line in ran:
    assert method_options.parse(line, "idejax personalize").cfg.batch == 4


@pytest.mark.slow
def test_a_job_is_the_installed_command(tmp_path):
  out = tmp_path / "bench.json"
  c = config.Bench(
    what=("jobs",),
    method="textual-inversion",
    preset="miniature",
    model=str(tiny_model()),
    people=(2,),
    train_batch=1,
    out=out,
  )
  bench.main(c)
  figures = json.loads(out.read_text())["figures"]["jobs"]
  assert figures["first"]["seconds"] > figures["one"]["seconds"] > figures["one"]["phases"]["train"] > 0
  assert figures["crowd_2"]["gain"] == pytest.approx(2 * figures["one"]["seconds"] / figures["crowd_2"]["seconds"])


def test_a_job_that_fails_says_why():
  with pytest.raises(UserError, match="idejax personalize failed: .*--method is 'magic'"):
    bench.main(config.Bench(what=("jobs",), method="magic", people=()))
