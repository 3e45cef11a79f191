"""A panel's card on the page: its picture and versions, and everything of it that can be changed."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import gradio as gr

from idejax.app import actions, cards, edits, script, stage, styles
from idejax.app.script import Panel, Script
from idejax.app.studio import Studio
from idejax.app.visitors import Visitor, Visitors
from idejax.errors import UserError, one_line

_PLACE = (Path(__file__).parent / "place.js").read_text("utf-8")
DEVICE: dict[str, Any] = {"concurrency_limit": 1, "concurrency_id": "device"}  # one learns or draws, the others wait


class Around(NamedTuple):
  """What a card knows of the page that it is on."""

  studio: Studio
  visitors: Visitors
  token: gr.State
  tick: gr.State  # counts what there is to show anew
  status: gr.HTML
  sheets: gr.HTML
  sentences: gr.Textbox

  def begin(self, token: str):
    actions.begin(self.visitors.get(token)[1])


def build(a: Around, token: str, v: Visitor, s: Script, p: Panel, prompt_text: str):
  """Adds the card of a panel. `prompt_text`: what it is drawn with unless it has a prompt of its own. What was typed
  and not saved stays when the page is shown anew."""
  version = script.current_version(p)
  number = [q.id for q in s.panels].index(p.id) + 1
  own = edits.card(s, p)
  gr.HTML(f"<h3>Panel {number}</h3>" + cards.picture(token, s, p, version), elem_id=f"shot-{p.id}")
  if len(p.versions) > 1:
    labels = edits.labels(p)
    pick = gr.Radio(
      labels,
      value=labels[p.versions.index(version)] if version else None,
      label="Versions",
      type="index",
      interactive=True,
      elem_id=f"versions-{p.id}",
    )

    def choose(k: int, n: int):
      def work() -> str:
        edits.choose(v, p.id, k)
        return "The panel shows that version."

      return _change(a, token, n, work)

    pick.input(choose, [pick, a.tick], [a.status, a.tick, a.sheets])

  def field(kind: Callable[..., Any], name: str, value: Any, label: str, **how: Any) -> Any:
    """A field that keeps what was typed, also when the page is shown anew, until another value is saved."""
    shown = v.typed(p.id, name, value)
    label += "" if shown == value else " (not saved yet)"
    # Without `interactive` Gradio disables what it shows before it knows that a button reads it.
    out = kind(value=shown, label=label, elem_id=f"{name}-{p.id}", interactive=True, **how)
    note = lambda typed: v.draft(p.id, name, value, typed)
    # Not `input`: text that is pasted or set by a program, as place.js does, fires `change` alone.
    out.change(note, [out], None, queue=False, show_progress="hidden", trigger_mode="always_last")
    return out

  def part(name: str, title: str) -> gr.Accordion:
    """A part of the card that stays open, or closed, as the user left it."""
    key = f"{name}-{p.id}"
    out = gr.Accordion(title, open=key in v.unfolded, elem_id=key)
    out.expand(lambda: v.unfolded.add(key), None, None, queue=False, show_progress="hidden")
    out.collapse(lambda: v.unfolded.discard(key), None, None, queue=False, show_progress="hidden")
    return out

  sentence = field(gr.Textbox, "sentence", own.sentence, "Sentence", lines=2, max_length=400)
  with part("look", "Prompt, styles and pose"):
    pose = field(gr.Textbox, "pose", own.pose, "Pose", placeholder="seen from the side", max_length=200)
    style = field(gr.Dropdown, "styles", list(own.style), "Styles", choices=list(styles.STYLES), multiselect=True)
    prompt = field(
      gr.Textbox,
      "prompt",
      own.prompt,
      "A prompt of its own, in place of sentence, pose and styles",
      placeholder=prompt_text,
      lines=2,
      max_length=1000,
    )
  with part("more", "Bubbles and places"):
    gr.HTML(stage.board(token, s, p, edits.size(v, version)), js_on_load=_PLACE)
    lines = field(gr.Textbox, "bubbles", own.bubbles, "Bubbles: kind | speaker | text | x,y", lines=2, max_length=2000)
    regions = field(gr.Textbox, "regions", own.regions, "Places: who | x0,y0,x1,y1", lines=1, max_length=2000)
  with gr.Row(elem_classes="deeds"):
    save = gr.Button("Save", size="sm", min_width=64, elem_id=f"save-{p.id}")
    once = gr.Button("Draw", size="sm", min_width=64, variant="primary", elem_id=f"draw-{p.id}")
    again = gr.Button("Re-roll", size="sm", min_width=64, elem_id=f"reroll-{p.id}")

  fields = [sentence, prompt, style, pose, lines, regions]
  shown = [a.status, a.tick, a.sheets]
  listed = (lambda t: "\n".join(q.sentence for q in a.visitors.get(t)[1].script().panels), [a.token], [a.sentences])

  def asked(sentence, prompt, style, pose, lines, regions) -> edits.Card:
    return edits.Card(sentence, prompt, tuple(style or ()), pose, lines, regions)

  def keep(*values):
    def work() -> str:
      before = v.script().panel(p.id)
      return edits.message(a.studio.at(v.store), before, edits.edit(a.studio, v, p.id, asked(*values[:-1])))

    return _change(a, token, values[-1], work)

  def draw(ask: Callable[[edits.Card], Script]):
    def run(*values):
      n = values[-1]
      for note in actions.draw(a.studio, v, lambda: ask(asked(*values[:-1])), p.id):
        n += note.tick
        yield note.html, n, actions.preview(v, token) if note.tick else gr.skip()

    return run

  def rolled(card: edits.Card) -> Script:
    edits.edit(a.studio, v, p.id, card)
    return edits.reroll(v, p.id)

  save.click(keep, [*fields, a.tick], shown).then(*listed)
  for button, ask in ((once, lambda card: edits.edit(a.studio, v, p.id, card)), (again, rolled)):
    button.click(a.begin, [a.token], None, queue=False).then(draw(ask), [*fields, a.tick], shown, **DEVICE).then(
      *listed
    )


def _change(a: Around, token: str, n: int, work: Callable[[], str]):
  """(status, tick, pages) after a change that draws nothing."""
  v = a.visitors.get(token)[1]
  try:
    text = work()
    actions.lay_out(a.studio, v)
  except UserError as e:
    return cards.status(one_line(str(e)), "bad"), n, gr.skip()
  return cards.status(text, "good"), n + 1, actions.preview(v, token)
