"""A language model as the story parser: any endpoint with OpenAI's chat protocol, named by environment variables.

    IDEJAX_LLM_URL    the base, such as http://localhost:11434/v1
    IDEJAX_LLM_MODEL  the model's name there
    IDEJAX_LLM_KEY    the key, if it wants one

Nothing is sent anywhere unless the first two are set. The answer is cleaned and checked against the contract;
after three failures the offline rules cut the story instead, and the user is told.
"""

import dataclasses
import json
import os
import re
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from idejax.app import story as st
from idejax.app.rules import Rules
from idejax.errors import UserError, one_line, tell

TRIES = 3
_TIMEOUT = 60.0  # seconds for an answer
_MOST = 1 << 20  # bytes of an answer
_TASK = """You cut stories into pictures. Answer with one JSON list of strings and nothing else.
Each string is a short sentence in plain English with one simple action that can be drawn.
Keep the order. Add no facts. Refer to every person by their full name, exactly as listed, in every
sentence; never use he, she, they, him, her, them, his, hers or their. People: {names}."""


@dataclasses.dataclass(frozen=True)
class Remote:
  """If the endpoint fails, `parse` uses the offline rules. The key is never shown."""

  url: str
  model: str
  key: str = dataclasses.field(default="", repr=False)
  rules: Rules = Rules()
  notify: Callable[[str], None] = tell

  def parse(self, story: str, names: Sequence[str]) -> list[str]:
    messages = [
      {"role": "system", "content": _TASK.format(names=", ".join(names) or "none")},
      {"role": "user", "content": story},
    ]
    why = ""
    for _ in range(TRIES):
      try:
        text = self._ask(messages)
        sentences = clean(text)
      except (OSError, ValueError, KeyError, IndexError, TypeError) as e:
        why = f"{type(e).__name__}: {one_line(str(e))[:120]}"
        continue
      problems = st.problems(sentences, story, names, lambda s: 0) + st.additions(sentences, story, names)
      if sentences and not problems:
        return sentences
      why = problems[0] if problems else "no sentences came back"
      messages = [
        *messages[:2],
        {"role": "assistant", "content": text[:4000]},
        {"role": "user", "content": f"Not yet: {'; '.join(problems[:5]) or why}. The whole list again."},
      ]
    self.notify(
      f"the story parser {self.model} gave nothing usable in {TRIES} tries ({why}); the offline rules cut the story instead"
    )
    return self.rules.parse(story, names)

  def _ask(self, messages: list[dict[str, str]]) -> str:
    body = json.dumps({"model": self.model, "messages": messages, "temperature": 0}).encode()
    head = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {self.key}"} if self.key else {})
    request = urllib.request.Request(f"{self.url.rstrip('/')}/chat/completions", body, head)
    with _OPENER.open(request, timeout=_TIMEOUT) as answer:
      data = answer.read(_MOST)
    return str(json.loads(data)["choices"][0]["message"]["content"])


class _Stay(urllib.request.HTTPRedirectHandler):
  """Follows no redirect, because the key would be sent along."""

  def redirect_request(self, *_: Any) -> None:
    return None


_OPENER = urllib.request.build_opener(_Stay)


def clean(text: str) -> list[str]:
  """The sentences in a model's answer: a JSON list, an object that holds one, else all texts in quotation marks.

  Code fences, thoughts before the list and trailing commas are removed. ValueError if there is no sentence.
  """
  text = re.sub(r"<think>.*?</think>", "", text, flags=re.DOTALL)
  text = re.sub(r"```\w*", "", text)
  candidates = [
    text,
    *(
      text[m.start() : text.rfind(end) + 1] for start, end in ("[]", "{}") for m in re.finditer(re.escape(start), text)
    ),
  ]
  for c in candidates[:20]:
    try:
      sentences = _texts(json.loads(re.sub(r",\s*([\]}])", r"\1", c)))
    except (ValueError, RecursionError):
      continue
    if sentences:
      return sentences
  if quotes := [m[1].strip() for m in re.finditer(r'"((?:[^"\\]|\\.)+)"', text) if " " in m[1]]:
    return quotes
  raise ValueError("the answer holds no list of sentences")


def _texts(value: Any) -> list[str]:
  """The strings of a list, of the first list in an object, or of objects with one text each."""
  if isinstance(value, Mapping):
    value = next((v for v in value.values() if isinstance(v, list)), [])
  if not isinstance(value, list):
    return []
  texts = [next((t for t in v.values() if isinstance(t, str)), "") if isinstance(v, Mapping) else v for v in value]
  return [t.strip() for t in texts if isinstance(t, str) and t.strip()]


def choose_parser(
  pronouns: Mapping[str, str], notify: Callable[[str], None] = tell, env: Mapping[str, str] = os.environ
) -> st.StoryParser:
  """The parser that the environment asks for: the rules unless a URL and a model are named."""
  rules = Rules(pronouns)
  url, model = env.get("IDEJAX_LLM_URL", ""), env.get("IDEJAX_LLM_MODEL", "")
  if not url:
    return rules
  if not re.match(r"https?://[^\s/]", url):
    raise UserError(f"IDEJAX_LLM_URL is {url!r}; it must begin with http:// or https://")
  if not model:
    raise UserError("IDEJAX_LLM_URL is set, but IDEJAX_LLM_MODEL is not: name the model")
  return Remote(url, model, env.get("IDEJAX_LLM_KEY", ""), rules, notify)
