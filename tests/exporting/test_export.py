"""Exports in stock diffusers, in a process that cannot import idejax: the same contexts, noise predictions and pictures."""

import dataclasses
import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file
from support import learned_people as people
from support import tiny_pipelines

import idejax
from idejax import config
from idejax.errors import UserError
from idejax.exporting import certificate, pipelines, torch_files
from idejax.jobs import convert, export
from idejax.sampling import learned
from idejax.sampling import texts as prompting

CASES = {  # name: (person, form)
  "words": (lambda p: people.inversion(p, "<anna>"), "textual-inversion"),
  "words in a folder": (lambda p: people.inversion(p, "<ann>"), "pipeline"),
  "adapter, whole keys and values": (people.id_ea_person, "pipeline"),
  "adapter, low rank": (lambda p: people.id_ea_person(p, kind="lora"), "pipeline"),
  "keys and values": (people.id_ea_person, "custom-diffusion"),
  "stages": (people.staged, "pipeline"),
  "low rank": (people.low_rank, "lora"),
  "low rank in a folder": (people.low_rank, "pipeline"),
}
CHECKED = [*(("sd15", c) for c in CASES), ("sdxl", "words"), ("sdxl", "adapter, low rank"), ("sdxl", "stages")]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
  return tiny_pipelines.write(tmp_path_factory.mktemp("export"), "sd15", "sdxl")


@pytest.fixture(scope="module")
def opened(root):
  return {f: idejax.load(root / f, devices=jax.devices()[:1]) for f in ("sd15", "sdxl")}


@pytest.fixture(scope="module")
def measured(root, opened):
  """{(family, case): (Check, diffusers' results)}, all from one process of PyTorch."""
  checks = {}
  for i, (family, case) in enumerate(CHECKED):
    make, kind = CASES[case]
    person, folder = make(opened[family]), root / f"export{i}"
    folder.mkdir()
    e = torch_files.parts(person, opened[family].backbone)
    export.write(folder, opened[family], person, e, kind)
    standalone = kind == "pipeline"
    checks[family, case] = certificate.Check(
      folder,
      opened[family],
      torch_files.as_written(person, e, kind),
      standalone,
      standalone and pipelines.needs_code(e),
      (10,),
    )
  return dict(zip(checks, zip(checks.values(), certificate.run_stock(list(checks.values())))))


@pytest.mark.parametrize("family, case", CHECKED)
def test_diffusers_makes_the_same_pictures(measured, family, case):
  check, results = measured[family, case]
  report = certificate.compare(check, *results)
  assert certificate.verdict(report) == []
  differences = [report["contexts"], *report["noise_predictions"], report["final_latents"]["10"]]
  if family == "sdxl":
    differences.append(report["pooled"])
  assert max(d["relative"] for d in differences) < 2e-5
  assert len({p["timestep"] for p in report["noise_predictions"]}) == 5
  assert {"torch", "diffusers", "transformers", "idejax", "jax"} <= set(report["versions"])


def test_another_person_does_not_pass(measured, opened):
  """The certificate fails whichever part of a person is changed."""
  check, results = measured["sd15", "adapter, whole keys and values"]
  p = check.person
  for part in ("rows", "adapter", "kv"):
    other = jax.tree.map(lambda x: np.asarray(x) * 0.9, p.identity[part])
    stranger = dataclasses.replace(p, identity=p.identity | {part: other})
    bad = certificate.verdict(certificate.compare(check._replace(person=stranger), *results))
    assert any("noise prediction" in b for b in bad), part
    assert any("contexts" in b for b in bad) == (part != "kv")


def test_the_pooled_vector_is_that_of_the_end_of_the_text(measured, opened):
  """The folder or load.py sets the end token; stock SDXL alone pools at the word, whose id is the largest."""
  check, (theirs, _) = measured["sdxl", "words"]
  pipe = opened["sdxl"].with_people(check.person)
  texts = prompting.Texts(pipe.backbone, pipe.tokenizers, pipe.people, check.prompts, print)
  (at,) = texts.tokens.values()
  at_word = at._replace(eos=tuple(w.max(1) for w in at.where))  # as stock: the largest id
  cond = prompting.condition(check.person.method, check.person.cfg, [check.person.identity], pipe.backbone, at_word)
  stock, ours = np.asarray(cond.pooled), theirs["call0.pooled"][-len(check.prompts) :]
  assert certificate.difference(stock, ours)["relative"] > 0.05
  folder = measured["sdxl", "stages"][0].folder
  for name in ("text_encoder", "text_encoder_2"):
    about = json.loads((folder / name / "config.json").read_text())
    assert (about["eos_token_id"], about["vocab_size"]) == (513, 514 + 10)
  table = load_file(folder / "text_encoder_2" / "model.safetensors")["text_model.embeddings.token_embedding.weight"]
  rows = measured["sdxl", "stages"][0].person.identity["rows"][1]
  np.testing.assert_array_equal(table[514:], np.asarray(rows).reshape(10, -1))


def test_what_is_lost_is_measured(opened):
  pipe = opened["sd15"]
  for person in (people.id_ea_person(pipe), people.staged(pipe)):
    e = torch_files.parts(person, pipe.backbone)
    lossy = torch_files.as_written(person, e, "textual-inversion")
    assert set(lossy.identity) == {"rows"} and torch_files.losses(e, "textual-inversion")
    assert certificate.loss((pipe, person), (pipe, lossy))["noise_prediction"]["relative"] > 1e-3


# The command, without PyTorch.


@pytest.fixture(scope="module")
def runs(root, opened):
  """A run folder for each kind of person."""
  out = {}
  for name in ("inversion", "id_ea_person", "staged", "low_rank"):
    out[name] = root / f"run-{name}"
    out[name].mkdir()
    learned.save(out[name], getattr(people, name)(opened["sd15"]))
  (out["inversion"] / "provenance.json").write_text(
    json.dumps({"consent": "signed, 2026", "pack_licence": "research only"})
  )
  (out["inversion"] / "report.json").write_text(json.dumps({"scores": {"likeness": 0.7}}))
  (out["inversion"] / "sheet.png").write_bytes(b"picture")
  return out


@pytest.mark.parametrize(
  "name, kind, files",
  [
    ("inversion", "textual-inversion", {"learned_embeds.safetensors", "load.py"}),
    ("id_ea_person", "pipeline", {"pipeline.py", "id_adapter", "model_index.json"}),
    ("staged", "pipeline", {"pipeline.py", "model_index.json"}),
    ("low_rank", "pipeline", {"model_index.json", "unet"}),
  ],
)
def test_auto_chooses_the_smallest_form_that_loses_nothing(runs, tmp_path, capsys, name, kind, files):
  to = tmp_path / "out"
  export.main(config.Export(to, runs[name], verify=False))
  facts = json.loads((to / "certificate.json").read_text())
  assert (facts["format"], facts["lossy"], facts["verified"]) == (kind, "", False)
  assert files | {"README.md", "certificate.json"} <= {p.name for p in to.iterdir()}
  assert "Not verified" in (to / "README.md").read_text() and "--no-verify" in capsys.readouterr().err
  assert not list(tmp_path.glob(".*"))


def test_the_card(runs, tmp_path, capsys):
  to = tmp_path / "anna"
  export.main(config.Export(to, runs["inversion"], verify=False))
  card = (to / "README.md").read_text()
  for words in (
    "signed, 2026",
    "research only",
    "likeness",
    "sheet.png",
    'load_textual_inversion("anna", token="<anna>")',
    "2 vectors",
    str(runs["inversion"].parent / "sd15"),
  ):
    assert words in card
  assert (to / "sheet.png").read_bytes() == b"picture"
  assert "<anna>" in capsys.readouterr().err  # <Anna> in idejax: diffusers would not find it
  assert set(load_file(to / "learned_embeds.safetensors")) == {"<anna>"}


def test_a_lossy_form_is_marked_wherever_it_shows(runs, tmp_path, capsys):
  to, run = tmp_path / "bea", tmp_path / "run"
  shutil.copytree(runs["id_ea_person"], run)
  (run / "sheet.png").write_bytes(b"picture")
  (run / "report.json").write_text(json.dumps({"scores": {"likeness": 0.7}}))
  export.main(config.Export(to, run, "textual-inversion", verify=False))
  assert "lossy" in capsys.readouterr().err
  # The run's figures and pictures are of the whole method, not of what is exported.
  assert not (to / "sheet.png").exists() and "likeness" not in (to / "README.md").read_text()
  assert "Nothing of this form" in (to / "README.md").read_text()
  assert (
    "**Lossy.**" in (to / "README.md").read_text()
    and "adapter" in json.loads((to / "certificate.json").read_text())["lossy"]
  )
  from safetensors import safe_open

  with safe_open(to / "learned_embeds.safetensors", "np") as f:
    assert "adapter" in f.metadata()["lossy"]


def test_refusals(root, runs, tmp_path):
  def refused(*words, **fields):
    with pytest.raises(UserError) as e:
      export.main(config.Export(tmp_path / "out", **fields))
    assert all(w in str(e.value) for w in words), e.value
    assert not (tmp_path / "out").exists() and not list(tmp_path.glob(".*"))

  refused("width 32", "width 32 + 40", run=runs["staged"], model=str(root / "sdxl"), verify=False)
  refused("pipeline or lora", run=runs["low_rank"], format="textual-inversion")
  refused("no low-rank changes", run=runs["inversion"], format="lora", verify=False)
  refused("no keys and values", run=runs["inversion"], format="custom-diffusion", verify=False)
  refused("attn1.to_k", run=runs["low_rank"], format="custom-diffusion", verify=False)
  refused("nothing to do", run=runs["staged"], format="certificate-only", verify=False)
  with pytest.raises(UserError, match="not empty"):
    export.main(config.Export(runs["staged"], runs["staged"]))


def test_a_certificate_that_fails_writes_nothing(runs, tmp_path, monkeypatch):
  bad = {"relative": 2e-3}
  report = {
    "contexts": {"relative": 1e-7},
    "noise_predictions": [{"timestep": 1.0} | bad],
    "final_latents": {"10": bad},
    "pictures": {"10": {"psnr_db": 39.0}},
  }
  monkeypatch.setattr(certificate, "certify", lambda check: [report])
  with pytest.raises(UserError) as e:
    export.main(config.Export(tmp_path / "out", runs["inversion"]))
  for words in ("timestep 1", "0.002", "after 10 steps", "39.0 dB", "--no-verify"):
    assert words in str(e.value)
  assert not (tmp_path / "out").exists()


def test_numbers_that_are_not_finite_never_pass():
  assert certificate.difference(np.array([np.nan]), np.ones(1))["relative"] == np.inf
  nan = float("nan")
  report = {
    "contexts": {"relative": nan},
    "noise_predictions": [],
    "final_latents": {},
    "pictures": {"10": {"psnr_db": nan}},
  }
  assert len(certificate.verdict(report)) == 2


@pytest.mark.parametrize(
  "part, said",
  [
    ("contexts", "contexts"),
    ("pooled", "pooled vector"),
    ("noise_predictions", "timestep 7"),
    ("final_latents", "final latents after 10"),
    ("pictures", "pictures after 10"),
  ],
)
def test_every_part_of_a_certificate_is_judged_alone(part, said):
  """Pictures may agree to the last bit where the latents that they are rounded from do not."""
  good = {"relative": 1e-7}
  report = {
    "contexts": good,
    "pooled": good,
    "noise_predictions": [{"timestep": 7.0} | good],
    "final_latents": {"10": good},
    "pictures": {"10": {"psnr_db": certificate.EQUAL}},
  }
  assert certificate.verdict(report) == []
  bad = {"relative": 2 * certificate.LARGEST}
  far = {
    "noise_predictions": [{"timestep": 7.0} | bad],
    "final_latents": {"10": bad},
    "pictures": {"10": {"psnr_db": 39.9}},
  }
  (sentence,) = certificate.verdict(report | {part: far.get(part, bad)})
  assert sentence.startswith((said, f"noise prediction at {said}"))


def test_templates_know_nothing_of_idejax():
  for path in Path(pipelines.__file__).with_name("templates").glob("*.py"):
    assert "import idejax" not in path.read_text() and "from idejax" not in path.read_text()
    for xl in (False, True):
      if "# -- both --" in path.read_text():
        compile(pipelines.for_family(path.read_text(), xl), path.name, "exec")


@pytest.mark.slow
def test_the_whole_command_on_a_float16_base(root, tmp_path, capsys):
  convert.main(config.Convert((root / "sd15", tmp_path / "half"), dtype="float16"))
  person = people.staged(idejax.load(tmp_path / "half", devices=jax.devices()[:1]))
  (tmp_path / "run").mkdir()
  learned.save(tmp_path / "run", person)
  export.main(config.Export(tmp_path / "cy", tmp_path / "run", "textual-inversion"))
  facts = json.loads((tmp_path / "cy" / "certificate.json").read_text())
  assert facts["verified"] and set(facts["final_latents"]) == {"10", "50"} and facts["loss"]["contexts"]["relative"] > 0
  assert "certified" in capsys.readouterr().err
  assert "Loaded by diffusers" in (tmp_path / "cy" / "README.md").read_text()
  export.main(config.Export(tmp_path / "only", tmp_path / "run", "certificate-only", quick=True))
  assert [p.name for p in (tmp_path / "only").iterdir()] == ["certificate.json"]
  assert json.loads((tmp_path / "only" / "certificate.json").read_text())["format"] == "pipeline"
