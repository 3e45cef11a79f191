"""Every figure: what it is called, which way is better, which judges it needs, and from which paper it comes."""

from collections.abc import Iterable, Mapping
from typing import NamedTuple


class Metric(NamedTuple):
  title: str
  better: str  # up, down, or "" where neither is
  needs: tuple[str, ...]  # judges, by role
  digits: int
  about: str
  data: str = ""  # what rows must hold for it: a field of theirs
  paper: str = ""  # the column of the published tables that it can be held against


_FACE = ("detector", "arcface")
METRICS = {
  "identity": Metric("Identity", "up", _FACE, 3, "cosine to the reference; pictures without a face are left out", "", "Identity"),
  "identity_zero": Metric("Identity, 0 without a face", "up", _FACE, 3, "the same; a picture without a face counts as 0"),
  "detect": Metric("Detect", "up", ("detector",), 3, "share of pictures in which a face is found"),
  "identity_face": Metric("ID (F)", "up", _FACE, 3, "identity in pictures of 'a photo of the face of'", "", "ID (F)"),
  "detect_face": Metric("Detect (F)", "up", ("detector",), 3, "share of those in which a face is found"),
  "identity_prompt": Metric("ID (P)", "up", (*_FACE, "clip"), 3, "identity where the prompt score reaches 0.23, else 0", "", "ID (P)"),
  "accepted": Metric("Accepted", "up", _FACE, 3, "share of pictures that the recogniser takes for this person at FAR 1e-3"),
  "prompt": Metric("Prompt", "up", ("clip",), 4, "CLIP cosine of picture and prompt, the person's word removed", "", "Prompt"),
  "clip_t": Metric("CLIP-T", "up", ("clip",), 1, "the same, times 100", "", "CLIP-T"),
  "clip_score": Metric("CLIPScore", "up", ("clip",), 1, "max(100 cosine, 0)"),
  "asked": Metric("Asked", "up", ("attributes",), 3, "share of what the prompt names that the classifier sees, style among it"),
  "clip_face": Metric("CLIP-face", "up", ("detector", "clip_large"), 1, "CLIP cosine of the aligned faces, times 100", "", "CLIP-face"),
  "clip_full": Metric("CLIP-face, whole pictures", "up", ("clip_large",), 1, "the same of whole pictures"),
  "face_sim": Metric("FaceSim", "up", ("detector", "facenet"), 1, "FaceNet's cosine, times 100", "", "FaceSim"),
  "adaface": Metric("Identity by AdaFace", "up", ("detector", "adaface"), 3, "cosine to the reference by another recogniser"),
  "quality": Metric("IQA", "up", ("clip_rn50",), 4, "CLIP-IQA; uniform noise scores 0.96", "", "IQA"),
  "copied": Metric("Copied", "down", _FACE, 3, "(angle to the second photo - angle to the reference) / their own angle", "second"),
  "variety": Metric("Variety", "up", _FACE, 3, "mean of 1 - cosine among pictures of one person for one prompt"),
  "pose_error": Metric("Pose error", "down", ("detector",), 1, "degrees of yaw and roll to the driver", "driver"),
  "expression_error": Metric("Expression error", "down", ("detector",), 3, "distance of landmarks to the driver's", "driver"),
  "drift": Metric("Drift", "up", ("clip",), 2, "CLIP-T minus the base model's, prompts without the person", "base"),
  "assigned": Metric("Assigned", "up", _FACE, 3, "share of the people asked for whose matched face resembles them most", "others"),
  "train_seconds": Metric("Training, s", "down", (), 1, "seconds of training per person", "train_seconds", "Time"),
  "sample_seconds": Metric("Sampling, s", "down", (), 2, "seconds per picture", "sample_seconds"),
}  # fmt: skip
# Metrics of all pictures of a method together.
SETS = {
  "fid": Metric("FID", "down", ("inception",), 1, "against the people's reference photos", "", "FID"),
  "kid": Metric("KID", "down", ("inception",), 4, "the same, unbiased in small samples"),
}
# What the run that trained the method cost.
COSTS = {
  "memory_mb": Metric("Peak memory, MB", "down", (), 0, "of training"),
  "trained_parameters": Metric("Trained", "down", (), 0, "parameters that were optimised"),
  "added_parameters": Metric("Added", "down", (), 0, "numbers that sampling needs beyond the model"),
}
ALL = METRICS | SETS | COSTS


def unavailable(absent: Mapping[str, str], there: Iterable[str]) -> dict[str, str]:
  """{metric: why} of the metrics whose judges are not all `there`."""
  there = set(there)
  return {name: absent.get(roles[0], f"there is no judge {roles[0]}") for name, m in (METRICS | SETS).items()
          if (roles := [r for r in m.needs if r not in there])}  # fmt: skip
