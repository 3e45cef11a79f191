"""What every method's file promises: presets, captions, needs and exports."""

import ast
import dataclasses
import re
from pathlib import Path

import jax
import numpy as np
import pytest
from support import subjects

import idejax.methods
from idejax import tree
from idejax.methods import METHODS, contract, dreambooth, id_ea, sefi_ide, stable_identity
from idejax.model import conditioning
from idejax.nets import unet
from idejax.person.augment import Augment

PERSONAL = [name for name, method in METHODS.items() if method.scope == "person"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  return tmp_path_factory.mktemp("pipelines")


@pytest.fixture(scope="module")
def nets(folder):
  return subjects.opened(folder, "sd21-base")[0].nets


def public_functions(name: str) -> set[str]:
  return {n for n in vars(contract.Method) if not n.startswith("_") and callable(getattr(contract.Method, n))}


@pytest.mark.parametrize("name", METHODS)
def test_a_method_has_every_function_of_the_protocol(name):
  method = METHODS[name]
  for function in public_functions(name):
    assert callable(getattr(method, function)), function
  assert method.scope in ("person", "dataset") and dataclasses.is_dataclass(method.Config)


@pytest.mark.parametrize("name", METHODS)
def test_presets_are_frozen_settings_for_stable_diffusion_and_for_the_built_in_model(name):
  method = METHODS[name]
  assert {"paper", "miniature"} <= set(method.PRESETS)
  for cfg in method.PRESETS.values():
    assert isinstance(cfg, method.Config) and hash(cfg) is not None
    assert cfg.steps > 0 and cfg.batch > 0


@pytest.mark.parametrize("name", PERSONAL)
def test_captions_of_every_method_fit_into_a_prompt(folder, nets, name):
  """With one token per byte, more than any CLIP tokenizer needs; each caption holds all rows of the word or none."""
  _, tokenizers = subjects.opened(folder, "sd21-base")
  for cfg in METHODS[name].PRESETS.values():
    needs = METHODS[name].needs(cfg, nets)
    assert needs.captions and needs.tokens > 0
    texts = [c.replace("{}", "<id>") for c in needs.captions]
    encoding = tokenizers[0].encode(texts, {"<id>": needs.tokens})
    assert not any(encoding.overflow)
    used = (encoding.where >= 0).all(-1)
    assert used.any() and ((encoding.where >= 0).any(-1) == used).all()


def test_the_word_takes_its_place_in_captions_and_other_braces_stay(folder):
  _, tokenizers = subjects.opened(folder, "sd21-base")
  needs = contract.Needs(captions=("a photo of {}", "no one"), tokens=2)
  prompts = contract.encode_captions(needs, tokenizers, "<id>")
  assert (prompts.where[0][0] >= 0).all() and (prompts.where[0][1] == -1).all()


def test_the_default_preset_follows_the_models_family():
  names = {"paper", "paper-sdxl", "miniature"}
  default = lambda built_in, xl: contract.default_preset(dict.fromkeys(names), built_in, xl)
  assert [default(*x) for x in ((False, False), (False, True), (True, False), (True, True))] == [
    "paper",
    "paper-sdxl",
    "miniature",
    "miniature",
  ]
  assert stable_identity.PRESETS["paper-sdxl"].alpha == 0.5 and sefi_ide.PRESETS["paper-sdxl"].every == 4


@pytest.mark.parametrize(
  "cfg, family, gradients, together",
  [
    (dreambooth.Config(), "sd15", "every", False),
    (dreambooth.Config(), "sdxl", "attention", True),
    (dreambooth.Config(trains="unet"), "sdxl", "every", False),
    (dreambooth.Config(trains="lora"), "sd15", "attention", True),
  ],
)
def test_dreambooth_trains_lora_where_it_says_so_and_on_sdxl(folder, cfg, family, gradients, together):
  b, _ = subjects.opened(folder, family)
  needs = dreambooth.needs(cfg, b.nets)
  assert (needs.unet_gradients == ("",)) == (gradients == "every") and (needs.alone == "") == together


def test_what_planning_counts_of_id_ea_are_its_keys_and_values(folder):
  """The patterns match keys and values of every cross-attention, and no other path of the UNet."""
  b, _ = subjects.opened(folder, "sd15")
  (pattern,) = id_ea.needs(id_ea.Config(), b.nets).unet_gradients
  paths = [p for p in tree.flatten(unet.shapes(b.nets.unet)) if re.search(pattern, p)]
  assert paths and all(".attn2.to_k." in p or ".attn2.to_v." in p for p in paths)
  assert len(paths) == 2 * len([p for p in tree.flatten(b.params["unet"]) if p.endswith("attn2.to_q.kernel")])
  assert id_ea.needs(id_ea.Config(kv="none"), b.nets).unet_gradients == ()


def test_methods_do_not_know_one_another():
  folder = Path(idejax.methods.__file__).parent
  for file in folder.glob("*.py"):
    if file.stem in ("__init__",):
      continue
    result = {n.module for n in ast.walk(ast.parse(file.read_text())) if isinstance(n, ast.ImportFrom) and n.module}
    assert not {m for m in result if m.startswith("idejax.methods") and m != "idejax.methods.contract"}, file


def test_an_identity_needs_no_words(folder):
  """People without rows put nothing into a prompt; of several people, only those with rows do."""
  rows = (np.ones((1, 1, 2, 4), np.float32),)
  assert conditioning.join([{"face": np.ones(3)}]) is None
  joined = conditioning.join([{"face": np.ones(3)}, {"rows": rows}])
  assert jax.tree.map(np.shape, joined) == ((1, 1, 2, 4),)


ON_BLACK = Augment(jitter=0.2, scale=(0.1, 1.0))


@pytest.mark.parametrize(
  "name, paper",
  {
    "textual-inversion": Augment(),
    "celeb-basis": ON_BLACK,
    "sefi-ide": ON_BLACK,
    "dreambooth": Augment(flip=False),
    "stable-identity": Augment(jitter=0.2, crop=0.75, scale=(0.5, 1.0)),
    "id-ea": Augment(),
  }.items(),
)
def test_photos_are_changed_as_in_the_papers(nets, name, paper):
  """The miniature's presets only mirror: 64 pixels have nothing to spare."""
  method = METHODS[name]
  assert method.needs(method.PRESETS["paper"], nets).augment == paper
  assert method.needs(method.PRESETS["miniature"], nets).augment.count <= 2
