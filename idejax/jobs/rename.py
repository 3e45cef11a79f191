"""`idejax rename`: another word for a person who was learned."""

import dataclasses
import shlex
from pathlib import Path

from idejax import config
from idejax.errors import UserError, tell
from idejax.sampling import learned
from idejax.storage import hub


def main(c: config.Rename):
  file = learned.file(c.run)
  person = learned.load(file)
  if person.word == c.name:
    return tell(f"{file}: the person is called {c.name} already")
  check_word(c.name, person.model)
  learned.write(file, dataclasses.replace(person, word=c.name))
  where = file.parent if file.name == learned.FILE else file
  prompt = shlex.quote(f"a photo of {c.name} on the beach")
  hint = f"idejax sample --identity {shlex.quote(str(where))} --prompt {prompt}"
  tell(f"{where}: {person.word} is now {c.name}; try: {hint}")


def check_word(word: str, model: str):
  """UserError if the word is an ordinary word of the model; only checked if the model is on this machine."""
  folder = hub.BUILT_IN.get(model, Path(model))
  if not (folder / "tokenizer").is_dir():
    return
  from idejax.model import tokens

  if tokens.knows(tokens.load(folder / "tokenizer"), word):
    raise UserError(f"{word} is a word that the model {model} knows; choose one like <{word}>")
