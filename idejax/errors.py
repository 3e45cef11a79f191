"""How idejax speaks to the person at the terminal: one sentence at a time, on stderr."""

import sys


class UserError(Exception):
  """Bad input. The command line prints the message and exits with code 2; no traceback."""


def tell(message: str):
  """Progress, notices and warnings; stdout stays free for results."""
  print(message, file=sys.stderr, flush=True)


def one_line(text: str) -> str:
  return " ".join(text.split())
