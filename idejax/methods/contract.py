"""What a method is: the Protocol that every file of this folder satisfies, and the types it speaks.

A method is a module of pure functions. `frozen` (`person.subject.Frozen`) is all that its loss reads and
does not change: backbone, constants, captions and, where one person is trained, the subject. `params` is
what trains, float32. An Identity is what sampling needs of a person, a dict of arrays; it is all that is
kept of a training.

    photo --subject--> frozen --init--> params --loss, rates--> params --represent--> Identity
    (identities, prompts) --condition--> Conditioning          Identity --export--> Export

Everything that a method does not need it leaves out: see the defaults of `Needs`.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, Protocol

import jax
import optax

from idejax.model import conditioning
from idejax.model.backbone import Backbone, Conditioning, Nets
from idejax.model.conditioning import Prompts
from idejax.model.tokens import Tokenizer
from idejax.person.augment import Augment
from idejax.person.subject import Frozen

# {"rows": per text encoder [S, W, P, d]: S stages, W = 1 or 2 (keys and values), P tokens; ...}. A method
# without words of its own has no "rows". "scale", where there is one, is the strength: a runtime knob.
Identity = Mapping[str, Any]
Metrics = dict[str, jax.Array]
Rates = tuple[tuple[str, optax.GradientTransformation], ...]  # (regex of parameter paths, optimiser), first match wins
Scope = Literal["person", "dataset"]


@dataclasses.dataclass(frozen=True)
class ClassPictures:
  """Pictures of the class that the model itself makes before training, for prior preservation."""

  prompt: str
  count: int


def no_constants(b: Backbone, tokenizers: Sequence[Tokenizer], names: Sequence[str], cfg: Any) -> Any:
  return {}


def no_changes(identities: Sequence[Identity], b: Backbone, cfg: Any) -> dict[str, Any]:
  return {}


@dataclasses.dataclass(frozen=True)
class Needs:
  """What a method asks of those who run it. Each default means: nothing."""

  captions: tuple[str, ...] = ()
  """Training captions; {} is where the identity's word goes."""
  tokens: int = 0
  """Tokens that the word takes in every text encoder."""
  words: tuple[str, ...] = ()
  """Words of the vocabulary that `constants` looks up, beside captions and names."""
  constants: Callable[[Backbone, Sequence[Tokenizer], Sequence[str], Any], Any] = no_constants
  """(backbone, tokenizers, celebrities' names, cfg) -> what is computed once for everybody: `frozen.constants`."""
  augment: Augment = Augment()
  """What is done to the photo."""
  class_pictures: ClassPictures | None = None
  face_vit: bool = False
  """Whether the subject needs a face ViT's features."""
  override: Callable[[Sequence[Identity], Backbone, Any], dict[str, Any]] = no_changes
  """(identities, backbone, cfg) -> the subtree of the UNet's parameters that they change."""
  unet_gradients: tuple[str, ...] = ()
  """Regexes of the UNet's own parameters for which training computes a gradient; what planning counts."""
  alone: str = ""
  """Why many people cannot train at once."""


@dataclasses.dataclass(frozen=True)
class Adapter:
  """A module of a person's own that changes the prompt's context, with the PyTorch files that run it."""

  name: str  # of its folder in the exported pipeline, and of the template with its code
  class_name: str
  pipeline: str  # template of the pipeline that calls it
  config: Mapping[str, Any]
  params: Mapping[str, Any]  # layers, in the converter's names
  arrays: Mapping[str, Any]  # tensors that belong to no layer


@dataclasses.dataclass(frozen=True)
class Export:
  """What a person is made of, for files that stock diffusers opens."""

  rows: tuple[Any, ...] = ()
  """Words, per text encoder [S, W, P, d]."""
  unet: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  """The UNet's parameters that the person changes, as they are then."""
  low_rank: tuple[Any, Any] | None = None
  """The same change as factors: trees of A [I, r] and B [r, O] at the kernels' paths, all scales applied."""
  adapter: Adapter | None = None
  without_adapter: Identity | None = None
  """The identity as it remains in a form that has no code; None: as it is."""
  called: str = ""
  """What the person is called in prompts where the UNet's change alone is written."""


class Method(Protocol):
  """The functions and values of a method's file."""

  scope: Scope
  """person: trained for each. dataset: trained once for everybody, then `represent` is one forward pass."""

  @property
  def Config(self) -> type[Any]:
    """Frozen dataclass of hyper-parameters, with at least `steps`, `batch` and, for people, `templates`."""

  @property
  def PRESETS(self) -> Mapping[str, Any]:
    """{name: Config}: `paper` for Stable Diffusion, `miniature` for the built-in models; with `-sdxl` behind
    them, where SDXL wants other settings. See `default_preset`."""

  def needs(self, cfg: Any, nets: Nets) -> Needs:
    """What must be there before training, and what others must know."""

  def init(self, key: jax.Array, frozen: Frozen, cfg: Any) -> Any:
    """What is trained, float32. UserError for settings that do not fit the model."""

  def loss(
    self, params: Any, frozen: Frozen, batch: Mapping[str, Any], keys: jax.Array, cfg: Any
  ) -> tuple[jax.Array, Metrics]:
    """The mean over a batch's rows, each with a key of its own [B]; and what is worth plotting."""

  def rates(self, cfg: Any) -> Rates:
    """Parameter groups and their optimisers."""

  def represent(self, params: Any, frozen: Frozen, cfg: Any) -> dict[str, Any]:
    """The Identity of a person; differentiable in params."""

  def condition(
    self, identities: Sequence[Identity], b: Backbone, prompts: Prompts, cfg: Any, **how: Any
  ) -> Conditioning:
    """The UNet's inputs for prompts that name these people, in the order of the prompts' placeholders."""

  def export(self, identity: Identity, b: Backbone, cfg: Any) -> Export:
    """The person in parts that files can hold."""


def encode_captions(needs: Needs, tokenizers: Sequence[Tokenizer], word: str) -> Prompts:
  """The training captions with `word` for the person: `frozen.captions`."""
  texts = [c.replace("{}", word) for c in needs.captions]
  return conditioning.tokenise(tokenizers, texts, {word: needs.tokens})


def todays_names(kind: type, fields: Mapping[str, Any]) -> dict[str, Any]:
  """A config's fields as an earlier version wrote them, by their present names: see `RENAMED` of a Config."""
  table = getattr(kind, "RENAMED", {})
  out = {k: v for k, v in fields.items() if k not in table}
  for old in table.keys() & fields.keys():
    out |= table[old][bool(fields[old])]
  return out


def default_preset(presets: Mapping[str, Any], built_in: bool, xl: bool) -> str:
  """The preset that suits a model."""
  name = "miniature" if built_in else "paper"
  return f"{name}-sdxl" if xl and f"{name}-sdxl" in presets else name
