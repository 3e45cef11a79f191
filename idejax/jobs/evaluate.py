"""`idejax evaluate`: the built-in model's figures, measured anew, with its goals beside them."""

import jax

from idejax import __version__, config
from idejax.errors import tell
from idejax.miniature.judging import exam
from idejax.runtime import cores
from idejax.sampling import pipeline
from idejax.storage import hub
from idejax.storage.files import write_json


def main(c: config.Evaluate):
  cores.use(c.model)
  pipe = pipeline.load(hub.resolve(c.model), notify=tell)
  found = exam.run(pipe, c.quick)
  print("\n".join(exam.lines(found)))
  if c.out:
    about = {
      "model": c.model,
      "digest": pipe.digest,
      "device": jax.devices()[0].device_kind,
      "idejax": __version__,
      "jax": jax.__version__,
    }
    write_json(c.out, found | about)
