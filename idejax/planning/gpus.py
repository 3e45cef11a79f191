"""GPUs of one node for XLA's CUDA compiler, which needs no GPU if it is told what one is like.

It reads a description as text: the message GpuTargetConfigProto of XLA (stream_executor/device_description.proto).
Those here are our own. Their figures are NVIDIA's, from the tables of compute capabilities in the CUDA C++
programming guide and from the GPUs' data sheets, and are those that XLA's own descriptions of the same GPUs have
(xla/backends/gpu/target_config/specs, Apache-2.0; xla/tools/hlo_opt/gpu_specs in earlier versions).
"""

import importlib.util
from importlib import metadata
from typing import NamedTuple

PLUGINS = ("jax-cuda12-plugin", "jax-cuda13-plugin")


class Gpu(NamedTuple):
  """What a compiler must know of a GPU beside its memory and bandwidth."""

  name: str
  capability: int  # major compute capability, 9 for 9.0
  cores: int  # streaming multiprocessors
  lanes: int  # float32 units of each
  shared: int  # bytes of shared memory of each
  cache: int  # bytes of level 2
  clock: float  # GHz, the highest


DESCRIBED = {
  "a100": Gpu("NVIDIA A100-SXM4-80GB", 8, 108, 64, 164 << 10, 40 << 20, 1.41),
  "h100": Gpu("NVIDIA H100 80GB HBM3", 9, 132, 128, 228 << 10, 50 << 20, 1.98),
  "h200": Gpu("NVIDIA H200", 9, 132, 128, 228 << 10, 50 << 20, 1.98),
  "b200": Gpu("NVIDIA B200", 10, 148, 128, 228 << 10, 126 << 20, 1.965),
}


def describe(kind: str, memory: float, bandwidth: float) -> str:
  """The description of a kind of GPU, a GpuTargetConfigProto as text; its bytes, and bytes/s."""
  g = DESCRIBED[kind]
  return f"""gpu_device_info {{
  cuda_compute_capability {{ major: {g.capability} }}
  core_count: {g.cores} fpus_per_core: {g.lanes} clock_rate_ghz: {g.clock}
  device_memory_size: {int(memory)} memory_bandwidth: {int(bandwidth)} l2_cache_size: {g.cache}
  threads_per_warp: 32 threads_per_block_limit: 1024 threads_per_core_limit: 2048
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
  registers_per_core_limit: 65536 registers_per_block_limit: 65536
  shared_memory_per_block: {48 << 10} shared_memory_per_core: {g.shared}
  shared_memory_per_block_optin: {g.shared - (1 << 10)}
}}
platform_name: "CUDA"
runtime_version {{ major: 12 minor: 8 }}
dnn_version_info {{ major: 9 minor: 10 }}
device_description_str: "{g.name}"
"""


def plugin() -> str | None:
  """ "jax-cuda12-plugin 0.10.2", or None where no CUDA plugin of jax is installed."""
  for name in PLUGINS:
    if importlib.util.find_spec(name.replace("-", "_")):
      return f"{name} {metadata.version(name)}"
  return None
