"""What `idejax evaluate` takes."""

import dataclasses
from pathlib import Path


@dataclasses.dataclass(frozen=True)
class Evaluate:
  """Measure the built-in model on held-out people, by judges that its training never saw.

  idejax evaluate                     every figure that the README states, in about ten minutes
  idejax evaluate miniature --quick   a look
  """

  model: str = dataclasses.field(default="miniature", metadata={"positional": True})
  """The pipeline, by name or folder; another folder of the same world, such as a new training's."""
  quick: bool = False
  """A few pictures of everything: figures are rough."""
  out: Path | None = None
  """Write the figures as JSON."""
