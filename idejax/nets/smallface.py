"""The miniature's recognisers and attribute classifier, as descriptions for `convnet.Net`."""

FEATURES = 512
ATTRIBUTES = ("expression", "accessory", "background", "hair")  # outputs of `attributes`, in order


def recogniser(f, x):
  """Aligned faces 112 x 112, RGB in [-1, 1] -> embeddings [B, 512], not normalised.

  A residual net with PReLUs like ArcFace's, but on half the resolution: pictures of 64 px hold no
  more than that.
  """
  h = f.conv("stem", f.shrink(x, 2), 32, 5, 2, act="prelu")
  for side, width in ((14, 64), (7, 112)):
    h = f.conv(f"down{side}", h, width, 3, 2, act="prelu")
    h = _residual(f, f"stage{side}", h, width)
  h = f.conv("squeeze", h, 24, 1, act="prelu")
  return f.dense("features", f.rows(h), FEATURES, norm=True)


def _residual(f, name, x, width):
  h = f.conv(f"{name}.0", x, width, act="prelu")
  return f.add(x, f.conv(f"{name}.1", h, width, act=None))


def judge(f, x):
  """Wider crops 96 x 96, RGB in [-1, 1] -> embeddings [B, 512], not normalised.

  Plain convolutions and ReLUs, to differ from `recogniser`. Only the last layer is alike: a mean over
  the map in its place forgets where things are and learnt too slowly.
  """
  h = f.conv("stem", f.shrink(x, 2), 32, 3, 2)
  h = f.conv("conv24", h, 48)
  h = f.conv("down12", h, 72, 3, 2)
  h = f.conv("conv12", h, 96)
  h = f.conv("down6", h, 128, 3, 2)
  h = f.conv("conv6", h, 128)
  h = f.conv("squeeze", h, 28, 1)
  return f.dense("features", f.rows(h), FEATURES, norm=True)


def attributes(counts: tuple[int, ...]):
  """Whole pictures 64 x 64, RGB in [-1, 1] -> logits of each attribute, [B, count] each."""

  def body(f, x):
    h = f.conv("stem", x, 24, 3, 2)
    h = f.conv("conv32", h, 32)
    h = f.conv("down16", h, 64, 3, 2)
    h = f.conv("conv16", h, 64)
    h = f.conv("down8", h, 96, 3, 2)
    h = f.conv("conv8", h, 96)
    h = f.conv("down4", h, 128, 3, 2)
    h = f.dense("hidden", f.rows(h), 128, act="relu", norm=True)
    return tuple(f.dense(name, h, n) for name, n in zip(ATTRIBUTES, counts, strict=True))

  return body
