"""The Protocol that every method in this folder satisfies, and its types.

A method is a module of pure functions. `frozen` (`person.subject.Frozen`) is everything that its loss
reads and does not change: backbone, constants, captions and, where one person is trained, the subject.
`params` is what trains, float32. An Identity is the result of a training: what sampling needs to know
about a person, as a dict of arrays.

    photo --subject--> frozen --init--> params --loss, rates--> params --represent--> Identity
    (identities, prompts) --condition--> Conditioning          Identity --export--> Export

A method leaves out whatever it does not need: see the defaults of `Needs`.
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
# that learns no words has no "rows". The optional "scale" is the strength, which may be set when sampling.
Identity = Mapping[str, Any]
Metrics = dict[str, jax.Array]
Rates = tuple[tuple[str, optax.GradientTransformation], ...]  # (regex of parameter paths, optimiser), first match wins
Scope = Literal["person", "dataset"]


@dataclasses.dataclass(frozen=True)
class ClassPictures:
  """Pictures of the class that the model itself makes before training, for prior preservation."""

  prompt: str
  count: int


def no_constants(b: Backbone, tokenizers: Sequence[Tokenizer], names: Sequence[str], cfg: Any) -> dict[str, Any]:
  """The default of `Needs.constants`: nothing."""
  return {}


def no_changes(identities: Sequence[Identity], b: Backbone, cfg: Any) -> dict[str, Any]:
  """The default of `Needs.override`: the UNet stays as it is."""
  return {}


@dataclasses.dataclass(frozen=True)
class Needs:
  """What a method needs from training, sampling and planning. Each default means nothing."""

  captions: tuple[str, ...] = ()
  """Training captions; {} is where the identity's word goes."""
  tokens: int = 0
  """Tokens that the word takes in every text encoder."""
  words: tuple[str, ...] = ()
  """Words of the vocabulary that `constants` looks up, beside captions and names."""
  constants: Callable[[Backbone, Sequence[Tokenizer], Sequence[str], Any], Any] = no_constants
  """(backbone, tokenizers, celebrities' names, cfg) -> `frozen.constants`, computed once for everybody."""
  augment: Augment = Augment()
  """How the photo is varied."""
  class_pictures: ClassPictures | None = None
  recogniser: bool = False
  """Whether it learns from the face recogniser's embedding; that recogniser then cannot judge it."""
  face_vit: bool = False
  """Whether the subject needs a face ViT's features."""
  words_only: bool = False
  """Whether a person is words and nothing else, so that people of several such methods may share a prompt."""
  override: Callable[[Sequence[Identity], Backbone, Any], dict[str, Any]] = no_changes
  """(identities, backbone, cfg) -> the subtree of the UNet's parameters that they change."""
  guidance: float | None = None
  """Guidance of pictures, where the paper has its own; a model's folder may say another."""
  plain_negative: bool = False
  """Whether the base model's weights, not the person's, read negative prompts."""
  unet_gradients: tuple[str, ...] = ()
  """Regexes of the UNet's own parameters for which training computes a gradient; what planning counts."""
  alone: str = ""
  """Why many people cannot train at once."""
  own: tuple[str, ...] | None = None
  """Entries of `init`'s parameters that stay each person's own where people train jointly, with all other entries in
  common. None: people cannot train so."""
  modules: tuple[str, ...] = ()
  """Entries that, trained jointly once, others may start from: `init` finds them in `frozen.constants["modules"]`."""
  structure: tuple[str, ...] = ()
  """Fields of the Config without which those entries mean something else."""


@dataclasses.dataclass(frozen=True)
class Adapter:
  """A person's own module that changes the prompt's context, with the PyTorch files that run it."""

  name: str  # both its folder in the exported pipeline and the template with its code are called so
  class_name: str
  pipeline: str  # template of the pipeline that calls it
  config: Mapping[str, Any]
  params: Mapping[str, Any]  # layers, in the converter's names
  arrays: Mapping[str, Any]  # tensors that belong to no layer
  changes: tuple[Any, ...] = ()
  """Changes of the UNet's kernels that negative prompts do not meet, as a tree of [I, O], or as two of factors.
  The module's code adds them, so the folder's UNet is the base model's."""


@dataclasses.dataclass(frozen=True)
class Export:
  """The parts of an identity, for files that stock diffusers opens."""

  rows: tuple[Any, ...] = ()
  """Words, per text encoder [S, W, P, d]."""
  unet: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  """The UNet's parameters that the person changes, with their new values."""
  low_rank: tuple[Any, Any] | None = None
  """The same change as factors: trees of A [I, r] and B [r, O] at the kernels' paths, all scales applied."""
  adapter: Adapter | None = None
  without_adapter: Identity | None = None
  """The identity for forms that cannot hold the adapter's code; None: the identity itself."""
  stock: Any = None
  """The Config by which idejax samples as stock pipelines do, in which the person's weights read negative prompts
  too; None: they do by the identity's own."""
  text: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  """The text encoders' parameters that the person changes, by component, with their new values."""
  text_low_rank: Mapping[str, tuple[Any, Any]] = dataclasses.field(default_factory=dict)
  """The same changes as factors, by component."""
  without_text: Identity | None = None
  """The identity for a model whose text encoders are the person's already."""
  called: str = ""
  """The person's name in prompts for a file that holds the UNet's change alone."""


class Method(Protocol):
  """The functions and values of a method's file."""

  scope: Scope
  """person: trained for each person. dataset: trained once for everybody, `represent` is one forward pass."""

  @property
  def Config(self) -> type[Any]:
    """Frozen dataclass of hyper-parameters, with at least `steps`, `batch` and, for people, `templates`."""

  @property
  def PRESETS(self) -> Mapping[str, Any]:
    """{name: Config}: `paper` for Stable Diffusion, `miniature` for the built-in models, and the same
    names with `-sdxl` appended where SDXL needs other settings. See `default_preset`."""

  def needs(self, cfg: Any, nets: Nets) -> Needs:
    """What training, sampling and planning must provide or know."""

  def init(self, key: jax.Array, frozen: Frozen, cfg: Any) -> Any:
    """The parameters before training, float32. UserError for settings that do not fit the model."""

  def loss(
    self, params: Any, frozen: Frozen, batch: Mapping[str, Any], keys: jax.Array, cfg: Any
  ) -> tuple[jax.Array, Metrics]:
    """(mean loss over the batch's rows, metrics to plot); `keys` [B] holds one key per row."""

  def rates(self, cfg: Any) -> Rates:
    """Parameter groups and their optimisers."""

  def represent(self, params: Any, frozen: Frozen, cfg: Any) -> dict[str, Any]:
    """The Identity of a person; differentiable in params."""

  def condition(
    self, identities: Sequence[Identity], b: Backbone, prompts: Prompts, cfg: Any, **how: Any
  ) -> Conditioning:
    """The UNet's inputs for prompts that name these people, in the order of the prompts' placeholders."""

  def export(self, identity: Identity, b: Backbone, cfg: Any) -> Export:
    """The identity in the parts that files hold."""


def asked(method: Method) -> tuple[type[Any], Mapping[str, Any]]:
  """(Config, presets) of what `idejax personalize` asks for a person: the method's own. Where all training is over
  before a person comes (scope "dataset"), the method's `Person`, whose only preset is its defaults."""
  person = getattr(method, "Person", None)
  return (method.Config, method.PRESETS) if person is None else (person, {"paper": person(), "miniature": person()})


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


def saved_fields(kind: type, fields: Mapping[str, Any]) -> dict[str, Any]:
  """All fields of a config that was saved whole: what was so before there was a setting stands in `BEFORE` of a Config."""
  return {**getattr(kind, "BEFORE", {}), **todays_names(kind, fields)}


def default_preset(presets: Mapping[str, Any], built_in: bool, xl: bool) -> str:
  """The preset that suits a model."""
  name = "miniature" if built_in else "paper"
  return f"{name}-sdxl" if xl and f"{name}-sdxl" in presets else name
