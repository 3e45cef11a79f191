"""The texts of a job, with people in them, as the UNet's conditioning.

They are tokenised once, encoded when a batch needs them, and projected to every cross-attention's keys
and values once per batch.
"""

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from idejax import sharding
from idejax.errors import UserError
from idejax.methods import METHODS
from idejax.model import backbone, conditioning, tokens
from idejax.model.backbone import Backbone, Conditioning
from idejax.model.conditioning import Prompts
from idejax.sampling.learned import Learned

KEPT = 256  # newest encodings that are cached: a job of many prompts does not fill the memory
CHUNK = 8  # texts per call of the encoder, always: one shape, however many there are

Group = tuple[str, ...]  # the people in a text, by their words


class Encoding(NamedTuple):
  """One text, float32 on the host."""

  k: np.ndarray  # [S, L, D]
  v: np.ndarray
  pooled: np.ndarray | None  # [S, P]


class Texts:
  """Encodings by text. The text None is SDXL's missing negative prompt, whose context is zero."""

  def __init__(
    self,
    b: Backbone,
    tokenizers: Sequence[tokens.Tokenizer],
    people: Mapping[str, Learned],
    texts: Iterable[str | None],
    notify: Callable[[str], None],
    under: Callable[..., Any] = lambda f, *a: f(*a),
  ):
    """`under` calls a compiled function under the pipeline's mesh and precision."""
    self.backbone, self.people, self.under = b, people, under
    self.cache = dict[str | None, Encoding]()
    distinct = [t for t in dict.fromkeys(texts) if t is not None]
    self.group = {t: tokens.placeholders_in(t, people) for t in distinct}
    self.stages = max([self._stages(g) for g in self.group.values()], default=1)
    self.where: dict[str, tuple[Group, int]] = {}
    self.tokens: dict[Group, Prompts] = {}
    for group in dict.fromkeys(self.group.values()):
      members = [t for t in distinct if self.group[t] == group]
      self._check(group, members[0])
      rows = {word: people[word].rows for word in group}
      encodings = [t.encode(members, rows) for t in tokenizers]
      self.tokens[group] = conditioning.prompts(encodings)
      self.where |= {t: (group, i) for i, t in enumerate(members)}
      for text, cut in zip(members, encodings[0].overflow):
        if cut:
          notify(
            f"warning: the prompt is longer than {tokenizers[0].length - 2} tokens; "
            f"cut off: {cut!r} (from {text[:60]!r}...)"
          )

  def _check(self, group: Group, text: str):
    if not self._mixed(group):
      return
    people = [self.people[w] for w in group]
    for p in people:
      if not METHODS[p.method].needs(p.cfg, self.backbone.nets).words_only:
        raise UserError(
          f"{text!r} has people of different methods or settings, and {p.word}, by {p.method}, is more than words: "
          "it changes the UNet or the prompt's context; give it a prompt of its own"
        )
    if len(stages := {self._stages((w,)) for w in group} - {1}) > 1:
      counts = " and with ".join(map(str, sorted(stages)))
      raise UserError(f"{text!r} has people with {counts} stages; give each a prompt of their own")

  def _mixed(self, group: Group) -> bool:
    """Whether the people of a prompt were learned by several methods, or with several settings."""
    return len({(self.people[w].method, self.people[w].cfg) for w in group}) > 1

  def _stages(self, group: Group) -> int:
    rows = [self.people[w].identity["rows"][0] for w in group if "rows" in self.people[w].identity]
    return max((r.shape[0] for r in rows), default=1)

  def encode(self, texts: Sequence[str | None]) -> Encoding:
    """The encodings of N texts, stacked: [N, S, L, D], S the most stages of any text of the job."""
    missing = [t for t in dict.fromkeys(texts) if t is not None and t not in self.cache]
    for group in dict.fromkeys(self.group[t] for t in missing):
      members = [t for t in missing if self.group[t] == group]
      for at in range(0, len(members), CHUNK):
        self._encode(group, members[at : at + CHUNK])
    if None in texts:
      self.cache[None] = jax.tree.map(np.zeros_like, next(iter(self.cache.values())))
    encodings = [self.cache[t] for t in texts]
    self.cache = dict(list(self.cache.items())[-KEPT:])
    return jax.tree.map(lambda *xs: np.stack([_spread(x, self.stages) for x in xs]), *encodings)

  def _encode(self, group: Group, texts: list[str]):
    index = np.resize([self.where[t][1] for t in texts], CHUNK)
    prompts = jax.tree.map(lambda x: x[index], self.tokens[group])
    if self._mixed(group):
      rows = [tuple(self.people[w].identity["rows"]) for w in group]
      cond = self.under(condition_words, rows, self.backbone, prompts)
    elif group:
      first = self.people[group[0]]
      identities = [self.people[w].identity for w in group]
      cond = self.under(condition, first.method, first.cfg, identities, self.backbone, prompts)
    else:
      cond = self.under(encode, self.backbone, prompts)
    k, v, pooled = jax.device_get((cond.k, cond.v, cond.pooled))
    if pooled is not None and pooled.ndim == 2:
      pooled = pooled[None]
    for i, t in enumerate(texts):
      self.cache[t] = Encoding(k[:, i], v[:, i], None if pooled is None else pooled[:, i])


def _spread(x: np.ndarray, stages: int) -> np.ndarray:
  """[1 or S, ...] -> [S, ...]. UserError for another number of stages than the job's."""
  if len(x) not in (1, stages):
    raise UserError(f"people with {len(x)} and with {stages} stages cannot be sampled in one job; make two")
  return np.broadcast_to(x, (stages, *x.shape[1:]))


# Compiled programs. People and prompts are data, so others do not recompile.


@functools.partial(jax.jit, static_argnums=(0, 1))
def condition(method: str, cfg: Any, identities, b: Backbone, prompts: Prompts) -> Conditioning:
  """A method's conditioning of CHUNK prompts, float32."""
  return _float32(METHODS[method].condition(identities, b, prompts, cfg))


@jax.jit
def condition_words(rows: Sequence[conditioning.Rows], b: Backbone, prompts: Prompts) -> Conditioning:
  """The conditioning of CHUNK prompts with people who are words alone, whatever learned each of them, float32.

  Words [1 or S, 1 or 2, P, d] are repeated for all stages, and for keys and values, where another person's differ.
  """
  stages, wide = (max(r[0].shape[n] for r in rows) for n in (0, 1))
  spread = lambda r: jnp.broadcast_to(r, (stages, wide, *r.shape[2:]))
  same = [{"rows": tuple(map(spread, r))} for r in rows]
  return _float32(conditioning.contexts(b, prompts, conditioning.join(same)))


@jax.jit
def encode(b: Backbone, prompts: Prompts) -> Conditioning:
  """The conditioning of CHUNK prompts without people, float32."""
  return _float32(conditioning.contexts(b, prompts, None))


@jax.jit
def project(b: Backbone, cond: Conditioning):
  """Keys and values of every cross-attention, see `backbone.project`."""
  return backbone.project(b, cond)


@functools.partial(jax.jit, static_argnums=(0, 1))
def override(method: str, cfg: Any, identities, b: Backbone):
  """A method's changes of the UNet's parameters, see `Needs.override`."""
  return METHODS[method].needs(cfg, b.nets).override(identities, b, cfg)


@jax.jit
def _pick(mask: jax.Array, new, old):
  """Rows [.., S, B, L, C] of `new` where mask [B], else of `old`."""
  return jax.tree.map(lambda n, o: jnp.where(mask[:, None, None], n, o), new, old)


def _float32(cond: Conditioning) -> Conditioning:
  return jax.tree.map(lambda x: x.astype(jnp.float32), cond)


class Weights:
  """The UNet's changes that people bring. Changes of cross-attention's keys and values are applied per row
  of a batch, when contexts are projected; all others need a batch of their own."""

  def __init__(self, b: Backbone, people: Mapping[str, Learned], under):
    self.backbone, self.people, self.under = b, people, under
    self.cache: dict[Group, tuple[Any, bool]] = {}

  def of(self, group: Group) -> tuple[Any, bool]:
    """(the changed subtree, whether it goes beyond the keys and values of cross-attention)."""
    if group not in self.cache:
      changes = {}
      if group:
        first = self.people[group[0]]
        identities = [self.people[w].identity for w in group]
        changes = self.under(override, first.method, first.cfg, identities, self.backbone)
      self.cache = {**dict(list(self.cache.items())[-8:]), group: (changes, not _only_kv(changes))}
    return self.cache[group]

  def readers(self, group: Group, guided: bool = True) -> tuple[Group, ...]:
    """Whose changes read a picture's prompt and, under guidance, its negative prompt: the group's, or there nobody's."""
    people = (self.people[w] for w in group)
    plain = any(METHODS[p.method].needs(p.cfg, self.backbone.nets).plain_negative for p in people)
    return (group, () if plain else group)[: 1 + guided]

  def needs_own_batch(self, group: Group) -> bool:
    """Whether the group's changes need a batch of their own."""
    return self.of(group)[1]

  def backbone_of(self, group: Group) -> Backbone:
    """The backbone that samples a batch of this group."""
    changes, whole = self.of(group)
    return backbone.with_unet(self.backbone, changes) if whole else self.backbone

  def project(self, cond: Conditioning, groups: Sequence[Group], mesh):
    """Every row's keys and values, with the weights of the people in it."""
    out = None
    for group in dict.fromkeys(groups):
      changes, _ = self.of(group)
      projected = self.under(project, backbone.with_unet(self.backbone, changes), cond)
      mask = jax.device_put(np.array([g == group for g in groups]), sharding.batch(mesh))
      out = projected if out is None else self.under(_pick, mask, projected, out)
    return out


def _only_kv(tree, path: str = "") -> bool:
  if isinstance(tree, Mapping):
    return all(_only_kv(v, f"{path}.{k}") for k, v in tree.items())
  return path.endswith((".to_k.kernel", ".to_v.kernel")) and ".attn2" in path
