"""The personalisation methods: one file each, the same few functions in every file (see `contract`).

To add one, write its file and a line in the table below.
"""

from collections.abc import Mapping

from idejax.methods import (
  celeb_basis,
  dreambooth,
  facesnap,
  id_ea,
  name_inversion,
  sefi_ide,
  stable_identity,
  textual_inversion,
)
from idejax.methods.contract import Method

METHODS: Mapping[str, Method] = {
  "id-ea": id_ea,
  "sefi-ide": sefi_ide,
  "stable-identity": stable_identity,
  "textual-inversion": textual_inversion,
  "celeb-basis": celeb_basis,
  "name-inversion": name_inversion,
  "dreambooth": dreambooth,
}

# Trained once for everybody by `idejax pretrain`; a person is then one forward pass.
ADDONS: Mapping[str, Method] = {"facesnap": facesnap}

# Whatever `idejax personalize` makes an identity by.
IDENTITIES: Mapping[str, Method] = {**METHODS, **ADDONS}
