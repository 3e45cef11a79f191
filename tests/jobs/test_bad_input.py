"""Mistakes, through the installed command: exit code 2, one sentence that names what is wrong."""

import json
import os
import shlex
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.command import ROOT, assert_one_sentence, run, tiny_model

BAD = ROOT / "bad"
OK = "--model {tiny} --height 16 --width 16 --steps 1 --num 1"

# case -> (arguments after `idejax sample`, what the sentence must say). {tiny}, {bad} are folders;
# --out is added where it is missing. Most end before jax is imported, all before anything compiles.
CASES = {
  # The command line
  "unknown option": ("--promt x", "--promt", "did you mean --prompt?"),
  "stray word": ("--prompt a --seed 1 cat", "cat"),
  "no value": ("--steps", "--steps is without its value", "whole number"),
  "not a number": ("--num few", "--num is 'few'", "whole number"),
  "fraction for a whole number": ("--height 1.5", "--height is '1.5'"),
  "guidance in words": ("--guidance high", "--guidance is 'high'", "a number"),
  "unknown sampler": ("--sampler dimm", "--sampler is 'dimm'", "ddim", "folder"),
  "unknown spacing": ("--spacing even", "--spacing is 'even'", "trailing"),
  "unknown dtype": ("--dtype float16", "--dtype is 'float16'", "bfloat16"),
  "start without a person": ("--prompt x --start 0.5", "--identity"),
  "strength without a person": ("--prompt x --strength 0.5", "--identity"),
  "no such person": ("--prompt x --identity nowhere", "nowhere holds no identity.safetensors"),
  "no prompt": (f"{OK}", "no prompt", "--prompts FILE"),
  "prompt without text": (f"{OK} --prompt", "no prompt"),
  "empty prompt": (f"{OK} --prompt ''", "--prompt is ''", "not be empty"),
  "blank among prompts": (f"{OK} --prompt a ' '", "--prompt is ' '", "not be empty"),
  "prompt and prompts": (f"{OK} --prompt a --prompts {{bad}}/p.txt", "both"),
  # Numbers
  "num 0": (f"{OK} --prompt x --num 0", "--num is 0"),
  "num negative": (f"{OK} --prompt x --num=-1", "--num is -1"),
  "too many pictures": (f"{OK} --prompt x --num 99999999", "1000000"),
  "batch 0": (f"{OK} --prompt x --batch 0", "--batch is 0"),
  "steps 0": (f"{OK} --prompt x --steps 0", "--steps is 0"),
  "steps beyond the table": (f"{OK} --prompt x --steps 200", "201", "128", "fewer steps"),
  "height 0": (f"{OK} --prompt x --height 0", "--height is 0"),
  "width negative": (f"{OK} --prompt x --width=-64", "--width is -64"),
  "not a multiple of eight": (f"{OK} --prompt x --height 60", "height 60", "56 or 64"),
  "larger than memory": (f"{OK} --prompt x --height 200000 --width 200000", "200000 x 200000", "GiB"),
  "seed negative": (f"{OK} --prompt x --seed=-1", "--seed is -1"),
  "seed too large": (f"{OK} --prompt x --seed {2**64}", "2^64"),
  "guidance NaN": (f"{OK} --prompt x --guidance nan", "--guidance is nan"),
  "guidance infinite": (f"{OK} --prompt x --guidance inf", "--guidance is inf"),
  "eta out of range": (f"{OK} --prompt x --sampler ddim --eta 2", "eta is 2"),
  # Files of prompts
  "prompts missing": (f"{OK} --prompts nowhere.txt", "nowhere.txt does not exist"),
  "prompts empty": (f"{OK} --prompts {{bad}}/empty.txt", "empty.txt holds no prompt"),
  "prompts a folder": (f"{OK} --prompts {{bad}}/folder.txt", "folder.txt"),
  "prompts of another kind": (f"{OK} --prompts {{bad}}/p.md", "p.md", ".jsonl"),
  "prompts in Latin-1": (f"{OK} --prompts {{bad}}/latin.txt", "latin.txt", "UTF-8"),
  "broken JSON": (f"{OK} --prompts {{bad}}/broken.jsonl", "broken.jsonl:2", "JSON"),
  "bottomless JSON": (f"{OK} --prompts {{bad}}/deep.jsonl", "deep.jsonl:1", "JSON"),
  "half a character": (f"{OK} --prompts {{bad}}/surrogate.jsonl", "surrogate.jsonl", "UTF-8"),
  "JSON without prompt": (f"{OK} --prompts {{bad}}/noprompt.jsonl", "noprompt.jsonl:1", "prompt"),
  "unknown field": (f"{OK} --prompts {{bad}}/field.jsonl", "field.jsonl:1", "'sede'", "seed"),
  "seed not whole": (f"{OK} --prompts {{bad}}/seed.jsonl", "seed.jsonl:1", "1.5"),
  "seed of a row negative": (f"{OK} --prompts {{bad}}/negative.jsonl", "negative.jsonl", "-3"),
  "guidance of a row NaN": (f"{OK} --prompts {{bad}}/nan.csv", "nan.csv", "nan"),
  "CSV without prompt": (f"{OK} --prompts {{bad}}/noprompt.csv", "noprompt.csv:2", "prompt"),
  "CSV with stray comma": (f"{OK} --prompts {{bad}}/comma.csv", "comma.csv:2", "comma"),
  # Models
  "model missing": ("--model nowhere --prompt x", "nowhere: no such folder"),
  "model not on the hub": ("--model some/where --prompt x", "some/where", "offline"),
  "model empty": ("--model {bad}/folder.txt --prompt x", "folder.txt", "empty"),
  "model one file": ("--model {bad}/one.safetensors --prompt x", "one.safetensors", "single checkpoint"),
  "model ckpt": ("--model {bad}/one.ckpt --prompt x", "one.ckpt", "single checkpoint"),
  "model a component": ("--model {tiny}/unet --prompt x", "unet", "component"),
  "model a LoRA": ("--model {bad}/lora --prompt x", "lora", "model_index.json"),
  "folder above the model": ("--model {bad}/above --prompt x", "above/inner"),
  "no tokenizer": ("--model {bad}/tokenizer --prompt x", "tokenizer"),
  "no text encoder": ("--model {bad}/text_encoder --prompt x", "text_encoder", "missing"),
  "no scheduler": ("--model {bad}/scheduler --prompt x", "scheduler_config.json is missing"),
  "unknown scheduler": ("--model {bad}/odd_scheduler --prompt x", "FooScheduler"),
  "broken index": ("--model {bad}/index --prompt x", "model_index.json"),
  "another pipeline": ("--model {bad}/pixart --prompt x", "no unet"),
  "config of another size": ("--model {bad}/mismatch --prompt x", "mismatch/unet"),
  "config not JSON": ("--model {bad}/config --prompt x", "vae/config.json"),
  "config of another net": ("--model {bad}/vq --prompt x", "VQModel"),
  "inpainting UNet": ("--model {bad}/inpaint --prompt x", "inpaint"),
  "weights truncated": ("--model {bad}/truncated --prompt x", "truncated/unet", "damaged"),
  "weights missing": ("--model {bad}/weightless --prompt x", "weightless/unet"),
  "weights a Git LFS pointer": ("--model {bad}/lfs --prompt x", "git lfs pull"),
  "weights a pickle": ("--model {bad}/pickle --prompt x", "pickle", "--allow-pickle"),
  "pickle of garbage": ("--model {bad}/pickle --prompt x --allow-pickle", "pickle", "PyTorch"),
  # Places to write
  "out empty": ("--prompt x --out=", "--out is empty"),
  "identity empty": ("--prompt x --identity=", "--identity is empty"),
  "prompts a pipe": (f"{OK} --prompts {{bad}}/pipe.txt", "pipe.txt", "no regular file"),
  "strength negative": (f"{OK} --prompt x --identity x --strength=-4", "--strength is -4.0"),
  "guidance negative": (f"{OK} --prompt x --guidance=-5", "--guidance is -5.0"),
  "out with a sheet of others": (f"{OK} --prompt x --out {{bad}}/sheet", "sheet.png", "not made by idejax"),
  "out with a manifest of others": (f"{OK} --prompt x --out {{bad}}/manifest", "manifest.jsonl", "not made by idejax"),
  "out a file": (f"{OK} --prompt x --out {{bad}}/p.txt", "p.txt is a file"),
  "out below a file": (f"{OK} --prompt x --out {{bad}}/p.txt/out", "p.txt"),
  "out not writable": (f"{OK} --prompt x --out /proc/idejax/out", "/proc/idejax"),
  "out name too long": (f"{OK} --prompt x --out {'x' * 300}", "name is too long"),
  "out of another program": (f"{OK} --prompt x --out {{bad}}/holiday", "00000.png", "not made by idejax"),
  "out with more pictures": (f"{OK} --prompt x --out {{bad}}/more", "00007.png", "makes 1 picture"),
  # Latents
  "init latents missing": (f"{OK} --prompt x --init-latents no.npy", "no.npy does not exist"),
  "init latents a folder": (f"{OK} --prompt x --init-latents {{bad}}", "is no file"),
  "init latents no npy": (f"{OK} --prompt x --init-latents {{bad}}/p.txt", "p.txt", ".npy"),
  "init latents pickled": (f"{OK} --prompt x --init-latents {{bad}}/object.npy", "object.npy"),
  "init latents channels last": (f"{OK} --prompt x --init-latents {{bad}}/nhwc.npy", "(1, 2, 2, 4)", "(1, 4, 2, 2)"),
  "init latents of another number": (f"{OK} --prompt x --num 2 --init-latents {{bad}}/good.npy", "(2, 4, 2, 2)"),
  "init latents float64": (f"{OK} --prompt x --init-latents {{bad}}/double.npy", "float64", "float32"),
  "init latents NaN": (f"{OK} --prompt x --init-latents {{bad}}/nan.npy", "nan.npy", "finite"),
  "save latents a folder": (f"{OK} --prompt x --save-latents {{bad}}", "is a folder"),
  "save latents below a file": (f"{OK} --prompt x --save-latents {{bad}}/p.txt/z.npy", "p.txt"),
  "save latents over a thesis": (f"{OK} --prompt x --save-latents {{bad}}/thesis.tex", "thesis.tex"),
  "save latents of another run": (f"{OK} --prompt x --save-latents {{bad}}/good.npy", "good.npy"),
  # Config files
  "config missing": ("--config nowhere.py", "nowhere.py does not exist"),
  "config without name": ("--config", "--config"),
  "config a folder": ("--config {bad}", "is a folder"),
  "config with a typing mistake": ("--config {bad}/syntax.py", "syntax.py", "SyntaxError", "line 2"),
  "config that sets nothing": ("--config {bad}/nothing.py", "nothing.py", "config = Sample"),
  "config of another command": ("--config {bad}/bench.py", "Bench", "Sample"),
  "config with a wrong type": ("--config {bad}/type.py", "steps is '50'", "whole number"),
  "config with a wrong word": ("--config {bad}/word.py", "sampler is 'dimm'", "ddim"),
  "config with an unknown field": ("--config {bad}/field.py", "field.py", "stepps"),
  "config that exits": ("--config {bad}/exit.py", "exit.py", "SystemExit"),
}


def write_bad_files():
  tiny, f32 = tiny_model(), np.float32
  texts = {
    "p.txt": "a cat",
    "p.md": "a cat",
    "empty.txt": "\n \n",
    "broken.jsonl": '{"prompt": "a"}\n{"prompt": \n',
    "deep.jsonl": "[" * 100_000,
    "surrogate.jsonl": r'{"prompt": "\ud83d"}',
    "noprompt.jsonl": '{"seed": 1}',
    "field.jsonl": '{"prompt": "a", "sede": 1}',
    "seed.jsonl": '{"prompt": "a", "seed": 1.5}',
    "negative.jsonl": '{"prompt": "a", "seed": -3}',
    "nan.csv": "prompt,guidance\na,nan\n",
    "noprompt.csv": "negative,seed\nfog,1\n",
    "comma.csv": "prompt,seed\na cat, sitting,1\n",
    "one.safetensors": "x",
    "one.ckpt": "x",
    "thesis.tex": "\\documentclass{book}",
    "syntax.py": "x = 1\nconfig = (\n",
    "nothing.py": "x = 1",
    "exit.py": "raise SystemExit(1)",
    "bench.py": "from idejax.config import Bench\nconfig = Bench()",
    "type.py": "from idejax.config import Sample\nconfig = Sample(out='o', steps='50')",
    "word.py": "from idejax.config import Sample\nconfig = Sample(out='o', sampler='dimm')",
    "field.py": "from idejax.config import Sample\nconfig = Sample(out='o', stepps=50)",
  }
  for folder in ("folder.txt", "lora", "above", "holiday", "more", "sheet", "manifest"):
    (BAD / folder).mkdir(parents=True)
  for name, text in texts.items():
    (BAD / name).write_text(text)
  (BAD / "latin.txt").write_bytes("ein Kätzchen".encode("latin-1"))
  (BAD / "lora/pytorch_lora_weights.safetensors").write_text("x")
  Image.new("RGB", (8, 8)).save(BAD / "holiday/00000.png")
  Image.new("RGB", (8, 8)).save(BAD / "more/00007.png")
  Image.new("RGB", (8, 8)).save(BAD / "sheet/sheet.png")
  (BAD / "manifest/manifest.jsonl").write_text('{"mine": 1}\n')
  os.mkfifo(BAD / "pipe.txt")
  z = np.zeros((1, 4, 2, 2), f32)
  arrays = dict(good=z, nhwc=z.transpose(0, 2, 3, 1), double=z.astype(float), nan=z + f32(np.nan))
  for name, array in arrays.items():
    np.save(BAD / f"{name}.npy", array)
  np.save(BAD / "object.npy", np.array([{}]), allow_pickle=True)

  def copy(name: str, **edits) -> Path:
    """A copy of the tiny model; edits {"unet/config": changes} change its JSON files."""
    shutil.copytree(tiny, BAD / name)
    for file, changes in edits.items():
      path = BAD / name / f"{file.replace('__', '/')}.json"
      path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return BAD / name

  copy("above/inner")
  for part in ("tokenizer", "text_encoder", "scheduler"):
    shutil.rmtree(copy(part) / part)
  copy("odd_scheduler", scheduler__scheduler_config={"_class_name": "FooScheduler"})
  (copy("index") / "model_index.json").write_text("[]")
  copy("pixart", model_index={"_class_name": "PixArtAlphaPipeline", "unet": [None, None]})
  copy("mismatch", unet__config={"block_out_channels": [16, 16]})
  (copy("config") / "vae/config.json").write_text("{")
  copy("vq", vae__config={"_class_name": "VQModel"})
  copy("inpaint", unet__config={"in_channels": 9})
  weights = "unet/diffusion_pytorch_model.safetensors"
  os.truncate(copy("truncated") / weights, 5000)
  (copy("weightless") / weights).unlink()
  (copy("lfs") / weights).write_text("version https://git-lfs.github.com/spec/v1\n")
  path = copy("pickle") / weights
  path.rename(path.with_suffix(".bin"))


def arguments(name: str) -> list[str]:
  args = shlex.split(CASES[name][0].format(tiny=tiny_model(), bad=BAD))
  return (
    args if name == "out missing" or "--out" in args or "--config" in args else [*args, f"--out={ROOT / 'outs' / name}"]
  )


@pytest.fixture(scope="module")
def results(request):
  """The outcome of every requested case, two processes at a time."""
  write_bad_files()
  expected = [
    i.callspec.params["name"] for i in request.session.items if i.path == request.path and hasattr(i, "callspec")
  ]
  with ThreadPoolExecutor(2) as pool:
    yield {name: pool.submit(run, "sample", *arguments(name)) for name in expected}


@pytest.mark.parametrize("name", CASES)
def test_one_sentence(results, name):
  result = results[name].result()
  assert_one_sentence(result, *CASES[name][1:])
  assert not (ROOT / "outs" / name).exists()  # no empty folder is left behind


def test_prompt_of_bytes_that_are_no_text():
  assert_one_sentence(run("sample", "--model", "m", "--prompt", b"\xff\xfe", "--out", "o"), "UTF-8")
