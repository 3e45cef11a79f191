"""loss.png: what is drawn of one person, of a few and of many; and its axes."""

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from idejax.training import plots


@pytest.fixture
def axes(monkeypatch):
  """The axes of the last figure that was saved."""
  kept = {}
  save = Figure.savefig
  monkeypatch.setattr(Figure, "savefig", lambda self, *a, **k: (kept.update(axes=self.axes[0]), save(self, *a, **k)))
  return lambda: kept["axes"]


def records(steps, people=0):
  rng = np.random.default_rng(0)
  each = np.exp(-np.arange(steps)[:, None] / steps) * rng.uniform(0.5, 1.5, (steps, max(people, 1)))
  rows = [{"step": s, "loss": float(x.mean())} for s, x in enumerate(each)]
  return [r | {"loss_each": list(map(float, x))} for r, x in zip(rows, each)] if people else rows


def texts(axes):
  return [t.get_text() for t in axes.get_legend().get_texts()]


def test_one_person_is_a_mean_over_every_step(tmp_path, axes):
  rows = records(400)
  rows[7]["loss"] = None  # a step that was skipped
  plots.loss(tmp_path / "loss.png", rows, "ID-EA: <anna>")
  mean, raw = axes().lines
  assert texts(axes()) == ["mean of 19 steps", "each step"]
  assert axes().get_title() == "ID-EA: <anna>" and axes().get_ylabel() == "loss"
  assert axes().get_xlabel() == "training step" and axes().get_yscale() == "log"
  assert len(raw.get_xdata()) == 399 and raw.get_xdata()[0] == 1
  assert np.std(np.diff(mean.get_ydata())) < 0.1 * np.std(np.diff(raw.get_ydata()))
  with Image.open(tmp_path / "loss.png") as image:
    assert image.width > 900
  assert [p.name for p in tmp_path.iterdir()] == ["loss.png"]


def test_a_few_people_have_a_line_each_with_their_names(tmp_path, axes):
  plots.loss(tmp_path / "loss.png", records(40, 3), "two", ["<ann>", "<ben>"])
  assert texts(axes()) == ["<ann>", "<ben>", "person 3"]


def test_many_people_are_a_median_and_a_band(tmp_path, axes):
  plots.loss(tmp_path / "loss.png", records(40, 20), "many", ["x"] * 20)
  assert texts(axes()) == ["median of 20 people", "middle 80 % of 20 people"]


@pytest.mark.parametrize("steps", [1, 2, 3, 5])
def test_a_short_run_has_whole_steps(tmp_path, axes, steps):
  plots.loss(tmp_path / "loss.png", records(steps, 2), "short")
  ticks = axes().get_xticks()
  assert (ticks == np.round(ticks)).all()
  for line in axes().lines:
    np.testing.assert_array_equal(line.get_xdata(), np.arange(steps) + 1)


def test_the_logarithmic_axis_has_labels_within_a_decade(tmp_path, axes):
  plots.loss(tmp_path / "loss.png", [{"step": s, "loss": 0.1 + 0.3 / (1 + s)} for s in range(100)], "a decade")
  low, high = axes().get_ylim()
  assert sum(low <= t <= high for t in axes().get_yticks()) >= 2


def test_losses_below_zero_are_drawn_too(tmp_path, axes):
  plots.loss(tmp_path / "loss.png", [{"step": s, "loss": s - 3.0} for s in range(9)], "signed")
  assert axes().get_yscale() == "linear"


def test_no_loss_no_picture(tmp_path):
  plots.loss(tmp_path / "loss.png", [{"step": 0, "loss": None}], "nothing")
  assert not list(tmp_path.iterdir())


def test_the_running_mean_is_centred_and_leaves_out_what_is_not_there():
  np.testing.assert_allclose(plots.smooth(np.arange(9.0), 3)[1:-1], np.arange(1.0, 8.0))
  np.testing.assert_allclose(plots.smooth(np.array([1.0, np.nan, 3.0, 5.0]), 3), [1, 2, 4, 4])
  assert plots.smooth(np.array([2.0, 4.0]), 3).shape == (2,)
