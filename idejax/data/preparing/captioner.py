"""Captions by a network of the user's: an image-to-text model as Optimum exports it to ONNX, read greedily.

    optimum-cli export onnx --model MODEL --task image-to-text FOLDER

| file                                        | what is read of it                                                         |
|---------------------------------------------|----------------------------------------------------------------------------|
| encoder_model.onnx                          | pixel_values [N, 3, S, S] -> its first output, the picture's tokens        |
| decoder_model.onnx                          | input_ids [N, T], encoder_hidden_states -> logits [N, T, V]                |
| or model.onnx in place of both              | pixel_values, input_ids -> logits                                          |
| tokenizer.json                              | ids to text                                                                |
| preprocessor_config.json                    | size, image_mean, image_std, rescale_factor                                |
| generation_config.json, or else config.json | decoder_start_token_id (or bos_token_id), eos_token_id, max_length         |

Attention masks among the inputs are ones. Of each picture the likeliest next token is taken until the end: the same
picture, the same caption. Nothing is added to what the network says, and where it says nothing there is no caption.
"""

import functools
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from idejax.errors import UserError, one_line
from idejax.faces import onnx_files
from idejax.person.augment import resize
from idejax.storage.files import read_json

_LONGEST = 128  # tokens of a caption
_AT_A_TIME = 8
_MASKS = {"attention_mask", "encoder_attention_mask"}


class Captioner:
  """`captioner(pictures)`: a caption of each, uint8 [H, W, 3]. UserError for a folder that is none."""

  def __init__(self, folder: Path, threads: int = 0):
    self.folder, self.threads, self.name = Path(folder), threads, Path(folder).name
    if not self.folder.is_dir():
      raise UserError(f"--captioner {folder} is no folder; give one as optimum-cli export onnx writes it")
    two = (self.folder / "encoder_model.onnx").is_file()
    self._decoder = self._file("decoder_model.onnx" if two else "model.onnx")
    self._encoder = self._file("encoder_model.onnx") if two else None
    self._reads = "encoder_hidden_states" if two else "pixel_values"
    pictures = onnx_files.header(self._encoder or self._decoder)
    words = onnx_files.header(self._decoder)
    if self._encoder:
      self._require(pictures, {"pixel_values"}, "a captioner's encoder reads pixel_values")
    self._require(words, {"input_ids", self._reads}, f"a captioner's decoder reads input_ids and {self._reads}")
    if "logits" not in words.names[1]:
      raise UserError(
        f"--captioner: {self._decoder} gives {', '.join(words.names[1])}, and no logits of the next token"
      )
    shape = pictures.inputs[pictures.names[0].index("pixel_values")]
    if len(shape) != 4 or shape[1] not in (3, None) or shape[2] != shape[3]:
      raise UserError(f"--captioner: {pictures.path} reads pictures {onnx_files.show(shape)}, not [N, 3, S, S]")
    self._many = shape[0] or _AT_A_TIME
    self._how = self._read("preprocessor_config.json")
    self.side = shape[2] or _side(self._how.get("size"))
    if not self.side:
      raise UserError(
        f"--captioner: neither {pictures.path.name} nor preprocessor_config.json says how large pictures are"
      )
    self.start, self.ends, self.most = self._limits()
    self._words = self._tokenizer()

  @functools.cached_property
  def digest(self) -> str:
    """sha256 over the folder's files."""
    total = hashlib.sha256()
    for file in sorted(p for p in self.folder.iterdir() if p.is_file() and p.name[0] != "."):
      with open(file, "rb") as f:
        total.update(f"{file.name} {hashlib.file_digest(f, 'sha256').hexdigest()}\n".encode())
    return total.hexdigest()

  def __call__(self, pictures: Sequence[np.ndarray]) -> list[str]:
    out: list[str] = []
    for at in range(0, len(pictures), self._many):
      part = [self._pixels(p) for p in pictures[at : at + self._many]]
      filled = part + [part[-1]] * (self._many - len(part))  # calls of one shape
      out += self._greedy(np.stack(filled))[: len(part)]
    return out

  def _greedy(self, pixels: np.ndarray) -> list[str]:
    """Captions of float32 [N, 3, S, S]."""
    context = self._run(self._encoder, {"pixel_values": pixels})[0] if self._encoder else pixels
    ids = np.full((len(pixels), 1), self.start, np.int64)
    done = np.zeros(len(pixels), bool)
    while not done.all() and ids.shape[1] <= self.most:
      logits = self._run(self._decoder, {"input_ids": ids, self._reads: context}, ["logits"])[0]
      if logits.ndim != 3 or logits.shape[:2] != ids.shape:
        raise UserError(f"--captioner: {self._decoder} gives logits {list(logits.shape)} of ids {list(ids.shape)}")
      new = np.where(done, self.ends[0], logits[:, -1].argmax(-1))
      done |= np.isin(new, self.ends)
      ids = np.concatenate([ids, new[:, None]], 1)
    rows = [[i for i in row[1:].tolist() if i not in self.ends] for row in ids]
    return [one_line(self._words.decode(row, skip_special_tokens=True)) for row in rows]

  def _pixels(self, picture: np.ndarray) -> np.ndarray:
    x = resize(np.ascontiguousarray(picture), self.side).astype(np.float32)
    if self._how.get("do_rescale", True):
      x = x * self._how.get("rescale_factor", 1 / 255)
    if self._how.get("do_normalize", True):
      x = (x - np.array(self._how["image_mean"])) / np.array(self._how["image_std"])
    return x.astype(np.float32).transpose(2, 0, 1)

  def _run(self, file: Path, feeds: dict[str, np.ndarray], outputs: list[str] | None = None) -> list[np.ndarray]:
    session = self._session(file)
    for name in (i.name for i in session.get_inputs()):
      if name in _MASKS:
        like = feeds["input_ids"] if name == "attention_mask" else next(v for k, v in feeds.items() if k != "input_ids")
        feeds[name] = np.ones(like.shape[:2], np.int64)
    try:
      return session.run(outputs, feeds)
    except Exception as e:  # onnxruntime raises its own kinds, by what failed
      raise UserError(f"--captioner: {file} fails: {one_line(str(e))[:300]}") from e

  @functools.cache  # noqa: B019 - a captioner lives as long as the command
  def _session(self, file: Path) -> Any:
    return onnx_files.session(file, self.threads, "--captioner:")

  def _file(self, name: str) -> Path:
    if not (self.folder / name).is_file():
      raise UserError(
        f"--captioner {self.folder} has no {name}; a folder of optimum-cli export onnx --task image-to-text has "
        "encoder_model.onnx, decoder_model.onnx, tokenizer.json and the models' .json files"
      )
    return self.folder / name

  def _require(self, net: onnx_files.Net, inputs: set[str], what: str):
    have = set(net.names[0])
    if not inputs <= have or have - inputs - _MASKS:
      raise UserError(f"--captioner: {what}, and {net.path} reads {', '.join(net.names[0])}")

  def _read(self, name: str) -> dict[str, Any]:
    value = read_json(self._file(name))
    for key in (
      ("image_mean", "image_std") if name == "preprocessor_config.json" and value.get("do_normalize", True) else ()
    ):
      if np.shape(value.get(key, ())) != (3,):
        raise UserError(f"--captioner: {self.folder / name} has no {key}, three numbers")
    return value

  def _limits(self) -> tuple[int, list[int], int]:
    """The first token's id, those that end a caption, and how many there are at most."""
    there = (self.folder / "generation_config.json").is_file()
    file = "generation_config.json" if there else "config.json"
    about = self._read(file)
    start = about.get("decoder_start_token_id", about.get("bos_token_id"))
    ends = about.get("eos_token_id")
    ends = [ends] if isinstance(ends, int) else ends
    if (
      not isinstance(start, int) or not isinstance(ends, list) or not ends or not all(isinstance(i, int) for i in ends)
    ):
      raise UserError(f"--captioner: {self.folder / file} does not say which tokens begin and end a caption")
    most = about.get("max_new_tokens") or about.get("max_length") or _LONGEST
    return start, ends, max(1, min(int(most), _LONGEST))

  def _tokenizer(self) -> Any:
    import tokenizers

    try:
      return tokenizers.Tokenizer.from_file(str(self._file("tokenizer.json")))
    except UserError:
      raise
    except Exception as e:  # tokenizers raises plain Exception for broken JSON
      raise UserError(f"--captioner: {self.folder / 'tokenizer.json'} cannot be read: {one_line(str(e))[:200]}") from e


def _side(size: Any) -> int:
  """Pixels a side as a preprocessor's config says it."""
  if isinstance(size, dict):
    size = size.get("height", size.get("shortest_edge"))
  return size if isinstance(size, int) else 0
