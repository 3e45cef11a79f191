"""The celebrities whose names anchor an identity."""

from pathlib import Path

from idejax.errors import UserError
from idejax.person import templates
from idejax.storage import hub


def names(model: str, file: Path | None = None) -> list[str]:
  """Names that the model knows: a file's lines, the drawn world's, or a list that Stable Diffusion knows.

  UserError for a file that cannot be read or has no names.
  """
  if file is None:
    if model not in hub.BUILT_IN:
      return list(templates.celebrities())
    from idejax.miniature.world import people  # the world takes a while to import

    return list(people.celebrity_names())
  try:
    lines = [line.strip() for line in file.read_text("utf-8").splitlines()]
  except (OSError, UnicodeDecodeError) as e:
    raise UserError(f"--names {file} cannot be read: {e}") from e
  if not any(lines):
    raise UserError(f"--names {file} has no names")
  return [name for name in lines if name]
