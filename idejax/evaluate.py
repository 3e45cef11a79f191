"""`idejax evaluate`: the built-in model's figures, measured anew, with its goals beside them."""

import jax

from idejax import __version__, config, cores, hub, pipeline
from idejax.errors import tell
from idejax.files import write_json
from idejax.miniature import exam


def main(c: config.Evaluate):
  cores.use(c.model)
  pipe = pipeline.load(hub.resolve(c.model), notify=tell)
  found = exam.run(pipe, c.quick)
  print("\n".join(exam.lines(found)))
  if c.out:
    about = {"model": c.model, "digest": pipe.digest, "device": jax.devices()[0].device_kind,
             "idejax": __version__, "jax": jax.__version__}  # fmt: skip
    write_json(c.out, found | about)
