"""What each command takes: frozen dataclasses, whose comments are the text of `--help`.

A file in `configs/` sets `config = Sample(...)`; `--config FILE` loads it, flags override it.
"""

import dataclasses
from pathlib import Path
from typing import Literal


@dataclasses.dataclass(frozen=True)
class Sample:
  """Make pictures for prompts with any Stable Diffusion 1.x, 2.x or SDXL folder, and of people learned.

    idejax sample --prompt "a photo of a woman with red hair and glasses on the beach"
    idejax sample --identity runs/anna --prompt "a photo of <anna> smiling" --out anna
    idejax sample --model FOLDER --prompt "a photo of a cat" --out cat
    idejax sample --model FOLDER --prompts prompts.txt --num 4 --seed 7 --steps 25 --out many
    idejax sample --config configs/sample_sdxl_turbo.py --prompt "a red fox" --out fox

  --out receives 00000.png and so on, manifest.jsonl (a line a picture) and sheet.png (all at a
  glance). Every picture carries its prompt, seed, sampler and model digest in its text chunks.
  The same command again continues where a killed one stopped; what is finished stays.
  """

  out: Path = Path("pictures")
  """Folder for the pictures; made if need be."""
  model: str | None = None
  """Pipeline folder, or hub id such as stabilityai/sdxl-turbo. Default: --identity's, else miniature, built in."""
  identity: tuple[Path, ...] = ()
  """Run folders of idejax personalize, whose people may be named in prompts; the option may be repeated."""
  strength: float | None = None
  """How strongly an identity acts, 1 as it was trained (id-ea, dreambooth's lora). Default: as its run says."""
  start: float = 0.0
  """Share of the steps, 0 to 1, drawn as "person" before the identity enters: freer layouts."""
  other_model: bool = False
  """Use an identity on another model than its own, if the widths agree."""
  prompt: tuple[str, ...] = ()
  """One or more prompts, each in quotes; the option may be repeated."""
  prompts: Path | None = None
  """File of prompts: .txt (one a line), or .jsonl or .csv with the fields prompt [negative, seed, guidance]."""
  negative: str | None = None
  """What the pictures should not show. Default: the empty prompt (SDXL base: zeros, as diffusers)."""
  num: int | None = None
  """Pictures per prompt. Default: 4 for a single prompt, else 1."""
  seed: int = 0
  """Picture i of the run starts from the noise (seed, i), on any device and in any batch."""
  steps: int = 50
  """Sampler steps: more is slower and, up to 30 or so, better. At most 128 model calls."""
  guidance: float | None = None
  """How closely to follow the prompt; 0 to 1: no guidance, half the time (Turbo, Lightning). Default: 7.5, SDXL 5."""
  sampler: Literal["folder", "ddim", "ddpm", "pndm", "euler", "euler_ancestral", "dpmpp_2m",
                   "dpmpp_2m_sde", "dpmpp_sde", "lcm"] = "folder"  # fmt: skip
  """`folder` is the one that the model's scheduler_config.json names."""
  spacing: Literal["leading", "trailing", "linspace"] | None = None
  """Which timesteps are visited. Default: the model's own; Turbo and Lightning want trailing."""
  karras: bool | None = None
  """Karras' noise levels. Default: the model's own choice."""
  eta: float | None = None
  """Noise of stochastic samplers, 0 to 1. Default: 0 for ddim, 1 for the others."""
  height: int | None = None
  """Pixels, a multiple of 8. Default: the size that the model was trained at."""
  width: int | None = None
  """Pixels, a multiple of 8. Default: the size that the model was trained at."""
  dtype: Literal["float32", "bfloat16"] | None = None
  """Of weights and computation; bfloat16 halves the memory. Default: float32 on CPU, else bfloat16."""
  batch: int | None = None
  """Pictures at a time over all devices; less needs less memory. Default: 4 a device."""
  tiled: bool = False
  """Decode in overlapping tiles: large pictures in little memory."""
  attention: Literal["plain", "chunk", "cudnn", "flash", "splash"] | None = None
  """Attention implementation. Default: chosen by device and length."""
  variant: str | None = None
  """Weight file variant, such as fp16. Default: full precision if there, else fp16."""
  init_latents: Path | None = None
  """Initial noise instead of the seed's: .npy, float32 (N, C, h, w), unit variance."""
  save_latents: Path | None = None
  """Where to write the final latents before the VAE: .npy, float32 (N, C, h, w)."""
  allow_pickle: bool = False
  """Read .bin and .ckpt weights with torch's weights-only loader (needs PyTorch)."""


@dataclasses.dataclass(frozen=True)
class Personalize:
  """Learn a person from one photo, and draw that person in new pictures.

    idejax personalize                                    the built-in model and portrait, ID-EA
    idejax personalize anna.png --name "<anna>" --out runs/anna
    idejax personalize anna.png --method sefi-ide --steps 300 --lr 0.01 --out runs/anna
    idejax personalize people/ --out runs/people          everyone in a folder at once
    idejax personalize anna.png --compare id-ea,textual-inversion --out runs/both

  Then: idejax sample --identity runs/anna --prompt "a photo of <anna> on the beach" --out anna

  --out receives identity.safetensors (all that sampling needs), sheet.png, loss.png, report.json,
  config.json (the whole run again: --config FILE) and provenance.json. The same command again
  continues where a killed one stopped. A person's photos should be yours to use.
  """

  photo: Path | None = dataclasses.field(default=None, metadata={"positional": True})
  """A portrait; or a folder with a file or a sub-folder per person. Default: a drawn portrait."""
  drawn: int = 1
  """Without a photo: how many people of the drawn world."""
  split: Literal["heldout", "development"] = "heldout"
  """Of these: people kept for reporting, or for choosing settings. No training saw either."""
  out: Path | None = None
  """Run folder. Default: runs/ and the photo's name."""
  method: Literal["id-ea", "sefi-ide", "stable-identity", "textual-inversion", "celeb-basis",
                  "dreambooth"] = "id-ea"  # fmt: skip
  """How to learn. The method's own options stand at the end of this list."""
  preset: str | None = None
  """Settings of the method to start from. Default: miniature on the built-in model, else paper."""
  model: str = "miniature"
  """Pipeline folder in diffusers layout, or a hub id; miniature is built in."""
  pack: str = "miniature"
  """Face networks: miniature, an insightface pack by name (buffalo_l), or a folder."""
  name: str = "<id>"
  """The word for the person in prompts. In a folder of people: taken from the files' names."""
  seed: int = 0
  """Of initial values, data order and noise."""
  face: int | None = None
  """Which face of the photo, from the left, beginning with 1. Default: the largest."""
  parsing: Path | None = None
  """Face-parsing network (ONNX, 19 classes) for face and hair masks."""
  vit: Path | None = None
  """Folder of a face-recognition ViT as transformers writes it; stable-identity with --source vit reads it."""
  describe: str | None = None
  """What else the photo shows, "in a blue shirt on the beach", for captions to say. Default: of drawn portraits, all of it."""
  names: Path | None = None
  """Text file of celebrities' names, one a line, that the model knows. Default: the model's own."""
  checkpoint_every: int | None = None
  """Save after this many steps. Default: every few minutes, and at the end."""
  prompts: tuple[str, ...] = ()
  """Prompts for the sheet; {} is the person. Default: six that show what can change."""
  num: int = 3
  """Pictures per prompt on the sheet."""
  sample_steps: int = 25
  """Sampler steps of the sheet's pictures."""
  guidance: float | None = None
  """Of the sheet's pictures. Default: the model's."""
  compare: str = ""
  """Several methods, separated by commas, on the same photos: one table, one sheet. A preset or
  settings may follow: id-ea,id-ea/no_adapter,textual-inversion/paper/steps=500."""
  at_a_time: int = 32
  """People of a folder that train together; less needs less memory."""
  dtype: Literal["float32", "bfloat16"] | None = None
  """Of frozen weights and computation. Default: float32 on CPU, else bfloat16."""
  remat: bool = False
  """Compute the UNet's blocks again in the backward pass: about a third more work, far less memory."""
  accumulate: int = 1
  """Parts in which a step goes through its batch, one after the other: the same step in less memory."""
  minutes: float | None = None
  """Stop training after so long; the same command continues."""
  plateau: int = 0
  """Stop a person whose loss (its running mean) did not fall for so many steps. 0: nobody."""
  tensorboard: bool = False
  """Write the losses as TensorBoard events too, in --out/events."""
  consent: str = "not stated"
  """Who agreed to the use of the photo; recorded in provenance.json."""


@dataclasses.dataclass(frozen=True)
class Identity:
  """Read the face in a photo: box, key points, embedding, masks, landmarks, aligned crops.

    idejax identity me.jpg --out me.npz
    idejax identity me1.jpg me2.jpg --out me.npz --pack buffalo_l
    idejax identity people --out identities

  Of photos, all of one person, --out is an .npz file; a picture of what was found lies beside it as
  NAME.drawn.png. Of a folder, --out receives both for every photo and identities.csv, a row a
  photo; bad photos are skipped, counted and listed, and the same command again continues.
  """

  out: Path
  """FILE.npz, or a folder if a folder is given; made if need be."""
  photo: tuple[str, ...] = dataclasses.field(default=(), metadata={"positional": True})
  """One or several photos of one person, or one folder of photos of many (with its sub-folders)."""
  pack: str = "miniature"
  """Detector and recogniser: miniature (drawn portraits), an insightface pack (buffalo_l), or a folder of ONNX files."""
  face: int | None = None
  """Which face of a photo with several, counted from the left, from 1. Default: the largest."""
  parsing: Path | None = None
  """Face-parsing network (ONNX, CelebAMask-HQ's 19 classes), for masks. Default: from landmarks or key points, no hair."""
  threads: int | None = None
  """Of a folder: photos read at a time. Default: as many as there are cores."""


@dataclasses.dataclass(frozen=True)
class Evaluate:
  """Measure the built-in model on held-out people, by judges that its training never saw.

    idejax evaluate                     every figure that the README states, in about ten minutes
    idejax evaluate miniature --quick   a look
  """

  model: str = dataclasses.field(default="miniature", metadata={"positional": True})
  """The pipeline, by name or folder; another folder of the same world, such as a new training's."""
  quick: bool = False
  """A few pictures of everything: figures are rough."""
  out: Path | None = None
  """Write the figures as JSON."""


@dataclasses.dataclass(frozen=True)
class Bench:
  """Measure UNet, sampling, VAE, compilation, training steps and whole jobs; compare with diffusers.

    idejax bench --small --vs diffusers
    idejax bench unet --family sd15 --vs diffusers
    idejax bench personalize jobs --method id-ea --people 8 32
    idejax bench input

  Weights are random; only jobs runs `idejax personalize` as it is. Work is alternated with the peer's in
  one run and medians are compared, so that a busy machine slows both.
  """

  what: tuple[Literal["unet", "sample", "vae", "compile", "personalize", "jobs", "input"], ...] = dataclasses.field(
    default=("unet", "sample", "vae", "compile"), metadata={"positional": True})
  """Which measurements."""
  family: Literal["sd15", "sd21-base", "sd21", "sdxl"] = "sd15"
  """Architecture; its released size unless --small."""
  small: bool = False
  """The small relative of the family (64 px) instead of the released size; of input, a tiny training."""
  vs: Literal["none", "diffusers"] = "none"
  """Run PyTorch diffusers on the same work, alternating, and print ratios."""
  batch: int = 1
  """Pictures at a time."""
  steps: int = 4
  """Sampler steps, with guidance; of personalize, training steps in a timed run."""
  method: str = "id-ea"
  """Of personalize and jobs: the method."""
  preset: str | None = None
  """Of personalize and jobs: the method's settings. Default: miniature on the built-in model, else paper."""
  train_batch: int | None = None
  """Of personalize and jobs: examples a step. Default: the preset's."""
  model: str = "miniature"
  """Of personalize: a family such as sd21-base (full size), a pipeline folder, or miniature. Of jobs: not a family."""
  people: tuple[int, ...] = (8, 32)
  """Of personalize (a step) and jobs (the whole command): sizes of crowds, beside one person."""
  size: int | None = None
  """Pixels a side. Default: the family's; of input, 512."""
  repeats: int = 5
  """Timed runs of each, after one that is not counted."""
  dtype: Literal["float32", "bfloat16"] = "float32"
  """Of weights and computation, on both sides."""
  torch_compile: bool = False
  """Let the peer use torch.compile."""
  threads: int | None = None
  """Threads for PyTorch. Default: as many as there are cores."""
  peak: float | None = None
  """Peak TFLOP/s of the device, for the share of it achieved."""
  out: Path | None = None
  """Write the figures with versions and device as JSON."""


@dataclasses.dataclass(frozen=True)
class RandomModel:
  """Write a small pipeline folder with random weights, in diffusers' layout.

  It loads in idejax and in diffusers, and draws coloured noise: for trying the machinery.
  """

  out: Path
  """Folder to make."""
  family: Literal["sd15", "sd21-base", "sd21", "sdxl"] = "sd21-base"
  """Architecture."""
  seed: int = 0
  """Of the weights."""


@dataclasses.dataclass(frozen=True)
class TrainMiniature:
  """Train the small pipelines that ship in the package, on their procedural world of portraits.

  Stages: tokenizer, data, vae, words, diffusion, export, and faces (detector and recogniser) and judges.
  The same command again continues; the results are --out/pipeline, a Stable Diffusion folder that
  diffusers loads too, or, with --family sdxl, --out/pipeline_sdxl, on the same pictures and VAE;
  --out/faces/faces, a pack for insightface, and --out/faces/judges.
  """

  out: Path = Path("runs/miniature")
  """Folder for pictures, checkpoints, metrics and the pipeline."""
  stage: Literal["all", "tokenizer", "data", "vae", "words", "diffusion", "export", "faces",
                 "judges"] = "all"  # fmt: skip
  """One stage, or all of the pipeline (up to export) in order."""
  family: Literal["sd", "sdxl"] = "sd"
  """sd: Stable Diffusion 2.1's architecture. sdxl: Stable Diffusion XL's, two text encoders, smaller."""
  tiny: bool = False
  """A recipe of a minute or two that shows falling losses; its pictures are blurs."""
  steps: int | None = None
  """Steps of the stage in all. Default: the recipe's. 0 with --start: the stage words takes what is there."""
  minutes: float | None = None
  """Stop each stage after so long; the same command continues."""
  seed: int = 0
  """Of weights, data order and noise."""
  vae_lr: float | None = None
  """Peak learning rate of the VAE. Default: the recipe's."""
  words_lr: float | None = None
  """Peak learning rate of the text encoders. Default: the recipe's."""
  lr: float | None = None
  """Peak learning rate of the UNet. Default: the recipe's."""
  start: Path | None = None
  """Pipeline folder, miniature or miniature-sdxl: text encoders and UNet start from its weights, its VAE is taken as it is."""
  look: int | None = None
  """Steps between validations with pictures. Default: the recipe's."""
  save_seconds: float = 240.0
  """Time between checkpoints."""


@dataclasses.dataclass(frozen=True)
class Plan:
  """Compile the training step for a topology that is not there: memory, work, collectives, time, what fits.

    idejax plan --config configs/X.py --topology v5e:4x4
    idejax plan --model sd21-base --method id-ea --people 8 --topology v5e-256
    idejax plan --config configs/X.py --table

  No accelerator is needed; for TPUs, pip install "idejax[plan]". Figures are of one device. They are
  kept by content, so that the same question is answered at once; --out writes them as JSON.
  """

  run: Path | None = dataclasses.field(default=None, metadata={"positional": True})
  """A config file of idejax personalize (.py, or a run's config.json), also as --config."""
  topology: tuple[str, ...] = ("v5e:2x4",)
  """KIND:GRID, such as v5e:4x4, v5e-256, v6e-8, v5p:2x2x1; cpu:8 tries the command. May be repeated."""
  table: bool = False
  """Compare topologies: a line each for v5e-8, v5e-256 and v6e-8, or those given."""
  model: str | None = None
  """sd15, sd21-base, sd21, sdxl, a known hub id, or a pipeline folder (its configs). Default: the config file's."""
  method: str | None = None
  """Instead of the config file's."""
  batch: int | None = None
  """Rows of a step, over all devices for one person. Default: the method's."""
  people: int = 0
  """How many train at once on each device; 0: one person, whose batch all devices divide."""
  fsdp: int = 1
  """Devices among which large arrays are divided. 1: as idejax personalize divides them."""
  dtype: str | None = None
  """float32 or bfloat16, of frozen weights and computation. Default: bfloat16, on cpu float32."""
  remat: bool = False
  """As of idejax personalize; also if the config file says so."""
  blocks: bool = False
  """Do not compile the whole step but its repeating blocks, and sum them: an estimate, minutes faster."""
  limit: float = 900.0
  """Seconds for compiling the whole step; after that its blocks are compiled instead. 0: no limit."""
  out: Path | None = None
  """Write the figures as JSON."""
