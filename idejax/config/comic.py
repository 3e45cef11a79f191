"""What `idejax comic` and `idejax app` take."""

import dataclasses
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from idejax.ranges import any_seed, between, not_empty

Kind = Literal["grid", "strip", "row", "nine", "hero", "zigzag", "cinema", "splash", "text"]


@dataclasses.dataclass(frozen=True)
class Comic:
  """A story becomes a comic in which its people keep their faces.

    idejax comic --out comic                              the demo story with the two sample people
    idejax comic story.txt --people runs/store --out comic
    idejax comic --learn anna.jpg ben.jpg --names "Anna Lee, Ben Oak" --consent "both of them" --people runs/store
    idejax comic comic --out comic                        after comic/comic.json was edited: what changed is drawn again

  --out receives comic.json (the whole comic, docs/comic-script.md), panels/, and comic.png, .pdf, .cbz and
  .html. The same command again draws only what is missing. A language model cuts the story where
  IDEJAX_LLM_URL and IDEJAX_LLM_MODEL (and IDEJAX_LLM_KEY) name one; without them nothing leaves this machine.
  """

  story: Path | None = dataclasses.field(default=None, metadata={"positional": True})
  """A story as text; or a comic.json, or its folder, to draw as it stands. Default: a demo story."""
  people: Path | None = None
  """Folder of people who were learned. Default: runs/store, where built-in models find two sample people."""
  out: Annotated[Path, not_empty] = Path("comic")
  """Folder for the comic; made if need be."""
  title: str | None = None
  """Above the first page. Default: the story's file name."""
  style: tuple[str, ...] = ()
  """Styles of all panels, such as "comic style" "vivid colors"; the option may be repeated."""
  layout: Kind | None = None
  """How panels lie on pages; text follows the length of the text. Default: grid."""
  direction: Literal["ltr", "rtl"] | None = None
  """Reading order within a row: from the left, or from the right. Default: ltr."""
  candidates: Annotated[int | None, between(1, 8)] = None
  """Pictures per panel, 1 to 8; shown is the best by whole faces, likeness and prompt. Default: 1."""
  negative: str | None = None
  """What pictures should not show, beside what is always kept out."""
  seed: Annotated[int | None, any_seed] = None
  """Seed of the first panel; those after it have the numbers that follow. Default: 0."""
  steps: Annotated[int | None, between(1, 128)] = None
  """Sampler steps. Default: 25."""
  script_only: bool = False
  """Write comic.json and stop, so that it can be edited before anything is drawn."""
  model: str = "miniature"
  """Pipeline folder in diffusers layout, or a hub id; miniature is built in."""
  pack: str = "miniature"
  """Face networks: miniature, an insightface pack by name, or a folder."""
  clip: Path | None = None
  """CLIP model (folder as transformers writes it) that checks every picture. Needed unless the model is built in."""
  learn: tuple[Path, ...] = ()
  """Photos of people to learn first, one each; the option may be repeated."""
  names: str = ""
  """Their names, in order: "First Last, First Last"."""
  consent: str = ""
  """Who has agreed to the use of these photos; nothing is learned without."""
  method: str = ""
  """How to learn them: a method of idejax personalize to which one photo is enough. Default: celeb-basis."""
  addon: str | None = None
  """Add-on folder of idejax pretrain, by which the method facesnap reads faces in a moment."""
  replace: bool = False
  """Replace people of these names who are in the store already."""

  GROUPS: ClassVar[dict[str, tuple[str, ...]]] = {
    "story": ("story", "title", "script_only"),
    "people": ("people", "learn", "names", "consent", "method", "addon", "replace"),
    "pictures": ("style", "candidates", "negative", "seed", "steps"),
    "pages": ("out", "layout", "direction"),
    "model": ("model", "pack", "clip"),
  }


@dataclasses.dataclass(frozen=True)
class App:
  """The comic in a browser: learn people, tell a story, change panels, print.

    idejax app                         then open http://127.0.0.1:7860

  Needs pip install -e ".[app]". The page answers on this machine only. Every browser has people and a comic
  of its own, which stay in --out; the people of --people are there for all.
  """

  port: Annotated[int, between(0, 65535)] = 7860
  """Where the page listens; 0 takes a free port."""
  people: Path = Path("runs/store")
  """Folder of people who are offered to everybody who opens the page; the two sample people of the built-in models are put there."""
  out: Annotated[Path, not_empty] = Path("runs/comics")
  """Folder of visitors' people and comics."""
  model: str = "miniature"
  """Pipeline folder in diffusers layout, or a hub id; miniature is built in."""
  pack: str = "miniature"
  """Face networks: miniature, an insightface pack by name, or a folder."""
  clip: Path | None = None
  """CLIP model (folder as transformers writes it) that checks every picture. Needed unless the model is built in."""
  addon: str | None = None
  """Add-on folder of idejax pretrain. With it the page also offers facesnap, which learns a person in one look."""
