"""People in prompts: mixed in a batch, delayed, stronger or weaker, with their own keys and values."""

import dataclasses

import jax
import numpy as np
import pytest
from support import learned_people, tiny_pipelines
from support.fakes import relative_error

import idejax
from idejax import tree
from idejax.errors import UserError
from idejax.methods import METHODS, dreambooth
from idejax.model import anchors, backbone, conditioning
from idejax.sampling import learned, pipeline
from idejax.sampling import texts as prompting
from idejax.sampling.learned import Learned
from idejax.sampling.pipeline import Request, Settings

SETTINGS = Settings(3, "ddim", batch=4)


@pytest.fixture(scope="module")
def pipe(tmp_path_factory):
  root = tiny_pipelines.write(tmp_path_factory.mktemp("prompting"), "sd21-base")
  return idejax.load(root / "sd21-base", devices=jax.devices()[:1], notify=lambda _: None)


def somebody(pipe, word, method="textual-inversion", seed=0, stages=1, wide=1, **more):
  rng = np.random.default_rng(seed)
  rows = 0.5 * rng.standard_normal((stages, wide, 2, 32)).astype(np.float32)
  cfg = METHODS[method].PRESETS["paper"]
  return Learned(word, method, cfg, {"rows": (rows,)} | more, str(pipe.folder), pipe.digest)


def latents(pipe, requests, settings=SETTINGS):
  out = {}
  for batch in pipeline.generate(pipe, requests, settings):
    out |= dict(zip(batch.positions, batch.latents))
  return np.stack([out[i] for i in range(len(requests))])


@pytest.fixture(scope="module")
def peopled(pipe):
  return pipe.with_people(
    somebody(pipe, "<a>", seed=1),
    somebody(pipe, "<b>", seed=2),
    somebody(pipe, "<s>", "sefi-ide", seed=3, stages=5, wide=2),
  )


def test_company_changes_nobody(peopled):
  requests = [Request(p, seed=7) for p in ("<a> at sea", "at sea", "<b> at sea", "<a> and <b>", "<s> at sea")]
  mixed = latents(peopled, requests)
  for i, r in enumerate(requests):
    assert relative_error(latents(peopled, [r])[0], mixed[i]) < 1e-5
  assert len({x.tobytes() for x in mixed}) == len(requests)


def test_plain_prompts_are_those_of_a_pipeline_without_people(pipe, peopled):
  requests = [Request("at sea", seed=7)]
  np.testing.assert_array_equal(latents(peopled, requests), latents(pipe, requests))


def written_out(pipe, word, text):
  """A person whose learned rows are the token embeddings of `text`, of two tokens."""
  words = [anchors.word_rows(pipe.backbone, pipe.tokenizers, w) for w in text.split()]
  rows = tuple(np.concatenate(r)[None, None] for r in zip(*words))
  return dataclasses.replace(somebody(pipe, word), identity={"rows": rows})


def test_rows_of_real_words_sample_what_the_words_sample(pipe):
  """Each person stands where their word stands, in either order of the two."""
  both = pipe.with_people(written_out(pipe, "<a>", "q z"), written_out(pipe, "<b>", "x k"))
  texts = ("<a> and <b>", "<b> and <a>", "q z and x k", "x k and q z")
  ab, ba, one, other = latents(both, [Request(t, seed=1) for t in texts])
  assert relative_error(ab, one) < 1e-5 and relative_error(ba, other) < 1e-5
  assert relative_error(ab, ba) > 1e-3


@pytest.mark.parametrize("make", [learned_people.inversion, learned_people.id_ea_person, learned_people.whole_unet])
def test_several_people_and_a_plain_prompt_in_one_job_equal_each_alone(pipe, make):
  """Text rows, keys and values, whole weights; both orders. Relative error below 1e-5: another batch size.
  The third is the first but for the changes of keys and values, or for all of the UNet but those."""
  a, b, c = make(pipe, "<a>", seed=11), make(pipe, "<b>", seed=12), make(pipe, "<c>", seed=13)
  single = {}
  if "kv" in a.identity:
    single = {"kv": c.identity["kv"]}
  if "unet" in a.identity:
    kv = tree.split(a.identity["unet"], learned_people.KV)[0]
    single = {"unet": tree.override(c.identity["unet"], kv)}
  if single:
    c = dataclasses.replace(a, word="<c>", identity=a.identity | single)
  requests = [Request(f"{word} at sea", seed=7) for word in ("<a>", "<b>", "<c>", "person")]
  alone = [latents(pipe.with_people(*who), [r])[0] for who, r in zip(((a,), (b,), (c,), ()), requests)]
  assert min(relative_error(x, y) for i, x in enumerate(alone) for y in alone[:i]) > 1e-3
  everybody = pipe.with_people(a, b, c)
  for order in ([0, 1, 2, 3], [3, 2, 1, 0]):
    together = latents(everybody, [requests[i] for i in order])
    for i, got in zip(order, together):
      assert relative_error(got, alone[i]) < 1e-5, (order, i)


@pytest.mark.parametrize("make", [learned_people.id_ea_person, learned_people.low_rank, learned_people.whole_unet])
def test_whose_weights_read_negative_prompts(pipe, make):
  """A step of DDIM is linear in guidance: from 2 and 3 follow 1, the prompt alone, and 0, the negative prompt alone.
  With `base` the latter is the base model's, in a batch with people of the other kind too."""
  one, who = Settings(1, "ddim", batch=4), make(pipe, "<a>")
  own, base = (
    dataclasses.replace(who, word=f"<{x}>", cfg=dataclasses.replace(who.cfg, negative=x)) for x in ("person", "base")
  )
  requests = [Request(f"{w} at sea", seed=7, guidance=g) for w in ("<person>", "<base>") for g in (2.0, 3.0)]
  a2, a3, b2, b3 = latents(pipe.with_people(own, base), requests, one)
  alone = latents(pipe, [Request("", seed=7, guidance=1.0)], one)[0]
  assert relative_error(2 * b2 - b3, 2 * a2 - a3) < 1e-4
  assert relative_error(3 * b2 - 2 * b3, alone) < 1e-4 < 1e-3 < relative_error(3 * a2 - 2 * a3, alone)


def test_people_bring_their_papers_guidance(pipe):
  """StableIdentity samples at 8.5, Celeb Basis at 10; where people differ, or a folder has its own, that is not asked."""
  of = lambda *methods: pipeline.default_guidance(
    pipe.with_people(*(somebody(pipe, f"<{i}>", m) for i, m in enumerate(methods)))
  )
  assert [of("stable-identity"), of("celeb-basis"), of("celeb-basis", "celeb-basis")] == [8.5, 10, 10]
  assert [of(), of("id-ea"), of("celeb-basis", "stable-identity"), of("celeb-basis", "id-ea")] == [7.5] * 4
  own = dataclasses.replace(pipe.backbone, nets=dataclasses.replace(pipe.backbone.nets, guidance=4.0))
  person = somebody(pipe, "<a>", "celeb-basis")
  assert pipeline.default_guidance(dataclasses.replace(pipe, backbone=own, people={"<a>": person})) == 4


def test_rows_of_a_conditioning():
  """Every array of a batch loses the same rows, stages stay."""
  x = lambda *shape: np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
  cond = backbone.Conditioning(
    x(5, 4, 3, 2),
    x(5, 4, 3, 2),
    x(5, 4, 6),
    x(4, 6),
    x(4, 8, 8, 3),
    x(4, 7, 2),
    x(4),
    x(4),
    x(4, 4),
    x(4),
    x(4, 2, 2, 5),
  )
  odd = backbone.rows(cond, slice(1, None, 2))
  for f in dataclasses.fields(cond):
    whole, part = getattr(cond, f.name), getattr(odd, f.name)
    np.testing.assert_array_equal(part, whole[:, 1::2] if f.name in ("k", "v", "pooled") else whole[1::2])
  assert backbone.rows(dataclasses.replace(cond, pooled=x(4, 6), control=None), slice(0, 1)).pooled.shape == (1, 6)


def test_an_encoding_is_what_the_method_says(pipe, peopled):
  """Keys' and values' contexts of every stage; the plain prompt beside them repeats its one stage."""
  prompts = ["<s> at sea", "at sea"]
  texts = prompting.Texts(pipe.backbone, pipe.tokenizers, peopled.people, prompts, print)
  got, who = texts.encode(prompts), peopled.people["<s>"]
  tokenised = conditioning.tokenise(pipe.tokenizers, prompts[:1] * prompting.CHUNK, {"<s>": who.rows})
  want = prompting.condition(who.method, who.cfg, [who.identity], pipe.backbone, tokenised)
  np.testing.assert_allclose(got.k[0], want.k[:, 0], atol=1e-5)
  np.testing.assert_allclose(got.v[0], want.v[:, 0], atol=1e-5)
  assert relative_error(want.k, want.v) > 1e-3 and relative_error(want.k[0], want.k[1]) > 1e-3
  assert all((stage == got.k[1, 0]).all() for stage in got.k[1])


def test_changes_beyond_cross_attentions_keys_and_values_need_a_batch_of_their_own(pipe):
  unet = pipe.backbone.params["unet"]
  assert prompting._only_kv({}) and prompting._only_kv(tree.split(unet, learned_people.KV)[0])
  assert not prompting._only_kv(tree.split(unet, dreambooth.LORA)[0]) and not prompting._only_kv(unet)


def test_equal_stages_are_one_stage(pipe):
  """SeFi-IDE with five equal pairs, K = V, is textual inversion with that row."""
  one = somebody(pipe, "<a>", seed=4)
  five = somebody(pipe, "<b>", "sefi-ide")
  five = dataclasses.replace(five, identity={"rows": (np.tile(one.identity["rows"][0], (5, 2, 1, 1)),)})
  a, b, *_ = latents(pipe.with_people(one, five), [Request("<a> at sea", seed=1), Request("<b> at sea", seed=1)] * 2)
  assert relative_error(a, b) < 1e-5


def test_a_late_start_samples_the_plain_prompt_first(peopled):
  make = lambda start: Request("<a> at sea", seed=7, start=start, plain="person at sea")
  never, half, always, plain = latents(peopled, [make(0.999), make(0.5), make(0.0), Request("person at sea", seed=7)])
  assert relative_error(never, plain) < 0.2 * relative_error(always, plain)  # the last step sees t = 1
  assert relative_error(half, plain) > 1e-4 and relative_error(half, always) > 1e-4
  np.testing.assert_allclose(always, latents(peopled, [Request("<a> at sea", seed=7)])[0], rtol=1e-4, atol=1e-5)


def test_other_people_prompts_and_starts_do_not_recompile(peopled, pipe):
  latents(peopled, [Request("<a>", seed=1, start=0.1, plain="x"), Request("<b>", seed=1)])
  programs = (prompting.condition, prompting.project, pipeline._run)
  before = [p._cache_size() for p in programs]
  other = pipe.with_people(somebody(pipe, "<c>", seed=8), somebody(pipe, "<s>", "sefi-ide", seed=9, stages=5, wide=2))
  latents(other, [Request("<c> in the rain", seed=2, start=0.7, plain="y"), Request("<c>", seed=3)])
  assert [p._cache_size() for p in programs] == before


def test_strength_is_a_knob_of_methods_that_have_one(pipe):
  with pytest.raises(UserError, match="no strength"):
    somebody(pipe, "<a>").with_strength(0.5)
  assert somebody(pipe, "<a>", scale=np.float32(1)).with_strength(0.5).identity["scale"] == 0.5


def test_people_who_do_not_fit(pipe, peopled):
  who = somebody(pipe, "<a>")
  with pytest.raises(UserError, match="two people are called <a>"):
    peopled.with_people(who)
  with pytest.raises(UserError, match="--other-model"):
    pipe.with_people(dataclasses.replace(who, digest="0" * 64))
  pipe.with_people(dataclasses.replace(who, digest="0" * 64), other=True)
  wide = dataclasses.replace(who, identity={"rows": (np.zeros((1, 1, 2, 48), np.float32),)}, model="elsewhere")
  with pytest.raises(UserError, match="elsewhere .*48.*32"):
    pipe.with_people(wide)
  bound = learned_people.id_ea_person(pipe, "<c>")
  with pytest.raises(UserError, match="different methods or settings, and <c>, by id-ea, is more than words"):
    latents(pipe.with_people(who, bound), [Request("<a> and <c>")])
  other = dataclasses.replace(bound, word="<d>", cfg=dataclasses.replace(bound.cfg, steps=1))
  with pytest.raises(UserError, match="or settings, and <c>"):
    latents(pipe.with_people(bound, other), [Request("<c> and <d>")])
  ten = somebody(pipe, "<t>", "sefi-ide", stages=10, wide=2)
  with pytest.raises(UserError, match="with 5 and with 10 stages"):
    latents(
      peopled.with_people(dataclasses.replace(ten, cfg=dataclasses.replace(ten.cfg, stages=10))), [Request("<s>, <t>")]
    )


def test_people_of_different_methods_share_a_prompt_if_they_are_words_alone(pipe, peopled):
  """The words of one person for all stages, beside five of another: as if one method had learned both."""
  a, s = peopled.people["<a>"], peopled.people["<s>"]
  spread = {"rows": tuple(np.broadcast_to(r, (5, 2, *r.shape[2:])) for r in a.identity["rows"])}
  alike = pipe.with_people(dataclasses.replace(a, method=s.method, cfg=s.cfg, identity=spread), s)
  request = [Request("<a> and <s> at sea", seed=7)]
  mixed = latents(peopled, request)
  assert relative_error(mixed, latents(alike, request)) < 1e-5
  for other in ("<a> at sea", "<s> at sea"):
    assert relative_error(latents(peopled, [Request(other, seed=7)]), mixed) > 1e-3


def test_an_identity_file_holds_all_of_it(pipe, tmp_path):
  kernels = {"down_blocks.0": {"attn2.to_k": {"kernel": np.ones((3, 2), np.float32)}}}
  who = somebody(pipe, "<a>", "sefi-ide", stages=5, wide=2, scale=np.float32(0.5), unet=kernels)
  learned.save(tmp_path, who)
  back = learned.load(tmp_path)
  assert dataclasses.replace(back, identity={}) == dataclasses.replace(who, identity={})
  jax.tree.map(np.testing.assert_array_equal, dict(back.identity), dict(who.identity))


def test_files_that_are_no_identities(tmp_path):
  with pytest.raises(UserError, match="identity.safetensors"):
    learned.load(tmp_path)
  for content in (b"", b"\xff" * 100, (10**15).to_bytes(8, "little") + b"{}"):
    (tmp_path / learned.FILE).write_bytes(content)
    with pytest.raises(UserError, match="no identity") as e:
      learned.load(tmp_path)
    assert "\n" not in str(e.value)
