"""The methods by which people can be learned here from one photo, and what each costs, in sentences."""

from typing import Any

from idejax import config
from idejax.cli import method_options
from idejax.cli.method_options import Settings
from idejax.cli.options import nearest
from idejax.errors import UserError
from idejax.methods import ADDONS, IDENTITIES
from idejax.methods.contract import Needs
from idejax.model.backbone import Nets
from idejax.personalizing import learn as learning
from idejax.personalizing import posers

USUAL = "celeb-basis"  # it keeps the face and follows prompts, with few numbers

_COUNTS = ("no", "one", "two", "three", "four")


def offers(nets: Nets, model: str, addon: str = "") -> dict[str, str]:
  """{method: what it costs}, the usual one first. Left out: methods that need more than a photo, and those that read
  faces by an add-on unless there is one."""
  out = {}
  for method in sorted(IDENTITIES, key=lambda m: m != USUAL):
    cfg = method_options.preset(method, None, model)
    needs = IDENTITIES[method].needs(cfg, nets)
    if not wants_more(needs) and (addon or method not in ADDONS):
      out[method] = _glance() if method in ADDONS else _training(method, cfg, needs, model)
  return out


def wants_more(needs: Needs) -> bool:
  """Whether a method needs something that neither the page nor `idejax comic` gives beside a photo."""
  return bool(needs.class_pictures or needs.face_vit)


def check(method: str, offered: dict[str, str]) -> str:
  """The method. UserError if it is not offered."""
  if method not in offered:
    raise UserError(f"nobody can be learned by {method!r} here; there are {', '.join(offered)}")
  return method


def words_only(method: str, model: str, nets: Nets) -> bool:
  """Whether a person by this method is words and nothing else, so that people of several such methods share a prompt."""
  return IDENTITIES[method].needs(method_options.preset(method, None, model), nets).words_only


def check_names(method: str, addon: str | None):
  """UserError, before any model is read, for a method that there is not, and an add-on that is none or has no use."""
  if method and method not in IDENTITIES:
    raise UserError(f"--method is {method!r}{nearest(method, IDENTITIES)}; it must be one of {', '.join(IDENTITIES)}")
  learning.check_addon([Settings(config.Personalize(method=method or USUAL, addon=addon), None)])
  if addon:
    posers.find(addon)


def _training(method: str, cfg: Any, needs: Needs, model: str) -> str:
  """The cost of a method that trains: the pictures that it reads, and what a person then is."""
  usual = method_options.preset(USUAL, None, model)
  share = cfg.steps * cfg.batch / (usual.steps * usual.batch)
  if method == USUAL:
    length = "the usual length"
  elif 0.9 < share < 1.1:
    length = f"as many as {USUAL}"
  else:
    length = f"{share:.2g} times as many as {USUAL}"
  count = _COUNTS[needs.tokens] if needs.tokens < len(_COUNTS) else str(needs.tokens)
  words = f"{count} new word{'s' * (needs.tokens != 1)}"
  what = f"A person becomes {words}: some kilobytes, and people can share a picture."
  if not needs.words_only:
    what = (
      f"A person becomes {words} and changes of the model: slower steps, larger files, and beside somebody who was "
      "learned otherwise everybody has a part of the picture of their own."
    )
  turn = f" Several people are learned one after another: {needs.alone}." if needs.alone else ""
  return f"Trains {cfg.steps} steps of {cfg.batch} picture{'s' * (cfg.batch > 1)}, {length}. {what}{turn}"


def _glance() -> str:
  return (
    "Trains nothing: one look at the photo, some seconds. A second network steers every picture, which then takes "
    "longer, and where people meet everybody is drawn by themselves and the parts are joined."
  )
