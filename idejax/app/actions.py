"""The page's actions, without the page itself: each checks its input, does its work and saves the comic on disk."""

import contextlib
import dataclasses
import json
import queue
import shutil
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from idejax.app import cards, learn, names, offers, pages, remote, script, story, styles, watermark
from idejax.app.script import Layout, Script
from idejax.app.shots import opener
from idejax.app.store import Consent
from idejax.app.studio import Studio
from idejax.app.visitors import Visitor
from idejax.errors import UserError, one_line
from idejax.methods import ADDONS
from idejax.storage.files import replacing


@dataclasses.dataclass(frozen=True)
class Note:
  """What the page says while an action runs and at its end; `tick`: there is something new to show."""

  html: str
  tick: bool = False


def run(
  v: Visitor, start: str, work: Callable[[learn.Progress], str], stamp: Callable[[], Any] = lambda: None
) -> Iterator[Note]:
  """Runs an action in its own thread and yields notes about its progress. When the value of `stamp` changes,
  there is something new to show.

  A UserError or a stop becomes a sentence for the visitor; nothing is raised. An action that was stopped while
  it waited for its turn does not begin; `begin` must have been called when it was asked for.
  """
  if not v.busy.acquire(blocking=False):
    yield Note(cards.status("One thing at a time: what you asked for before is still running.", "bad"))
    return
  if v.stop.is_set():
    v.stop.clear()
    v.busy.release()
    yield Note(cards.status("Stopped before its turn came; nothing was done."))
    return
  messages: queue.Queue[tuple[int, int, str]] = queue.Queue()
  end: list[Note] = []

  def target():
    try:
      end.append(Note(cards.status(work(lambda *a: messages.put(a)), "good"), True))
    except UserError as e:
      end.append(Note(cards.status(one_line(str(e)), "bad"), True))
    except learn.Stopped as e:
      end.append(Note(cards.status(one_line(str(e)), "calm"), True))
    except Exception as e:
      end.append(
        Note(
          cards.status(f"Something went wrong ({type(e).__name__}); what was finished stays. Please try again.", "bad"),
          True,
        )
      )
      raise

  thread = threading.Thread(target=target, daemon=True)
  yield Note(cards.status(start, share=0.0))
  try:
    thread.start()
    clock, last = cards.Clock(), stamp()
    while thread.is_alive():
      thread.join(0.4)
      latest = None
      with contextlib.suppress(queue.Empty):
        while True:
          latest = messages.get_nowait()
      if latest:
        done, of, what = latest
        new = stamp()
        yield Note(
          cards.status(f"{what.capitalize()}: {done} of {of}{clock.remaining_time(done, of)}", share=done / max(of, 1)),
          new != last,
        )
        last = new
  finally:
    if thread.is_alive():  # the visitor has gone: the job ends at its next step, what is finished stays
      v.stop.set()
      thread.join()
    v.stop.clear()
    v.busy.release()
  yield end[0]


def begin(v: Visitor):
  """An action is asked for: an earlier stop does not count for it."""
  if not v.busy.locked():
    v.stop.clear()


def stop(v: Visitor) -> str:
  """Stops what runs, and what waits. Returns a status in HTML."""
  v.stop.set()
  if v.busy.locked():
    return cards.status("Stopping at the next step; what is finished stays.")
  return cards.status("Stopped: what waits for its turn will not begin.")


# People.


def learn_people(
  studio: Studio,
  v: Visitor,
  files: Sequence[str] | None,
  text: str,
  by: str,
  agreed: bool,
  replace: bool,
  method: str = offers.USUAL,
) -> Iterator[Note]:
  """Learns people from uploads into the visitor's store by an offered method; the uploads are deleted in any case."""

  files = list(files or [])

  def work(progress: learn.Progress) -> str:
    try:
      if not agreed:
        raise UserError("Tick that everybody in the pictures has agreed: without consent nothing is learned")
      if not files:
        raise UserError("Upload a portrait of each person first")
      who = names.pair(names.split(text), files)
      offers.check(method, studio.offers)
      desk = studio.at(v.store)
      with desk.lock:
        learn.learn(
          desk.pipe,
          desk.pack,
          [learn.Applicant(n, Path(f)) for n, f in zip(who, files)],
          Consent(by),
          desk.store,
          model=desk.model,
          method=method,
          addon=desk.addon if method in ADDONS else None,
          overwrite=replace,
          gate=desk.gate,
          progress=progress,
          stop=v.stop.is_set,
        )
      return f"Learned: {', '.join(who)}"
    finally:
      for f in files:
        Path(f).unlink(missing_ok=True)

  yield from run(v, "Waiting for a turn to learn", work)


def forget(v: Visitor, name: str, sure: bool) -> str:
  """Deletes a person and everything derived."""
  if not name:
    raise UserError("Choose whom to delete")
  if not sure:
    raise UserError(f"Tick that {name} should be deleted: it cannot be undone")
  count = v.store.delete(name)
  shutil.rmtree(v.comic / "pages", ignore_errors=True)
  return f"{name} is deleted, with {count} files"


# The story.


def cut(studio: Studio, v: Visitor, text: str, title: str, style: Sequence[str], seed: int) -> tuple[Script, str]:
  """Cuts a story into panels; one whose sentence stays keeps its pictures. Returns the comic and a status in HTML."""
  desk = studio.at(v.store)
  remarks: list[str] = []
  parser = remote.choose_parser({r.name: r.pronouns for r in desk.store.records()}, remarks.append)
  s, draft = desk.write(text, parser, title=title.strip() or "Untitled", style=style, seed=seed)
  if (v.comic / script.FILE).exists():
    s = dataclasses.replace(desk.with_sentences(v.script(), draft.sentences), title=s.title, style=s.style, seed=seed)
  v.keep(s)
  with replacing(v.comic / "story.txt") as temporary:
    temporary.write_text(text, "utf-8")
  lines = [*remarks, *draft.problems, *draft.notes]
  return s, cards.status("; ".join([f"{len(s.panels)} panels", *lines]), "bad" if draft.problems else "good")


def settings(
  studio: Studio,
  v: Visitor,
  sentences: str,
  title: str,
  style: Sequence[str],
  layout: str,
  direction: str,
  seed: int,
  candidates: int,
  negative: str,
  steps: int,
) -> Script:
  """The comic with the page's settings, checked as a file would be."""
  desk = studio.at(v.store)
  lines = [" ".join(x.split()) for x in sentences.splitlines() if x.strip()]
  s = desk.with_sentences(v.script(), lines)
  s = dataclasses.replace(
    s,
    title=title.strip() or "Untitled",
    style=styles.check(style),
    layout=Layout(layout, direction),  # type: ignore[arg-type]
    seed=int(seed),
    negative=negative.strip(),
    steps=int(steps),
    panels=tuple(dataclasses.replace(p, candidates=max(p.candidates, int(candidates))) for p in s.panels),
  )
  people = [p.name for p in s.people]
  if mistakes := story.problems([p.sentence for p in s.panels], "", people, lambda t: desk.count(t, people)):
    raise UserError("; ".join(mistakes[:3]))
  return keep(desk, v, s)


def keep(desk: Studio, v: Visitor, s: Script) -> Script:
  """Saves the edited comic; UserError, and nothing is saved, for a text that may not be drawn."""
  s = script.validate(s)
  desk.check(s)
  return v.keep(s)


def draw(studio: Studio, v: Visitor, ask: Callable[[], Script], panel: str = "") -> Iterator[Note]:
  """Draws all pictures that are missing, or those of one panel, then the pages."""

  def work(progress: learn.Progress) -> str:
    s = ask()
    if not s.panels:
      raise UserError("There are no panels yet: cut a story first")
    desk = studio.at(v.store)
    before = {p.id: len(p.versions) for p in s.panels}
    s = desk.draw(v.comic, s, progress=progress, stop=v.stop.is_set, panel=panel)
    progress(1, 1, "laying out")
    lay_out(studio, v)
    if panel:
      number = list(before).index(panel) + 1
      if len(s.panel(panel).versions) == before[panel]:
        return f"Panel {number} needs no new picture: what it shows has not changed"
      return f"Panel {number} is drawn" + ("; its earlier pictures are among its versions" if before[panel] else "")
    blank = sum(bool((x := script.current_version(p)) and x.reason) for p in s.panels)
    count = "1 panel is" if len(s.panels) == 1 else f"{len(s.panels)} panels are"
    return f"{count} drawn" + (f"; {blank} stay blank, and say why" if blank else "")

  yield from run(v, "Waiting for a turn to draw", work, lambda: _stamp(v))


def _stamp(v: Visitor) -> int:
  path = v.comic / script.FILE
  return path.stat().st_mtime_ns if path.exists() else 0


def lay_out(studio: Studio, v: Visitor) -> list[str]:
  """Writes pages and files from the pictures there are; returns each page's alternative text."""
  s = v.script()
  sheets = pages.compose(s, opener(v.comic))
  folder = v.comic / "pages"
  shutil.rmtree(folder, ignore_errors=True)
  if not sheets:
    return []
  folder.mkdir(parents=True)
  for n, sheet in enumerate(sheets, 1):
    watermark.save(folder / f"{n:03d}.jpg", sheet.image, {"title": s.title, "page": n, "ai_generated": True})
  pages.export(v.comic, s, sheets)
  (v.comic / "pages.json").write_text(json.dumps([x.alt for x in sheets]), "utf-8")
  return [x.alt for x in sheets]


def preview(v: Visitor, token: str) -> str:
  """The pages that were laid out last."""
  path = v.comic / "pages.json"
  if not path.exists() or not (v.comic / "pages").is_dir():
    return cards.sheets(token, [], "")
  return cards.sheets(token, json.loads(path.read_text("utf-8")), str(path.stat().st_mtime_ns))
