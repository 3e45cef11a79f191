"""Stable Diffusion with FaceSnap: a face record and a pose steer the pictures, without any training of the person.

    pipe("a photo of a person on the beach", face="anna.npz").images[0]
    pipe("a photo of a person on the beach", face="anna.npz", pose="bert.npz").images[0]

A face record is a file of `idejax identity anna.png --out anna.npz`, or a dict with its arrays: embedding [512],
portrait [512, 512, 3], landmarks [72, 2], photo [H, W, 3]; or somebody's tokens, as in the face.npz of an exported person.
"""

import numpy as np
import torch
from diffusers import StableDiffusionControlNetPipeline
from PIL import Image

GREY, RED, GREEN, PURPLE = (125, 125, 125), (255, 0, 0), (0, 255, 0), (255, 0, 255)
BLUE, CYAN, YELLOW = (0, 0, 255), (0, 255, 255), (255, 255, 0)
LINES = (  # contour, brows, nose, eyes, outer and inner lips
  ((*range(9), *range(16, 8, -1)), GREY),
  ((17, 18, 19, 20, 21), RED),
  ((26, 25, 24, 23, 22), GREEN),
  ((27, 28, 29, 30, 33), PURPLE),
  ((31, 32, 33), PURPLE),
  ((35, 34, 33), PURPLE),
  ((*range(36, 44), 36), BLUE),
  ((48, 47, 46, 45, 44, 51, 50, 49, 48), CYAN),
  ((52, 54, 53, 62, 58, 59, 57, 65, 66, 71, 69, 68, 52), YELLOW),
  ((55, 56, 63, 61, 60, 64, 70, 67, 55), YELLOW),
)


class FacePipeline(StableDiffusionControlNetPipeline):
  """The stock ControlNet pipeline, whose ControlNet reads a face's tokens in place of text, and drawn landmarks."""

  _optional_components = [*StableDiffusionControlNetPipeline._optional_components, "mixer", "face_encoder"]

  # -- Stable Diffusion 1.x and 2.x --
  def __init__(
    self,
    vae,
    text_encoder,
    tokenizer,
    unet,
    controlnet,
    scheduler,
    safety_checker,
    feature_extractor,
    image_encoder=None,
    requires_safety_checker=True,
    mixer=None,
    face_encoder=None,
    face_mean=(0.48145466, 0.4578275, 0.40821073),
    face_std=(0.26862954, 0.26130258, 0.27577711),
  ):
    super().__init__(
      vae,
      text_encoder,
      tokenizer,
      unet,
      controlnet,
      scheduler,
      safety_checker,
      feature_extractor,
      image_encoder,
      requires_safety_checker,
    )
    self.add_faces(mixer, face_encoder, face_mean, face_std)

  # -- SDXL --
  def __init__(  # type: ignore[no-redef]  # noqa: F811
    self,
    vae,
    text_encoder,
    text_encoder_2,  # type: ignore[no-redef]
    tokenizer,
    tokenizer_2,
    unet,
    controlnet,
    scheduler,
    force_zeros_for_empty_prompt=True,
    add_watermarker=None,
    feature_extractor=None,
    image_encoder=None,
    mixer=None,
    face_encoder=None,
    face_mean=(0.48145466, 0.4578275, 0.40821073),
    face_std=(0.26862954, 0.26130258, 0.27577711),
  ):
    super().__init__(
      vae,
      text_encoder,
      text_encoder_2,
      tokenizer,
      tokenizer_2,
      unet,
      controlnet,
      scheduler,
      force_zeros_for_empty_prompt,
      add_watermarker,
      feature_extractor,
      image_encoder,
    )
    self.add_faces(mixer, face_encoder, face_mean, face_std)

  # -- both --
  def add_faces(self, mixer, face_encoder, mean, std):
    self.register_modules(mixer=mixer, face_encoder=face_encoder)
    self.register_to_config(face_mean=list(mean), face_std=list(std))
    self.face_tokens = None
    self.controlnet.register_forward_pre_hook(self.read_face, with_kwargs=True)

  def read_face(self, controlnet, args, kwargs):
    """The face's tokens in place of the text, for prompts and negative prompts alike."""
    if self.face_tokens is not None:
      rows = (args[0] if args else kwargs["sample"]).shape[0]
      tokens = self.face_tokens.repeat(rows // len(self.face_tokens), 1, 1)
      kwargs["encoder_hidden_states"] = tokens.to(kwargs["encoder_hidden_states"])
    return args, kwargs

  @torch.no_grad()
  def __call__(self, prompt, face=None, pose=None, height=None, width=None, num_images_per_prompt=1, **kwargs):
    """As the stock pipeline. face: a face record, or a list with one a prompt; None for pictures of nobody.

    pose: None for the face's own, "none", a record of another face whose landmarks are taken, or landmarks [72, 2] in the
    picture's pixels. controlnet_conditioning_scale is the face's strength.
    """
    side = self.unet.config.sample_size * self.vae_scale_factor
    height, width = height or side, width or side
    prompts = [prompt] if isinstance(prompt, str) else prompt
    faces = [read(f) for f in (face if isinstance(face, list) else [face]) if f is not None]
    if faces:
      tokens = torch.cat([self.tokens(f) for f in faces])
      pictures = torch.stack([torch.from_numpy(draw(landmarks(f, pose, height, width), height, width)) for f in faces])
    else:
      tokens = torch.zeros(1, self.mixer.config.tokens, self.mixer.config.context_dim)
      pictures, kwargs["controlnet_conditioning_scale"] = torch.zeros(1, height, width, 3), 0.0
    each = len(prompts) * num_images_per_prompt // len(faces or [face])
    self.face_tokens = tokens.repeat_interleave(each, dim=0)
    try:
      return super().__call__(
        prompt=prompt,
        image=pictures.permute(0, 3, 1, 2),
        height=height,
        width=width,
        num_images_per_prompt=num_images_per_prompt,
        **kwargs,
      )
    finally:
      self.face_tokens = None

  def tokens(self, face):
    """A face record -> [1, 16, D]."""
    if "tokens" in face:
      return torch.from_numpy(np.asarray(face["tokens"], np.float32))[None]
    to = dict(device=self.mixer.device, dtype=self.mixer.dtype)
    identity = torch.from_numpy(np.asarray(face["embedding"], np.float32))[None].to(**to)
    return self.mixer(identity, self.clip_tokens(face).to(**to))

  def clip_tokens(self, face):
    """CLIP's tokens of the portrait, its penultimate layer's; or those that the record brings."""
    if "clip" in face:
      return torch.from_numpy(np.asarray(face["clip"], np.float32))[None]
    if self.face_encoder is None:
      raise ValueError("this pipeline has no image encoder: from_pretrained(..., face_encoder=CLIPVisionModel...)")
    size = self.face_encoder.config.image_size
    portrait = Image.fromarray(np.asarray(face["portrait"], np.uint8))
    if portrait.size != (size, size):
      portrait = portrait.resize((size, size), Image.Resampling.BICUBIC)
    row = lambda x: np.asarray(x, np.float32)
    pixels = (np.asarray(portrait, np.float32) / 255 - row(self.config.face_mean)) / row(self.config.face_std)
    x = torch.from_numpy(pixels.transpose(2, 0, 1))[None].to(self.face_encoder.device, self.face_encoder.dtype)
    return self.face_encoder(x, output_hidden_states=True).hidden_states[-2]


def read(face):
  """A record as a dict of arrays."""
  if isinstance(face, dict):
    return face
  with np.load(face, allow_pickle=False) as file:
    return dict(file)


def landmarks(face, pose, height, width):
  """[72, 2] in the picture's pixels; None for a face that may be anywhere."""
  if isinstance(pose, np.ndarray):
    return pose
  if isinstance(pose, str) and pose == "none":
    return None
  whose = face if pose is None else read(pose)
  if "landmarks" not in whose:
    return None
  photo = whose["photo_size"] if "photo_size" in whose else whose["photo"].shape[:2]
  scale = min(height / photo[0], width / photo[1])  # the whole photo, fitted into the picture and centred
  middle = np.array([photo[1] - 1, photo[0] - 1]) / 2
  return (whose["landmarks"] - middle) * scale + np.array([width - 1, height - 1]) / 2


def draw(marks, height, width):
  """Landmarks as lines and dots on black, float32 [H, W, 3] in [0, 1]."""
  out = np.zeros((height, width, 3), np.float32)
  if marks is None:
    return out
  marks = np.asarray(marks, np.float32)
  thick = max(round(float(np.ptp(marks[:, 0])) / 128), 2)
  lines = [(a, b, colour, thick / 2) for run, colour in LINES for a, b in zip(run, run[1:])]
  dots = [(i, i, colour, thick) for i, colour in sorted({(i, colour) for run, colour in LINES for i in run})]
  for i, j, colour, radius in (*lines, *dots):
    a, b = marks[i], marks[j]
    low = np.clip(np.floor(np.minimum(a, b) - radius - 1), 0, (width, height)).astype(int)
    high = np.clip(np.ceil(np.maximum(a, b) + radius + 2), 0, (width, height)).astype(int)
    if (low >= high).any():
      continue
    y, x = np.mgrid[low[1] : high[1], low[0] : high[0]].astype(np.float32)
    along = b - a
    t = np.clip(((x - a[0]) * along[0] + (y - a[1]) * along[1]) / max(float(along @ along), 1e-12), 0, 1)
    far = np.hypot(x - a[0] - t * along[0], y - a[1] - t * along[1])
    part = out[low[1] : high[1], low[0] : high[0]]
    part += np.clip(radius + 0.5 - far, 0, 1)[..., None] * (np.array(colour, np.float32) / 255 - part)
  return out
