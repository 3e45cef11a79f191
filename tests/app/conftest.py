"""Fixtures of the comic app: a store with two people, and a studio over it."""

import pytest
from support import drawn_people

from idejax import faces
from idejax.app.concepts import Checker
from idejax.app.store import Store
from idejax.miniature.judging import scoring


@pytest.fixture
def store(tmp_path):
  store = Store(tmp_path / "store")
  for n, image in drawn_people.PORTRAITS.items():
    store.add(drawn_people.person(n), drawn_people.record(n), image)
  return store


@pytest.fixture(scope="session")
def pack():
  return faces.open_pack(notify=lambda _: None)


@pytest.fixture(scope="session")
def checker():
  return Checker()


@pytest.fixture(scope="session")
def judges():
  return scoring.Judges()


@pytest.fixture
def desk(store, pack, checker, judges, monkeypatch):
  return drawn_people.desk(store, pack, checker, judges, monkeypatch)
