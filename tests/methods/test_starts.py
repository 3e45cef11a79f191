"""Before any training a person's words are as loud in a prompt as names are, in every family."""

import numpy as np
import pytest
from support import subjects, tiny_pipelines

from idejax.data import celebrities
from idejax.methods import id_ea, textual_inversion
from idejax.model import anchors, backbone, conditioning, tokens
from idejax.storage import hub

TEXT = "a photo of {} on the beach"
STARTS = {
  "cross-initialised": (textual_inversion, textual_inversion.PRESETS["cross-init"]),
  "average name": (textual_inversion, textual_inversion.Config(vectors=2, start="name")),
  "ID-EA": (id_ea, id_ea.PRESETS["paper"]),
  "ID-EA, average name": (id_ea, id_ea.Config(start="name")),
}


@pytest.fixture(scope="module", params=["sd15", "sd21-base", "sdxl", "miniature", "miniature-sdxl"])
def model(request, tmp_path_factory):
  """(backbone, tokenizers, names that it knows)."""
  if request.param not in hub.BUILT_IN:
    folder = tiny_pipelines.write(tmp_path_factory.mktemp("tiny"), request.param)
    return *subjects.opened(folder, request.param), subjects.NAMES
  folder = hub.BUILT_IN[request.param]
  b = backbone.load(folder)
  words = tuple(tokens.load(folder / n) for n in ["tokenizer", "tokenizer_2"][: len(b.nets.text)])
  return b, words, celebrities.names(request.param)


def contexts(b, words, texts, rows=None):
  """What the UNet reads at a prompt's two places for the person, by text encoder: [texts, 2, d] each."""
  prompts = conditioning.tokenise(words, texts, {} if rows is None else {"<id>": 2})
  context = np.asarray(conditioning.contexts(b, prompts, rows).k[0])
  widths = np.cumsum([t.hidden_size for t in b.nets.text])[:-1]
  at = conditioning.tokenise(words, [TEXT.format("<id>")], {"<id>": 2}).where[0][0]
  return np.split(context[:, at], widths, axis=-1)


def loudness(context):
  """Root mean square length."""
  return np.sqrt(np.square(context).sum(-1).mean())


@pytest.mark.parametrize("start", STARTS)
def test_untrained_words_are_at_most_twice_as_loud_as_names(model, start):
  b, words, names = model
  of_names = contexts(b, words, [TEXT.format(n) for n in names[:20]])
  method, cfg = STARTS[start]
  constants = method.constants(b, words, names, cfg)
  rows = tuple(np.asarray(r)[None, None] for r in constants["start"])
  of_words = contexts(b, words, [TEXT.format("<id>")], rows)
  for own, others in zip(of_words, of_names, strict=True):
    assert loudness(own) < 2 * loudness(others)


def test_words_are_as_long_as_names_where_no_norm_follows(model):
  """On SDXL's layout cross-initialised words have names' length; elsewhere, and by request, the output's own."""
  b, words, names = model
  own = anchors.cross(b, words, names, size="output")
  for auto, output, length in zip(anchors.cross(b, words, names), own, anchors.lengths(b, words, names)):
    if b.nets.xl:
      np.testing.assert_allclose(np.linalg.norm(auto, axis=-1), length, rtol=1e-5)
      cosine = (auto * output).sum(-1) / np.linalg.norm(auto, axis=-1) / np.linalg.norm(output, axis=-1)
      np.testing.assert_allclose(cosine, 1, rtol=1e-5)
    else:
      np.testing.assert_array_equal(auto, output)
  for module in (textual_inversion, id_ea):
    cfg = module.Config(start="cross", start_size="output")
    for row, want in zip(module.constants(b, words, names, cfg)["start"], own):
      np.testing.assert_array_equal(row, want)


def test_id_eas_anchor_is_what_the_unet_reads_of_the_average_name(model):
  b, words, names = model
  rows = tuple(np.asarray(m)[None, None] for m in anchors.mean(b, words, names))
  prompts = conditioning.tokenise(words, ["<id>"], {"<id>": 2})
  want = conditioning.contexts(b, prompts, rows).k[0, 0, 1:3]
  anchor = id_ea.constants(b, words, names, id_ea.Config())["anchor"]
  np.testing.assert_allclose(anchor, want, rtol=1e-4, atol=1e-4 * float(np.abs(want).max()))
