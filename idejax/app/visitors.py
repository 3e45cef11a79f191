"""Visitors of the page: one folder each, named by a token that only their browser knows.

    OUT/<token>/store/    their people, with copies of the people offered to all
    OUT/<token>/comic/    their comic

Everything is on disk, so visitors find it again after the server was killed.
"""

import dataclasses
import re
import secrets
import shutil
import threading
from pathlib import Path
from typing import Any

from idejax.app import script
from idejax.app.script import Script
from idejax.app.store import Store

MOST = 1000  # folders; the page takes in nobody more


@dataclasses.dataclass
class Visitor:
  """One browser."""

  folder: Path
  stop: threading.Event = dataclasses.field(default_factory=threading.Event)  # asked to stop what runs
  busy: threading.Lock = dataclasses.field(default_factory=threading.Lock)  # one job at a time
  drafts: dict[tuple[str, str], tuple[Any, Any]] = dataclasses.field(default_factory=dict)  # see `draft`
  unfolded: set[str] = dataclasses.field(default_factory=set)  # parts of cards that are open

  def draft(self, panel: str, field: str, saved: Any, typed: Any):
    """Keeps what was typed into a panel's field, and not saved, beside what is saved there."""
    self.drafts[panel, field] = saved, typed

  def typed(self, panel: str, field: str, saved: Any) -> Any:
    """What a panel's field shows: what was typed since this was saved, else what is saved."""
    base, typed = self.drafts.get((panel, field), (saved, saved))
    return typed if base == saved else saved

  @property
  def store(self) -> Store:
    return Store(self.folder / "store")

  @property
  def comic(self) -> Path:
    return self.folder / "comic"

  def script(self) -> Script:
    """Their comic, an empty one at first."""
    return script.read(self.comic) if (self.comic / script.FILE).exists() else Script(title="")

  def keep(self, s: Script) -> Script:
    script.write(self.comic, s)
    return s

  def story(self) -> str:
    path = self.comic / "story.txt"
    return path.read_text("utf-8") if path.exists() else ""


class Visitors:
  """All visitors, by token."""

  def __init__(self, root: Path, offered: Store):
    self.root, self.offered = Path(root), offered
    self._here: dict[str, Visitor] = {}
    self._lock = threading.Lock()

  def get(self, token: str | None) -> tuple[str, Visitor]:
    """The token and the visitor of a browser; a new one if it has no token or an unknown one."""
    with self._lock:
      if not token or not re.fullmatch(r"[A-Za-z0-9_-]{32}", token) or not (self.root / token).is_dir():
        if len(self._here) >= MOST:
          raise RuntimeError("too many visitors")
        token = secrets.token_urlsafe(24)
        (self.root / token).mkdir(parents=True, mode=0o700)
      if token not in self._here:
        self._here[token] = Visitor(self.root / token)
        self._offer(self._here[token])
      return token, self._here[token]

  def find(self, token: str) -> Visitor | None:
    """An existing visitor, for downloads; None if there is none with this token."""
    if not re.fullmatch(r"[A-Za-z0-9_-]{32}", token) or not (self.root / token).is_dir():
      return None
    return self.get(token)[1]

  def _offer(self, v: Visitor):
    """Copies the people offered to all, except those this visitor has deleted or has under the same name."""
    mark = v.folder / "offered"
    had = set(mark.read_text("utf-8").split("\n")) if mark.exists() else set()
    for r in self.offered.records():
      source, place = self.offered.folder(r.name), v.store.folder(r.name)
      if (
        r.name in had
        and place.exists()
        and v.store.digest(r.name) != self.offered.digest(r.name)
        and v.store.record(r.name).sample
      ):
        shutil.rmtree(place)  # learned anew for another model
        had.discard(r.name)
      if r.name in had or place.exists():
        continue
      place.parent.mkdir(parents=True, exist_ok=True)
      shutil.copytree(source, place)
    mark.write_text("\n".join(sorted(had | set(self.offered.names()))), "utf-8")
