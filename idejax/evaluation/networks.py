"""The networks that judge, each opened from a file of the user's: no torch, nothing downloaded."""

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import jax
import jax.numpy as jnp
import numpy as np

from idejax.errors import UserError, one_line
from idejax.evaluation import likeness, preprocess
from idejax.evaluation.judges import About
from idejax.faces import align
from idejax.faces.pack import Faces, Pack
from idejax.model import tokens
from idejax.nets import clip, clip_resnet, clip_vision, inception
from idejax.storage import tensorfiles, weights
from idejax.storage.files import read_json

CHUNK = 32  # pictures per call: one compiled shape


class PackDetector:
  """The detector of a face pack, and its 106 landmarks where it has them."""

  def __init__(self, pack: Pack, about: About):
    self.pack, self.about = pack, about

  def detect(self, image: np.ndarray) -> Faces:
    return self.pack.detect(image)

  def landmarks(self, image: np.ndarray, faces: Faces) -> np.ndarray | None:
    marks = [self.pack.landmarks106(image, b) for b in faces.boxes] if self.pack.has_landmarks else []
    return np.stack(marks) if marks else None  # type: ignore[arg-type]


class OnnxRecogniser:
  """A recogniser as an ONNX file: aligned crops N x 3 x side x side in, embeddings out.

  zoom below 1 shows more around the face than ArcFace's template does.
  """

  def __init__(
    self,
    path: Path,
    about: About,
    threshold: float | None = None,
    *,
    side: int = 112,
    mean: float = 127.5,
    scale: float = 127.5,
    bgr: bool = False,
    zoom: float = 1.0,
  ):
    self.path, self.about, self.threshold = path, about, threshold
    self.side, self.bgr, self.zoom = side, bgr, zoom
    self._pixels = functools.partial(preprocess.face, mean=mean, scale=scale, bgr=bgr)

  @functools.cached_property
  def session(self) -> Any:
    import onnxruntime

    try:
      return onnxruntime.InferenceSession(str(self.path), providers=["CPUExecutionProvider"])
    except Exception as e:  # ONNX Runtime's errors share no base class
      raise UserError(f"{self.path}: ONNX Runtime cannot open it: {one_line(str(e))[:200]}") from e

  def embed(self, images: Sequence[np.ndarray], points: Sequence[np.ndarray]) -> np.ndarray:
    template = ((align.ARCFACE - 56) * self.zoom + 56) * (self.side / 112)
    parts = []
    for at in range(0, len(images), CHUNK):
      cuts = [
        self._pixels(self._crop(i, p, template)) for i, p in zip(images[at : at + CHUNK], points[at : at + CHUNK])
      ]
      parts.append(self._run(np.stack(cuts).transpose(0, 3, 1, 2)))
    try:
      return likeness.unit(np.concatenate(parts))
    except ValueError as e:
      raise UserError(f"{self.path}: {e}") from None

  def _crop(self, image: np.ndarray, points: np.ndarray, template: np.ndarray) -> np.ndarray:
    matrix = align.similarity(np.asarray(points, np.float64), template)
    return cv2.warpAffine(image, matrix, (self.side, self.side), borderValue=0)

  def _run(self, x: np.ndarray) -> np.ndarray:
    entry = self.session.get_inputs()[0]
    one = isinstance(entry.shape[0], int)  # the file is for a batch of one
    try:
      rows = [
        self.session.run(None, {entry.name: np.ascontiguousarray(g)})[0] for g in (np.split(x, len(x)) if one else [x])
      ]
    except Exception as e:
      raise UserError(f"{self.path}: the recogniser fails: {one_line(str(e))[:200]}") from e
    return np.concatenate(rows).reshape(len(x), -1)


class TransformersClip:
  """A CLIPModel's folder as transformers writes it, both towers: ViT-B/32, ViT-L/14, or smaller."""

  def __init__(self, folder: Path, about: About, person: str = "", *, variant: str | None = None):
    self.about, self.person = about, person
    config = read_json(folder / "config.json")
    try:
      text = clip.TextEncoder(clip.TextConfig.from_json(config))
      vision = clip_vision.VisionEncoder(clip_vision.VisionConfig.from_json(config))
    except (ValueError, TypeError) as e:
      raise UserError(f"{folder / 'config.json'}: {e}") from e
    if not (text.cfg.projection_dim and vision.cfg.projection_dim):
      raise UserError(f"{folder} is one tower of CLIP; a judge of text and pictures needs a CLIPModel's folder")
    self.side = vision.cfg.image_size
    how = read_json(folder / "preprocessor_config.json") if (folder / "preprocessor_config.json").exists() else {}
    self._pixels = functools.partial(
      preprocess.clip,
      side=self.side,
      mean=how.get("image_mean", preprocess.CLIP_MEAN),
      std=how.get("image_std", preprocess.CLIP_STD),
    )
    tensors = tensorfiles.read(folder, "model", variant=variant)
    shapes = {"text": clip.shapes(text.cfg), "vision": clip_vision.shapes(vision.cfg)}
    keys = {k for s in shapes.values() for k in weights.keys(s)}
    extra = r"^logit_scale$|position_ids$"
    params = {}
    for name, s in shapes.items():
      mine = weights.keys(s)
      own = {k: tensors[k] for k in tensors if k in mine or k not in keys}
      params[name] = weights.from_torch(s, own, name=str(folder), ignore=(extra,))
    self.params = jax.tree.map(jnp.asarray, params)
    self.tokenizer = tokens.load(folder)
    unit = lambda x: x / jnp.linalg.norm(x, axis=-1, keepdims=True)
    see: Any = lambda p, x: unit(vision.apply({"params": p}, x).embeds)  # type: ignore[union-attr]
    read: Any = lambda p, ids, eos: unit(text.apply({"params": p}, ids, eos=eos).pooled)  # type: ignore[union-attr]
    self._see, self._read = jax.jit(see), jax.jit(read)

  def pictures(self, images: Sequence[np.ndarray]) -> np.ndarray:
    return run_in_chunks(
      lambda x: self._see(self.params["vision"], x),
      lambda at: np.stack([self._pixels(images[i]) for i in at]),
      len(images),
    )

  def texts(self, texts: Sequence[str]) -> np.ndarray:
    encoding = self.tokenizer.encode(list(texts))
    return run_in_chunks(
      lambda x: self._read(self.params["text"], *x), lambda at: (encoding.ids[at], encoding.eos[at]), len(texts)
    )


class ResNetClip:
  """CLIP RN50 from OpenAI's tensors, as CLIP-IQA uses it: pictures at their own size, no positional
  embedding. Each size of pictures is a program of its own."""

  person = ""

  def __init__(self, path: Path, about: About, *, tokenizer: str | None = None, allow_pickle: bool = False):
    self.about = about
    if tokenizer is None:
      raise UserError(f"{path}: clip_rn50 needs 'tokenizer': a folder with CLIP's, such as ViT-B/32's")
    self.tokenizer = tokens.load((path.parent / Path(tokenizer).expanduser()).resolve())
    tensors = tensorfiles.read(path.parent, path.stem, allow_pickle=allow_pickle)
    text, encoder = clip_resnet.text_tensors(tensors), clip.TextEncoder(_text_config(path, tensors))
    vision = {k: tensors[k] for k in tensors if k.startswith("visual.")}
    self.net = clip_resnet.ClipResNet(_resnet_config(path, vision))
    load = lambda shapes, x, ignore=(): weights.from_torch(
      weights.with_dtype(shapes, np.float32), x, name=str(path), ignore=ignore
    )
    ignore = (r"num_batches_tracked$", r"attnpool\.positional_embedding$")
    self.params = jax.tree.map(
      jnp.asarray,
      {"vision": load(clip_resnet.shapes(self.net.cfg), vision, ignore), "text": load(clip.shapes(encoder.cfg), text)},
    )
    unit = lambda x: x / jnp.linalg.norm(x, axis=-1, keepdims=True)
    see: Any = lambda p, x: unit(self.net.apply({"params": p}, x))
    say: Any = lambda p, ids, eos: unit(encoder.apply({"params": p}, ids, eos=eos).pooled)  # type: ignore[union-attr]
    self._see, self._say = jax.jit(see), jax.jit(say)

  def pictures(self, images: Sequence[np.ndarray]) -> np.ndarray:
    out: list[Any] = [None] * len(images)
    for shape in {i.shape for i in images}:
      same = [k for k, i in enumerate(images) if i.shape == shape]
      make = lambda at, same=same: np.stack([preprocess.normalise(images[same[i]]) for i in at])
      for k, row in zip(same, run_in_chunks(lambda x: self._see(self.params["vision"], x), make, len(same), 8)):
        out[k] = row
    return np.stack(out)

  def texts(self, texts: Sequence[str]) -> np.ndarray:
    encoding = self.tokenizer.encode(list(texts))
    return run_in_chunks(
      lambda x: self._say(self.params["text"], *x), lambda at: (encoding.ids[at], encoding.eos[at]), len(texts)
    )


def _text_config(path: Path, tensors: Any) -> clip.TextConfig:
  """OpenAI's files have no config.json: sizes are read off the tensors."""
  try:
    vocabulary, width = tensors["token_embedding.weight"].shape
    layers = len({k.split(".")[2] for k in tensors if k.startswith("transformer.resblocks.")})
    inner = tensors["transformer.resblocks.0.mlp.c_fc.weight"].shape[0]
    return clip.TextConfig(
      vocabulary,
      width,
      inner,
      tensors["text_projection"].shape[1],
      layers,
      max(1, width // 64),
      tensors["positional_embedding"].shape[0],
      eos_token_id=vocabulary - 1,
    )
  except KeyError as e:
    raise UserError(f"{path} has no tensor {e.args[0]!r}: it is not OpenAI's CLIP RN50") from None


def _resnet_config(path: Path, tensors: Any) -> clip_resnet.ClipResNetConfig:
  try:
    width, features = tensors["visual.conv3.weight"].shape[0], tensors["visual.attnpool.c_proj.weight"].shape[0]
    depths = tuple(len({k.split(".")[2] for k in tensors if k.startswith(f"visual.layer{i}.")}) for i in (1, 2, 3, 4))
  except KeyError as e:
    raise UserError(f"{path} has no tensor {e.args[0]!r}: it is not OpenAI's CLIP RN50") from None
  return clip_resnet.ClipResNetConfig(depths, width, features, width // 2)


class Inception:
  """Inception-V3's 2048 features, from the tensors of pytorch-fid's and torch-fidelity's file."""

  def __init__(self, path: Path, about: About, *, resize: str = "tensorflow", allow_pickle: bool = False):
    self.about, self.resize = about, resize
    if resize not in preprocess.RESIZES:
      raise UserError(f"resize is {resize!r}; it must be {' or '.join(preprocess.RESIZES)}")
    tensors = tensorfiles.read(path.parent, path.stem, allow_pickle=allow_pickle)
    params = weights.from_torch(
      inception.shapes(), tensors, name=str(path), ignore=(r"num_batches_tracked$", r"^AuxLogits\.")
    )
    self.params = jax.tree.map(jnp.asarray, params)
    self._net = jax.jit(lambda p, x: inception.Inception().apply({"params": p}, x)[0])

  def features(self, images: Sequence[np.ndarray]) -> np.ndarray:
    make = lambda at: np.stack([preprocess.inception(images[i], self.resize) for i in at])
    return run_in_chunks(lambda x: self._net(self.params, x), make, len(images), 8)  # of 299 px


def run_in_chunks(
  net: Callable[[Any], Any], make: Callable[[np.ndarray], Any], count: int, size: int = CHUNK
) -> np.ndarray:
  """Rows of `net` over inputs that `make` gives for indices, `size` at a time, the last padded."""
  if not count:
    return np.zeros((0, 1), np.float32)
  out = []
  for at in range(0, count, size):
    n = min(size, count - at)
    out.append(np.asarray(net(make(np.resize(np.arange(at, at + n), size))))[:n])
  return np.concatenate(out)
