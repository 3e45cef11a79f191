"""`idejax bench personalize`: seconds a step and a person, alone and in a crowd, against the FLOPs.

Weights, photos and face features are random at the shapes of the real run; the step is the one that
`idejax personalize` compiles. With a peer: Textual Inversion's step, the same noise in both, and loss
and gradient compared.
"""

import dataclasses
import statistics
import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from idejax import config, sharding
from idejax.cli import method_options
from idejax.cli.method_options import Settings
from idejax.errors import UserError, tell
from idejax.methods import METHODS
from idejax.model import conditioning, families
from idejax.model.backbone import Backbone, predict
from idejax.model.conditioning import Prompts
from idejax.nets.target import computed_in
from idejax.person import subject
from idejax.person.subject import Frozen
from idejax.planning import model, work
from idejax.runtime import flops
from idejax.runtime.progress import waiting
from idejax.runtime.timing import alternate
from idejax.training import fit

_KEY = 7  # of the run whose steps are timed


class Timed(NamedTuple):
  seconds: float  # of a step, the median
  compile_seconds: float
  flops: int  # of a step, kernels and what is computed again included


def main(c: config.Bench) -> dict[str, Any]:
  """Figures by name; printed as they come."""
  s = settings(c)
  tell(
    f"{c.method} ({c.preset or 'its preset for the model'}) on {c.model}: {s.cfg.steps} steps of {s.cfg.batch}, "
    f"{c.dtype}; weights and photos are random"
  )
  frozen = fill(shapes(s, c.dtype))
  out: dict[str, Any] = {}
  one, least = alone(c, s, frozen), work.count_flops(s)
  out["one"] = report(f"{c.method} 1", c, s, one, 1, least)
  out["forward"] = forward(s, frozen, one)
  if not METHODS[c.method].needs(s.cfg, frozen.backbone.nets).alone:
    for n in c.people:
      many = crowd(c, s, frozen, n)
      out[f"crowd_{n}"] = figures = report(f"{c.method} {n}", c, s, many, n, n * least)
      figures |= {"flops_per_person": many.flops / n / one.flops, "gain": one.seconds * n / many.seconds}
      print(
        f"         {figures['gain']:.2f} times the people an hour of one alone, "
        f"{figures['flops_per_person']:.3f} times its FLOPs each",
        flush=True,
      )
  if c.vs == "diffusers":
    out["peer"] = versus(c)
  return out


def settings(c: config.Bench, method: str | None = None) -> Settings:
  method = method or c.method
  if method not in METHODS:
    raise UserError(f"--method is {method!r}; it must be one of {', '.join(METHODS)}")
  cfg = method_options.preset(method, c.preset if method == c.method else None, c.model)
  if c.train_batch:
    cfg = dataclasses.replace(cfg, batch=c.train_batch)
  return Settings(config.Personalize(method=method, model=c.model, dtype=c.dtype), cfg)  # type: ignore[arg-type]


def shapes(s: Settings, dtype: str) -> Frozen:
  """Of a run on this machine, which computes in the dtype that jobs do."""
  leaves, compute = work.shapes(s, jnp.dtype(dtype)), computed_in(dtype)
  nets = leaves.backbone.nets
  nets = dataclasses.replace(nets, dtype=compute, unet=dataclasses.replace(nets.unet, dtype=compute))
  return leaves._replace(backbone=Backbone(nets, leaves.backbone.params))


def report(name: str, c: config.Bench, s: Settings, t: Timed, people: int, least: int) -> dict[str, Any]:
  """One line, and its figures."""
  hour = 3600 * people / (s.cfg.steps * t.seconds)
  rate = least / t.seconds
  line = (
    f"{name:8} {1000 * t.seconds:.0f} ms a step, {s.cfg.steps * t.seconds:.1f} s for {s.cfg.steps} steps "
    f"({t.compile_seconds:.0f} s to compile), {hour:.0f} people an hour, {rate / 1e9:.0f} GFLOP/s"
  )
  if c.peak:
    line += f", {rate / c.peak / 1e10:.0f} % of peak"
  print(line, flush=True)
  return {
    "seconds_a_step": t.seconds,
    "seconds": s.cfg.steps * t.seconds,
    "compile_seconds": t.compile_seconds,
    "people_an_hour": hour,
    "flop_a_step": least,
    "counted_flop_a_step": t.flops,
    "flops": rate,
  }


# ---- The step ------------------------------------------------------------------------------------


def alone(c: config.Bench, s: Settings, frozen: Frozen) -> Timed:
  key = jax.random.key(_KEY)
  step, state, frozen = fit.one(METHODS[s.run.method], s.cfg, frozen, key, sharding.make_mesh(), _cast(s))
  return timed(c, s, step, state, frozen, key)


def crowd(c: config.Bench, s: Settings, frozen: Frozen, n: int) -> Timed:
  mesh = sharding.make_mesh()
  if n % mesh.size:
    raise UserError(f"--people has {n}; it must be a multiple of the {mesh.size} devices")
  keys = jax.random.split(jax.random.key(_KEY), n)
  people = jax.tree.map(lambda x: jnp.broadcast_to(x, (n, *x.shape)), frozen.subject)
  step, state, frozen = fit.crowd(METHODS[s.run.method], s.cfg, *frozen[:3], people, keys, mesh, _cast(s))
  return timed(c, s, step, state, frozen, keys)


def timed(c: config.Bench, s: Settings, step: Any, state: Any, frozen: Frozen, key: jax.Array) -> Timed:
  """The median over `repeats` of the mean of `steps` steps, which run without waiting in between."""
  batch = {"index": np.arange(s.cfg.batch, dtype=np.int32)}
  start = time.perf_counter()
  with waiting("compiling"):
    compiled = step.lower(state, frozen, batch, key).compile()
  compile_seconds = time.perf_counter() - start
  state, metrics = compiled(state, frozen, batch, key)
  jax.block_until_ready(metrics)
  box = [state]

  def some():
    for _ in range(c.steps):
      box[0], _ = compiled(box[0], frozen, batch, key)
    jax.block_until_ready(box)

  seconds = [t / c.steps for t in alternate({"ours": some}, c.repeats)["ours"]]
  with jax.set_mesh(step.mesh):
    counted = flops.count(step.run, box[0], frozen, batch, key)
  return Timed(statistics.median(seconds), compile_seconds, counted)


def forward(s: Settings, frozen: Frozen, one: Timed) -> dict[str, float]:
  """How many forward passes of text encoder and UNet on the batch a step costs."""
  b, n = frozen.backbone, s.cfg.batch
  side, length = b.nets.unet.sample_size, b.nets.text[0].max_position_embeddings
  many = lambda *shape: (jnp.zeros((n, *shape), jnp.int32),) * len(b.nets.text)
  prompts = Prompts(many(length), many(), many(0))

  def run(core, x, t, prompts):
    return predict(core, x, t, conditioning.contexts(core, prompts, None))

  x = jnp.zeros((n, side, side, b.nets.latent_channels))
  ours = flops.count(run, b, x, jnp.zeros(n, jnp.int32), prompts)
  ratio = one.flops / ours
  print(f"         a step costs {ratio:.2f} forward passes of text encoder and UNet", flush=True)
  return {"flop": ours, "step_over_forward": ratio}


def _cast(s: Settings) -> Any:
  return None if s.run.dtype == "float32" else jnp.dtype(s.run.dtype)


# ---- Random values -------------------------------------------------------------------------------


def fill(shapes: Frozen, seed: int = 0) -> Frozen:
  """Random weights and inputs at the shapes of a run."""
  b = shapes.backbone
  put = lambda tree, i: jax.tree.map(lambda x, s: jnp.asarray(x, s.dtype), families.random_params(tree, seed + i), tree)
  params = {n: put(tree, i) for i, (n, tree) in enumerate(sorted(b.params.items()))}
  rng = np.random.default_rng(seed)

  def value(s):
    if jnp.issubdtype(s.dtype, jnp.integer):
      return jnp.ones(s.shape, s.dtype)
    return jnp.asarray(rng.standard_normal(s.shape, np.float32), s.dtype)

  prompts = lambda p: _prompts(p) if isinstance(p, Prompts) else value(p)
  rest = jax.tree.map(prompts, shapes[1:], is_leaf=lambda x: isinstance(x, Prompts))
  parts = Frozen(Backbone(b.nets, params), *rest)
  who = parts.subject
  zero = lambda x: None if x is None else jnp.zeros_like(x)
  return parts._replace(
    subject=who._replace(
      logvar=zero(who.logvar),
      prior_logvar=zero(who.prior_logvar),
      face=who.face / jnp.linalg.norm(who.face),
      face_mask=jnp.ones_like(who.face_mask),
    )
  )


def _prompts(p: Prompts) -> Prompts:
  """Ids of 1; the placeholder's rows after the start token, the end right after them."""
  place = lambda s: jnp.broadcast_to(jnp.arange(1, s.shape[1] + 1, dtype=jnp.int32), s.shape)
  return Prompts(
    tuple(jnp.ones(s.shape, jnp.int32) for s in p.ids),
    tuple(jnp.full(e.shape, w.shape[1] + 1, jnp.int32) for e, w in zip(p.eos, p.where)),
    tuple(place(w) for w in p.where),
  )


# ---- The peer ------------------------------------------------------------------------------------


def versus(c: config.Bench) -> dict[str, Any]:
  """Textual Inversion's step against the same in PyTorch, in turn."""
  from idejax.bench import peer as bench_torch

  s = settings(c, "textual-inversion")
  module, key = METHODS["textual-inversion"], jax.random.key(_KEY)
  frozen = fill(shapes(s, c.dtype))
  params = module.init(key, frozen, s.cfg)
  example = jax.jit(subject.draw)(frozen, jax.random.split(key, s.cfg.batch))
  peer = bench_torch.TextualInversion(c, model.configs(c.model)[0], frozen, params, example, s.cfg)
  grad = jax.jit(jax.value_and_grad(lambda p, f, k: module.loss(p, f, {}, k, s.cfg)[1]["diffusion"]))
  loss, gradients = grad(params, frozen, jax.random.split(key, s.cfg.batch))
  step, state, frozen = fit.one(module, s.cfg, frozen, key, sharding.make_mesh(), _cast(s))
  compiled = step.lower(state, frozen, batch := {"index": np.arange(s.cfg.batch, dtype=np.int32)}, key).compile()
  theirs = peer.gradient()
  box = [compiled(state, frozen, batch, key)]

  def ours():
    box[0] = compiled(box[0][0], frozen, batch, key)
    jax.block_until_ready(box[0])

  peer.step()
  times = alternate({"ours": ours, "theirs": peer.step}, c.repeats, c.steps)
  a, b = (statistics.median(times[n]) for n in ("ours", "theirs"))
  far = lambda x, y: float(np.abs(np.asarray(x) - y).max() / np.abs(y).max())
  out = {
    "seconds_a_step": a,
    "peer_seconds_a_step": b,
    "ratio": a / b,
    "loss_differs": far(loss, theirs[0]),
    "gradient_differs": far(gradients["rows"][0], theirs[1]),
    "times": times,
  }
  print(
    f"textual inversion: {1000 * a:.0f} ms a step, diffusers {1000 * b:.0f} ms, ours/theirs {a / b:.2f}; loss differs "
    f"by {out['loss_differs']:.1e}, gradient by {out['gradient_differs']:.1e}",
    flush=True,
  )
  return out
