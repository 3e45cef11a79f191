"""The parts of the page as HTML: every text is escaped, every picture has an alternative text."""

import html
import time
from collections.abc import Sequence

from idejax.app import pages
from idejax.app.script import Panel, Script, Version
from idejax.app.store import Record


def people(token: str, records: Sequence[Record], slugs: Sequence[str]) -> str:
  """Portraits with names; the tooltip says how they were learned and who consented."""
  if not records:
    return '<p class="hint">Nobody yet. Upload a portrait of everybody who should be in the story.</p>'
  cards = []
  for r, slug in zip(records, slugs):
    tip = html.escape(f"{r.method} on {r.model}; consent: {r.consent.by}", quote=True)
    sample = '<span class="tag">sample</span>' if r.sample else ""
    cards.append(
      f'<figure class="person" title="{tip}"><img src="/people/{token}/{slug}.png?{r.photo_sha256[:8]}" alt="Portrait of {html.escape(r.name, quote=True)}">'
      f"<figcaption>{html.escape(r.name)}{sample}</figcaption></figure>"
    )
  return f'<div class="people">{"".join(cards)}</div>'


def picture(token: str, s: Script, p: Panel, v: Version | None) -> str:
  """A panel's picture, or why there is none."""
  if v is None:
    return '<div class="empty">not drawn yet</div>'
  if v.reason:
    return f'<div class="empty">{html.escape(v.reason)}</div>'
  alt = html.escape(pages.alt(s, p), quote=True)
  scores = "".join(
    f'<span class="tag">{n} {x:.2f}</span>'
    for n, x in (("likeness", v.identity), ("prompt", v.prompt))
    if x is not None
  )
  if v.cut:
    scores += '<span class="tag warn">a face is cut off</span>'
  return f'<div class="shot"><img src="/comic/{token}/{html.escape(v.file, quote=True)}" alt="{alt}"><div>{scores}</div></div>'


def sheets(token: str, alts: Sequence[str], stamp: str) -> str:
  """The pages as they will be printed, and links to the files."""
  if not alts:
    return '<p class="hint">The pages appear here as soon as there are panels.</p>'
  images = "".join(
    f'<img class="sheet" src="/comic/{token}/pages/{n:03d}.jpg?{stamp}" alt="{html.escape(a, quote=True)}">'
    for n, a in enumerate(alts, 1)
  )
  links = "".join(
    f'<a class="file" href="/comic/{token}/comic.{k}?{stamp}" download="comic.{k}">{k.upper()}</a>'
    for k in (*pages.FORMATS, "json")
  )
  return f'<nav class="files" aria-label="Download the comic">{links}</nav><div class="sheets">{images}</div>'


def status(text: str, kind: str = "calm", share: float | None = None) -> str:
  """One sentence, read out by screen readers; with a bar while something runs."""
  bar = "" if share is None else f'<progress max="1" value="{share:.3f}" aria-label="progress"></progress>'
  return f'<div class="status {kind}" role="status" aria-live="polite">{html.escape(text)}{bar}</div>'


def hint(text: str) -> str:
  """A sentence beside a control, read out when it changes."""
  return f'<p class="hint" aria-live="polite">{html.escape(text)}</p>'


class Clock:
  """Estimates the remaining time from the time already spent."""

  def __init__(self):
    self.first: tuple[float, int] | None = None

  def remaining_time(self, done: int, of: int) -> str:
    now = time.monotonic()
    if done and self.first is None:
      self.first = now, done
    if not self.first or done <= self.first[1]:
      return ""
    rate = (done - self.first[1]) / max(now - self.first[0], 1e-6)
    seconds = (of - done) / rate
    return f", about {seconds / 60:.0f} min left" if seconds > 90 else f", about {seconds:.0f} s left"
