"""The options of `idejax personalize`: its own, and those of the chosen method."""

import dataclasses
import json
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from idejax import config, ranges
from idejax.cli import config_file, hints, options
from idejax.errors import UserError
from idejax.methods import ADDONS, IDENTITIES
from idejax.methods.contract import asked, default_preset, todays_names
from idejax.model import families, shared
from idejax.storage import hub


class Settings(NamedTuple):
  run: config.Personalize
  cfg: Any  # the method's Config
  overrides: tuple[str, ...] = ()  # with --compare: fields of `cfg` that the command sets, for every method


def parse(args: list[str], prog: str) -> Settings | None:
  """The settings that flags give; None after --help or --preset list."""
  base, fields, args = _config_file(args)
  overrides = set(fields.pop("given", () if "compare" in fields else tuple(fields)))  # a run's JSON has all fields
  method = _value(args, "--method") or fields.pop("method", None) or base.method
  if method not in IDENTITIES:
    raise UserError(
      f"--method is {method!r}{options.nearest(method, IDENTITIES)}; it must be one of {', '.join(IDENTITIES)}"
    )
  model = _value(args, "--model") or fields.get("model", base.model)
  preset_name = _value(args, "--preset") or fields.pop("preset", None) or base.preset
  if preset_name == "list":
    return print("\n".join(list_presets(method)))
  config_of, _ = asked(IDENTITIES[method])
  fields = todays_names(config_of, fields)
  modules = _value(args, "--shared") or fields.get("shared") or base.shared
  start = dataclasses.replace(start_of(method, preset_name, model, modules), **_own(fields, config_of))
  own: dict[str, Any] = _own(fields, config.Personalize) | {"method": method, "preset": preset_name}
  base = dataclasses.replace(base, **own)
  if odd := set(fields) - _names(config.Personalize) - _names(type(start)):
    raise UserError(f"{method} has no setting {sorted(odd)[0]!r}{options.nearest(sorted(odd)[0], _names(type(start)))}")
  kind = join(type(start), config.Personalize, method)
  words = hints.of(str(model)) | {"preset": default_preset_of(method, str(model)), "methods": ", ".join(IDENTITIES)}
  value = options.parse(kind, args, prog, default=kind(**_values(base), **_values(start)), hints=words)
  if value is None:
    return None
  pick = lambda source: type(source)(**{n: getattr(value, n) for n in _names(type(source))})
  run, cfg = pick(base), pick(start)
  overrides |= {o.name for o in options.options(kind) if options.is_given(o, args)}
  return Settings(run, cfg, tuple(sorted(overrides & _names(type(cfg)))) if run.compare else ())


def preset(method: str, name: str | None, model: str) -> Any:
  """A preset's Config; by default the one for the model's family. UserError if there is none of that name."""
  _, presets = asked(IDENTITIES[method])
  name = name or default_preset_of(method, model)
  if name not in presets:
    raise UserError(f"{method} has no preset {name!r}{options.nearest(name, presets)}; it has {', '.join(presets)}")
  return presets[name]


def start_of(method: str, name: str | None, model: str, modules: Any = None) -> Any:
  """A preset's Config, with what the shared modules in a folder depend on as they have it. UserError as `preset`, and
  for a folder without such modules."""
  cfg = preset(method, name, model)
  if modules is None:
    return cfg
  about = shared.read(Path(modules))
  if about.method != method:
    raise UserError(f"--shared {modules} has modules of {about.method}; {method} cannot start from them")
  if odd := sorted(about.structure.keys() - _names(type(cfg))):
    raise UserError(f"--shared {modules}: {shared.CARD} names {odd[0]!r}, which {method} does not have")
  cfg = dataclasses.replace(cfg, **_own(dict(about.structure), type(cfg)))
  ranges.check(cfg, lambda field: f"--shared {modules}: {field}")
  return cfg


def check_shared(s: Settings):
  """UserError if a setting does not fit the modules of --shared, or if nothing is to be trained and there are none."""
  c = s.run
  if c.shared is None:
    if s.cfg.steps == 0 and c.method not in ADDONS:
      raise UserError("--steps is 0; it must be at least 1: untrained, only --shared knows a person")
    return
  if c.compare:
    raise UserError("--shared is of one method: leave --compare out, and compare runs by idejax evaluate --protocol")
  for name, value in shared.read(c.shared).structure.items():
    now = getattr(s.cfg, name)
    if now != value and (name, value) != ("kv", "none"):  # modules without keys and values leave those to the person
      flag = "--" + name.replace("_", "-")
      raise UserError(f"{flag} {now} does not suit --shared {c.shared}, whose modules have {value}; leave {flag} out")


def default_preset_of(method: str, model: str) -> str:
  """The name of the preset that suits a model."""
  return default_preset(asked(IDENTITIES[method])[1], model in hub.BUILT_IN, families.is_sdxl(model))


def list_presets(method: str) -> Iterator[str]:
  """The lines of --preset list: every preset with the values that differ from the method's defaults."""
  config_of, presets = asked(IDENTITIES[method])
  plain = config_of()
  yield f"presets of {method} (values that differ from the method's own defaults):"
  for name, cfg in presets.items():
    values = {k: v for k, v in _values(cfg).items() if v != getattr(plain, k)}
    texts = (f"{k}={v if not isinstance(v, tuple) else f'({len(v)} texts)'}" for k, v in values.items())
    yield f"  {name:20} {', '.join(texts) or 'the defaults'}"
  yield f"the defaults: {', '.join(f'{k}={v}' for k, v in _values(plain).items() if not isinstance(v, tuple))}"


def check_parts(s: Settings):
  """UserError if --accumulate does not divide the batch."""
  parts, batch = s.run.accumulate, s.cfg.batch
  if batch % parts:
    raise UserError(f"--accumulate is {parts}; it must divide the batch of {s.run.method}, {batch}")


def entries(s: Settings) -> dict[str, Settings]:
  """The settings of each entry of --compare, METHOD[/PRESET][/FIELD[=VALUE]]...; {} without --compare.

  Training options beside --compare hold for every method; UserError if a method does not have them. An entry
  that is just the name in --method also uses --preset.
  """
  names = [x.strip() for x in s.run.compare.split(",")] if s.run.compare else []
  return {name: _entry(name, s) for name in names}


def _entry(name: str, s: Settings) -> Settings:
  method, *parts = name.split("/")
  if method not in IDENTITIES:
    raise UserError(
      f"--compare names {method!r}{options.nearest(method, IDENTITIES)}; methods are {', '.join(IDENTITIES)}"
    )
  preset_name = parts.pop(0) if parts and parts[0] in asked(IDENTITIES[method])[1] else None
  own = method == s.run.method and preset_name is None
  cfg = s.cfg if own else preset(method, preset_name, s.run.model)
  for field in () if method in ADDONS else s.overrides:  # where nothing is trained there is nothing to hold for
    value = getattr(s.cfg, field)
    if field not in _names(type(cfg)) or not config_file.fits(value, typing.get_type_hints(type(cfg))[field]):
      flag = "--" + field.replace("_", "-")
      raise UserError(
        f"{flag} {value} does not suit {method}, which --compare names: options beside --compare hold for every "
        f"method; write --compare {s.run.method}/{field}={value},... for one"
      )
    cfg = dataclasses.replace(cfg, **{field: value})
  for part in parts:
    cfg = dataclasses.replace(cfg, **_setting(name, part, method, cfg))
  ranges.check(cfg, lambda field: f"--compare has {name!r}: {field}")
  run: dict[str, Any] = {"method": method, "compare": "", "preset": s.run.preset if own else preset_name}
  return Settings(dataclasses.replace(s.run, **run), cfg)


def _setting(name: str, part: str, method: str, cfg: Any) -> dict[str, Any]:
  """{field: value} of FIELD=VALUE, of FIELD for a true boolean, or of no_FIELD for a false one or the choice "none"."""
  field, equals, text = part.partition("=")
  kinds = typing.get_type_hints(type(cfg))
  off = {
    "no_" + f: False if k is bool else "none" for f, k in kinds.items() if k is bool or "none" in typing.get_args(k)
  }
  if field in off and field not in kinds and not equals:
    return {field[3:]: off[field]}
  fields = {field: _read(text) if equals else True}
  if field not in _names(type(cfg)):
    names = [*_names(type(cfg)), *off, *asked(IDENTITIES[method])[1]]
    raise UserError(
      f"--compare has {name!r}: {method} has no preset or setting {field!r}{options.nearest(field, names)}"
    )
  return _own(fields, type(cfg))


def _read(text: str) -> Any:
  """A number, true or false as a JSON value, anything else as text."""
  try:
    return json.loads(text)
  except ValueError:
    return text


def to_json(s: Settings) -> dict[str, Any]:
  """The content of config.json: every field, so that --config can repeat the run."""
  plain = lambda x: str(x) if isinstance(x, Path) else list(x) if isinstance(x, tuple) else x
  extra: dict[str, Any] = {"given": list(s.overrides)} if s.run.compare else {}
  return {k: plain(v) for k, v in (_values(s.run) | _values(s.cfg)).items()} | extra


def join(cfg: type, command: type, method: str) -> type:
  """One flat dataclass: the fields of the command, then those of the method."""
  if both := _names(command) & _names(cfg):
    raise TypeError(f"{method} and {command.__name__} both have {sorted(both)}")
  about: dict[str, Any] = {"__doc__": command.__doc__, "__annotations__": {}, "REST": f"options of {method}"}
  kind = type(command.__name__, (cfg, command), about)
  return dataclasses.dataclass(frozen=True)(kind)


def _config_file(args: list[str]) -> tuple[config.Personalize, dict[str, Any], list[str]]:
  """--config FILE.json of an earlier run: its fields; FILE.py: `config`, and the method's own as `settings`, a dict."""
  file, rest = options.take(args, "--config", "give a file")
  if file is None:
    return config.Personalize(), {}, args
  path = Path(file)
  if path.suffix != ".json":
    return config_file.load(path, config.Personalize), dict(config_file.variables(path).get("settings", {})), rest
  return config.Personalize(), _read_json(path), rest


def _read_json(path: Path) -> dict[str, Any]:
  try:
    fields = json.loads(path.read_text())
  except (OSError, ValueError) as e:
    raise UserError(f"--config {path} cannot be read: {e}") from e
  if not isinstance(fields, dict):
    raise UserError(f"--config {path} holds no JSON object")
  return fields


def _own(fields: dict[str, Any], kind: type) -> dict[str, Any]:
  """The items of `fields` that `kind` declares, in its types. UserError for a value of another type."""
  types = typing.get_type_hints(kind)
  out = {k: tuple(v) if isinstance(v, list) else v for k, v in fields.items() if k in _names(kind)}
  for name, value in out.items():
    if isinstance(value, str) and Path in (types[name], *typing.get_args(types[name])):
      out[name] = Path(value)
    elif not config_file.fits(value, types[name]):
      raise UserError(f"{name} is {value!r}; it must be {config_file.describe(types[name])}")
  return out


def _value(args: list[str], flag: str) -> str | None:
  """The value of a flag, the last if it is given several times."""
  last = None
  while flag in args or any(a.startswith(flag + "=") for a in args):
    value, args = options.take(args, flag, "see idejax personalize --help")
    last = value
  return last


def _names(kind: type) -> set[str]:
  return {f.name for f in dataclasses.fields(kind)}


def _values(x: Any) -> dict[str, Any]:
  return {f.name: getattr(x, f.name) for f in dataclasses.fields(x)}
