"""How people can be learned: what the page offers and says, what it refuses, and how such people share a panel."""

import dataclasses
import importlib.util
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from support import addons
from support.drawn_people import PORTRAITS

from idejax.app import actions, comic, offers, script, serve, studio
from idejax.app.visitors import Visitors
from idejax.config import App, Comic
from idejax.errors import UserError
from idejax.methods import IDENTITIES
from idejax.sampling import pipeline as pl
from idejax.storage import hub

SD, SDXL = SimpleNamespace(xl=False), SimpleNamespace(xl=True)


def test_what_one_photo_is_enough_for_is_offered_the_usual_first():
  drawn, photos = offers.offers(SD, "miniature"), offers.offers(SD, "some/sd")
  assert next(iter(drawn)) == next(iter(photos)) == offers.USUAL
  assert set(drawn) == set(IDENTITIES) - {"dreambooth", "facesnap"}  # one makes class pictures first, one has no add-on
  assert set(photos) == set(drawn) - {"stable-identity"}  # it reads a face ViT there
  assert set(offers.offers(SDXL, "miniature-sdxl", "folder")) == set(drawn) | {"facesnap"}


def test_every_offer_says_its_cost():
  """In steps and pictures of the settings that are used, beside the usual method's, and what a person then is."""
  for model, nets in (("miniature", SD), ("some/sd", SD), ("some/sdxl", SDXL)):
    words = offers.offers(nets, model, "folder")
    for method, text in words.items():
      assert text.endswith(".") and ("changes of the model" in text) == (method == "id-ea"), text
    assert "Trains nothing" in words["facesnap"] and "drawn by themselves" in words["facesnap"]
  assert "150 steps of 8 pictures, as many as celeb-basis. A person becomes one new word:" in offers.offers(SD, "miniature")["sefi-ide"]  # fmt: skip
  photos = offers.offers(SD, "some/sd")
  assert "400 steps of 2 pictures, the usual length. A person becomes two new words:" in photos["celeb-basis"]
  assert "5000 steps of 8 pictures, 50 times as many as" in photos["textual-inversion"]
  assert "1000 steps of 1 picture, 1.2 times" in photos["sefi-ide"]


def test_only_what_is_offered_is_learned_and_by_that(desk, store, tmp_path, monkeypatch):
  v = Visitors(tmp_path / "comics", store).get(None)[1]
  seen = []
  monkeypatch.setattr(actions.learn, "learn", lambda *a, **k: seen.append((k["method"], k["addon"])))

  def ask(method, addon=""):
    path = tmp_path / "me.png"
    Image.fromarray(PORTRAITS["Anna Field"]).save(path)
    desk.addon = addon
    desk.__dict__.pop("offers", None)
    *_, last = actions.learn_people(desk, v, [str(path)], "Cy Oak", "Cy", True, False, method)
    assert not path.exists()
    return last.html

  for method in ("dreambooth", "facesnap", "../x", ""):
    assert "nobody can be learned by" in ask(method)
  assert seen == []
  for method, addon in (("sefi-ide", ""), ("id-ea", "folder"), ("facesnap", "folder")):
    assert "Learned: Cy Oak" in ask(method, addon)
  assert seen == [("sefi-ide", None), ("id-ea", None), ("facesnap", "folder")]


@pytest.mark.parametrize("change, words", [
  ({"method": "celeb-bassis"}, "did you mean celeb-basis"),
  ({"method": "facesnap"}, "give --addon FOLDER"),
  ({"method": "id-ea", "addon": "x"}, "--addon x is read by facesnap only"),
  ({"method": "facesnap", "addon": "no-such"}, "no-such is no add-on folder"),
])  # fmt: skip
def test_a_wrong_method_or_add_on_is_told_before_a_model_is_read(change, words, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  monkeypatch.setattr(comic, "run", lambda *a: pytest.fail("the model would have been read"))
  ask = dict(learn=(Path("a.png"),), names="Cy Oak", consent="Cy", out=Path("out"))
  with pytest.raises(UserError, match=words):
    comic.main(Comic(**ask, **change))
  if change["method"] == "facesnap" and "addon" in change and importlib.util.find_spec("gradio"):
    with pytest.raises(UserError, match=words):
      serve.main(App(addon=change["addon"], port=0))


def meeting(desk, store, methods, monkeypatch):
  """The two people of a panel by these methods, on a model of photographs: (prompts, pictures composed of boxes)."""
  desk.model, desk.judges = "some/sd", None
  for (name, _), method in zip(PORTRAITS.items(), methods):
    file = store.folder(name) / "person.json"
    file.write_text(file.read_text().replace('"textual-inversion"', f'"{method}"'))
  seen = []
  compose = lambda pipe, whole, parts, settings: seen.append(parts) or PORTRAITS["Anna Field"]
  monkeypatch.setattr(studio.regions, "compose", compose)
  s, _ = desk.write("Anna Field hugs Ben Stone.")
  return dataclasses.replace(s, guidance=7.5), seen


def test_people_who_cannot_share_a_prompt_have_their_own_part(desk, store, tmp_path, monkeypatch):
  """Else the sampler would refuse the panel in the middle of the comic."""
  alone = ["a picture of <anna_field> hugs somebody", "a picture of somebody hugs <ben_stone>"]
  s, seen = meeting(desk, store, ("textual-inversion", "id-ea"), monkeypatch)
  assert desk.prompts(s)["p1"] == [*alone, "a picture of a person hugs a person"]
  desk.draw(tmp_path / "mixed", s)
  assert [(p.prompt, p.box) for p in seen[0]] == [(alone[0], (0, 0, 0.5, 1)), (alone[1], (0.5, 0, 1, 1))]
  assert desk.asked == []


def test_words_share_a_prompt_whoever_learned_them(desk, store, monkeypatch):
  for methods in (("textual-inversion", "sefi-ide"), ("id-ea", "id-ea")):
    s, _ = meeting(desk, store, methods, monkeypatch)
    assert desk.prompts(s)["p1"] == ["a picture of <anna_field> hugs <ben_stone>"]
    for name in PORTRAITS:
      file = store.folder(name) / "person.json"
      file.write_text(file.read_text().replace('"sefi-ide"', '"textual-inversion"'))


def test_faces_that_steer_are_drawn_by_themselves_and_joined(desk, store, tmp_path, monkeypatch):
  s, seen = meeting(desk, store, ("facesnap", "facesnap"), monkeypatch)
  done = desk.draw(tmp_path, s)
  assert seen == [] and [r.prompt for r in desk.asked] == [
    "a picture of <anna_field> hugs somebody",
    "a picture of somebody hugs <ben_stone>",
  ]
  assert len(done.panels[0].versions) == 1


@pytest.mark.slow
def test_a_person_by_one_look_is_drawn(tmp_path):
  """The built-in model with an add-on of random weights, through the whole page: learned, cut, drawn; another pack's
  add-on is refused when the studio opens."""
  b = pl.load(hub.BUILT_IN["miniature"], notify=lambda _: None).backbone
  folder = addons.write(tmp_path / "addon", b, pack="miniature")
  desk = studio.open_studio(tmp_path / "store", notify=lambda _: None, addon=str(folder))
  v = Visitors(tmp_path / "comics", desk.store).get(None)[1]
  path = tmp_path / "me.png"
  Image.fromarray(PORTRAITS["Anna Field"]).save(path)
  *_, last = actions.learn_people(desk, v, [str(path)], "Anna Field", "Anna", True, False, "facesnap")
  assert "Learned: Anna Field" in last.html, last.html
  actions.cut(desk, v, "Anna Field smiles.", "Hello", [], 0)
  v.keep(dataclasses.replace(v.script(), steps=3))
  *_, last = actions.draw(desk, v, v.script)
  assert "1 panel is drawn" in last.html, last.html
  version = script.current_version(v.script().panels[0])
  assert version.reason or np.asarray(Image.open(v.comic / version.file)).std() > 0
  addons.write(tmp_path / "other", b, pack="green")
  with pytest.raises(UserError, match="as the pack green sees them"):
    studio.open_studio(tmp_path / "store", notify=lambda _: None, addon=str(tmp_path / "other"))
