"""The same numbers as torch-fidelity, clean-fid and torchmetrics give, where they are installed:

    pip install --no-deps torch-fidelity clean-fid torchmetrics lightning-utilities torchvision

The other tests of this folder hold the same by twins and closed forms; nothing but these tests uses them.
"""

import numpy as np
import pytest

from idejax.evaluation import agreement, distributions, miniature, preprocess
from idejax.evaluation.judges import About
from idejax.evaluation.networks import TransformersClip

pytestmark = pytest.mark.filterwarnings("ignore")  # theirs
CLIP = miniature.FOLDER / "clip"


def features(n, seed, width=48, scale=1.0, shift=0.0):
  return shift + scale * np.random.default_rng(seed).standard_normal((n, width))


@pytest.fixture
def images():
  rng = np.random.default_rng(0)
  return [
    np.kron(rng.integers(0, 256, (h, w, 3)), np.ones((8, 8, 1))).astype(np.uint8) for h, w in ((8, 8), (12, 9), (8, 20))
  ]


def test_fid_and_kid_of_torch_fidelity():
  fid = pytest.importorskip("torch_fidelity.metric_fid", exc_type=ImportError)
  import torch
  from torch_fidelity import metric_kid

  a, b = features(60, 0), features(50, 1, scale=1.1, shift=0.2)
  moments = lambda x: {"mu": x.mean(0), "sigma": np.cov(x, rowvar=False)}
  for n in (50, 20):  # more and fewer pictures than features
    want = fid.fid_statistics_to_metric(moments(a[:n]), moments(b[:n]), False)["frechet_inception_distance"]
    assert distributions.fid(a[:n], b[:n]) == pytest.approx(want, abs=1e-3)
  want = metric_kid.kid_features_to_metric(
    torch.tensor(a[:50]), torch.tensor(b), kid_subsets=2, kid_subset_size=50, verbose=False
  )
  assert distributions.kid(a[:50], b).mean == pytest.approx(want["kernel_inception_distance_mean"], rel=1e-6)


def test_fid_and_kid_of_clean_fid():
  fid = pytest.importorskip("cleanfid.fid", exc_type=ImportError)
  a, b = features(60, 0), features(60, 1, scale=1.1, shift=0.2)
  moments = lambda x: (x.mean(0), np.cov(x, rowvar=False))
  assert distributions.fid(a, b) == pytest.approx(fid.frechet_distance(*moments(a), *moments(b)), abs=1e-3)
  assert distributions.kid(a, b).mean == pytest.approx(
    fid.kernel_distance(a, b, num_subsets=2, max_subset_size=60), rel=1e-6
  )


def test_pictures_are_resized_to_the_bit(images):
  tf = pytest.importorskip("torch_fidelity.interpolate_compat_tensorflow", exc_type=ImportError)
  clean = pytest.importorskip("cleanfid.resize", exc_type=ImportError).build_resizer("clean")
  import torch

  for i in images:
    x = torch.from_numpy(i.transpose(2, 0, 1))[None].float()
    want = (
      tf.interpolate_bilinear_2d_like_tensorflow1x(x, size=(299, 299), align_corners=False)[0]
      .numpy()
      .transpose(1, 2, 0)
    )
    np.testing.assert_array_equal(preprocess.tensorflow(i, 299), want)
    np.testing.assert_array_equal(preprocess.clean(i, 299), clean(i))


def test_clip_score_and_clip_iqa_of_torchmetrics(images):
  pytest.importorskip("torchmetrics", exc_type=ImportError)
  import torch
  from torchmetrics.functional.multimodal import clip_iqa, clip_score
  from transformers import CLIPImageProcessor, CLIPModel, CLIPProcessor, CLIPTokenizer

  judge = TransformersClip(CLIP, About("", "", "", ""))
  texts = ["a photo of a person on the beach", "a sketch of a woman", "pop art of a man smiling"]
  seen, read = judge.pictures(images), judge.texts(texts)
  ours = [agreement.clip_score(agreement.prompt_score(s, r)) for s, r in zip(seen, read)]
  torched = [torch.from_numpy(i.transpose(2, 0, 1)) for i in images]

  class Model(CLIPModel):  # torchmetrics 1.9 expects what transformers returned before version 5
    def get_image_features(self, *args, **kwargs):
      return super().get_image_features(*args, **kwargs).pooler_output

    def get_text_features(self, *args, **kwargs):
      return super().get_text_features(*args, **kwargs).pooler_output

  own = lambda: (
    Model.from_pretrained(CLIP),
    CLIPProcessor(CLIPImageProcessor.from_pretrained(CLIP), CLIPTokenizer.from_pretrained(CLIP)),
  )
  theirs = [float(clip_score(i, t, model_name_or_path=own)) for i, t in zip(torched, texts)]
  assert ours == pytest.approx(theirs, abs=0.05)
  good, bad = judge.texts(agreement.QUALITY_TEXTS)
  want = clip_iqa._clip_iqa_compute(
    torch.from_numpy(seen), torch.from_numpy(np.stack([good, bad])), ["quality"]
  ).numpy()
  assert [agreement.quality(s, good, bad) for s in seen] == pytest.approx(list(want), abs=1e-4)
