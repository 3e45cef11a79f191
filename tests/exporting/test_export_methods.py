"""Every method in every family: exported without loss, stock diffusers samples the same pictures; one process of PyTorch a family."""

import dataclasses
import functools
import importlib.util

import jax
import numpy as np
import pytest
from support import learned_people as people
from support import tiny_pipelines

import idejax
from idejax.exporting import certificate, pipelines, torch_files
from idejax.jobs import export
from idejax.methods import METHODS, id_ea
from idejax.sampling.learned import Learned

FAMILIES = ("sd15", "sd21", "sdxl")


def two_words(module, method):
  """People who are two words for all stages, as several methods learn them."""

  def make(pipe):
    rows = people.words(pipe, np.random.default_rng(5))
    return Learned("<eve>", method, module.Config(), {"rows": rows}, str(pipe.folder), pipe.digest)

  return make


def without_adapter(pipe):
  """Keys and values that prompts meet and negative prompts do not, and no other module."""
  person = people.id_ea_person(pipe, adapter=False)
  identity = {k: v for k, v in person.identity.items() if k not in ("adapter", "face")}
  return dataclasses.replace(person, identity=identity)


CASES = {  # name: (person, form, method)
  "textual-inversion": (lambda p: people.inversion(p, "<anna>"), "auto", "textual-inversion"),
  "id-ea": (people.id_ea_person, "auto", "id-ea"),
  "id-ea, low rank": (functools.partial(people.id_ea_person, kind="lora"), "auto", "id-ea"),
  "id-ea, to the letter": (functools.partial(people.id_ea_person, **id_ea.LITERAL), "auto", "id-ea"),
  "id-ea, keys and values alone": (people.id_ea_person, "custom-diffusion", "id-ea"),
  "id-ea without its adapter": (without_adapter, "auto", "id-ea"),
  "sefi-ide": (people.staged, "auto", "sefi-ide"),
  "sefi-ide, its words' mean": (people.staged, "textual-inversion", "sefi-ide"),
  "dreambooth": (people.whole_unet, "auto", "dreambooth"),
  "dreambooth, low rank": (people.low_rank, "auto", "dreambooth"),
  "dreambooth, low rank as a file": (people.low_rank, "lora", "dreambooth"),
  "dreambooth, text encoder too": (functools.partial(people.whole_unet, text=True), "auto", "dreambooth"),
  "dreambooth, text encoder too, low rank": (functools.partial(people.low_rank, text=True), "auto", "dreambooth"),
  "dreambooth, text encoder too, as a file": (functools.partial(people.low_rank, text=True), "lora", "dreambooth"),
}
CASES |= {name: (two_words(module, name), "auto", name) for name, module in METHODS.items() if name not in CASES}


def test_a_method_without_a_case_of_its_own_is_words_alone():
  """So that the two words that stand for it are all there is to export."""
  own = {method for make, _, method in CASES.values() if getattr(make, "__qualname__", "").startswith("two_words")}
  assert own >= {"stable-identity", "celeb-basis"}
  assert all(METHODS[n].needs(METHODS[n].Config(), nets=None).words_only for n in own)


@pytest.fixture(scope="module", params=[pytest.param(f, marks=pytest.mark.slow) for f in FAMILIES])
def measured(request, tmp_path_factory):
  """{case: (Check, what diffusers did)} of one family."""
  family = request.param
  root = tiny_pipelines.write(tmp_path_factory.mktemp(family), family)
  pipe, checks = idejax.load(root / family, devices=jax.devices()[:1]), {}
  for i, (case, (make, kind, _)) in enumerate(CASES.items()):
    person, folder = make(pipe), root / f"export{i}"
    e = torch_files.parts(person, pipe.backbone)
    kind = export.torch_form(e) if kind == "auto" else kind
    folder.mkdir()
    export.write(folder, pipe, person, e, kind)
    standalone = kind == "pipeline"
    model = torch_files.model_as_written(pipe, e, kind)
    checks[case] = certificate.Check(
      folder, model, torch_files.as_written(person, e, kind), standalone, standalone and pipelines.needs_code(e), (5,)
    )
  return dict(zip(checks, zip(checks.values(), certificate.run_stock(list(checks.values())))))


@pytest.mark.parametrize("case", CASES)
def test_diffusers_makes_the_same_pictures(measured, case):
  check, results = measured[case]
  report = certificate.compare(check, *results)
  assert certificate.verdict(report) == []
  # With peft, load.py leaves LoRA to diffusers' load_lora_weights.
  assert (report["versions"]["peft"] != "not installed") == (importlib.util.find_spec("peft") is not None)
  differences = [
    report["contexts"],
    *report["noise_predictions"],
    report["final_latents"]["5"],
    report.get("pooled", report["contexts"]),
  ]
  assert max(d["relative"] for d in differences) < 3e-5
