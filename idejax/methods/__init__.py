"""The personalisation methods: one file each, the same few pure functions in every file.

    Config                                            frozen dataclass of hyper-parameters
    PRESETS                                           {name: Config}; "paper" for Stable Diffusion, "miniature"
    captions(cfg, word) -> [str]                      training captions; `word` stands for the identity
    constants(backbone, words, names, cfg) -> Any     computed once for all people (anchors, statistics, ...)
    init(key, frozen, cfg) -> params                  what is trained, for one person
    represent(params, frozen, cfg) -> Identity        what sampling needs; differentiable in params
    condition(identities, backbone, prompts, cfg) -> Conditioning
    override(identities, backbone, cfg) -> subtree    of the UNet's parameters that the method changes, {} if none
    loss(params, frozen, batch, keys, cfg) -> (scalar, metrics)
    rates(cfg) -> ((regex, optimiser), ...)           parameter groups, first match wins
    augment(cfg) -> Augment                           what is done to the photo
    prior(cfg) -> (prompt, count) or None             pictures of the class, made by the model itself
    alone(cfg) -> str                                 why it cannot train many people at once; "" if it can

`frozen` is `subject.Frozen`: backbone, constants, captions, and the person's subject. An Identity is
a dict of arrays, flat names after `tree.flatten`, with at least {"rows": one [S, W, P, d] per text
encoder}: a placeholder word stands for P rows. Several identities may share a prompt: their rows
follow one another in the order of the prompt's placeholders.
"""

from collections.abc import Mapping
from typing import Any

from idejax.methods import (
  celeb_basis,
  dreambooth,
  id_ea,
  sefi_ide,
  stable_identity,
  textual_inversion,
)

Identity = Mapping[str, Any]

METHODS = {
  "id-ea": id_ea,
  "sefi-ide": sefi_ide,
  "stable-identity": stable_identity,
  "textual-inversion": textual_inversion,
  "celeb-basis": celeb_basis,
  "dreambooth": dreambooth,
}
