"""The one exception that users see: a sentence that says what was found and what to do."""


class UserError(Exception):
  """Bad input. The command line prints the message and exits with code 2; no traceback."""
