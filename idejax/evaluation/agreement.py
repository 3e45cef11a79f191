"""How well a picture agrees with its text, by CLIP's embeddings, and how good CLIP finds it.

Embeddings are unit rows. A person's word in a prompt is nothing that CLIP knows: what it reads instead
is fixed here, because it changes the score (Celeb Basis, whose evaluation ID-EA follows, removes it).
"""

import re

import numpy as np

SCALE = 100.0  # CLIP's own, of logits


def scored_text(prompt: str, word: str = "{}", instead: str = "") -> str:
  """The text that CLIP reads: every `word` removed, or replaced by `instead`.

  What removal leaves ("a  person is ...") keeps its spaces: CLIP's tokenizer folds them.
  """
  if word == "{}":
    return prompt.replace(word, instead)
  return re.sub(rf"(?<!\w){re.escape(word)}(?!\w)", lambda _: instead, prompt)


def prompt_score(picture: np.ndarray, text: np.ndarray) -> float:
  """CLIP's raw cosine (ID-EA's Prompt, SeFi-IDE's Prompt)."""
  return float(np.dot(picture, text))


def clip_t(cosine: float) -> float:
  """FaceSnap's scale of the same: times 100."""
  return SCALE * cosine


def clip_score(cosine: float) -> float:
  """CLIPScore: max(100 cos, 0) (Hessel et al. 2021, with torchmetrics' weight of 100)."""
  return max(SCALE * cosine, 0.0)


QUALITY_TEXTS = ("Good photo.", "Bad photo.")


def quality(picture: np.ndarray, good: np.ndarray, bad: np.ndarray) -> float:
  """CLIP-IQA: the first component of softmax(100 [cos(picture, good), cos(picture, bad)]), in (0, 1).

  It is no measure of whether there is a picture at all: uniform noise scores 0.96.
  """
  difference = SCALE * (float(np.dot(picture, bad)) - float(np.dot(picture, good)))
  return float(1 / (1 + np.exp(np.clip(difference, -500, 500))))


def drift(tuned: float, base: float) -> float:
  """CLIP-T of the tuned model's picture minus that of the base model's, for a prompt without the person and from
  the same noise. Below 0, training has cost the model something."""
  return clip_t(tuned) - clip_t(base)


_FACE = re.compile(r"a photo of the face of \W*\{\}\W*", re.IGNORECASE)


def asks_for_the_face(prompt: str) -> bool:
  """Whether a prompt, with {} for the person, is SeFi-IDE's of ID (F) and Detect (F)."""
  return _FACE.fullmatch(" ".join(prompt.split())) is not None
