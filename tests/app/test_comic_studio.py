"""People in the store, and panels from a script: consent, deletion, what is drawn again and what never leaves.

The sampler is replaced by the drawn world's own renderer; texts, checks, judges, files are the real ones.
"""

import dataclasses
import json
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from support.drawn_people import MODEL, PORTRAITS, STORY, person, record, render
from support.scripted import Scripted

from idejax.app import learn, policy, samples, script, studio, watermark
from idejax.app.concepts import Checker, Rules
from idejax.app.judging import PackJudges
from idejax.app.store import Consent
from idejax.errors import UserError
from idejax.sampling import learned
from idejax.sampling import pipeline as pl
from idejax.storage import hub

PARTS = ("unet", "vae", "text_encoder", "text_encoder_2")

# The store.


def test_people_come_back_as_they_were(store):
  assert store.names() == ["Anna Field", "Ben Stone"]
  back = store.load("Anna Field", "miniature", MODEL)
  assert back.word == "<anna_field>" and np.array_equal(back.identity["rows"][0], np.zeros((1, 1, 2, 8)))
  assert np.array_equal(store.portrait("Anna Field"), PORTRAITS["Anna Field"])
  assert store.record("Anna Field").consent.by == "Anna herself" and store.record("Anna Field").consent.date


@pytest.mark.parametrize("by", ["", "  ", "\n"])
def test_without_consent_nothing_is_stored_or_learned(store, by):
  with pytest.raises(UserError, match="without consent nothing is learned"):
    store.add(person("Cy Oak"), record("Cy Oak", consent=Consent(by)), PORTRAITS["Anna Field"])
  with pytest.raises(UserError, match="without consent nothing is learned"):
    learn.learn(None, None, [learn.Applicant("Cy Oak", "x")], Consent(by), store)
  assert not store.has("Cy Oak") and not list(store.root.glob("*cy*"))


def test_overwriting_asks(store):
  with pytest.raises(UserError, match="Anna Field is in the store already"):
    store.add(person("Anna Field", value=1), record("Anna Field"), PORTRAITS["Ben Stone"])
  assert np.array_equal(store.portrait("Anna Field"), PORTRAITS["Anna Field"])
  before = store.digest("Anna Field")
  store.add(person("Anna Field", value=1), record("Anna Field"), PORTRAITS["Ben Stone"], overwrite=True)
  assert store.digest("Anna Field") != before and np.array_equal(store.portrait("Anna Field"), PORTRAITS["Ben Stone"])


def test_a_store_of_another_model_is_refused_with_both_names(store):
  with pytest.raises(UserError, match="learned on miniature .* drawn with other-model"):
    store.load("Anna Field", "other-model", "b" * 64)


@pytest.mark.parametrize("name", ["../../etc passwd", "/etc passwd", "..", "a/b c", "Anna Field\0", "Anna"])
def test_no_name_leads_out_of_the_store(store, name):
  for use in (store.folder, store.record, store.delete, store.has):
    with pytest.raises(UserError):
      use(name)


def test_foreign_and_damaged_folders(store):
  (store.root / "holiday").mkdir()
  (store.root / "holiday" / "a.png").write_bytes(b"x")
  assert store.names() == ["Anna Field", "Ben Stone"]
  (store.folder("Anna Field") / "person.json").write_text("{")
  with pytest.raises(UserError, match=r"person\.json is no person"):
    store.names()


def test_pickles_are_not_read(store):
  (store.folder("Anna Field") / "identity.safetensors").write_bytes(b"\x80\x04\x95cos\nsystem\n(S'true'\ntR.")
  with pytest.raises(UserError, match="no identity"):
    store.load("Anna Field", "miniature", MODEL)


# Learning: what is refused before a network sees anything.


@pytest.mark.parametrize("content, words", [
  (b"", "no photo"), (b"not a picture", "no photo"), (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "no photo"), (b"%PDF-1.4", "no photo"), (b"GIF89a", "no photo"),
  (b"\x89PNG\r\n\x1a\n" + b"\0" * 100, "no photo"), (b"\xff\xd8\xff" + b"\0" * (21 << 20), "more than 20 MB"),
])  # fmt: skip
def test_hostile_uploads_are_refused(tmp_path, store, desk, content, words):
  path = tmp_path / "me.png"
  path.write_bytes(content)
  with pytest.raises(UserError, match=words):
    learn.learn(
      desk.pipe, desk.pack, [learn.Applicant("Cy Oak", path)], Consent("me"), store, method="textual-inversion"
    )
  assert not store.has("Cy Oak")


def test_the_age_gate(tmp_path, store, desk):
  path = tmp_path / "me.png"
  Image.fromarray(PORTRAITS["Anna Field"]).save(path)
  seen = []
  gate = learn.AgeGate(lambda pixels: seen.append(pixels.shape) or 12.4)
  ask = lambda g: learn.learn(
    desk.pipe, desk.pack, [learn.Applicant("Cy Oak", path)], Consent("me"), store, method="textual-inversion", gate=g
  )
  with pytest.raises(UserError, match=r"under 18 \(12 years by estimate\)"):
    ask(gate)
  with pytest.raises(UserError, match="under 18"):
    ask(learn.AgeGate(lambda _: float("nan")))
  assert seen == [(64, 64, 3)] and learn.AgeGate().check("x", PORTRAITS["Anna Field"]) == "not estimated"
  assert learn.AgeGate(lambda _: 30.0).check("x", PORTRAITS["Anna Field"]) == "30 years by estimate"


def test_as_many_names_as_photos_and_each_once(store, desk):
  ask = lambda *names: learn.learn(
    desk.pipe,
    desk.pack,
    [learn.Applicant(n, PORTRAITS["Anna Field"]) for n in names],
    Consent("me"),
    store,
    method="textual-inversion",
  )
  with pytest.raises(UserError, match="two people are called"):
    ask("Cy Oak", "Cy Oak")
  with pytest.raises(UserError, match="in the store already"):
    ask("Anna Field")
  with pytest.raises(UserError, match="has 1 word"):
    ask("Cy")
  with pytest.raises(UserError, match="nobody to learn"):
    ask()


# Drawing.


def test_a_story_becomes_a_comic(desk, tmp_path):
  s, cut = desk.write(STORY, title="Hello", style=["comic style"])
  assert [p.sentence for p in s.panels] == [
    "Anna Field is in the city.",
    "Anna Field meets Ben Stone on the beach.",
    '"Hello!" Ben Stone says.',
    "It is night.",
  ]
  assert cut.problems == () and cut.notes == ("sentence 4 names nobody who was learned: a scene without them",)
  s = desk.draw(tmp_path / "c", s)
  assert script.read(tmp_path / "c") == s
  one, two, three, four = (script.current_version(p) for p in s.panels)
  assert (len(one.faces), len(two.faces), len(three.faces)) == (1, 2, 1)  # two people, each in a half
  assert one.identity > 0.5 and two.identity > 0.5 and four.identity is None
  for v in (one, two, three, four):
    assert watermark.declares_ai(tmp_path / "c" / v.file)
    with Image.open(tmp_path / "c" / v.file) as image:
      assert watermark.present(np.asarray(image)) and min(image.size) >= 512
  made = desk.export(tmp_path / "c", s)
  assert [p.name for p in made] == ["comic.png", "comic.pdf", "comic.cbz", "comic.html"]


def test_prompts_have_signal_words_and_places_that_hold(desk):
  s, _ = desk.write(STORY, style=["comic style"])
  assert list(desk.prompts(s).values()) == [
    ["pop art of <anna_field> in the city"], ["pop art of <anna_field> on the beach", "pop art of <ben_stone> on the beach", "pop art of a person on the beach"],
    ["pop art of <ben_stone> on the beach"], ["pop art of a person at night"]]  # fmt: skip


def test_other_models_read_the_sentence_and_the_styles(desk):
  desk.model = "some/sd"
  s, _ = desk.write("Anna Field takes her hat. Ben Stone laughs.", style=["comic style", "4k"])
  assert list(desk.prompts(s).values()) == [
    ["a picture of <anna_field> takes the person's hat, comic style, 4k"],
    ["a picture of <ben_stone> laughs, comic style, 4k"],
  ]
  assert desk.negative(s) == policy.NEGATIVE
  half = (script.Region("Anna Field", (0.0, 0.0, 0.5, 1.0)), script.Region("Ben Stone", (0.5, 0.0, 1.0, 1.0)))
  s, _ = desk.write("Anna Field hugs Ben Stone.")
  both = desk.prompts(s.with_panel(dataclasses.replace(s.panels[0], regions=half)))
  assert both["p1"] == ["a picture of <anna_field> hugs somebody", "a picture of somebody hugs <ben_stone>",
                        "a picture of a person hugs a person"]  # fmt: skip
  assert desk.prompts(s)["p1"] == ["a picture of <anna_field> hugs <ben_stone>"]


def test_only_what_changed_is_drawn_again_and_versions_stay(desk, tmp_path):
  s, _ = desk.write(STORY)
  s = desk.draw(tmp_path, s)
  first = len(desk.asked)
  assert first == 4
  s = desk.draw(tmp_path, script.read(tmp_path))
  assert len(desk.asked) == first  # nothing changed
  s = desk.draw(tmp_path, dataclasses.replace(s, title="Other", layout=script.Layout("nine")))
  assert len(desk.asked) == first  # words and layout are no pixels
  again = dataclasses.replace(s.panels[2], seed=99)
  s = desk.draw(tmp_path, s.with_panel(again))
  assert len(desk.asked) == first + 1 and desk.asked[-1].seed == 99
  assert len(s.panels[2].versions) == 2 and (tmp_path / s.panels[2].versions[0].file).exists()
  back = desk.draw(tmp_path, s.with_panel(dataclasses.replace(s.panels[2], seed=None)))
  assert len(desk.asked) == first + 1 and len(back.panels[2].versions) == 2  # the first version is there still
  s = desk.draw(tmp_path, s.with_panel(dataclasses.replace(s.panels[0], candidates=3)))
  assert [r.index for r in desk.asked[-2:]] == [1, 2]


def test_an_edited_sentence_keeps_its_panel_and_its_neighbours(desk, tmp_path):
  s, _ = desk.write(STORY)
  s = desk.draw(tmp_path, s)
  texts = [p.sentence for p in s.panels]
  edited = desk.with_sentences(
    s, [texts[0], "Anna Field meets Ben Stone in the snow.", "Anna Field smiles.", *texts[2:]]
  )
  assert [p.id for p in edited.panels][:2] == ["p1", "p2"] and edited.panels[3].versions == s.panels[2].versions
  assert len({p.id for p in edited.panels}) == 5 and edited.panels[1].versions == s.panels[1].versions


def test_a_person_learned_again_is_drawn_again(desk, store, tmp_path):
  s, _ = desk.write(STORY)
  s = desk.draw(tmp_path, s)
  before = len(desk.asked)
  comics = store.record("Anna Field").comics
  store.folder("Anna Field").joinpath("identity.safetensors").unlink()
  learned.save(store.folder("Anna Field"), person("Anna Field", value=2))
  s = desk.draw(tmp_path, s)
  assert [len(p.versions) for p in s.panels] == [2, 2, 1, 1] and len(desk.asked) - before == 2
  assert store.record("Anna Field").comics == comics == (str(tmp_path.resolve()),)


def test_the_same_seed_gives_the_same_panels(desk, tmp_path):
  s, _ = desk.write(STORY)
  a, b = desk.draw(tmp_path / "a", s), desk.draw(tmp_path / "b", s)
  assert [p.versions for p in a.panels] == [p.versions for p in b.panels]
  for p in a.panels:
    assert (tmp_path / "a" / p.versions[0].file).read_bytes() == (tmp_path / "b" / p.versions[0].file).read_bytes()


@pytest.mark.parametrize("where", ["sentence", "pose", "prompt", "alt", "negative", "title", "bubble", "style"])
@pytest.mark.parametrize("word", ["naked", "n a k e d", "nákéd", "n4k3d", "nаked"])
def test_denied_words_never_reach_the_sampler(desk, tmp_path, where, word):
  s, _ = desk.write(STORY)
  p = s.panels[0]
  if where in ("negative", "title"):
    s = dataclasses.replace(s, **{where: word})
  elif where == "style":
    s = s.with_panel(dataclasses.replace(p, style=(word,)))
  elif where == "bubble":
    s = s.with_panel(dataclasses.replace(p, bubbles=(script.Bubble(word),)))
  else:
    s = s.with_panel(dataclasses.replace(p, **{where: f"Anna Field {word}"}))
  with pytest.raises(UserError, match="does not draw of anybody"):
    desk.draw(tmp_path, s)
  assert desk.asked == [] and not list(tmp_path.glob("panels/*"))
  assert desk.audit.lines()[-1]["event"] == "refused"
  with pytest.raises(UserError, match="the story asks for"):
    desk.write(f"Anna Field is {word}.")


def test_a_flagged_picture_never_leaves(desk, tmp_path):
  """The judge's CLIP is told to deny the beach."""
  desk.checker = Checker(rules=Rules(("a photo of a person on the beach",), ("a photo of a person in the city",)))
  s, _ = desk.write(STORY)
  s = desk.draw(tmp_path, s)
  reasons = [script.current_version(p).reason for p in s.panels]
  assert reasons[0] == "" and "on the beach" in reasons[1] and "on the beach" in reasons[2]
  there = sorted(p.name for p in (tmp_path / "panels").iterdir())
  assert len(there) == len([r for r in reasons if not r])
  assert [e["event"] for e in desk.audit.lines()].count("blank") == len([r for r in reasons if r])
  desk.export(tmp_path, s)


def test_a_model_of_photographs_ranks_by_pack_and_clip(desk, pack, checker, tmp_path, monkeypatch):
  """Of candidates the one that shows the right person in the right place is shown, also where two share a picture."""
  judges = PackJudges(pack, checker)
  anna, beach, city, ben = judges.embed(
    [PORTRAITS["Anna Field"], *(render(435, b) for b in ("beach", "city")), render(341, "beach")]
  )
  assert min(anna @ beach, anna @ city) > anna @ ben + 0.2
  assert judges.embed([np.full((64, 64, 3), 128, np.uint8)]) == [None]
  sea, town = "a photo of a person on the beach", "a photo of a person in the city"
  pictures = [
    render(435, "beach"),
    render(435, "city"),
    np.concatenate([render(435, "beach"), render(341, "beach")], 1),
  ]
  there, elsewhere = (judges.prompt(pictures, t) for t in ([sea, town, sea], [town, sea, town]))
  assert (there > elsewhere + 0.05).all()

  desk.model, desk.judges = "some/sd", judges
  show = [(341, "beach"), (435, "city"), (435, "beach")]  # the third candidate is right

  def generate(pipe, requests, settings):
    for i, r in enumerate(requests):
      yield SimpleNamespace(positions=[i], images=[render(*show[r.index])])

  monkeypatch.setattr(studio.pl, "generate", generate)
  s, _ = desk.write("Anna Field is on the beach.")
  s = dataclasses.replace(s, guidance=7.5).with_panel(dataclasses.replace(s.panels[0], candidates=3))
  (p,) = desk.draw(tmp_path, s).panels
  assert script.current_version(p).candidate == 2 and all(v.identity is not None for v in p.versions)


def test_the_agreement_of_a_wide_picture_is_that_of_all_of_it(checker):
  sea, town = render(435, "beach"), render(435, "city")
  mixed, turned = np.concatenate([sea, town, town], 1), np.concatenate([town, town, sea], 1)
  text = ["a photo of a person on the beach"]
  all_sea, one, other, none = (checker.agreement([x], text)[0] for x in (sea, mixed, turned, town))
  assert all_sea > max(one, other) and min(one, other) > none and abs(one - other) < 0.3 * (all_sea - none)


def test_the_whole_of_a_wide_picture_is_checked(desk):
  """What stands at one edge is flagged as it is alone, in landscape and portrait format."""
  desk.checker = Checker(rules=Rules(("a photo of a person on the beach",), ("a photo of a person in the city",)))
  beach, city = render(341, "beach"), render(435, "city")
  assert [bool(r) for r in desk.checker.reasons([beach, city])] == [True, False]
  rows = [[city, city], [beach, city, city], [city, city, beach], [city, beach]]
  for axis in (0, 1):
    seen = desk.checker.reasons([np.concatenate(r, axis) for r in rows])
    assert [bool(r) for r in seen] == [False, True, True, True]


def test_what_is_finished_stays_when_it_is_stopped(desk, tmp_path):
  s, _ = desk.write(STORY)
  count = iter(range(100))
  with pytest.raises(learn.Stopped):
    desk.draw(tmp_path, s, stop=lambda: next(count) >= 1)
  kept = script.read(tmp_path)
  assert [len(p.versions) for p in kept.panels] == [1, 1, 0, 0]
  before = len(desk.asked)
  done = desk.draw(tmp_path, kept)
  assert [len(p.versions) for p in done.panels] == [1] * 4 and len(desk.asked) - before == 2


def test_deleting_somebody_deletes_everything_derived(desk, store, tmp_path):
  s, _ = desk.write(STORY)
  s = desk.draw(tmp_path / "c", s)
  desk.export(tmp_path / "c", s)
  mine = [v.file for p in s.panels if "Anna Field" in p.people for v in p.versions]
  others = [v.file for p in s.panels if "Anna Field" not in p.people for v in p.versions]
  assert store.delete("Anna Field") >= len(mine) + 4 + 3
  assert not store.folder("Anna Field").exists() and store.names() == ["Ben Stone"]
  assert not any((tmp_path / "c" / f).exists() for f in mine) and all((tmp_path / "c" / f).exists() for f in others)
  assert sorted(p.name for p in (tmp_path / "c").iterdir()) == ["comic.json", "panels"]
  left = script.read(tmp_path / "c")
  assert left.panels[0].versions == () and left.panels[2].versions
  assert store.audit.lines()[-1]["event"] == "deleted"


def test_regions_put_people_where_they_were_drawn(desk, tmp_path):
  s, _ = desk.write("Anna Field meets Ben Stone on the beach.")
  swap = (script.Region("Ben Stone", (0.0, 0.0, 0.5, 1.0)), script.Region("Anna Field", (0.5, 0.0, 1.0, 1.0)))
  plain = desk.draw(tmp_path / "a", s)
  turned = desk.draw(tmp_path / "b", s.with_panel(dataclasses.replace(s.panels[0], regions=swap)))
  who = lambda folder, s: _left_to_right(desk, folder / s.panels[0].versions[0].file)
  assert who(tmp_path / "a", plain) == ["Anna Field", "Ben Stone"]
  assert who(tmp_path / "b", turned) == ["Ben Stone", "Anna Field"]


def test_regions_of_other_models_share_one_picture(desk, tmp_path, monkeypatch):
  """Each person is read in their own box only, with the panel's seed, and the judge of no drawing is asked."""
  desk.model, desk.judges = "some/sd", None
  seen = []
  compose = lambda pipe, whole, parts, settings: seen.append((whole, parts)) or PORTRAITS["Anna Field"]
  monkeypatch.setattr(studio.regions, "compose", compose)
  s, _ = desk.write("Anna Field hugs Ben Stone. Ben Stone laughs.", seed=40)
  half = (script.Region("Ben Stone", (0.0, 0.0, 0.5, 1.0)), script.Region("Anna Field", (0.5, 0.0, 1.0, 1.0)))
  s = dataclasses.replace(s, guidance=7.5).with_panel(dataclasses.replace(s.panels[0], regions=half, candidates=2))
  done = desk.draw(tmp_path, s)
  assert [len(p.versions) for p in done.panels] == [2, 1] and len(desk.asked) == 1
  assert [(w.prompt, w.seed, w.index) for w, _ in seen] == [
    ("a picture of a person hugs a person", 40, i) for i in (0, 1)
  ]
  assert [(p.prompt, p.box) for p in seen[0][1]] == [
    ("a picture of somebody hugs <ben_stone>", half[0].box),
    ("a picture of <anna_field> hugs somebody", half[1].box),
  ]
  drawn = [e["prompts"] for e in desk.audit.lines() if e["event"] == "drawn"]
  assert ["a picture of somebody hugs <ben_stone>", "a picture of <anna_field> hugs somebody", "a picture of a person hugs a person"] in drawn  # fmt: skip
  monkeypatch.setattr(studio, "ALONE", ("textual-inversion",))
  desk.draw(tmp_path / "alone", s)
  assert len(seen) == 2 and [r.prompt for r in desk.asked[1:3]] == [p.prompt for p in seen[0][1]]


def test_where_nobody_stands_there_is_no_face(desk, tmp_path):
  """A small box: the rest of the panel is out of focus, and the detector sees one face, in the box."""
  s, _ = desk.write("Anna Field is in the city.")
  corner = (script.Region("Anna Field", (0.5, 0.4, 1.0, 1.0)),)
  s = desk.draw(tmp_path, s.with_panel(dataclasses.replace(s.panels[0], regions=corner)))
  (v,) = s.panels[0].versions
  with Image.open(tmp_path / v.file) as image:
    pixels = np.asarray(image.convert("RGB"))
  height, width = pixels.shape[:2]
  seen = desk.pack.detect(np.asarray(Image.fromarray(pixels).resize((width // 4, height // 4)))).boxes * 4
  assert len(seen) == 1 and len(v.faces) == 1
  assert seen[0][0] > 0.45 * width and seen[0][1] > 0.35 * height
  assert np.allclose(seen[0] / [width, height, width, height], v.faces[0], atol=0.08)


def test_a_panel_between_others_draws_no_other_again(desk, tmp_path):
  s, _ = desk.write(STORY)
  s = desk.draw(tmp_path, s)
  texts = [p.sentence for p in s.panels]
  before = len(desk.asked)
  s = desk.draw(tmp_path, desk.with_sentences(s, [texts[0], "Anna Field smiles.", *texts[1:]]))
  assert len(desk.asked) == before + 1 and [len(p.versions) for p in s.panels] == [1] * 5
  s = desk.draw(tmp_path, desk.with_sentences(s, texts[1:]))
  assert len(desk.asked) == before + 1 and [p.id for p in s.panels] == ["p2", "p3", "p4"]
  assert [script.seed_of(s, p) for p in s.panels] == [1, 2, 3]
  assert script.seed_of(s, script.Panel("intro", "x")) == script.seed_of(s, script.Panel("intro", "y")) > 2


@pytest.mark.parametrize("model", ["miniature", "miniature-sdxl"])
def test_what_ships_of_the_sample_people_is_theirs(desk, store, model, monkeypatch):
  """It fits the weights and the pack that ship; for others they are learned."""
  folder = hub.BUILT_IN[model]
  desk.model = model
  desk.pipe.digest = pl.Pipeline.digest.func(SimpleNamespace(folder=folder, backbone=SimpleNamespace(params=PARTS)))
  asked = []
  monkeypatch.setattr(learn, "learn", lambda *a, **k: asked.extend(x.name for x in a[2]))
  there = samples.add(desk)
  if asked:
    pytest.skip("what ships was learned on other weights: make samples")
  assert there == ["Anna Field", "Ben Stone"] and {r.model for r in store.records()} == {model}
  for name in there:
    record = store.record(name)
    assert record.sample and record.consent == learn.SAMPLE_CONSENT.__class__(
      learn.SAMPLE_CONSENT.by, record.consent.date
    )
    rows = store.load(name, model, desk.pipe.digest).identity["rows"]
    assert len(rows) == 1 + (model == "miniature-sdxl") and all(np.isfinite(r).all() and r.any() for r in rows)
    assert store.portrait(name).shape[0] >= 64
  samples.add(desk)  # they are there
  desk.pipe.digest = "other weights"
  samples.add(desk)
  assert asked == ["Anna Field", "Ben Stone"]


def test_the_sample_people_are_of_the_drawn_world_only(desk, store, monkeypatch):
  monkeypatch.setattr(learn, "learn", lambda *a, **k: pytest.fail("nobody should be learned"))
  store.delete("Anna Field")
  desk.model = "some/sd"
  assert samples.add(desk) == []


def _left_to_right(desk, file) -> list[str]:
  """Whose faces the second recogniser sees in a picture's halves."""
  with Image.open(file) as image:
    pixels = np.asarray(image.convert("RGB"))
  half = pixels.shape[1] // 2
  sides = [np.asarray(Image.fromarray(x).resize((80, 96))) for x in (pixels[:, :half], pixels[:, half:])]
  own = {n: desk.judges.embed([p])[0] for n, p in PORTRAITS.items()}
  return [max(own, key=lambda n, e=e: float(e @ own[n])) for e in desk.judges.embed(sides)]


def test_a_parser_of_ones_own(desk):
  s, cut = desk.write("Anna Field waits.", Scripted(("Anna Field waits.", "She waits.")))
  assert len(s.panels) == 2 and "says 'She'" in cut.problems[0]


def test_the_document_says_with_what_it_was_drawn(desk, tmp_path):
  s, _ = desk.write(STORY)
  desk.draw(tmp_path, s)
  d = json.loads((tmp_path / "comic.json").read_text())
  assert d["model"] == {"name": "miniature", "digest": MODEL}
  assert {p["name"]: len(p["digest"]) for p in d["people"]} == {"Anna Field": 32, "Ben Stone": 32}


def test_prompts_are_read_as_the_model_reads_them(desk, tmp_path):
  """Each text alone is harmless; what they become together is not."""
  desk.model = "some/sd"
  s, _ = desk.write("Anna Field is top.")
  s = s.with_panel(dataclasses.replace(s.panels[0], pose="less and less"))
  with pytest.raises(UserError, match=r"the prompt of panel 1 asks for nudity \('topless'\)"):
    desk.draw(tmp_path, s)
  assert desk.asked == []
