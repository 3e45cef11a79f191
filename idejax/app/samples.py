"""The two sample people, Anna Field and Ben Stone, who are there from the start.

What was learned of them ships for the built-in models' weights: identity.safetensors and person.json in
people/MODEL/NAME. For other weights they are learned when they are first needed; after a training of the
built-in model `make samples` writes the files anew.
"""

import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

from idejax import faces
from idejax.app import learn, names
from idejax.app import store as st
from idejax.app.studio import Studio, open_studio
from idejax.sampling import learned

SHIPPED = Path(__file__).parent / "people"


def add(studio: Studio, **how: Any) -> list[str]:
  """Puts the sample people into the store if they are not there for this model; returns their names.

  They are drawn, so only a built-in model and the built-in pack can learn them; with others nobody is put there.
  how: see `learn.learn`.
  """
  if not studio.small_world or studio.pack.name != "miniature":
    return []
  applicants = [a for a in learn.samples() if not _ready(studio, a.name)]
  with studio.lock:
    rest = [a for a in applicants if not _add_shipped(studio, a)]
    if rest:
      learn.learn(
        studio.pipe, studio.pack, rest, learn.SAMPLE_CONSENT, studio.store, model=studio.model, overwrite=True, **how
      )
  return [name for name, _, _ in learn.SAMPLES]


def _ready(studio: Studio, name: str) -> bool:
  return studio.store.has(name) and studio.store.record(name).model_digest == studio.pipe.digest


def _add_shipped(studio: Studio, a: learn.Applicant) -> bool:
  """Adds what ships of a person; False if nothing ships that was learned on these weights from this portrait."""
  folder = SHIPPED / studio.model / names.slug(a.name)
  if not (folder / st.RECORD).exists():
    return False
  record = st.read_record(folder / st.RECORD)
  if (record.model_digest, record.pack_digest) != (studio.pipe.digest, studio.pack.digest):
    return False
  face = faces.read(a.photo, studio.pack)
  if face.meta["photo_sha256"] != record.photo_sha256:
    return False
  studio.store.add(learned.load(folder), record, face.portrait, overwrite=True)
  return True


def write(model: str):
  """Learns the sample people for a built-in model and writes what ships of them."""
  shutil.rmtree(SHIPPED / model, ignore_errors=True)
  with tempfile.TemporaryDirectory() as folder:
    desk = open_studio(Path(folder), model)
    for name in add(desk):
      place = SHIPPED / model / names.slug(name)
      place.mkdir(parents=True)
      for file in (learned.FILE, st.RECORD):
        shutil.copy(desk.store.folder(name) / file, place / file)


if __name__ == "__main__":
  for model in sys.argv[1:]:
    write(model)
