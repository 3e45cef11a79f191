"""Converts checkpoints of idejax's own runs to pipeline folders and back, equal to the bit.

A checkpoint holds {dotted path: array} (see idejax.training.checkpoint). The networks that a run trained
are under `params.unet`, `params.text_encoder`, ...; if the run averaged its parameters, the averages under
`ema` are exported instead. The autoencoder's run has its net under `params` itself.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from orbax.checkpoint import v1 as ocp

from idejax import tree
from idejax.errors import UserError
from idejax.exporting import folders, single_file
from idejax.model.backbone import read_json
from idejax.storage import tensorfiles, weights
from idejax.training import checkpoint

_VAE = ("encoder", "decoder", "quant_conv", "post_quant_conv")


def step_of(source: Path) -> int | None:
  """The newest step of a run folder, or of its checkpoints/; None if it is neither."""
  folder = _checkpoints(source)
  steps = (
    [int(p.name) for p in folder.iterdir() if p.name.isdigit() and ocp.is_orbax_checkpoint(p)]
    if folder.is_dir()
    else []
  )
  return max(steps, default=None)


def _checkpoints(source: Path) -> Path:
  source = source.absolute()  # orbax takes no other
  return source / "checkpoints" if (source / "checkpoints").is_dir() else source


def base_of(source: Path) -> str | None:
  """The pipeline that a run was trained on, as its config.json or its checkpoint names it."""
  config = _checkpoints(source).parent / "config.json"
  if config.is_file() and isinstance(name := read_json(config).get("model"), str):
    return name
  step = step_of(source)
  return _facts(_checkpoints(source) / str(step)).get("model") if step is not None else None


def _facts(path: Path) -> dict[str, Any]:
  return dict(_metadata(path).custom_metadata or {})


def _metadata(path: Path) -> Any:
  try:
    return ocp.checkpointables_metadata(path)
  except Exception as e:  # orbax raises nearly anything for bad files
    raise UserError(f"checkpoint {path} cannot be read: {type(e).__name__} {' '.join(str(e).split())[:200]}") from e


def load(path: Path) -> dict[str, np.ndarray]:
  """A checkpoint's averaged parameters, or its parameters if there is no average: {path: array}. UserError if damaged."""
  if reason := checkpoint.damage(path.parent, int(path.name)):
    raise UserError(f"checkpoint {path} is damaged ({reason}); remove it, and the one before is taken")
  stored = _metadata(path).metadata["state"]
  prefix = "ema." if any(k.startswith("ema.") for k in stored) else "params."
  here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
  expected = {
    k: jax.ShapeDtypeStruct(v.shape, v.dtype, sharding=here) if k.startswith(prefix) else ocp.PLACEHOLDER
    for k, v in stored.items()
  }
  try:
    leaves = ocp.load_checkpointables(path, {"state": expected})["state"]
  except Exception as e:
    raise UserError(f"checkpoint {path} cannot be read: {type(e).__name__} {' '.join(str(e).split())[:200]}") from e
  return {k.removeprefix(prefix): np.asarray(x) for k, x in leaves.items() if k.startswith(prefix)}


def components(leaves: Mapping[str, np.ndarray], where: Path) -> dict[str, dict[str, np.ndarray]]:
  """{component: {torch key: array}} of a checkpoint's leaves. UserError if it trains no network of a pipeline."""
  out: dict[str, dict[str, np.ndarray]] = {}
  for path, x in leaves.items():
    part, _, rest = path.partition(".")
    if part in _VAE:
      part, rest = "vae", path
    if part not in ("unet", "vae", "text_encoder", "text_encoder_2"):
      raise UserError(
        f"{where} trains {path}, which is no network of a pipeline; a person's run is exported: idejax export RUN --to DIR"
      )
    module, _, leaf = rest.rpartition(".")
    out.setdefault(part, {}).update(weights.to_torch({module: {leaf: x}}))
  if not out:
    raise UserError(f"{where} holds no parameters")
  return out


def read(source: Path, base: Path, target: Path, dtype: str | None = None, max_shard_size: str | None = None) -> str:
  """Write `base` with the networks of the newest checkpoint -> a sentence that says what was written."""
  step = step_of(source)
  path = _checkpoints(source) / str(step)
  networks, index, report = components(load(path), path), folders.index_of(base), []
  if odd := set(networks) - set(folders.components(index)):
    raise UserError(f"{path} has a {sorted(odd)[0]}, but {base} has none: wrong --model?")
  for part in folders.components(index):
    if part not in networks:
      if (base / part).is_dir():
        folders.component(base / part, target / part, max_shard_size=max_shard_size)
      else:
        index[part] = [None, None]
      continue
    config = read_json(base / part / "config.json")
    fit(networks[part], single_file.shapes(part, config), f"{path}: its {part}", base)
    folders.write(
      base / part, target / part, networks[part], single_file.stem(part), dtype=dtype, max_shard_size=max_shard_size
    )
    report.append(f"{part}: {len(networks[part])} tensors" + (f" as {dtype}" if dtype else ""))
  folders.finish(index, base, target)
  return f"step {step}, the rest from {base}; " + "; ".join(report)


def fit(tensors: Mapping[str, np.ndarray], expected: Mapping[str, tuple[int, ...]], what: str, base: Path):
  """Raise UserError unless keys and shapes are those of `base`."""
  for k in [*expected, *tensors]:
    there, here = (tensors[k].shape if k in tensors else None), expected.get(k)
    if there != here:
      raise UserError(
        f"{what} does not fit {base}: {k} is {list(there) if there else 'absent'} there and "
        f"{list(here) if here else 'absent'} in {base.name}; give --model with the run's own model"
      )


def write(
  source: Path, target: Path, *, dtype: str | None = None, variant: str | None = None, allow_pickle: bool = False
) -> str:
  """Write a pipeline's networks as step 0 of a run, in target/checkpoints -> what was written, in words."""
  index, params = folders.index_of(source), dict[str, Any]()
  for part, config in single_file.configs(source, index).items():
    tensors: Mapping[str, np.ndarray] = tensorfiles.read(
      source / part, single_file.stem(part), variant=variant, allow_pickle=allow_pickle
    )
    tensors = single_file.modern(part, tensors)
    kinds = {tensors[k].dtype for k in tensors}
    kind = (
      folders.DTYPES[dtype] if dtype else kinds.pop() if len(kinds) == 1 else np.dtype(np.float32)
    )  # bits stay, or widen
    view = folders.View(tensors, {}, kind, str(source / part))
    params[part] = weights.from_torch(
      weights.with_dtype(single_file.net(part, config), kind), view, name=str(source / part)
    )
  with checkpoint.Checkpoints(target / "checkpoints") as checkpoints:
    checkpoints.save(0, {"params": params}, {"model": str(source.resolve())})
  (target / "checkpoints" / "lock").unlink(missing_ok=True)
  return "step 0 of " + ", ".join(f"{part} ({len(tree.flatten(x))} leaves)" for part, x in params.items())
