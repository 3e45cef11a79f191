"""The benchmark's figures are of the same work on both sides, and complete."""

import json
import time
from pathlib import Path

import pytest

from idejax import config
from idejax.bench import faces as bench_faces
from idejax.bench import inputs as bench_input
from idejax.bench import run as bench
from idejax.errors import UserError


@pytest.mark.slow
@pytest.mark.parametrize("family", ["sd15", "sdxl"])
def test_figures(tmp_path, capsys, family):
  what = ("unet", "sample", "vae")
  out = tmp_path / "new" / "bench.json"
  bench.main(
    config.Bench(family=family, small=True, vs="diffusers", what=what, batch=2, steps=2, repeats=2, peak=1.0, out=out)
  )
  report = json.loads(out.read_text())
  assert set(report["figures"]) == set(what)
  assert {"jax", "torch", "diffusers"} <= set(report["versions"]) and report["device"]
  for name, figure in report["figures"].items():
    assert figure["relative_error"] < (1e-4 if name != "vae" else 0.01), name  # the VAE's are bytes
    assert figure["ratio"] == pytest.approx(figure["seconds"] / figure["peer_seconds"])
    assert figure["tflops"] == pytest.approx(figure["tflop"] / figure["seconds"])
    assert len(figure["times"]["ours"]) == len(figure["times"]["theirs"]) == 2
  unet, sample = report["figures"]["unet"], report["figures"]["sample"]
  assert sample["tflop"] == pytest.approx(2 * 2 * unet["tflop"])  # two steps, two branches
  output = capsys.readouterr().out
  assert output.count("ours/theirs") == 3 and "% of peak" in output


def test_what_cannot_be_measured():
  with pytest.raises(UserError, match="--size 30 is not a multiple of 4"):
    bench.main(config.Bench(small=True, size=30))
  with pytest.raises(UserError, match="start at 1"):
    bench.main(config.Bench(batch=0))


@pytest.mark.parametrize("load, busy", [(0.1, 0.0), (1.7, 1.7)])
def test_a_busy_machine_is_told_of_before_anything_is_measured(monkeypatch, capsys, load, busy):
  monkeypatch.setattr(bench, "_ticks", lambda: None)
  monkeypatch.setattr(bench.os, "getloadavg", lambda: (load, 9.0, 9.0))
  bench.prepare_machine(config.Bench())
  assert bench.busy_cores() == busy
  assert ("warning: other work keeps 1.7 of" in capsys.readouterr().err) == (busy > 0)


@pytest.mark.parametrize("working, busy", [(3, 0.0), (85, 1.7)])
def test_a_machine_that_was_busy_a_minute_ago_is_not_called_so(monkeypatch, working, busy):
  ticks = iter([(1000, 5000), (1000 + working, 5100)])
  monkeypatch.setattr(bench, "_ticks", lambda: next(ticks))
  monkeypatch.setattr(bench.os, "cpu_count", lambda: 2)
  monkeypatch.setattr(bench.os, "getloadavg", lambda: (9.0, 9.0, 9.0))
  assert bench.busy_cores() == pytest.approx(busy)


@pytest.mark.skipif(not Path("/proc/stat").exists(), reason="not Linux")
def test_ticks_pass():
  before = bench._ticks()
  time.sleep(0.05)
  after = bench._ticks()
  assert 0 <= after[0] - before[0] <= after[1] - before[1] > 0


def test_threads_bind_both_sides_to_as_many_cores(monkeypatch):
  bound = []
  monkeypatch.setattr(bench.os, "sched_getaffinity", lambda pid: {3, 1, 2})
  monkeypatch.setattr(bench.os, "sched_setaffinity", lambda pid, chosen: bound.append(chosen))
  bench.prepare_machine(config.Bench(threads=2))
  assert bound == [[1, 2]] and bench.os.environ["OMP_WAIT_POLICY"]


@pytest.mark.slow
def test_input_is_measured_alone_and_in_front_of_a_training(tmp_path, monkeypatch, capsys):
  monkeypatch.setattr(bench_input, "_PEOPLE", 8)
  monkeypatch.setattr(bench_input.cores, "cores", lambda: 1)
  out = tmp_path / "bench.json"
  bench.main(config.Bench(what=("input",), small=True, size=96, repeats=1, steps=2, out=out))
  figures = json.loads(out.read_text())["figures"]["input"]
  assert {"workers_0", "workers_1", "training"} == set(figures)
  assert figures["workers_0"]["pictures_per_second"] > 0 and 0 <= figures["training"]["waits"] < 1
  assert "in wait for input" in capsys.readouterr().out


def test_photos_and_records_are_measured_stage_by_stage(tmp_path, monkeypatch, capsys):
  """Every stage, the shards, and rows as a training reads them, with latents and tokens of SD's sizes in the records."""
  monkeypatch.setattr(bench_faces, "_PEOPLE", 3)
  monkeypatch.setattr(bench_faces, "_STEPS", 3)
  out = tmp_path / "bench.json"
  bench.main(config.Bench(what=("faces",), size=64, repeats=1, out=out))
  figures = json.loads(out.read_text())["figures"]["faces"]
  stages = ["detect", "embed", "landmarks", "masks", "captions", "latents", "clip", "shards"]
  assert list(figures["stages"]) == stages
  assert all(x > 0 for f in figures["stages"].values() for x in f.values())
  assert figures["records"]["records_per_second"] > 0 and figures["records"]["rows_per_second"] > 0
  assert 0 <= figures["waits"]["share"] < 1
  text = capsys.readouterr().out
  assert all(name in text for name in (*stages, "rows", "of the time in wait"))
