"""An add-on as a pipeline folder: stock diffusers, with the folder's own code, makes idejax's pictures of a face in a pose."""

import dataclasses
import json
import warnings

import jax
import numpy as np
import pytest
from diffusers import ControlNetModel
from support import addons, facepack, tiny_pipelines

import idejax
from idejax import config, faces
from idejax.errors import UserError
from idejax.exporting import certificate
from idejax.exporting import faces as exporting
from idejax.faces.posing import ByLandmarks
from idejax.jobs import export, export_faces
from idejax.methods import facesnap
from idejax.model import backbone
from idejax.sampling import learned, steering
from idejax.sampling.learned import Learned

quiet = lambda _: None


@pytest.fixture(scope="module")
def root(tmp_path_factory):
  root = tiny_pipelines.write(tmp_path_factory.mktemp("faces"), "sd15", "sdxl")
  facepack.pack(root / "green", landmarks=True)
  for family in ("sd15", "sdxl"):
    addons.write(root / f"{family}-addon", backbone.load(root / family))
  addons.write(root / "bare", backbone.load(root / "sd15"), vision=False, fuse="concat", identity_tokens=2)
  return root


def person(root, family):
  pipe = idejax.load(root / family, devices=jax.devices()[:1], notify=quiet)
  pack = faces.open_pack(root / "green", notify=quiet)
  who = steering.load(pipe.backbone, root / f"{family}-addon", pack, ByLandmarks(), quiet)
  record = faces.read(facepack.picture((1, 1), seed=1), pack, cached=False)
  identity, cfg = who.represent([record]), facesnap.Person()
  return Learned("<anna>", "facesnap", cfg, identity, str(root / family), pipe.digest, addon=str(who.folder), addon_digest=who.digest)  # fmt: skip


@pytest.fixture(scope="module", params=["sd15", pytest.param("sdxl", marks=pytest.mark.slow)])
def measured(request, root):
  """{case: (Check, what diffusers did)}, all from one process of PyTorch."""
  family, checks = request.param, {}
  pipe = idejax.load(root / family, devices=jax.devices()[:1], notify=quiet)
  cases = {"add-on": (f"{family}-addon", None), "person": (f"{family}-addon", person(root, family))}
  cases |= {"no image encoder": ("bare", None)} if family == "sd15" else {}
  for case, (name, who) in cases.items():
    e = exporting.open_addon(pipe, root / name, who)
    folder = root / f"{family} {case}".replace(" ", "-")
    exporting.write(folder, e)
    checks[case] = export_faces.check_of(folder, e, root / f"{folder.name}.npz", (5,))
  return dict(zip(checks, zip(checks.values(), certificate.run_stock(list(checks.values())))))


def test_diffusers_makes_the_same_pictures(measured):
  for case, (check, results) in measured.items():
    report = certificate.compare(check, *results)
    assert certificate.verdict(report) == [], case
    differences = [report["contexts"], *report["noise_predictions"], report["final_latents"]["5"]]
    assert max(d["relative"] for d in differences) < 3e-5, case


def test_another_face_or_pose_does_not_pass(measured):
  """The certificate sees the mixer, the landmarks and the strength."""
  check, results = measured["add-on"]
  for change in (dict(tokens=0.9 * check.steer.tokens), dict(marks=check.steer.marks + 2), dict(strength=0.9)):
    other = check._replace(steer=dataclasses.replace(check.steer, **change))
    bad = certificate.verdict(certificate.compare(other, *results))
    assert any("noise prediction" in b for b in bad), change


def test_its_controlnet_is_a_stock_one(measured):
  check, _ = measured["add-on"]
  with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    net = ControlNetModel.from_pretrained(check.folder / "controlnet", low_cpu_mem_usage=False)
  assert sum(p.numel() for p in net.parameters()) == sum(x.size for x in jax.tree.leaves(check.pipe.backbone.params["controlnet"]))  # fmt: skip
  index = json.loads((check.folder / "model_index.json").read_text())
  assert index["_class_name"] == ["pipeline", "FacePipeline"] and index["mixer"][0] == "modeling_mixer"


def test_the_command(root):
  """Without PyTorch's check: the folder, its card and what it says of itself; a person's face is in it."""
  anna = learned.save(root, person(root, "sd15"))
  to = root / "to"
  export.main(config.Export(to, anna, verify=False))
  assert {p.name for p in to.iterdir()} >= {"face.npz", "mixer", "controlnet", "face_encoder", "unet", "pipeline.py", "README.md", "certificate.json"}  # fmt: skip
  assert "Not verified" in (to / "README.md").read_text() and 'face="to/face.npz"' in (to / "README.md").read_text()
  with np.load(to / "face.npz", allow_pickle=False) as file:
    assert set(file) == {"tokens", "landmarks", "photo_size"}
  export.main(config.Export(root / "snap", root / "sd15-addon", model=str(root / "sd15"), verify=False))
  assert (
    not (root / "snap" / "face.npz").exists()
    and "idejax identity anna.png" in (root / "snap" / "README.md").read_text()
  )
  compile((root / "snap" / "pipeline.py").read_text(), "pipeline.py", "exec")


@pytest.mark.parametrize(
  "given, words",
  [
    (dict(format="lora"), "--format lora cannot hold a face that steers pictures"),
    (dict(model=None), "was made for toy: give --model FOLDER"),
    (dict(model="sdxl"), "an add-on of another family"),
  ],
)
def test_bad_input(root, given, words):
  model = given.get("model", "sd15")
  given = dict(verify=False) | given | dict(model=model and str(root / model))
  with pytest.raises(UserError, match=words):
    export.main(config.Export(root / "bad", root / "sd15-addon", **given))
  assert not (root / "bad").exists()
