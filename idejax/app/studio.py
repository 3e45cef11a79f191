"""Draws a script: every text is checked first, only what changed is drawn, every picture is checked before
anybody sees it, and each finished picture is saved at once."""

import dataclasses
import functools
import itertools
import json
import re
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from idejax import faces
from idejax.app import judging, learn, names, offers, pages, policy, script, story, styles, watermark, world
from idejax.app import rules as offline
from idejax.app.audit import Audit
from idejax.app.concepts import Checker
from idejax.app.judging import Judges, PackJudges
from idejax.app.script import Box, Panel, Script, Version
from idejax.app.shots import Shot, columns, join, named, opener, prompts_of, views_of
from idejax.app.store import Store
from idejax.errors import UserError
from idejax.miniature.judging import scoring
from idejax.personalizing import posers
from idejax.sampling import pipeline as pl
from idejax.sampling import regions, sampler
from idejax.storage import hub

ALONE = ("dreambooth", "facesnap")  # methods whose people cannot share a picture with others
COLUMN = 48  # pixels of width for each of several people in a picture of the drawn world
PICTURES = "panels"  # the folder of pictures beside comic.json


@dataclasses.dataclass
class Studio:
  """A model with its checks and judges, for the page and the command. It draws for one user at a time."""

  pipe: pl.Pipeline
  pack: faces.Pack
  store: Store
  model: str
  checker: Checker
  judges: Judges | None  # None: candidates are not ranked
  gate: learn.AgeGate = learn.AgeGate()
  addon: str = ""  # folder by which facesnap reads faces, "" for none
  lock: threading.Lock = dataclasses.field(default_factory=threading.Lock)

  def __post_init__(self):
    self.audit = Audit(self.store.root)
    self._embeddings: dict[str, np.ndarray | None] = {}

  def at(self, store: Store) -> "Studio":
    """A studio for another store that shares everything else, including the lock."""
    return dataclasses.replace(self, store=store)

  @functools.cached_property
  def offers(self) -> dict[str, str]:
    """The methods by which people can be learned here, and what each costs."""
    return offers.offers(self.pipe.backbone.nets, self.model, self.addon)

  @property
  def small_world(self) -> bool:
    return self.model in hub.BUILT_IN

  @property
  def guidance(self) -> float:
    """The model's own, for scripts that name none."""
    return pl.default_guidance(self.pipe)

  @property
  def sampler(self) -> str:
    return sampler.for_sheets(self.pipe.backbone.nets.sampler)

  def negative(self, s: Script) -> str:
    """The negative prompt. The drawn world has no words for the fixed one: the model would read it letter by
    letter, which costs a fifth of the likeness. There only the user's own negative prompt is used."""
    return s.negative if self.small_world else policy.negative(s.negative)

  # ---- Before drawing ---------------------------------------------------------------------------

  def count(self, sentence: str, people: Sequence[str]) -> int:
    """The number of tokens of a sentence; a name counts as two, the rows that it stands for."""
    plain = names.pattern(people).sub("a a", sentence)
    return len(self.pipe.tokenizers[0].bpe.ids(plain))

  def write(
    self,
    text: str,
    parser: story.StoryParser | None = None,
    *,
    title: str = "Untitled",
    people: Sequence[str] | None = None,
    style: Sequence[str] = (),
    layout: str = "grid",
    seed: int = 0,
    steps: int = 25,
  ) -> tuple[Script, story.Cut]:
    """A story as a script without pictures, and the parser's result with problems and notes."""
    policy.check([("the story", text), ("the title", title)])
    records = [self.store.record(n) for n in (self.store.names() if people is None else people)]
    parser = parser or offline.Rules({r.name: r.pronouns for r in records})
    draft = story.cut(parser, text, [r.name for r in records], lambda s: self.count(s, [r.name for r in records]))
    s = Script(title=title, layout=script.Layout(layout), style=styles.check(style), seed=seed, steps=steps)
    return self.with_sentences(s, draft.sentences), draft

  def with_sentences(self, s: Script, sentences: Sequence[str]) -> Script:
    """The script with these sentences. A panel with the same sentence keeps everything; a panel whose sentence
    was edited in place keeps its versions and seed."""
    people = self.store.names()
    same: dict[str, list[Panel]] = {}
    for p in s.panels:
      same.setdefault(p.sentence, []).append(p)
    spare = [p for p in s.panels if p.sentence not in sentences]
    ids = {p.id for p in s.panels}
    fresh = (f"p{n}" for n in range(1, 10**6) if f"p{n}" not in ids)
    out: list[Panel] = []
    for i, text in enumerate(sentences):
      old = same[text].pop(0) if same.get(text) else None
      if old is None and i < len(s.panels) and s.panels[i] in spare:
        old = s.panels[i]
      if old is not None and old in spare:
        spare.remove(old)
      who = names.present(text, people)
      if old is None:
        out.append(Panel(next(fresh), text, people=who, bubbles=story.bubbles(text, who)))
      elif old.sentence == text:
        out.append(old)
      else:
        out.append(
          dataclasses.replace(
            old,
            sentence=text,
            people=who,
            prompt=None,
            bubbles=story.bubbles(text, who),
            alt="",
            regions=tuple(r for r in old.regions if r.person in who),
            chosen=None,
          )
        )
    return self.bind(dataclasses.replace(s, panels=tuple(out)))

  def bind(self, s: Script) -> Script:
    """The script with the digests of the current model and of the people's current embeddings."""
    who = list(dict.fromkeys(n for p in s.panels for n in p.people))
    people = tuple(script.Person(n, self.store.digest(n), self.store.record(n).pronouns) for n in who)  # type: ignore[arg-type]
    return dataclasses.replace(s, people=people, model=script.Model(self.model, self.pipe.digest))

  def prompts(self, s: Script) -> dict[str, list[str]]:
    """The final prompts by panel, one for each part of its picture, as the model reads them."""
    style = {p.id: s.style if p.style is None else p.style for p in s.panels}
    texts = [story.visible_part(p.sentence) + (f", {p.pose}" if p.pose else "") for p in s.panels]
    parts = [[r.person for r in p.regions] or p.people for p in s.panels]
    small = world.prompts(texts, parts, [style[p.id] for p in s.panels])
    out = {}
    for p, text, own in zip(s.panels, texts, small):
      full = p.prompt or ", ".join(["a picture of " + text.rstrip("."), *style[p.id]])
      if p.prompt is not None or not self.small_world:
        own = [names.only(full, who, p.people) for who in self._apart(p)] or [full]
      if self.composes(p):
        small_one = self.small_world and p.prompt is None
        own = [*own, world.setting(own[0]) if small_one else names.pattern(p.people).sub("a person", full)]
      out[p.id] = [names.once(names.to_words(t, p.people), p.people) for t in own]
    return out

  def composes(self, p: Panel) -> bool:
    """Whether several prompts share one picture, each in its box: those of the regions, of people who cannot share a
    prompt, and in the drawn world of all people who meet. Else each is drawn by itself and they are joined: where people bring weights or pictures
    of their own, and where a box is smaller than a person, whose size in the drawn world is always the same."""
    if any(self.store.record(n).method in ALONE for n in p.people):
      return False
    if not self.small_world:
      return bool(self._apart(p))
    boxes = [r.box for r in p.regions] or columns(len(p.people))
    wide, tall = 0.7 / max(len(p.people), 1), 0.8
    return len(boxes) > 1 and p.prompt is None and all(b[2] - b[0] > wide and b[3] - b[1] > tall for b in boxes)

  def _apart(self, p: Panel) -> Sequence[str]:
    """Whoever has a prompt of their own: those who have a region, else everybody if they cannot share one prompt,
    because somebody in it is more than words and the others were learned otherwise; nobody if one prompt serves all."""
    who = named(p)
    if p.regions or len(who) < 2:
      return [r.person for r in p.regions]
    records = [self.store.record(n) for n in who]
    ways = {(r.method, json.dumps(r.settings, sort_keys=True)) for r in records}
    plain = all(offers.words_only(m, self.model, self.pipe.backbone.nets) for m, _ in ways)
    return who if any(m in ALONE for m, _ in ways) or len(ways) > 1 and not plain else ()

  def size(self, p: Panel) -> tuple[int, int]:
    """Height and width of a panel's pictures; in the drawn world each of several people needs so much width."""
    height, width = self.pipe.size(pl.Settings())
    return (height, COLUMN * len(p.regions or p.people)) if self.small_world and self.composes(p) else (height, width)

  def shots(self, s: Script) -> dict[str, tuple[str, list[Shot]]]:
    """By panel the digest of its inputs, and the shots that are still to draw."""
    texts = self.prompts(s)
    out = {}
    for p in s.panels:
      digest = script.inputs(s, p, " | ".join(texts[p.id]), self.negative(s), self.size(p))
      new = [x._replace(candidate=k) for k in script.todo(p, digest) for x in self._parts(p, texts[p.id])]
      out[p.id] = digest, new
    return out

  def _parts(self, p: Panel, texts: Sequence[str]) -> list[Shot]:
    """The shots of one of a panel's pictures."""
    who = named(p)
    only = who[0] if len(who) == 1 else ""
    boxes: list[tuple[Box | None, str]] = [(r.box, r.person) for r in p.regions]
    if self.composes(p):
      boxes = boxes or list(zip(columns(len(who)), who))
      inside = tuple(regions.Part(t, box) for t, (box, _) in zip(texts, boxes) if box)
      return [Shot(p.id, 0, 0, texts[-1], None, only, inside, tuple(n for _, n in boxes))]
    if not boxes:
      boxes = [(None, only)] if len(texts) == 1 else list(zip(columns(len(texts)), who))
    return [Shot(p.id, 0, j, t, box, n) for j, (t, (box, n)) in enumerate(zip(texts, boxes))]

  def check(self, s: Script):
    """UserError for any text that must not reach a prompt, the final prompts too, and for a panel's own prompt that
    the model would not read to its end."""
    most = self.pipe.tokenizers[0].length - 2
    for i, p in enumerate(s.panels, 1):
      if p.prompt and (count := self.count(p.prompt, p.people)) > most:
        raise UserError(f"the prompt of panel {i} has {count} tokens; the model reads {most}: make it shorter")
    texts = [("the title", s.title), ("the negative prompt", s.negative), *(("a style", t) for t in s.style)]
    final = self.prompts(s)
    for i, p in enumerate(s.panels, 1):
      texts += [
        (f"sentence {i}", p.sentence),
        (f"the pose of panel {i}", p.pose),
        (f"the prompt of panel {i}", p.prompt or ""),
      ]
      texts += [(f"a bubble of panel {i}", b.text) for b in p.bubbles] + [(f"the alt text of panel {i}", p.alt)]
      texts += [(f"the prompt of panel {i}", names.to_names(t, p.people)) for t in final[p.id]]
      texts += [(f"a style of panel {i}", t) for t in p.style or ()]
    try:
      policy.check(texts)
    except UserError as e:
      self.audit.write("refused", why=str(e))
      raise

  # ---- Drawing ----------------------------------------------------------------------------------

  def draw(
    self,
    folder: Path,
    s: Script,
    *,
    progress: learn.Progress = lambda *_: None,
    stop: Callable[[], bool] = lambda: False,
    panel: str = "",
  ) -> Script:
    """Draws every missing picture, or those of one panel, and returns the script; comic.json is written after each.

    UserError before anything is drawn if a text is refused. learn.Stopped if the user stops it; finished
    pictures are kept.
    """
    with self.lock:
      s = self.bind(s)
      self.check(s)
      plan = self.shots(s)
      s = dataclasses.replace(s, panels=tuple(script.shown(p, plan[p.id][0]) for p in s.panels))
      todo = [shot for n, (_, shots) in plan.items() if panel in ("", n) for shot in shots]
      (folder / PICTURES).mkdir(parents=True, exist_ok=True)
      self.store.note_comic([p.name for p in s.people], folder)
      script.write(folder, s)
      parts: dict[tuple[str, int], dict[int, np.ndarray]] = {}
      done = 0
      progress(0, len(todo), "drawing")
      for shot, image in self._pictures(s, todo):
        parts.setdefault((shot.panel, shot.candidate), {})[shot.part] = image
        done += 1
        group = [x for x in todo if x.panel == shot.panel and x.candidate == shot.candidate]
        if len(parts[shot.panel, shot.candidate]) == len(group):
          images = [parts[shot.panel, shot.candidate][x.part] for x in group]
          version = self._keep(folder, s, group, images, plan[shot.panel][0])
          s = s.with_panel(script.add(s.panel(shot.panel), [version]))
          script.write(folder, s)
        progress(done, len(todo), "drawing")
        if stop() and done < len(todo):
          raise learn.Stopped("drawing was stopped; what is finished stays")
      return s

  def _pictures(self, s: Script, todo: Sequence[Shot]) -> Iterator[tuple[Shot, np.ndarray]]:
    """Pictures as they are finished, uint8 [H, W, 3], in the order of `todo`."""
    if not todo:
      return
    people = [self.store.load(p.name, self.model, self.pipe.digest) for p in s.people]
    pipe = self.pipe.with_people(*people)
    guidance = self.guidance if s.guidance is None else s.guidance
    request = lambda x: pl.Request(
      x.prompt, self.negative(s), script.seed_of(s, s.panel(x.panel)), x.candidate, guidance
    )
    settings = pl.Settings(steps=s.steps, sampler=self.sampler, batch=2 * pipe.mesh.size)
    for shared, run in itertools.groupby(todo, key=lambda x: bool(x.inside)):  # in the order of the story
      shots = list(run)
      if not shared:
        for batch in pl.generate(pipe, [request(x) for x in shots], settings):
          for i, image in zip(batch.positions, batch.images):
            yield shots[i], image
        continue
      for x in shots:
        height, width = self.size(s.panel(x.panel))
        own = dataclasses.replace(settings, height=height, width=width)
        yield x, regions.compose(pipe, request(x), x.inside, own)

  def _keep(self, folder: Path, s: Script, group: Sequence[Shot], images: Sequence[np.ndarray], digest: str) -> Version:
    """Checks, marks and writes a candidate's picture; a refused one becomes a blank version with the reason."""
    shot = group[0]
    name = f"{PICTURES}/{shot.panel}-{digest[:12]}-{shot.candidate}.png"
    self.audit.write(
      "drawn", panel=shot.panel, prompts=prompts_of(group), seed=script.seed_of(s, s.panel(shot.panel)), file=name
    )
    if reason := next((r for r in self.checker.reasons(images) if r), ""):
      self.audit.write("blank", panel=shot.panel, why=reason)
      return Version(name, digest, shot.candidate, reason=reason)
    found = [self.pack.detect(x) for x in images]
    image, boxes = join(group, images, [f.boxes for f in found])
    cut = sum(judging.cut(f, (x.shape[1], x.shape[0])) for f, x in zip(found, images))
    identity, prompt = self._judge(group, images)
    record = {
      "prompt": " | ".join(prompts_of(group)),
      "seed": script.seed_of(s, s.panel(shot.panel)),
      "candidate": shot.candidate,
      "model": self.model,
      "model_digest": self.pipe.digest,
      "ai_generated": True,
    }
    watermark.save(folder / name, image, record)
    return Version(name, digest, shot.candidate, tuple(boxes), identity, prompt, cut)

  def _judge(self, group: Sequence[Shot], images: Sequence[np.ndarray]) -> tuple[float | None, float | None]:
    """Mean cosines to the portraits and to the prompts over the parts; None without judges."""
    if self.judges is None:
      return None, None
    views = [v for x, image in zip(group, images) for v in views_of(x, image)]
    cosines = []
    for (_, who, _), face in zip(views, self.judges.embed([image for image, _, _ in views])):
      if who and (own := self._portrait(who)) is not None:
        cosines.append(0.0 if face is None else float(face @ own))
    plain = [re.sub(r"<[^<>\s]+>", "a person", prompt) for _, _, prompt in views]  # the judge does not know them
    each = self.judges.prompt([image for image, _, _ in views], plain)
    return float(np.mean(cosines)) if cosines else None, float(each.mean())

  def _portrait(self, name: str) -> np.ndarray | None:
    """The judge's embedding of a person's portrait, cached by the photo's digest."""
    key = self.store.record(name).photo_sha256
    if key not in self._embeddings:
      assert self.judges
      self._embeddings[key] = self.judges.embed([self.store.portrait(name)])[0]
    return self._embeddings[key]

  # ---- Pages ------------------------------------------------------------------------------------

  def export(self, folder: Path, s: Script, formats: Sequence[str] = pages.FORMATS) -> list[Path]:
    """Writes the comic's files beside comic.json."""
    out = pages.export(folder, s, pages.compose(s, opener(folder)), formats)
    self.audit.write("exported", files=[p.name for p in out])
    return out


# Opening.


def open_studio(
  store: Path,
  model: str = "miniature",
  pack: str = "miniature",
  clip: Path | None = None,
  notify: Callable[[str], None] = print,
  addon: str | None = None,
  **how: Any,
) -> Studio:
  """Opens everything that a comic needs. UserError if no CLIP can check the model's pictures, and for an add-on that
  does not fit the model or the face pack."""
  if clip is None and model not in hub.BUILT_IN:
    raise UserError(f"the pictures of {model} need a check: give --clip FOLDER, a CLIP model as transformers writes it")
  pipe = pl.load(hub.resolve(model), notify=notify, **how)
  checker = Checker() if clip is None else Checker(clip)
  opened = faces.open_pack(pack, notify=notify)
  judges = scoring.Judges() if model in hub.BUILT_IN else PackJudges(opened, checker)
  if addon:
    posers.with_addon(pipe, addon, opened, notify=notify)
  return Studio(pipe, opened, Store(store), model, checker, judges, addon=addon or "")
