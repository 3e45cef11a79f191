"""`idejax plan` of a config of `idejax pretrain`: memory, work, days and cost on chips that are not at hand."""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from idejax import config, faces
from idejax.cli import config_file
from idejax.errors import UserError, tell
from idejax.jobs import pretrain
from idejax.nets import iresnet
from idejax.person import recogniser
from idejax.planning import kept, model, pretraining
from idejax.planning.figures import gib
from idejax.runtime.timing import words
from idejax.storage.files import write_json

DEFAULT = ("v5e-256", "v6e-8", "v5p:4x4x4", "h100:8", "h200:8")


def of(c: config.Plan) -> config.Pretrain | None:
  """The planned run, if --config names one of `idejax pretrain`."""
  if (
    c.run is None
    or c.run.suffix != ".py"
    or not isinstance(config_file.variables(c.run).get("config"), config.Pretrain)
  ):
    return None
  return config_file.load(c.run, config.Pretrain)


def main(c: config.Plan, run: config.Pretrain):
  for name in ("method", "dtype"):
    if getattr(c, name) is not None:
      raise UserError(f"--{name} is of idejax personalize; {c.run} is a run of idejax pretrain")
  if c.people or c.fsdp > 1 or c.blocks or c.check:
    raise UserError(
      "--people, --fsdp, --blocks and --check are of idejax personalize; a pretraining is planned by shapes alone"
    )
  run = dataclasses.replace(run, model=c.model or run.model, batch=c.batch or run.batch, remat=c.remat or run.remat)
  cfg = pretrain.settings(run)
  devices = [pretraining.read(n) for n in (DEFAULT if c.table and c.topology == config.Plan.topology else c.topology)]
  net = twin(cfg, run.pack)
  one, shapes = costs(cfg, run, net), pretraining.shapes(cfg, run.model, jnp.bfloat16, None, run.remat, net)
  how = dict(accumulate=run.accumulate, images=c.images, share=c.share, price=c.price, whole=run.frozen == "whole")
  answers = [pretraining.plan(shapes, one, d, **how) for d in devices]  # type: ignore[arg-type]
  head = (
    f"FaceSnap on {run.model}, batch {cfg.batch}, bfloat16{', remat' * run.remat}; by shapes, not compiled, not run"
  )
  print("\n\n".join([head, *map(text, answers), f"assumed: {pretraining.ASSUMPTIONS}"]), flush=True)
  if c.out:
    c.out.parent.mkdir(parents=True, exist_ok=True)
    write_json(c.out, {"model": run.model, "topologies": answers})
    tell(f"figures in {c.out}")


def twin(cfg: Any, pack: str) -> Any:
  """The recogniser of the identity loss as shapes: of a pack that is here its own, of others IResNet-50, which
  buffalo_l has; None without that loss."""
  if not cfg.identity_weight:
    return None
  if pack != "miniature" and not Path(pack).is_dir():
    return iresnet.shapes()
  nets = faces.open_pack(pack, notify=lambda _: None).app.models
  params = recogniser.load(Path(nets["recognition"].model_file))
  return jax.tree.map(lambda x: jax.ShapeDtypeStruct(np.shape(x), np.float32), params)


def costs(cfg: Any, run: config.Pretrain, net: Any) -> pretraining.Costs:
  """What a row costs; kept by content, as counting takes minutes of a large model."""
  parts = dataclasses.asdict(cfg) | {"batch": 0, "steps": 0}
  face = [list(x.shape) for x in jax.tree.leaves(net)]
  question = [parts, model.configs(run.model)[0], run.remat, face, kept.sources()]
  path = kept.place("plan-pretraining", question)
  if answer := kept.read(path):
    return pretraining.Costs(**answer)
  tell(f"counting a row's work on {run.model}")
  one = pretraining.costs(cfg, run.model, run.remat, net)
  kept.write(path, one._asdict())
  return one


def text(f: dict[str, Any]) -> str:
  """One topology's figures."""
  tflop = lambda n: f"{n / 1e12:.4g} TFLOP"
  least, most = f["largest_batch"][1], f["largest_batch"][0]
  idle = f["devices"] - f["working"]
  lines = [
    f"{f['topology']}: {f['devices']} devices, {f['rows']} rows on each, state in {f['fsdp']} parts",
    f"  memory       {gib(f['least'])} to {gib(f['most'])} of {gib(f['memory'])} a device: "
    f"{ {'yes': 'fits', 'no': 'DOES NOT FIT'}.get(f['fits'], 'fits if weights are ' + f['fits']) }",
    f"               state {gib(f['state'])}, frozen {gib(f['frozen'])}, activations {gib(f['activations'])}, "
    f"joined weights {gib(f['joined'])}, gradients {gib(f['gradients'])}",
    f"  work         {tflop(f['flops'])} a step: {tflop(f['row']['error'])} a face, and {tflop(f['row']['identity'])} "
    "where the identity loss is due"
    + (f", {tflop(f['row']['encode'])} to encode a picture that moved" if f["row"]["encode"] else ""),
    f"  collectives  {gib(int(f['moved']))} sent by a device in a step",
    f"  step         {words(f['seconds'])} at the roofline (compute {words(f['seconds_compute'])}, memory "
    f"{words(f['seconds_memory'])}, links {words(f['seconds_links'])}): {100 * f['of_floor']:.0f} % of the FLOP floor",
    f"  largest      batch {most} to {least}",
    f"  {f['images']:,} faces  {f['days']:.3g} days in {f['steps']:,} steps at {100 * f['share']:.0f} % of the roofline"
    + ("" if f["cost"] is None else f", {f['cost']:,.0f} at {f['price']:g} a chip and hour"),
  ]
  if idle:
    lines.append(f"  warning: the batch does not divide by the devices: {idle} of {f['devices']} are idle")
  return "\n".join(lines)
