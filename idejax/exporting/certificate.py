"""The certificate of an export: idejax and stock diffusers, in separate processes, on the same prompts and latents.

diffusers runs first and records its UNet's inputs and outputs; idejax computes the same contexts from
the prompts, the same outputs for the same inputs, and the same pictures from the same noise. Relative
differences are |ours - theirs| / |theirs| in the Euclidean norm.
"""

import functools
import json
import math
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from safetensors.numpy import load_file

from idejax import __version__
from idejax.errors import UserError
from idejax.model import backbone, conditioning
from idejax.model.backbone import Conditioning
from idejax.sampling import pipeline, steering
from idejax.sampling import texts as prompting
from idejax.sampling.learned import Learned
from idejax.sampling.pipeline import Pipeline, Request, Settings
from idejax.sampling.requests import Steer
from idejax.storage import tensorfiles

LARGEST = 1e-3  # relative difference of contexts, noise predictions and final latents, float32
SMALLEST = 40.0  # dB, PSNR of the pictures
EQUAL = 100.0  # dB, reported for pictures that are equal
PROMPTS = ("a photo of {}", "a photo of {} on the beach")
INSTALL = 'pip install -e ".[export]"'


class Check(NamedTuple):
  """One exported folder to be compared.

  pipe: the base in float32, without `person`.
  person: the person in the folder's form (`torch_files.as_written`); None: nobody is named.
  standalone: whether the folder is a pipeline; else its load.py applies it to the base.
  code: whether the pipeline has code of its own.
  steps: numbers of sampler steps; the first one's UNet calls are compared one by one.
  steer, more: what steers the pictures here, and there by further arguments of the pipeline's call.
  """

  folder: Path
  pipe: Pipeline
  person: Learned | None
  standalone: bool
  code: bool
  steps: tuple[int, ...] = (10, 50)
  steer: Steer | None = None
  more: Mapping[str, str] = MappingProxyType({})

  @property
  def prompts(self) -> list[str]:
    return [p.format(self.person.word if self.person else steering.SOMEBODY) for p in PROMPTS]

  @property
  def size(self) -> tuple[int, int]:
    return self.pipe.size(Settings())

  @property
  def noise(self) -> np.ndarray:
    shape = self.pipe.latent_shape(Settings())
    return np.stack([pipeline.noise(0, i, shape) for i in range(len(PROMPTS))])

  @property
  def guidance(self) -> float:
    return pipeline.default_guidance(self.pipe)


def certify(*checks: Check) -> list[dict[str, Any]]:
  """The content of each certificate.json. One process of PyTorch serves all; `verdict` judges the result."""
  return [compare(c, theirs, about) for c, (theirs, about) in zip(checks, run_stock(checks))]


def run_stock(checks: Sequence[Check]) -> list[tuple[dict[str, np.ndarray], dict[str, Any]]]:
  """(tensors, {"timesteps", "versions"}) of each check from stock.py, run in a process of its own.

  UserError with the last line that it printed, if it fails.
  """
  script = resources.files("idejax.exporting").joinpath("templates", "stock.py")
  with tempfile.TemporaryDirectory(prefix="idejax-certificate-") as tmp, resources.as_file(script) as path:
    names = [str(Path(tmp, f"job{i}")) for i in range(len(checks))]
    for c, name in zip(checks, names):
      Path(name + ".json").write_text(json.dumps(_job(c, name)))
    env = {
      **os.environ,
      "HF_HUB_OFFLINE": "1",
      "HF_MODULES_CACHE": str(Path(tmp, "modules")),
      "PYTHONDONTWRITEBYTECODE": "1",
    }
    env.pop("PYTHONPATH", None)
    command = [sys.executable, str(path), *(n + ".json" for n in names)]
    process = subprocess.run(command, capture_output=True, text=True, cwd=tmp, env=env)
    if process.returncode:
      raise _stock_error(process.stderr)
    return [(load_file(n + ".out"), json.loads(Path(n + ".about").read_text())) for n in names]


def _job(c: Check, name: str) -> dict[str, Any]:
  height, width = c.size
  calls = sorted({round(x * (c.steps[0] - 1)) for x in (0, 0.25, 0.5, 0.75, 1)})
  np.save(name + ".npy", np.ascontiguousarray(c.noise.transpose(0, 3, 1, 2)))
  return dict(
    folder=str(c.folder.resolve()),
    base=str(c.pipe.folder.resolve()),
    standalone=c.standalone,
    code=c.code,
    prompts=c.prompts,
    guidance=c.guidance,
    steps=list(c.steps),
    calls=calls,
    height=height,
    width=width,
    latents=name + ".npy",
    out=name + ".out",
    about=name + ".about",
    more=dict(c.more),
  )


def _stock_error(stderr: str) -> UserError:
  lines = [x for x in stderr.strip().splitlines() if x.strip()] or ["no message"]
  if "ModuleNotFoundError" in lines[-1]:
    return UserError(
      f"the certificate needs PyTorch and diffusers ({lines[-1].split(': ', 1)[-1]}): {INSTALL}; "
      "or export with --no-verify"
    )
  return UserError(f"stock diffusers cannot use the export: {lines[-1][:400]}")


def compare(c: Check, theirs: Mapping[str, np.ndarray], about: Mapping[str, Any]) -> dict[str, Any]:
  """The content of certificate.json, from the results of `run_stock`."""
  pipe, (height, width) = c.pipe.with_people(c.person) if c.person else c.pipe, c.size
  out: dict[str, Any] = {
    "prompts": c.prompts,
    "guidance": c.guidance,
    "sampler": "ddim",
    "dtype": "float32",
    "size": [height, width],
    "noise": "idejax.sampling.pipeline.noise(0, i)",
    "versions": versions() | about["versions"],
    "thresholds": {"relative": LARGEST, "psnr_db": SMALLEST},
  }
  out |= compare_calls(pipe, c.prompts, theirs, about["timesteps"], (height, width), c.steer)
  out["final_latents"], out["pictures"] = {}, {}
  requests = [Request(p, guidance=c.guidance, steer=c.steer) for p in c.prompts]
  for n in c.steps:
    batches = list(pipeline.generate(pipe, requests, Settings(n, "ddim"), c.noise))
    latents, images = (np.concatenate([getattr(b, k) for b in batches]) for k in ("latents", "images"))
    out["final_latents"][str(n)] = difference(latents.transpose(0, 3, 1, 2), theirs[f"latents{n}"])
    out["pictures"][str(n)] = {"psnr_db": psnr(images.transpose(0, 3, 1, 2), theirs[f"pictures{n}"])}
  return out


def compare_calls(
  pipe: Pipeline,
  prompts: list[str],
  theirs: Mapping[str, np.ndarray],
  timesteps: list[float],
  size: tuple[int, int],
  steer: Steer | None = None,
) -> dict[str, Any]:
  """Differences of contexts and noise predictions. diffusers' rows are first all negative, then all prompts."""
  empty = None if pipe.backbone.nets.zero_empty_negative else ""
  guided = len(theirs["call0.sample"]) == 2 * len(prompts)
  rows: list[str | None] = [empty] * len(prompts) * guided + list(prompts)
  under = functools.partial(_exactly, pipe)
  cond = encode(pipe, rows, size, under)
  if steer is not None:
    cond = steering.join(pipe.backbone, cond, [steer] * len(rows), size, pipe.mesh)
  changes = prompting.Weights(pipe.backbone, pipe.people, under)
  group = tuple(pipe.people)
  b = backbone.with_unet(pipe.backbone, changes.of(group)[0])
  apart = guided and changes.readers(group)[1] != group  # negative prompts are read by the base model's weights
  stages, train_steps = cond.k.shape[0], pipe.backbone.nets.schedule.num_train_timesteps
  contexts, pooled, predictions = [], [], []
  for i, t in enumerate(timesteps):
    s = int(backbone.stage(jnp.float32(t), stages, train_steps))
    context = theirs[f"call{i}.context"]
    ours = np.asarray(cond.k[s])
    if context.shape[1] == 2 * ours.shape[1]:
      ours = np.concatenate([ours, np.asarray(cond.v[s])], axis=1)
    contexts.append(difference(ours, context))
    if cond.pooled is not None:
      p = np.asarray(cond.pooled)
      pooled.append(difference(p[s] if p.ndim == 3 else p, theirs[f"call{i}.pooled"]))
    x = theirs[f"call{i}.sample"].transpose(0, 2, 3, 1)
    look = lambda w, x=x, t=t: np.asarray(under(_predict, w, x, np.float32(t), cond)).transpose(0, 3, 1, 2)
    prediction = look(b)
    if apart:
      prediction = np.concatenate([look(pipe.backbone)[: len(prompts)], prediction[len(prompts) :]])
    predictions.append({"timestep": t} | difference(prediction, theirs[f"call{i}.output"]))
  out: dict[str, Any] = {"contexts": _worst(contexts)}
  if pooled:
    out["pooled"] = _worst(pooled)
  return out | {"noise_predictions": predictions}


@jax.jit
def _predict(b, x, t, cond):
  return backbone.predict(b, x, t, cond)


def encode(pipe: Pipeline, rows: Sequence[str | None], size: tuple[int, int], under) -> Conditioning:
  """The UNet's conditioning of texts, one row each."""
  encoding = prompting.Texts(pipe.backbone, pipe.tokenizers, pipe.people, rows, pipe.notify, under).encode(rows)
  k, v = (jnp.asarray(np.moveaxis(x, 1, 0)) for x in (encoding.k, encoding.v))
  if encoding.pooled is None:
    return Conditioning(k, v)
  ids = jnp.asarray(conditioning.time_ids(len(rows), size))
  return Conditioning(k, v, jnp.asarray(np.moveaxis(encoding.pooled, 1, 0)), ids)


def _exactly(pipe: Pipeline, f, *args):
  """Calls a function in full float32, which is not the default on GPUs and TPUs."""
  with jax.set_mesh(pipe.mesh), jax.default_matmul_precision(None if jax.default_backend() == "cpu" else "float32"):
    return f(*args)


def loss(complete: tuple[Pipeline, Learned], lossy: tuple[Pipeline, Learned]) -> dict[str, Any]:
  """What a lossy form loses, each a person on a model, measured in idejax: differences of contexts and of a noise
  prediction at T / 2."""
  pipe, under = complete[0], functools.partial(_exactly, complete[0])
  text, size = PROMPTS[0].format(complete[1].word), pipe.size(Settings())
  noise = pipeline.noise(0, 0, pipe.latent_shape(Settings()))[None]
  t, out = pipe.backbone.nets.schedule.num_train_timesteps // 2, []
  for model, person in (complete, lossy):
    with_person = model.with_people(person)
    cond = encode(with_person, [text], size, under)
    change = prompting.Weights(with_person.backbone, with_person.people, under).of((person.word,))[0]
    b = backbone.with_unet(with_person.backbone, change)
    middle = backbone.stage(jnp.float32(t), cond.k.shape[0], 2 * t)
    out.append((np.asarray(cond.k[middle]), np.asarray(under(_predict, b, noise, np.float32(t), cond))))
  return {"contexts": difference(out[1][0], out[0][0]), "noise_prediction": difference(out[1][1], out[0][1])}


def verdict(report: Mapping[str, Any]) -> list[str]:
  """One sentence for each figure beyond its threshold; [] is a pass."""
  bad = []
  checks = [("contexts", report["contexts"]), ("pooled vector", report.get("pooled", {"relative": 0.0}))]
  checks += [(f"noise prediction at timestep {p['timestep']:g}", p) for p in report["noise_predictions"]]
  checks += [(f"final latents after {n} steps", x) for n, x in report["final_latents"].items()]
  for what, x in checks:
    if not x["relative"] <= LARGEST:
      bad.append(f"{what} differ by {x['relative']:.2g} (relative; {LARGEST:g} is allowed)")
  for n, x in report["pictures"].items():
    if not x["psnr_db"] >= SMALLEST:
      bad.append(f"pictures after {n} steps: {x['psnr_db']:.1f} dB ({SMALLEST:g} are wanted)")
  return bad


def difference(ours: np.ndarray, theirs: np.ndarray) -> dict[str, float]:
  """Maximum, mean and relative difference of two arrays; infinite if a number is not finite."""
  if ours.shape != theirs.shape:
    raise UserError(f"idejax has an array of {ours.shape}, diffusers one of {theirs.shape}")
  a, b = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
  gap = np.abs(a - b)
  if not np.isfinite(gap).all():
    return {"max": math.inf, "mean": math.inf, "relative": math.inf}
  norm = float(np.linalg.norm(b))
  relative = float(np.linalg.norm(a - b)) / norm if norm else float(gap.max() > 0)
  return {"max": float(gap.max()), "mean": float(gap.mean()), "relative": relative}


def psnr(ours: np.ndarray, theirs: np.ndarray) -> float:
  """Peak signal-to-noise ratio of uint8 pictures in dB, at most `EQUAL`."""
  error = np.square(ours.astype(np.float64) - theirs.astype(np.float64)).mean()
  return EQUAL if error == 0 else min(EQUAL, float(10 * np.log10(255**2 / error)))


def digests(folder: Path) -> dict[str, str]:
  """sha256 of every file, by its path in the folder."""
  files = sorted(p for p in folder.rglob("*") if p.is_file() and p.name != "certificate.json")
  return {p.relative_to(folder).as_posix(): tensorfiles.digest(p) for p in files}


def versions() -> dict[str, str]:
  return {"idejax": __version__, "jax": jax.__version__, "numpy": np.__version__, "python": platform.python_version()}


def _worst(differences: list[dict[str, float]]) -> dict[str, float]:
  return {k: max(f[k] for f in differences) for k in differences[0]}
