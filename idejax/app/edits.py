"""What the user changes of one panel. The comic's document is the truth: each change is checked as a file would be and
saved in it, and only a panel whose picture would be another is drawn again; its earlier versions stay."""

import dataclasses
import secrets

from idejax.app import actions, names, script, stage, story, styles
from idejax.app.script import Panel, Script
from idejax.app.shots import opener
from idejax.app.studio import Studio
from idejax.app.visitors import Visitor
from idejax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Card:
  """A panel as the fields of its card say it."""

  sentence: str
  prompt: str  # "": made of sentence, pose and styles
  style: tuple[str, ...]
  pose: str
  bubbles: str  # lines, see `stage`
  regions: str


def card(s: Script, p: Panel) -> Card:
  """The fields of a panel's card. Styles are the comic's where it has none of its own."""
  style = s.style if p.style is None else p.style
  return Card(p.sentence, p.prompt or "", style, p.pose, stage.bubble_lines(p), stage.region_lines(p))


def edit(studio: Studio, v: Visitor, panel: str, asked: Card) -> Script:
  """Saves what a card says. Another sentence, prompt, style, pose or region makes a new picture necessary, bubbles do
  not. Bubbles that were not touched follow another sentence. Styles that are the comic's stay the comic's, also when
  those change later. UserError, and nothing is saved, for what cannot be drawn."""
  desk, s = studio.at(v.store), v.script()
  before = s.panel(panel)
  sentence = " ".join(asked.sentence.split())
  if not sentence:
    raise UserError("A panel needs a sentence")
  prompt = " ".join(asked.prompt.split()) or None
  people = names.present(f"{sentence} {prompt or ''}", desk.store.names())
  # Whoever is no longer in the panel has no place either.
  gone = {*before.people} - {*people}
  places = "\n".join(x for x in asked.regions.splitlines() if x.partition("|")[0].strip() not in gone)
  style = styles.check(asked.style)
  follow = sentence != before.sentence and asked.bubbles.strip() == stage.bubble_lines(before)
  p = dataclasses.replace(
    before,
    sentence=sentence,
    prompt=prompt,
    people=people,
    style=None if style == s.style else style,
    pose=" ".join(asked.pose.split()),
    bubbles=story.bubbles(sentence, people) if follow else stage.read_bubbles(asked.bubbles),
    regions=stage.read_regions(places, people),
    alt=before.alt if sentence == before.sentence else "",
  )
  if dataclasses.replace(p, bubbles=before.bubbles, alt=before.alt) != before:
    p = dataclasses.replace(p, chosen=None)
  return actions.keep(desk, v, desk.bind(s.with_panel(p)))


def message(desk: Studio, before: Panel, s: Script) -> str:
  """What was saved, and whether it needs a new picture."""
  after = s.panel(before.id)
  if after.prompt and before.sentence != after.sentence:
    return "Saved. The picture follows the panel's own prompt: clear that prompt to draw the new sentence."
  return "Saved. Draw makes the new picture." if desk.shots(s)[before.id][1] else "Saved. The picture stays as it is."


def plain_prompts(desk: Studio, s: Script) -> dict[str, str]:
  """By panel the prompt that it is drawn with where it has none of its own, with people's names. Empty if somebody
  of the comic is no longer there."""
  plain = dataclasses.replace(s, panels=tuple(dataclasses.replace(p, prompt=None) for p in s.panels))
  try:
    texts = desk.prompts(plain)
  except UserError:
    return {}
  return {p.id: " / ".join(names.to_names(t, p.people) for t in texts[p.id]) for p in s.panels}


def size(v: Visitor, version: script.Version | None) -> tuple[int, int] | None:
  """Width and height of a version's picture; None if there is none."""
  image = opener(v.comic)(version) if version and not version.reason else None
  return image.size if image else None


def reroll(v: Visitor, panel: str) -> Script:
  """A new seed for a panel; its versions stay."""
  s = v.script()
  return v.keep(s.with_panel(dataclasses.replace(s.panel(panel), seed=secrets.randbelow(2**31))))


def choose(v: Visitor, panel: str, version: int) -> Script:
  """Chooses which version of a panel is shown."""
  s = v.script()
  return v.keep(script.validate(s.with_panel(dataclasses.replace(s.panel(panel), chosen=version))))


def labels(p: Panel) -> list[str]:
  """A label for each version of a panel: its number and score."""
  score = lambda x: "" if x is None else f" {x:.2f}"
  return [f"{k + 1}{' blank' if x.reason else score(x.identity)}" for k, x in enumerate(p.versions)]
