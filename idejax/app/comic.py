"""`idejax comic` turns a story into a comic; a second run draws only what changed."""

import dataclasses
from pathlib import Path
from typing import Any

from idejax import config
from idejax.app import names, policy, script, styles
from idejax.errors import UserError, tell
from idejax.runtime.progress import counting, waiting
from idejax.storage.folders import claim

_DEMO = Path(__file__).parent / "demo.txt"
_STORE = Path("runs/store")
_MOST = 200_000  # bytes of a story


def main(c: config.Comic):
  # ---- What is asked, checked before anything is loaded ----------------------------------------
  old, text = read(c)
  if c.learn:
    names.pair(names.split(c.names), c.learn)
  if c.learn and not c.consent.strip():
    raise UserError("--learn needs --consent: who has agreed to the use of these photos")
  if c.method or c.addon:
    from idejax.app import offers

    offers.check_names(c.method, c.addon)
  if c.people and not c.people.is_dir() and not c.learn:
    raise UserError(f"--people {c.people} is no folder of people; --learn fills one")
  for photo in c.learn:
    if not photo.is_file():
      raise UserError(f"--learn {photo} is no file: give a photo of each person")
  styles.check(c.style)
  policy.check([("the story", text), ("the title", c.title or ""), ("the negative prompt", c.negative or "")])
  with claim(c.out):
    run(c, old, text)


def run(c: config.Comic, old: script.Script | None, text: str):
  # ---- Model and people ------------------------------------------------------------------------
  from idejax.runtime import cores

  cores.use(c.model)
  from idejax.app import learn, remote, samples, story, studio

  with waiting("reading the model"):
    desk = studio.open_studio(c.people or _STORE, c.model, c.pack, c.clip, tell)
  if c.learn:
    applicants = [learn.Applicant(n, p) for n, p in zip(names.split(c.names), c.learn)]
    learn.learn(
      desk.pipe,
      desk.pack,
      applicants,
      learn.Consent(c.consent),
      desk.store,
      model=c.model,
      method=c.method,
      addon=c.addon,
      overwrite=c.replace,
    )
  if c.people is None:
    samples.add(desk)

  # ---- The script --------------------------------------------------------------------------------
  records = desk.store.records()
  if old is None:
    parser = remote.choose_parser({r.name: r.pronouns for r in records})
    s, draft = desk.write(text, parser, title=c.title or (c.story.stem if c.story else "The grocery store"))
    if (c.out / script.FILE).exists():  # an earlier run's: panels whose sentence is the same keep their pictures
      s = dataclasses.replace(desk.with_sentences(script.read(c.out), draft.sentences), title=s.title)
    problems, notes = draft.problems, draft.notes
  else:
    people = [p.name for p in old.people]
    count = lambda t: desk.count(t, people)
    sentences = [p.sentence for p in old.panels]
    problems, notes = tuple(story.problems(sentences, "", people, count)), tuple(story.notes(sentences, people))
    s = desk.bind(old)
  s = _apply_options(c, s)
  for line in [*notes, *styles.conflicts(s.style)]:
    tell(f"note: {line}")
  script.write(c.out, s)
  if problems:
    raise UserError(f"{'; '.join(problems)} (edit {c.out / script.FILE}, then: idejax comic {c.out} --out {c.out})")
  if c.script_only:
    return tell(f"{len(s.panels)} panels in {c.out / script.FILE}; to draw them: idejax comic {c.out} --out {c.out}")

  # ---- Pictures and pages ------------------------------------------------------------------------
  bar = counting(max(sum(len(shots) for _, shots in desk.shots(s).values()), 1), "picture")
  try:
    s = desk.draw(c.out, s, progress=lambda done, of, what: bar.update(done - bar.n))
  finally:
    bar.close()
  files = desk.export(c.out, s)
  blank = [v.reason for p in s.panels if (v := script.current_version(p)) and v.reason]
  for reason in blank:
    tell(f"note: {reason}")
  tell(f"{len(s.panels)} panels; {', '.join(str(p) for p in files)}")


def read(c: config.Comic) -> tuple[script.Script | None, str]:
  """An existing script, or the text of a story. UserError for what is neither."""
  path = c.story or _DEMO
  if path.is_dir() or path.suffix == ".json":
    return script.read(path), ""
  try:
    if path.stat().st_size > _MOST:
      raise UserError(f"{path} is larger than {_MOST // 1000} kB: it is no story for a comic")
    return None, path.read_text("utf-8-sig")
  except FileNotFoundError:
    raise UserError(f"{path} does not exist: give a story as a text file, or a comic's folder") from None
  except UnicodeDecodeError as e:
    raise UserError(f"{path} cannot be read as UTF-8 text: {e}") from e


def _apply_options(c: config.Comic, s: script.Script) -> script.Script:
  """The script with the command line's options; what they leave out stays as it is."""
  plain: dict[str, Any] = {
    "title": c.title,
    "negative": c.negative,
    "seed": c.seed,
    "steps": c.steps,
    "style": styles.check(c.style) or None,
  }
  s = dataclasses.replace(s, **{k: v for k, v in plain.items() if v is not None})
  s = dataclasses.replace(s, layout=script.Layout(c.layout or s.layout.kind, c.direction or s.layout.direction))
  if c.candidates is not None:
    s = dataclasses.replace(s, panels=tuple(dataclasses.replace(p, candidates=c.candidates) for p in s.panels))
  return script.validate(s)
