"""The commands one after another on the built-in model: train, export with a certificate, import again."""

import json

import pytest
from safetensors.numpy import load_file
from support import command

FORMS = {"textual-inversion": ("learned_embeds.safetensors", []), "id-ea": ("pipeline.py", [])}


@pytest.mark.slow
@pytest.mark.parametrize("method", FORMS)
def test_learn_export_and_open(tmp_path, method):
  run, to = tmp_path / "run", tmp_path / "anna"
  learn = command.run(
    "personalize",
    "--method",
    method,
    "--name",
    "<anna>",
    "--steps",
    "3",
    "--num",
    "1",
    "--sample-steps",
    "2",
    "--consent",
    "drawn",
    "--out",
    run,
    timeout=900,
  )
  assert learn.code == 0, learn.err
  process = command.run("export", run, "--to", to, "--quick", timeout=900)
  assert process.code == 0, process.err
  assert "certified" in process.err and "lossy" not in process.err
  facts = json.loads((to / "certificate.json").read_text())
  assert facts["verified"] and facts["base"]["model"] == "miniature" and facts["lossy"] == ""
  assert facts["final_latents"]["10"]["relative"] < 1e-3 and facts["pictures"]["10"]["psnr_db"] >= 40
  card = (to / "README.md").read_text()
  assert "drawn" in card and "<anna>" in card and (to / "sheet.png").exists()
  assert 'from_pretrained("miniature")' not in card  # a name that only idejax knows
  assert (to / FORMS[method][0]).exists()


@pytest.mark.slow
def test_words_come_back(tmp_path):
  run, to = tmp_path / "run", tmp_path / "anna"
  learn = command.run(
    "personalize",
    "--method",
    "textual-inversion",
    "--name",
    "<anna>",
    "--steps",
    "2",
    "--num",
    "1",
    "--sample-steps",
    "2",
    "--out",
    run,
    timeout=900,
  )
  assert learn.code == 0, learn.err
  assert command.run("export", run, "--to", to, "--no-verify").code == 0
  back = command.run(
    "convert",
    to / "learned_embeds.safetensors",
    tmp_path / "back",
    "--kind",
    "identity",
    "--model",
    "miniature",
    "--name",
    "<anna>",
  )
  assert back.code == 0, back.err
  a, b = (load_file(f / "identity.safetensors") for f in (run, tmp_path / "back"))
  assert a["rows/0"].tobytes() == b["rows/0"].tobytes()
