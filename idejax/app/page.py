"""The page: people on the left, the story and its panels on the right. What it does is in `actions`."""

import dataclasses
import os

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")

from pathlib import Path

import gradio as gr

from idejax.app import actions, cards, edits, names, offers, panel_card, script, styles
from idejax.app.layout import LAYOUTS
from idejax.app.studio import Studio
from idejax.app.visitors import Visitors
from idejax.errors import UserError, one_line

_CARDS = 12  # panels on a page of cards
_DEMO = (Path(__file__).parent / "demo.txt").read_text("utf-8")
CSS = (Path(__file__).parent / "page.css").read_text("utf-8")
THEME = gr.themes.Soft(
  primary_hue="indigo",
  secondary_hue="amber",
  font=["Comic Neue", "Segoe UI", "system-ui", "sans-serif"],
  font_mono=["ui-monospace", "monospace"],
)  # fmt: skip - no font is fetched from anywhere
_HEADER = """<header class="top"><div><h1>Comic</h1><p>Tell a story. The people in it keep their faces.</p></div>
<nav aria-label="Parts of the page"><a href="#part-people">People</a><a href="#part-story">Story</a>
<a href="#part-panels">Panels</a><a href="#part-pages">Pages</a></nav></header>"""


def build(studio: Studio, visitors: Visitors) -> gr.Blocks:
  """Builds the page for a studio."""

  def guard(work):
    """(value, status) of a short action; after a UserError (None, its text)."""
    try:
      return work()
    except UserError as e:
      return None, cards.status(one_line(str(e)), "bad")

  def everybody(token: str):
    v = visitors.get(token)[1]
    records = v.store.records()
    people = [r.name for r in records]
    return cards.people(token, records, [names.slug(n) for n in people]), gr.update(choices=people, value=None)

  with gr.Blocks(title="idejax comic", analytics_enabled=False, delete_cache=(600, 600)) as page:
    browser_state = gr.BrowserState("", storage_key="idejax-comic", secret="idejax")
    token = gr.State("")
    tick = gr.State(0)
    first = gr.State(0)
    gr.HTML(_HEADER)
    with gr.Row(equal_height=False, elem_classes="columns"):
      with gr.Column(scale=4, min_width=320):
        gr.Markdown("## People", elem_id="part-people")
        gr.HTML(
          f'<p class="hint">Model: <b>{studio.model}</b>. A name is a first and a last name; names stand in the order of the pictures.</p>'
        )
        crowd = gr.HTML(elem_id="people")
        with gr.Accordion("Learn somebody new", open=False, elem_id="learn"):
          files = gr.File(label="Portraits", file_count="multiple", file_types=["image"], elem_id="files")
          who = gr.Textbox(label="Names", placeholder="Anna Field, Ben Stone", elem_id="names", max_length=1400)
          by = gr.Textbox(label="Who has agreed", placeholder="Anna and Ben themselves", elem_id="by", max_length=200)
          agreed = gr.Checkbox(
            label="Everybody in these pictures is an adult and has agreed to be drawn.", elem_id="agreed"
          )
          replace = gr.Checkbox(label="Replace people who have these names already.")
          method = gr.Dropdown(
            label="How to learn them",
            choices=list(studio.offers),
            value=offers.USUAL,
            elem_id="method",
            filterable=False,
          )
          cost = gr.HTML(cards.hint(studio.offers[offers.USUAL]), elem_id="cost")
          learn_button = gr.Button("Learn", variant="primary", elem_id="learn-button")
        with gr.Accordion("Delete somebody", open=False):
          to_delete = gr.Dropdown(label="Who", choices=[], elem_id="gone")
          sure = gr.Checkbox(
            label="Delete what was learned, the portrait, and every picture of this person.", elem_id="sure"
          )
          delete_button = gr.Button("Delete", variant="stop", elem_id="delete-button")
        people_status = gr.HTML(elem_id="people-status")
      with gr.Column(scale=7, min_width=320):
        gr.Markdown("## Story", elem_id="part-story")
        title = gr.Textbox(label="Title", max_length=120, elem_id="title")
        story = gr.Textbox(label="Story", lines=7, max_length=20_000, elem_id="story", placeholder=_DEMO)
        with gr.Row():
          cut_button = gr.Button("Cut into panels", variant="primary", elem_id="cut-button")
          demo_button = gr.Button("Demo story", elem_id="demo-button")
        sentences = gr.Textbox(
          label="Panels, one a line: change what you like", lines=6, max_lines=30, elem_id="sentences"
        )
        style = gr.Dropdown(label="Styles", choices=list(styles.STYLES), multiselect=True, elem_id="style")
        clash = gr.HTML(elem_id="clash")
        with gr.Row():
          layout = gr.Dropdown(
            label="Layout", choices=[(f"{k}: {x.about}", k) for k, x in LAYOUTS.items()], value="grid", elem_id="layout"
          )
          direction = gr.Dropdown(
            label="Read from the", choices=[("left", "ltr"), ("right", "rtl")], value="ltr", min_width=120
          )
        with gr.Accordion("More", open=False):
          with gr.Row():
            seed = gr.Number(label="Seed", value=0, precision=0, minimum=0, maximum=2**53)
            candidates = gr.Slider(label="Pictures to choose from", minimum=1, maximum=4, step=1, value=1)
            steps = gr.Slider(label="Steps", minimum=5, maximum=50, step=1, value=25)
          negative = gr.Textbox(label="What pictures should not show", max_length=400)
        with gr.Row():
          draw_button = gr.Button("Draw the comic", variant="primary", size="lg", elem_id="draw-button")
          stop_button = gr.Button("Stop", variant="stop", elem_id="stop-button")

    status = gr.HTML(elem_id="status")
    gr.Markdown("## Panels", elem_id="part-panels")

    sheets = gr.HTML(elem_id="sheets", render=False)
    around = panel_card.Around(studio, visitors, token, tick, status, sheets, sentences)
    begin = around.begin
    inputs = [token, sentences, title, style, layout, direction, seed, candidates, negative, steps]

    def read(t, *values):
      v = visitors.get(t)[1]
      return v, lambda: actions.settings(studio, v, *values)

    def draw(t, n, *values):
      v, ask = read(t, *values)
      for note in actions.draw(studio, v, ask):
        n += note.tick
        yield note.html, n, actions.preview(v, t) if note.tick else gr.skip()

    @gr.render(inputs=[token, tick, first], triggers=[tick.change, first.change, token.change])
    def panels(t, n, at):
      if not t:
        return
      v = visitors.get(t)[1]
      s = v.script()
      at = min(at, max(len(s.panels) - 1, 0) // _CARDS * _CARDS)
      if not s.panels:
        gr.HTML('<p class="hint">Tell a story and cut it into panels; they appear here.</p>')
      if len(s.panels) > _CARDS:
        turn(at, len(s.panels))
      prompts = edits.plain_prompts(studio.at(v.store), s)
      with gr.Row(elem_classes="cards"):
        for p in s.panels[at : at + _CARDS]:
          with gr.Column(min_width=260, elem_classes="card"):
            panel_card.build(around, t, v, s, p, prompts.get(p.id, ""))

    def turn(at, count):
      gr.HTML(f'<p class="hint">Panels {at + 1} to {min(at + _CARDS, count)} of {count}</p>')
      with gr.Row(elem_classes="turn"):
        back = gr.Button("Earlier panels", size="sm", interactive=at > 0)
        onward = gr.Button("Later panels", size="sm", interactive=at + _CARDS < count)
      back.click(lambda: at - _CARDS, None, [first])
      onward.click(lambda: at + _CARDS, None, [first])

    gr.Markdown("## Pages", elem_id="part-pages")
    sheets.render()

    # ---- Events -----------------------------------------------------------------------------------

    def arrive(old):
      t, v = visitors.get(old)
      s = v.script()
      html, whom = everybody(t)
      return (
        t,
        t,
        html,
        whom,
        v.story(),
        s.title,
        "\n".join(p.sentence for p in s.panels),
        list(s.style),
        s.layout.kind,
        s.layout.direction,
        s.seed,
        s.negative,
        s.steps,
        actions.preview(v, t),
      )

    page.load(
      arrive,
      [browser_state],
      [
        browser_state,
        token,
        crowd,
        to_delete,
        story,
        title,
        sentences,
        style,
        layout,
        direction,
        seed,
        negative,
        steps,
        sheets,
      ],
    )

    def learn(t, *values):
      v = visitors.get(t)[1]
      for note in actions.learn_people(studio, v, *values):
        yield (note.html, *(everybody(t) if note.tick else (gr.skip(), gr.skip())), None if note.tick else gr.skip())

    learn_button.click(begin, [token], None, queue=False).then(
      learn,
      [token, files, who, by, agreed, replace, method],
      [people_status, crowd, to_delete, files],
      **panel_card.DEVICE,
    )

    method.change(lambda m: cards.hint(studio.offers.get(m, "")), [method], [cost])

    def forget(t, name, yes, n):
      v = visitors.get(t)[1]
      _, message = guard(lambda: (None, cards.status(actions.forget(v, name, yes), "good")))
      return (message, *everybody(t), False, n + 1, actions.preview(v, t))

    delete_button.click(forget, [token, to_delete, sure, tick], [people_status, crowd, to_delete, sure, tick, sheets])

    def cut(t, text, head, picks, number, n):
      s, message = guard(lambda: actions.cut(studio, visitors.get(t)[1], text, head, picks or [], int(number or 0)))
      if s is None:
        return gr.skip(), message, n, gr.skip()
      return "\n".join(p.sentence for p in s.panels), message, n + 1, s.title

    cut_button.click(cut, [token, story, title, style, seed, tick], [sentences, status, tick, title])
    demo_button.click(lambda: (_DEMO, "The grocery store"), None, [story, title])
    style.change(
      lambda picks: "".join(cards.status(x, "warn") for x in styles.conflicts(picks or [])), [style], [clash]
    )
    draw_button.click(begin, [token], None, queue=False).then(
      draw, [token, tick, *inputs[1:]], [status, tick, sheets], **panel_card.DEVICE
    )
    stop_button.click(lambda t: actions.stop(visitors.get(t)[1]), [token], [status], queue=False)

    def lay_out(t, kind, way, n):
      v = visitors.get(t)[1]
      s = v.script()
      if not s.panels or (s.layout.kind, s.layout.direction) == (kind, way):
        return gr.skip()
      v.keep(script.validate(dataclasses.replace(s, layout=script.Layout(kind, way))))
      actions.lay_out(studio, v)
      return actions.preview(v, t)

    for choice in (layout, direction):
      choice.input(lay_out, [token, layout, direction, tick], [sheets])

  return page.queue(max_size=64, default_concurrency_limit=8, api_open=False)


__all__ = ["CSS", "THEME", "build"]
