"""`idejax plan` of a pretraining: the shapes, bytes and FLOPs are those of the step that `idejax pretrain` runs."""

import dataclasses
import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support import tiny_pipelines

from idejax import config, sharding
from idejax.errors import UserError
from idejax.jobs import plan, plan_pretraining
from idejax.methods import facesnap
from idejax.model import conditioning
from idejax.model.backbone import predict
from idejax.model.conditioning import Prompts
from idejax.nets import iresnet
from idejax.planning import pretraining, topology
from idejax.runtime import flops
from idejax.training import fit
from idejax.training import step as st

CFG = facesnap.Config(dim=64, head_dim=32, identity_tokens=3, tokens=4, layers=1, identity_weight=0, batch=8, steps=100)

ROW = pretraining.Costs(error=172_493_568, identity=0, kept=3_503_888)  # of a tiny model


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  return str(tiny_pipelines.write(tmp_path_factory.mktemp("plan"), "sd15") / "sd15")


@pytest.fixture(scope="module")
def shapes(folder):
  return pretraining.shapes(CFG, folder, jnp.float32, None, False)


@pytest.fixture(scope="module")
def one(folder):
  return pretraining.costs(CFG, folder, False)


def test_a_batch_has_the_rows_that_the_loss_reads(shapes, folder, one):
  """The step traces with it, and its FLOPs are the batch's rows times one row's."""
  key = jax.eval_shape(lambda: jax.random.key(0))
  tx = st.by_path(*facesnap.rates(CFG))
  step = st.make_step(lambda p, f, b, k: facesnap.loss(p, f, b, k, CFG), tx)
  after, metrics = jax.eval_shape(step, shapes.state, shapes.frozen, shapes.batch(3), key)
  assert jax.tree.map(jnp.shape, after) == jax.tree.map(jnp.shape, shapes.state) and metrics["loss"].shape == ()
  plain = pretraining.shapes(CFG, folder, jnp.float32, "plain", False)
  assert flops.count(step, plain.state, plain.frozen, plain.batch(8), key) == pytest.approx(8 * one.error, rel=0.02)


def test_a_row_costs_a_few_forward_passes_of_the_unet(folder, one):
  """UNet, ControlNet, mixer and texts once forward, and a gradient through the UNet's second half and what trains."""
  s = pretraining.shapes(CFG, folder, jnp.float32, "plain", False)
  rows = s.batch(1)

  def forward(frozen, batch):
    cond = conditioning.contexts(frozen.backbone, Prompts(batch["ids"], batch["eos"], ()), None)
    return predict(frozen.backbone, batch["mean"], jnp.zeros(1, jnp.int32), cond)

  unet = flops.count(forward, s.frozen, rows)
  assert 3 * unet < one.error < 20 * unet and one.identity == 0 and one.kept > 1e5


@pytest.mark.slow
def test_the_identity_loss_costs_its_samplings(folder, shapes, one):
  """Four steps of sampling of which one has a gradient, on the steps that have it; a quarter of them after a fifth."""
  cfg = dataclasses.replace(CFG, identity_weight=0.5)
  costs = pretraining.costs(cfg, folder, False)
  net = plan_pretraining.twin(cfg, "buffalo_l")
  judged = pretraining.costs(cfg, folder, False, net)
  assert judged.error == costs.error and judged.identity - costs.identity == pytest.approx(2.2 * 12.6e9, rel=0.15)
  assert costs.error == one.error and costs.identity > 2 * one.error / 3
  less = pretraining.costs(dataclasses.replace(cfg, identity_steps=2), folder, False)
  assert one.error / 10 < costs.identity - less.identity < costs.identity / 2
  d = pretraining.read("v5e-8")
  f, plain = (pretraining.plan(dataclasses.replace(shapes, cfg=c), costs, d) for c in (cfg, CFG))
  assert f["flops"] - plain["flops"] == pytest.approx(8 * 0.8 / 4 * costs.identity)


@pytest.mark.parametrize("count, least", [(8, 64), (8, 1 << 28), (4, 64), (1, 64)])
def test_bytes_on_a_device_are_those_that_the_trainer_puts_there(shapes, monkeypatch, count, least):
  """The state of a real training, placed on virtual devices; in parts and whole."""
  monkeypatch.setattr(fit, "LARGE", least)
  monkeypatch.setattr(sharding, "LARGE", 64)
  p = pretraining.place(shapes, count)
  mesh = fit.person_mesh(facesnap, CFG, shapes.frozen, sharding.make_mesh(jax.devices()[:count]))
  assert p.fsdp == mesh.shape["fsdp"]
  bytes_of = lambda tree: sum(
    x.dtype.itemsize * math.prod(w.shard_shape(x.shape))
    for x, w in zip(jax.tree.leaves(tree), jax.tree.leaves(sharding.by_shape(tree, mesh)))
  )
  assert (p.state, p.frozen) == (bytes_of(shapes.state), bytes_of(shapes.frozen))
  assert (p.joined > 0) == (p.fsdp > 1)
  w = pretraining.place(shapes, count, whole=True)
  assert w.frozen == sum(x.dtype.itemsize * math.prod(x.shape) for x in jax.tree.leaves(shapes.frozen)) >= p.frozen
  assert w.state == p.state and (w.moved < p.moved) == (w.joined < p.joined) == (p.fsdp > 1)


def test_what_collectives_move():
  """One weight of 4 kB in four parts of eight devices, and one whole: joined, its gradient divided, then summed."""
  f32 = lambda *shape: jax.ShapeDtypeStruct(shape, np.float32)
  state = st.State(f32(), {"a": f32(1 << 20), "b": f32(2)}, {}, f32(2))
  s = pretraining.Shapes(CFG, None, state)
  a, b, parts = 4 << 20, 8, 8
  old, fit.LARGE = fit.LARGE, 64
  try:
    p = pretraining.place(s, 16)
  finally:
    fit.LARGE = old
  assert p.fsdp == parts and p.joined == a * 7 // 8 and p.largest == a
  assert p.moved == pytest.approx(2 * a * 7 / 8 + 2 * (a / 8) * (1 / 2) + 2 * b * 15 / 16)
  assert pretraining.place(s, 1).moved == 0


def test_days_and_cost_follow_from_the_step(shapes):
  d = pretraining.read("v5e-8")
  f = pretraining.plan(shapes, ROW, d, images=80_001, share=0.5, price=2.0)
  assert f["steps"] == 10_001 and f["images"] == 80_008 and f["rows"] == 1
  assert f["seconds"] == pytest.approx(max(f["seconds_compute"], f["seconds_memory"]) + f["seconds_links"])
  assert f["seconds_compute"] == pytest.approx(8 * ROW.error / 8 / 197e12)
  assert f["days"] == pytest.approx(10_001 * f["seconds"] / 0.5 / 86400)
  assert f["cost"] == pytest.approx(2.0 * 8 * 24 * f["days"])
  assert pretraining.plan(shapes, ROW, d)["images"] == 800
  idle = pretraining.plan(shapes, ROW, pretraining.read("v5e-16"))
  assert idle["working"] == 8 and idle["seconds_compute"] == pytest.approx(f["seconds_compute"])


def test_what_does_not_fit_is_said_and_what_fits_is_counted(shapes):
  d = pretraining.read("h100:8")
  small = lambda memory: pretraining.plan(shapes, ROW, d._replace(chip=d.chip._replace(memory=memory)))
  f = pretraining.plan(shapes, ROW, d)
  assert f["fits"] == "yes" and small(f["least"])["fits"] == "no"
  big = f["largest_batch"][0]
  rows = dataclasses.replace(shapes, cfg=dataclasses.replace(CFG, batch=big))
  assert pretraining.plan(rows, ROW, d)["fits"] == "yes"
  more = dataclasses.replace(shapes, cfg=dataclasses.replace(CFG, batch=big + 8))
  assert pretraining.plan(more, ROW, d)["fits"] == "no" or f["joined"] > 0


def test_a_picture_that_moves_is_encoded_in_the_step(shapes, folder):
  """The VAE's encoder on one picture; counted for each row of the batch, and for none where pictures stay."""
  once = pretraining.encoding(shapes)
  convolutions = 2 * 9 * 32**2 * 3 * 8  # the first one's, of the tiny VAE's eight channels
  assert once > 10 * convolutions
  d = pretraining.read("v5e-8")
  f, moved = (pretraining.plan(shapes, x, d)["flops"] for x in (ROW, ROW._replace(encode=once)))
  assert moved - f == 8 * once


def test_the_recogniser_of_the_identity_loss_is_counted(folder, tmp_path):
  """Its arithmetic forward and back to the picture, and its bytes on every device; of a pack that is here its own net."""
  cfg = dataclasses.replace(CFG, identity_weight=0.5)
  net = plan_pretraining.twin(cfg, "buffalo_l")
  assert plan_pretraining.twin(CFG, "buffalo_l") is None
  assert jax.tree.map(jnp.shape, net) == jax.tree.map(jnp.shape, iresnet.shapes(iresnet.IRESNET50))
  assert "stem" in plan_pretraining.twin(cfg, "miniature")
  S = jax.ShapeDtypeStruct
  images, marks = S((1, 32, 32, 3), np.float32), S((1, 72, 2), np.float32)
  forward = flops.count(pretraining.read_face, net, images, marks)
  assert forward == pytest.approx(12.6e9, rel=0.05)  # 6.3 G multiply-adds, as IResNet-50 is known for
  back = flops.count(jax.grad(lambda x, p, m: pretraining.read_face(p, x, m).sum()), images, net, marks)
  assert 2 * forward <= back < 2.5 * forward  # strides count with the zeros between
  with_it, without = (pretraining.shapes(cfg, folder, jnp.float32, None, False, n) for n in (net, None))
  bytes_ = sum(4 * math.prod(x.shape) for x in jax.tree.leaves(net))
  assert pretraining.place(with_it, 1).frozen - pretraining.place(without, 1).frozen == bytes_ > 150e6


@pytest.mark.parametrize(
  "kind, flops_",
  [
    ("TPU v5 lite", 197e12), ("TPU v5p", 459e12), ("TPU v5", 459e12), ("TPU v6 lite", 918e12), ("TPU v4", 137.5e12),
    ("NVIDIA H100 80GB HBM3", 989e12), ("NVIDIA H200", 989e12), ("NVIDIA H100 PCIe", None), ("cpu", None),
    ("Tesla T4", None),
  ],
)  # fmt: skip
def test_the_peak_of_a_device_as_jax_names_it(kind, flops_):
  assert topology.peak(kind) == flops_


@pytest.mark.parametrize("name, devices", [("h200:8", 8), ("H100-4", 4), ("v5e-256", 256), ("v5p:4x4x4", 64)])
def test_topologies(name, devices):
  assert pretraining.read(name).devices == devices


def test_a_topology_that_is_none():
  with pytest.raises(UserError, match="KIND:GRID"):
    pretraining.read("v9:4")


def test_the_command(folder, tmp_path, capsys, monkeypatch):
  """A config file of `idejax pretrain` is planned on several topologies, and again from what was kept."""
  monkeypatch.setitem(facesnap.PRESETS, "tiny", CFG)
  monkeypatch.setenv("IDEJAX_CACHE", str(tmp_path / "cache"))
  monkeypatch.setattr(pretraining, "costs", lambda *_: ROW)
  run = tmp_path / "run.py"
  run.write_text(f"from idejax.config import Pretrain\nconfig = Pretrain(preset='tiny', model={folder!r})\n")
  out = tmp_path / "out.json"
  args = ["--config", str(run), "--topology", "v5e-8", "h100:8", "--price", "2", "--images", "1e4", "--out", str(out)]
  plan.main(plan.parse(args, "idejax plan"))
  text = capsys.readouterr()
  assert "counting a row's work" in text.err
  assert "v5e:2x4: 8 devices, 1 rows on each" in text.out and "h100:8: 8 devices" in text.out
  assert "10,000 faces" in text.out and "at 2 a chip and hour" in text.out and "not compiled" in text.out
  first = json.loads(out.read_text())
  plan.main(plan.parse(args, "idejax plan"))
  assert json.loads(out.read_text()) == first and "counting" not in capsys.readouterr().err
  for given, words in (
    (["--people", "2"], "--people, --fsdp, --blocks and --check are of idejax personalize"),
    (["--method", "id-ea"], "--method is of idejax personalize"),
    (["--batch", "0"], "--batch is 0"),
  ):
    with pytest.raises(UserError, match=words):
      plan.main(plan.parse([*args[:2], *given], "idejax plan"))
  with pytest.raises(UserError, match="--price and --images are of a run of idejax pretrain"):
    plan.main(config.Plan(model="sd15", price=2.0))
