"""The comic's page as a process of its own, with a sampler that renders the drawn world: `python drawn_page.py PORT FOLDER`."""

import sys
from pathlib import Path
from types import SimpleNamespace

import uvicorn
from support import drawn_people

from idejax import faces
from idejax.app import serve
from idejax.app.concepts import Checker
from idejax.app.store import Store
from idejax.miniature.judging import scoring

if __name__ == "__main__":
  port, folder = int(sys.argv[1]), Path(sys.argv[2])
  store = Store(folder / "store")
  for name, image in drawn_people.PORTRAITS.items():
    store.add(drawn_people.person(name), drawn_people.record(name), image)
  pack = faces.open_pack(notify=lambda _: None)
  desk = drawn_people.desk(store, pack, Checker(), scoring.Judges(), SimpleNamespace(setattr=setattr))
  uvicorn.run(serve.application(desk, folder / "comics"), host="127.0.0.1", port=port, log_level="error")
