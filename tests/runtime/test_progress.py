"""Progress on stderr while a person waits."""

import re
import sys
import time

import pytest

from idejax.runtime import progress


@pytest.mark.parametrize("terminal", [False, True])
def test_waiting_speaks_up_after_two_seconds(capsys, monkeypatch, terminal):
  monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal)
  with progress.waiting("thinking"):
    pass
  with progress.waiting("thinking", show=False):
    time.sleep(0.01)
  assert capsys.readouterr().err == ""
  with pytest.raises(KeyError), progress.waiting("thinking"):
    time.sleep(2.7)
    raise KeyError
  output = capsys.readouterr().err
  if terminal:
    assert re.match(r"\rthinking ... \d s", output) and output.endswith("\r\033[K")  # cleared
  else:
    assert output == "thinking ...\n"


def test_a_bar_leaves_nothing_behind(capsys):
  bar = progress.counting(10, "step")
  bar.update(10)
  bar.close()
  assert capsys.readouterr().err.strip("\r ") == ""
