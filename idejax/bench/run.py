"""`idejax bench`: how fast is it here, against the analytic floor and against diffusers or Dew?

Both sides hold the same random weights and do the same work in turn, so that a busy machine slows
both; their outputs are compared as well, for a fast wrong answer is worth nothing.
"""

import dataclasses
import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from idejax import config, sharding
from idejax.bench import commands as bench_commands
from idejax.bench.dew import Dew
from idejax.errors import UserError, tell
from idejax.model import conditioning, families
from idejax.model.backbone import Backbone, Conditioning, Nets, predict
from idejax.nets import unet, vae
from idejax.nets.target import computed_in
from idejax.runtime import cores, flops
from idejax.runtime.timing import alternate, words
from idejax.sampling import pipeline, sampler
from idejax.sampling import texts as prompting
from idejax.storage import weights
from idejax.storage.files import write_json

GUIDANCE = 7.5


class Work(NamedTuple):
  """One measurement: ours, the peer's (or None), FLOPs of one run, pictures in one run."""

  name: str
  ours: Callable[[], Any]
  theirs: Callable[[], Any] | None
  flops: int
  pictures: int


def main(c: config.Bench):
  if c.addon and "sample" not in c.what:
    raise UserError("--addon is what `idejax bench sample` measures: name sample among the measurements")
  if min(c.batch, c.train_batch or 1, c.steps, c.repeats, *c.people) < 1:
    raise UserError("--batch, --train-batch, --steps, --repeats and --people start at 1")
  busy = prepare_machine(c)
  if c.small:
    cores.spread()
  if "personalize" in c.what:
    cores.use(c.model)
  figures: dict[str, Any] = {}
  if c.addon:
    from idejax.bench import one_face

    figures["addon"] = one_face.main(c)
  if nets := [w for w in c.what if w in _MAKERS and not (c.addon and w == "sample")]:
    figures |= inference(c, nets)
  if "compile" in c.what:
    figures["start"] = bench_commands.start_up(c)
  if "jobs" in c.what:
    figures["jobs"] = bench_commands.jobs(c)
  if "personalize" in c.what:
    from idejax.bench import training as bench_personalize

    figures["personalize"] = bench_personalize.main(c)
  if "input" in c.what:
    from idejax.bench import inputs as bench_input

    figures["input"] = bench_input.main(c)
  if "faces" in c.what:
    from idejax.bench import faces as bench_faces

    figures["faces"] = bench_faces.main(c)
  if c.out:
    report = dict(
      figures=figures,
      settings=_plain(c),
      device=jax.devices()[0].device_kind,
      platform=platform.platform(),
      cores=os.cpu_count(),
      busy_cores=busy,
      versions=versions(),
    )
    write_json(c.out, report)
    tell(f"figures in {c.out}")


def prepare_machine(c: config.Bench) -> float:
  """Both sides on the same cores, and a warning where other work would decide the figures -> how many cores it keeps."""
  # PyTorch's threads wait for one another by spinning; beside other work that alone made a ratio of 0.02.
  os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
  if c.threads and hasattr(os, "sched_setaffinity"):
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: c.threads])
  if busy := busy_cores():
    tell(
      f"warning: other work keeps {busy:.1f} of {cores.cores()} cores busy; times and ratios will not be those of "
      "this machine: measure again when it is idle"
    )
  return busy


def busy_cores() -> float:
  """Cores that work now, this process being idle; 0.0 below a quarter of one. Where nothing tells, those of the last
  minute."""
  if (before := _ticks()) is None:
    busy = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
  else:
    time.sleep(0.5)
    working, all_of_it = (b - a for a, b in zip(before, _ticks() or before))
    busy = (os.cpu_count() or 1) * working / max(1, all_of_it)
  return busy if busy >= 0.25 else 0.0


def _ticks() -> tuple[int, int] | None:
  """Clock ticks that all cores have worked, and those that have passed, since the machine started (Linux)."""
  try:
    counts = [int(x) for x in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
  except (OSError, ValueError):
    return None
  return sum(counts) - counts[3] - counts[4], sum(counts)  # without idling and waiting for disks


def inference(c: config.Bench, what: Sequence[str]) -> dict[str, Any]:
  """Figures of UNet, sampling and VAE of a family."""
  configs = families.small(c.family) if c.small else families.FAMILIES[c.family]
  side = (c.size or configs["unet"]["sample_size"] * _factor(configs)) // _factor(configs)
  if c.size and c.size % _factor(configs):
    raise UserError(f"--size {c.size} is not a multiple of {_factor(configs)}")
  device = jax.devices()[0]
  tell(
    f"{c.family}{' small' if c.small else ''}, latents {side}x{side}, batch {c.batch}, {c.dtype}, "
    f"on {device.platform} ({device.device_kind}), {os.cpu_count()} cores, {len(_devices(c))} device(s); weights are random"
  )
  if c.vs == "dew" and set(what) - {"unet"}:
    tell("--vs dew compares the UNet; the others are measured alone")
  core = make_backbone(configs, jnp.dtype(c.dtype))
  core = jax.device_put(core, sharding.replicated(sharding.make_mesh(_devices(c))))
  peer = None if c.vs == "none" else (_Peer if c.vs == "diffusers" else Dew)(c, configs, core)
  return {name: measure(_MAKERS[name](c, core, peer, side), c.repeats, c.peak, c.vs) for name in what}


def measure(work: Work, repeats: int, peak: float | None, peer: str) -> dict[str, Any]:
  """Medians of alternating runs, in seconds, and what follows from them; printed as one line."""
  start = time.perf_counter()
  ours = work.ours()
  first = time.perf_counter() - start
  start = time.perf_counter()
  theirs = work.theirs() if work.theirs else None
  peer_first = time.perf_counter() - start
  times = alternate({"ours": work.ours, "theirs": work.theirs}, repeats)
  seconds = statistics.median(times["ours"])
  rate = work.flops / seconds / 1e12
  out: dict[str, Any] = dict(
    seconds=seconds,
    first_seconds=first,
    tflop=work.flops / 1e12,
    tflops=rate,
    pictures_per_second=work.pictures / seconds,
    times=times,
  )
  line = f"{work.name:8} {words(seconds):>9} for {_flop(work.flops)}: {_flop(work.flops / seconds)}/s"
  if peak:
    line += f", {100 * rate / peak:.0f} % of peak"
  if theirs is not None:
    out["peer_seconds"] = statistics.median(times["theirs"])
    out["peer_first_seconds"] = peer_first  # with compilation, where there is one
    out["ratio"] = seconds / out["peer_seconds"]
    a, b = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
    out["relative_error"] = float(np.abs(a - b).max() / np.abs(b).max())
    line += (
      f";  {peer} {words(out['peer_seconds'])}, ours/theirs {out['ratio']:.2f}, "
      f"outputs differ by {out['relative_error']:.1e}"
    )
  print(line, flush=True)
  return out


# ---- Ours --------------------------------------------------------------------------------------


def make_backbone(configs, dtype) -> Backbone:
  """The UNet and VAE of a family with random weights on the device; no text encoders."""
  nets = Nets.from_json(configs, dtype=computed_in(dtype))
  put = lambda shapes, kind, seed: jax.tree.map(lambda x: jnp.asarray(x, kind), families.random_params(shapes, seed))
  return Backbone(
    nets, dict(unet=put(unet.shapes(nets.unet), dtype, 0), vae=put(vae.shapes(nets.vae), nets.vae_dtype, 1))
  )


def inputs(c: config.Bench, core: Backbone, side: int, rows: int):
  """(latents [rows, side, side, C], Conditioning of `rows` rows), float32."""
  rng, n = np.random.default_rng(0), core.nets.unet
  mesh = sharding.make_mesh(_devices(c))
  on = lambda x, *axes: jax.device_put(x, jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(*axes)))
  draw = lambda *shape: on(rng.standard_normal(shape, np.float32), sharding.AXES)
  context = on(rng.standard_normal((1, rows, 77, n.context_dim), np.float32), None, sharding.AXES)
  added: tuple[jax.Array | None, jax.Array | None] = (None, None)
  if n.added_dims:
    pixels = side * core.nets.factor
    ids = on(conditioning.time_ids(rows, (pixels, pixels)), sharding.AXES)
    added = draw(rows, n.added_dims[1] - 6 * n.added_dims[0]), ids
  return draw(rows, side, side, n.channels[0]), Conditioning(context, context, *added)


forward = jax.jit(predict)


def unet_work(c: config.Bench, core: Backbone, peer: "_Peer | Dew | None", side: int) -> Work:
  """One UNet forward."""
  x, cond = inputs(c, core, side, c.batch)
  t = np.float32(500)
  ours = lambda: forward(core, x, t, cond).block_until_ready()
  theirs = (lambda: peer.unet(x, t, cond)) if peer else None
  return Work("unet", ours, theirs, flops.count(predict, core, x, t, cond), c.batch)


def sample_work(c: config.Bench, core: Backbone, peer: "_Peer | Dew | None", side: int) -> Work:
  """`steps` DDIM steps with guidance, as `idejax sample` runs them."""
  mesh = sharding.make_mesh(_devices(c))
  _, cond = inputs(c, core, side, 2 * c.batch)
  z, _ = inputs(c, core, side, c.batch)
  table = sampler.table("ddim", core.nets.schedule, c.steps)
  put = lambda x: jax.device_put(x, sharding.batch(mesh))
  keys, scale = put(jax.random.split(jax.random.key(0), c.batch)), put(jnp.full(c.batch, GUIDANCE))

  def ours():
    state, projected = pipeline._start(z, table, mesh), prompting.project(core, cond)
    return pipeline._run(core, state, table, cond, projected, scale, keys, True, mesh).x.block_until_ready()

  x, _ = inputs(c, core, side, 2 * c.batch)
  per_step = flops.count(predict, core, x, np.float32(0), cond)
  theirs = (lambda: peer.sample(z, cond, c.steps)) if isinstance(peer, _Peer) else None
  return Work("sample", ours, theirs, c.steps * per_step, c.batch)


def vae_work(c: config.Bench, core: Backbone, peer: "_Peer | Dew | None", side: int) -> Work:
  """Latents to 8-bit pictures."""
  z, _ = inputs(c, core, side, c.batch)
  ours = lambda: pipeline.decode(core, z, False).block_until_ready()
  theirs = (lambda: peer.decode(z)) if isinstance(peer, _Peer) else None
  return Work("vae", ours, theirs, flops.count(lambda b, z: pipeline.decode(b, z, False), core, z), c.batch)


_MAKERS = {"unet": unet_work, "sample": sample_work, "vae": vae_work}


# ---- Theirs ------------------------------------------------------------------------------------


class _Peer:
  """PyTorch diffusers with the same weights, on CUDA where there is one."""

  def __init__(self, c: config.Bench, configs, core: Backbone):
    try:
      import diffusers
      import torch
    except ImportError as e:
      raise UserError('--vs diffusers needs PyTorch: pip install -e ".[export]"') from e
    self.torch, self.diffusers = torch, diffusers
    diffusers.utils.logging.set_verbosity_error()
    if c.threads:
      torch.set_num_threads(c.threads)
    self.device = "cuda" if torch.cuda.is_available() else "cpu"
    self.dtype = getattr(torch, c.dtype)
    kinds = {"unet": diffusers.UNet2DConditionModel, "vae": diffusers.AutoencoderKL}
    nets = {}
    for name, kind in kinds.items():
      with torch.device("meta"):
        net = kind.from_config(configs[name])
      state = {k: self.tensor(v) for k, v in weights.to_torch(core.params[name]).items()}
      net.load_state_dict(state, assign=True)
      nets[name] = net.eval().requires_grad_(False)
      if self.device == "cuda":
        nets[name].to(memory_format=torch.channels_last)
      if c.torch_compile:
        nets[name] = torch.compile(nets[name])
    self.net, self.vae, self.scheduler = nets["unet"], nets["vae"], configs["scheduler"]

  def tensor(self, x):
    """A numpy or jax array, bfloat16 too, as a tensor on the peer's device."""
    x = np.array(x, order="C")  # a copy: torch wants to own what it reads
    if x.dtype != jnp.bfloat16:
      return self.torch.from_numpy(x).to(self.device)
    return self.torch.from_numpy(x.view(np.uint16)).view(self.torch.bfloat16).to(self.device)

  def _inputs(self, x, cond: Conditioning):
    nchw = self.tensor(np.asarray(x).transpose(0, 3, 1, 2)).to(self.dtype)
    added = None
    if cond.pooled is not None:
      added = dict(text_embeds=self.tensor(cond.pooled).to(self.dtype), time_ids=self.tensor(cond.time_ids))
    return nchw, self.tensor(cond.k[0]).to(self.dtype), added

  def _numpy(self, x):
    return x.float().cpu().numpy()

  def unet(self, x, t, cond):
    x, context, added = self._inputs(x, cond)
    with self.torch.inference_mode():
      y = self.net(x, float(t), context, added_cond_kwargs=added).sample
    return self._numpy(y).transpose(0, 2, 3, 1)

  def sample(self, z, cond, steps):
    """The loop of diffusers' pipeline: two rows a picture, as ours in turn (positive, negative)."""
    x, context, added = self._inputs(z, cond)
    scheduler = self.diffusers.DDIMScheduler.from_config(self.scheduler)
    scheduler.set_timesteps(steps)
    with self.torch.inference_mode():
      for t in scheduler.timesteps:
        out = self.net(x.repeat_interleave(2, 0), t, context, added_cond_kwargs=added).sample
        positive, negative = out[0::2], out[1::2]
        x = scheduler.step(negative + GUIDANCE * (positive - negative), t, x).prev_sample
    return self._numpy(x).transpose(0, 2, 3, 1)

  def decode(self, z):
    z = self.tensor(np.asarray(z).transpose(0, 3, 1, 2)) / self.vae.config.scaling_factor
    with self.torch.inference_mode():
      x = self.vae.decode(z.to(self.vae.dtype)).sample
    x = (self._numpy(x) / 2 + 0.5).clip(0, 1)
    return np.round(x * 255).astype(np.uint8).transpose(0, 2, 3, 1)


def _devices(c: config.Bench) -> list[Any]:
  """All, if they divide the batch, as a job has them; else the first alone."""
  return jax.local_devices() if c.batch % jax.local_device_count() == 0 else jax.local_devices()[:1]


def _factor(configs) -> int:
  return vae.VAEConfig.from_json(configs["vae"]).factor


def _plain(c: config.Bench) -> dict[str, Any]:
  return {k: str(v) if isinstance(v, Path) else v for k, v in dataclasses.asdict(c).items()}


def _flop(n: float) -> str:
  return f"{n / 1e12:.3g} TFLOP" if n >= 1e11 else f"{n / 1e9:.3g} GFLOP"


def versions() -> dict[str, str]:
  out = {"python": platform.python_version()}
  for name in ("idejax", "jax", "jaxlib", "flax", "numpy", "torch", "diffusers", "dewml"):
    try:
      out[name] = metadata.version(name)
    except metadata.PackageNotFoundError:
      pass
  return out
