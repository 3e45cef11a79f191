"""The options of `idejax personalize`: its own and, as flags too, those of the chosen method."""

import dataclasses
import json
import typing
from pathlib import Path
from typing import Any, NamedTuple

from idejax import config
from idejax.cli import config_file, options
from idejax.errors import UserError
from idejax.methods import METHODS
from idejax.methods.contract import default_preset
from idejax.model import families
from idejax.storage import hub


class Settings(NamedTuple):
  run: config.Personalize
  cfg: Any  # the method's Config


def parse(args: list[str], prog: str) -> Settings | None:
  """Flags into settings, None after --help."""
  base, fields, args = _config_file(args)
  method = _value(args, "--method") or fields.pop("method", None) or base.method
  if method not in METHODS:
    raise UserError(f"--method is {method!r}{options.nearest(method, METHODS)}; it must be one of {', '.join(METHODS)}")
  model = _value(args, "--model") or fields.get("model", base.model)
  chosen = _value(args, "--preset") or fields.pop("preset", None) or base.preset
  start = dataclasses.replace(preset(method, chosen, model), **_own(fields, METHODS[method].Config))
  own: dict[str, Any] = _own(fields, config.Personalize) | {"method": method, "preset": chosen}
  base = dataclasses.replace(base, **own)
  if odd := set(fields) - _names(config.Personalize) - _names(type(start)):
    raise UserError(f"{method} has no setting {sorted(odd)[0]!r}{options.nearest(sorted(odd)[0], _names(type(start)))}")
  kind = _joined(type(start), method)
  value = options.parse(kind, args, prog, default=kind(**_values(base), **_values(start)))
  if value is None:
    return None
  pick = lambda source: type(source)(**{n: getattr(value, n) for n in _names(type(source))})
  return Settings(pick(base), pick(start))


def preset(method: str, name: str | None, model: str) -> Any:
  """A preset's Config; by default the one for the model's family. UserError if there is none of that name."""
  presets = METHODS[method].PRESETS
  name = name or default_preset(presets, model in hub.BUILT_IN, families.is_sdxl(model))
  if name not in presets:
    raise UserError(f"{method} has no preset {name!r}{options.nearest(name, presets)}; it has {', '.join(presets)}")
  return presets[name]


def check_parts(s: Settings):
  """UserError if --accumulate does not divide the batch."""
  parts, batch = s.run.accumulate, s.cfg.batch
  if parts < 1 or batch % parts:
    raise UserError(f"--accumulate is {parts}; it must divide the batch of {s.run.method}, {batch}")


def entries(s: Settings) -> dict[str, Settings]:
  """What --compare names, METHOD[/PRESET][/FIELD[=VALUE]]..., each with its settings; {} for nothing.

  A method named as --method is, with nothing after it, has the settings given for that.
  """
  names = [x.strip() for x in s.run.compare.split(",")] if s.run.compare else []
  return {name: _entry(name, s) for name in names}


def _entry(name: str, s: Settings) -> Settings:
  method, *parts = name.split("/")
  if method not in METHODS:
    raise UserError(f"--compare names {method!r}; methods are {', '.join(METHODS)}")
  chosen = parts.pop(0) if parts and parts[0] in METHODS[method].PRESETS else None
  own = method == s.run.method and chosen is None
  cfg = s.cfg if own else preset(method, chosen, s.run.model)
  for part in parts:
    field, equals, text = part.partition("=")
    if field not in _names(type(cfg)):
      raise UserError(
        f"--compare has {name!r}: {method} has no preset or setting {field!r}"
        f"{options.nearest(field, [*_names(type(cfg)), *METHODS[method].PRESETS])}"
      )
    cfg = dataclasses.replace(cfg, **_own({field: _read(text) if equals else True}, type(cfg)))
  run: dict[str, Any] = {"method": method, "compare": "", "preset": s.run.preset if own else chosen}
  return Settings(dataclasses.replace(s.run, **run), cfg)


def _read(text: str) -> Any:
  """A number or true or false as such, anything else as the text."""
  try:
    return json.loads(text)
  except ValueError:
    return text


def to_json(s: Settings) -> dict[str, Any]:
  """What config.json holds: every field, so that the run can be repeated with --config."""
  plain = lambda x: str(x) if isinstance(x, Path) else list(x) if isinstance(x, tuple) else x
  return {k: plain(v) for k, v in (_values(s.run) | _values(s.cfg)).items()}


def _joined(cfg: type, method: str) -> type:
  """One flat dataclass: the fields of the command, then those of the method."""
  if both := _names(config.Personalize) & _names(cfg):
    raise TypeError(f"{method} and personalize both have {sorted(both)}")
  # Inherited, not copied: tyro reads the help of a field from the source of the class that declares it.
  about: dict[str, Any] = {
    "__doc__": config.Personalize.__doc__,
    "__module__": config.Personalize.__module__,
    "__annotations__": {},
  }
  kind = type("Personalize", (cfg, config.Personalize), about)
  return dataclasses.dataclass(frozen=True)(kind)


def _config_file(args: list[str]) -> tuple[config.Personalize, dict[str, Any], list[str]]:
  """--config FILE.json of an earlier run: its fields; FILE.py: `config`, and the method's own as `settings`, a dict."""
  for i, arg in enumerate(args):
    if arg == "--config" or arg.startswith("--config="):
      inline = "=" in arg
      if not inline and i + 1 == len(args):
        raise UserError("--config is without its value; give a file")
      path = Path(arg.partition("=")[2] if inline else args[i + 1])
      rest = args[:i] + args[i + (1 if inline else 2) :]
      if path.suffix != ".json":
        return config_file.load(path, config.Personalize), dict(config_file.variables(path).get("settings", {})), rest
      return config.Personalize(), _read_json(path), rest
  return config.Personalize(), {}, args


def _read_json(path: Path) -> dict[str, Any]:
  try:
    fields = json.loads(path.read_text())
  except (OSError, ValueError) as e:
    raise UserError(f"--config {path} cannot be read: {e}") from e
  if not isinstance(fields, dict):
    raise UserError(f"--config {path} holds no JSON object")
  return fields


def _own(fields: dict[str, Any], kind: type) -> dict[str, Any]:
  """Those of `fields` that `kind` declares, in its types; UserError for a wrong one."""
  types = typing.get_type_hints(kind)
  out = {k: tuple(v) if isinstance(v, list) else v for k, v in fields.items() if k in _names(kind)}
  for name, value in out.items():
    if isinstance(value, str) and Path in (types[name], *typing.get_args(types[name])):
      out[name] = Path(value)
    elif not config_file.fits(value, types[name]):
      raise UserError(f"{name} is {value!r}; it must be {config_file.expected(types[name])}")
  return out


def _value(args: list[str], flag: str) -> str | None:
  for i, arg in enumerate(args):
    if arg == flag and i + 1 < len(args):
      return args[i + 1]
    if arg.startswith(flag + "="):
      return arg.partition("=")[2]
  return None


def _names(kind: type) -> set[str]:
  return {f.name for f in dataclasses.fields(kind)}


def _values(x: Any) -> dict[str, Any]:
  return {f.name: getattr(x, f.name) for f in dataclasses.fields(x)}
