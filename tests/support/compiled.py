"""Where compiled programs of tests are kept: for both workers, `make test` and `make slow`, and the next time.

Half of what the tests cost is compilation, and most of their programs recur: the small models are the same ones in
every file. A program is found by what it says, XLA's flags and the versions, so a change of the code compiles anew.
"""

from pathlib import Path

FOLDER = Path(__file__).resolve().parents[2] / ".pytest_cache/compiled"
