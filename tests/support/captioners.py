"""Image-to-text networks made by hand, a few kB each, in the folders that Optimum writes: "a green face" or "a red face"."""

from pathlib import Path

import numpy as np
import onnx
import tokenizers
from onnx import TensorProto, helper, numpy_helper

from idejax.storage.files import write_json

WORDS = ("<s>", "</s>", "a", "green", "red", "face")
START, END = 0, 1


def write(folder: Path, *, one: bool = False, says: str = "a {} face", batch: str | int = "N", side: int = 8) -> Path:
  """one: a single graph. says: what it says, with {} where it looks; after its last word comes the end, if it has one."""
  folder.mkdir(parents=True, exist_ok=True)
  if one:
    save(
      folder / "model.onnx", [*look(), *say(says, "seen")], ["pixel_values", "input_ids"], "logits", says, batch, side
    )
  else:
    save(folder / "encoder_model.onnx", look(), ["pixel_values"], "seen", says, batch, side)
    inputs = ["input_ids", "encoder_hidden_states", "encoder_attention_mask"]
    save(folder / "decoder_model.onnx", say(says, "encoder_hidden_states"), inputs, "logits", says, batch, side)
  core = tokenizers.Tokenizer(tokenizers.models.WordLevel({w: i for i, w in enumerate(WORDS)}, unk_token="</s>"))
  core.add_special_tokens(["<s>", "</s>"])
  core.save(str(folder / "tokenizer.json"))
  size = {"height": side, "width": side}
  write_json(folder / "preprocessor_config.json", dict(size=size, image_mean=[0.5] * 3, image_std=[0.5] * 3))
  write_json(folder / "generation_config.json", dict(decoder_start_token_id=START, eos_token_id=END, max_length=12))
  return folder


def look() -> list[onnx.NodeProto]:
  """The mean colour, [N, 1, 3]."""
  return [
    helper.make_node("GlobalAveragePool", ["pixel_values"], ["mean"]),
    helper.make_node("Reshape", ["mean", "rows"], ["seen"]),
  ]


def say(says: str, seen: str) -> list[onnx.NodeProto]:
  """Scores of the word after each word, [N, T, V]; of green and red those that the picture has more of."""
  return [
    helper.make_node("Gather", ["next", "input_ids"], ["words"], axis=0),
    helper.make_node("MatMul", [seen, "colours"], ["picture"]),
    helper.make_node("Add", ["words", "picture"], ["logits"]),
  ]


def save(path: Path, nodes, inputs: list[str], output: str, says: str, batch: str | int, side: int):
  table = np.zeros((len(WORDS), len(WORDS)), np.float32)
  text = ["<s>", *says.split(), *(["</s>"] if not says.endswith("...") else [])]
  for a, b in zip(text, text[1:]):
    for i in (3, 4) if a == "{}" else (WORDS.index(a.strip(".")),):
      for j in (3, 4) if b == "{}" else (WORDS.index(b.strip(".")),):
        table[i, j] = 20
  colours = np.zeros((3, len(WORDS)), np.float32)
  colours[0, 4] = colours[1, 3] = 5
  known = {"next": table, "colours": colours, "rows": np.array([0, 1, 3])}
  used = {name for n in nodes for name in n.input}
  f32, i64 = TensorProto.FLOAT, TensorProto.INT64
  kinds = {
    "pixel_values": (f32, [batch, 3, side, side]), "input_ids": (i64, [batch, "T"]), "seen": (f32, [batch, 1, 3]),
    "encoder_hidden_states": (f32, [batch, 1, 3]), "encoder_attention_mask": (i64, [batch, 1]),
    "logits": (f32, [batch, "T", len(WORDS)]), "past": (f32, [batch, 1]),
  }  # fmt: skip
  value = lambda n: helper.make_tensor_value_info(n, *kinds[n])
  arrays = [numpy_helper.from_array(x, n) for n, x in known.items() if n in used]
  graph = helper.make_graph(nodes, "graph", [value(n) for n in inputs], [value(output)], arrays)
  model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
  onnx.checker.check_model(model)
  onnx.save(model, path)
