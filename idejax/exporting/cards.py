"""Writes the model card of an exported folder: what it is, how to open it, what to say in prompts, whose face it is."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from idejax.methods.contract import Export
from idejax.model.backbone import read_json
from idejax.sampling.learned import Learned
from idejax.storage import hub

HOW = {
  "textual-inversion": """```python
from diffusers import DiffusionPipeline
pipe = DiffusionPipeline.from_pretrained("{base}")
pipe.load_textual_inversion("{folder}", token="{word}")
```""",
  "load": """```python
import sys
from diffusers import DiffusionPipeline
pipe = DiffusionPipeline.from_pretrained("{base}")
sys.path.insert(0, "{folder}")   # load.py lies there, 50 lines that you can read
from load import load
load(pipe, "{folder}")
```""",
  "pipeline": """```python
from diffusers import DiffusionPipeline
pipe = DiffusionPipeline.from_pretrained("{folder}")
```""",
  "code": """```python
from diffusers import DiffusionPipeline
# pipeline.py in this folder is run: read it first, it is short
pipe = DiffusionPipeline.from_pretrained("{folder}", trust_remote_code=True)
```""",
}
BUILT_IN = """{base} is where idejax keeps its built-in model:
`python -c "from idejax.storage import hub; print(hub.resolve('{model}'))"`"""
POOLED = """SDXL's pooled vector: idejax takes it at the end of the text. Old configs (eos_token_id 2) make
transformers take it at the largest token id, which a new word has. {how}"""


_UNMEASURED = [
  "## Measured by idejax",
  "",
  "Nothing of this form: the figures and the sheet of the run are of the whole method, and what this form draws "
  "differs. How much is in certificate.json, if it was verified.",
  "",
]


def write(folder: Path, run: Path, person: Learned, e: Export, kind: str, facts: Mapping[str, Any]):
  """Writes README.md into `folder`. `facts` is the content of certificate.json."""
  provenance, report = _json(run / "provenance.json"), _json(run / "report.json")
  xl, name = len(e.rows) == 2, folder.name
  recipe = (
    "code"
    if facts["code"]
    else "pipeline"
    if kind == "pipeline"
    else "textual-inversion"
    if kind == "textual-inversion" and not xl
    else "load"
  )
  built_in = person.model in hub.BUILT_IN
  phrase = e.called if e.called and kind != "pipeline" else person.word
  fill = dict(base=f"FOLDER_OF_{person.model.upper()}" if built_in else person.model, folder=name, word=person.word)
  lines = [
    "---",
    "library_name: diffusers",
    "pipeline_tag: text-to-image",
    f"tags: [idejax, {person.method}, {kind}{', lossy' if facts['lossy'] else ''}]",
    "---",
    "",
    f"# {person.word}, learned by {person.method}",
    "",
  ]
  if facts["lossy"]:
    lines += [f"**Lossy.** This form leaves out: {facts['lossy']}. `--format pipeline` leaves nothing out.", ""]
  lines += [
    "## Open it",
    "",
    HOW[recipe].format(**fill),
    *(["", BUILT_IN.format(base=fill["base"], model=person.model)] if built_in and kind != "pipeline" else []),
    "",
    f'Then, for instance: `pipe("a photo of {phrase} on the beach").images[0]`',
    "",
  ]
  if kind == "textual-inversion" and person.rows > 1:
    lines += [f"The word is {person.rows} vectors. diffusers puts all of them where the prompt says {person.word}.", ""]
  if e.called:
    lines += [
      f"The person is what the model now calls `{e.called}`"
      + (f"; `{person.word}` says the same." if kind == "pipeline" else ": say that in prompts."),
      "",
    ]
  if kind == "pipeline" and e.unet:
    what = "UNet and text encoder of this folder are" if e.text else "The UNet of this folder is"
    lines += [f"{what} the person's for every prompt, with or without the word.", ""]
  if xl:
    how = "load.py sets it right." if recipe == "load" else "The configs of this folder name the true end token."
    lines += [POOLED.format(how=how), ""]
  lines += [
    "## Facts",
    "",
    f"- base model: {person.model} (sha256 over its components: `{person.digest}`)",
    f"- method: {person.method}, {json.dumps(_plain(person.cfg))}",
    f"- consent of the person shown: {provenance.get('consent', 'not recorded')}",
    f"- face recogniser: {provenance.get('pack', 'not recorded')}; licence: "
    f"{provenance.get('pack_licence') or person.licence or 'not recorded'}",
    *([f"- started from shared modules (sha256 `{person.shared}`)"] if person.shared else []),
    "- pictures made with this are synthetic; say so where you show them",
    "",
  ]
  lines += _UNMEASURED if facts["lossy"] else _scores(report)
  lines += ["## Checked", "", _verification(facts), ""]
  if (folder / "sheet.png").exists():
    lines += ["![sheet](sheet.png)", ""]
  (folder / "README.md").write_text("\n".join(lines), "utf-8")


def _verification(facts: Mapping[str, Any]) -> str:
  if not facts["verified"]:
    return "Not verified: exported with --no-verify."
  worst = max(x["relative"] for x in facts["final_latents"].values())
  lowest = min(x["psnr_db"] for x in facts["pictures"].values())
  v = facts["versions"]
  return (
    f"Loaded by diffusers {v['diffusers']} in a process without idejax: final latents within {worst:.1e} "
    f"(relative) of idejax's, pictures {lowest:.0f} dB or more. Details are in certificate.json."
  )


def _scores(report: Mapping[str, Any]) -> list[str]:
  scores = report.get("scores")
  if not isinstance(scores, Mapping):
    return []
  rows = [f"| {k} | {json.dumps(_round(v))} |" for k, v in scores.items()]
  return ["## Measured by idejax", "", "| figure | value |", "| --- | --- |", *rows, ""]


def _round(x: Any) -> Any:
  """A JSON value with all floats rounded to four digits."""
  if isinstance(x, Mapping):
    return {k: _round(v) for k, v in x.items()}
  return float(f"{x:.4g}") if isinstance(x, float) else x


def _plain(cfg: Any) -> dict[str, Any]:
  import dataclasses

  return {k: v for k, v in dataclasses.asdict(cfg).items() if k != "templates"}


def _json(path: Path) -> dict[str, Any]:
  return read_json(path) if path.is_file() else {}
