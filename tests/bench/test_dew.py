"""Dew, a JAX library that opens the same folders: its UNet computes what ours does."""

import json
import sys

import pytest

from idejax import config
from idejax.bench import run as bench
from idejax.errors import UserError


@pytest.mark.parametrize("family", ["sd15", pytest.param("sdxl", marks=pytest.mark.slow)])
def test_the_unet_is_the_peers(tmp_path, capsys, family):
  pytest.importorskip("dew.nn.backbones", reason="pip install dewml", exc_type=ImportError)
  out = tmp_path / "bench.json"
  bench.main(config.Bench(what=("unet",), family=family, small=True, vs="dew", repeats=1, out=out))
  report = json.loads(out.read_text())
  figure = report["figures"]["unet"]
  assert figure["relative_error"] < 1e-4 and figure["ratio"] > 0 and figure["peer_first_seconds"] > 0
  assert report["versions"]["dewml"] and "dew " in capsys.readouterr().out


def test_without_dew_a_sentence_says_what_to_install(monkeypatch):
  monkeypatch.setitem(sys.modules, "dew.diffusion.process", None)
  with pytest.raises(UserError, match="pip install dewml"):
    bench.main(config.Bench(what=("unet",), small=True, vs="dew"))
