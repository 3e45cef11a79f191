"""`idejax plan` for GPUs that are not there: names, what the CUDA compiler is told of them, sentences, a real step."""

import contextlib
import functools
import io
import json
import re
import types

import jax
import jax.numpy as jnp
import pytest
from jax.experimental import topologies
from support import tiny_pipelines

from idejax.errors import UserError
from idejax.jobs import plan
from idejax.planning import compiler, figures, gpus, hlo, topology

# Float32 TFLOP/s outside tensor cores, as NVIDIA's data sheets give them.
FLOAT32 = {"a100": 19.5, "h100": 67, "h200": 67, "b200": 75}
# Fields of XLA's messages GpuTargetConfigProto and those within it.
FIELDS = {
  "gpu_device_info", "cuda_compute_capability", "major", "minor", "core_count", "fpus_per_core", "clock_rate_ghz",
  "device_memory_size", "memory_bandwidth", "l2_cache_size", "threads_per_warp", "threads_per_block_limit",
  "threads_per_core_limit", "block_dim_limit_x", "block_dim_limit_y", "block_dim_limit_z", "registers_per_core_limit",
  "registers_per_block_limit", "shared_memory_per_block", "shared_memory_per_core", "shared_memory_per_block_optin",
  "platform_name", "runtime_version", "dnn_version_info", "device_description_str",
}  # fmt: skip


@pytest.mark.parametrize("name, kind, size", [("h200:8", "h200", 8), ("H100-4", "h100", 4), ("b200:1", "b200", 1)])
def test_a_node_by_name(name, kind, size):
  assert topology.read(name) == (f"{kind}:{size}", kind, "cuda", size)


@pytest.mark.parametrize(
  "name, says",
  [
    ("h100:16", "write h100:8, the GPUs of one node, 8 at most"),
    ("H200", "write h200:8, the GPUs of one node, 8 at most"),
    ("a100:0", "write a100:8, the GPUs of one node, 8 at most"),
    ("h200:2x4", "write h200:8, the GPUs of one node, 8 at most"),
    ("l4:1", "of GPUs plan knows a100, h100, h200, b200; write h100:8"),
    ("cuda:8", "of GPUs plan knows a100, h100, h200, b200; write h100:8"),
  ],
)
def test_a_name_that_is_none_is_one_sentence(name, says):
  with pytest.raises(UserError, match=f"--topology {name}: {says}"):
    topology.read(name)


@pytest.mark.parametrize("kind", topology.GPUS)
def test_a_description_is_in_xlas_fields_and_has_the_data_sheets_figures(kind):
  chip = topology.GPUS[kind]
  text = gpus.describe(kind, chip.memory, chip.bandwidth)
  assert set(re.findall(r"(\w+)(?::| \{)", text)) == FIELDS
  assert text.count("{") == text.count("}")
  value = lambda field: float(re.search(rf"\b{field}: ([\d.]+)", text)[1])
  assert value("device_memory_size") == chip.memory and value("memory_bandwidth") == chip.bandwidth
  multiply_adds = value("core_count") * value("fpus_per_core") * value("clock_rate_ghz") * 1e9
  assert 2 * multiply_adds / 1e12 == pytest.approx(FLOAT32[kind], rel=0.02)
  assert value("shared_memory_per_core") - value("shared_memory_per_block_optin") == 1024  # the system's of each block
  assert topology.peak(gpus.DESCRIBED[kind].name) == chip.flops  # by the name that jax gives the device


def test_without_the_plugin_a_sentence_says_what_to_install(monkeypatch):
  monkeypatch.setattr(gpus.importlib.util, "find_spec", lambda name: None)
  with pytest.raises(UserError, match=rf'^--topology h200:8 needs .* pip install "jax\[cuda12\]=={jax.__version__}"'):
    topology.devices(topology.read("h200:8"))


def test_the_compiler_is_told_of_the_node_and_what_it_says_is_passed_on(monkeypatch):
  monkeypatch.setattr(gpus, "plugin", lambda: "jax-cuda12-plugin 1")
  asked = []

  def refuse(**how):
    asked.append(how)
    raise jax.errors.JaxRuntimeError("INTERNAL: no\n such thing")

  monkeypatch.setattr(topologies, "get_topology_desc", refuse)
  with pytest.raises(UserError, match="^--topology h200:8: the CUDA compiler refuses the topology: INTERNAL: no such"):
    topology.devices(topology.read("h200:8"))
  assert asked == [
    {"platform": "cuda", "topology_name": "h200", "topology": "1x1x8",
     "target_config": gpus.describe("h200", 141e9, 4.8e12)}
  ]  # fmt: skip


def test_the_step_of_a_compilation_that_fails_is_named():
  options = []

  class Lowered:
    def __init__(self, error=None):
      self.error = error

    def compile(self, compiler_options):
      options.append(compiler_options)
      if self.error:
        raise self.error
      return "program"

  def fail():
    raise NotImplementedError("Mosaic kernels cannot\nbe divided")

  run = lambda lower, platform="cuda": compiler.compiled("h200:8", "the step", platform, lower, "; hint")
  with pytest.raises(UserError, match="^h200:8: lowering the step fails: Mosaic kernels cannot be divided$"):
    run(fail)
  with pytest.raises(UserError, match="^h200:8: compiling the step fails: INTERNAL: ptxas; hint$"):
    run(lambda: Lowered(jax.errors.JaxRuntimeError("INTERNAL: ptxas")))
  with pytest.raises(compiler.TooLarge) as e:
    run(lambda: Lowered(jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Used 2.0G of 1.0G hbm")))
  assert e.value.needed == 2**31
  assert run(Lowered) == run(Lowered, "tpu") == "program"
  # No GPU is there on which to try kernels.
  assert options[-2:] == [{"xla_gpu_autotune_level": 0, "xla_gpu_enable_triton_gemm": False}, None]


def test_bytes_of_a_compiler_that_counts_none_are_those_of_arguments_and_results():
  memory = types.SimpleNamespace(argument_size_in_bytes=30, output_size_in_bytes=12)
  program = lambda cost: types.SimpleNamespace(memory_analysis=lambda: memory, cost_analysis=lambda: cost)
  assert figures.accessed(program(None)) == figures.accessed(program({})) == 42
  assert figures.accessed(program({"bytes accessed": 7.0})) == 7
  assert "arguments and results once" in figures.assumptions(topology.read("h200:8"))
  assert "not its speed" in figures.assumptions(topology.read("h200:8"))
  assert "the compiler's count" in figures.assumptions(topology.read("v5e-8"))


needs_compiler = pytest.mark.skipif(
  gpus.plugin() is None, reason='the CUDA compiler is not installed: pip install "jax[cuda12]"'
)


@pytest.mark.slow
@needs_compiler
@pytest.mark.parametrize("kind", topology.GPUS)
def test_a_small_program_compiles_for_one_gpu_and_for_eight(kind):
  programs = {}
  for size in (1, 8):
    t = topology.read(f"{kind}:{size}")
    there = topology.devices(t)
    assert len(there) == size and {d.device_kind for d in there} == {gpus.DESCRIBED[kind].name}
    mesh = jax.make_mesh((size,), ("x",), devices=there, axis_types=(jax.sharding.AxisType.Auto,))
    on = lambda *parts, mesh=mesh: jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(*parts))
    S = lambda place, *shape: jax.ShapeDtypeStruct(shape, jnp.bfloat16, sharding=place)
    step = jax.jit(lambda w, x: jax.nn.gelu(x @ w).sum(0), out_shardings=on())
    lower = functools.partial(step.lower, S(on(), 320, 1280), S(on("x"), 4096, 320))
    programs[size] = compiler.compiled(t.name, "it", t.platform, lower)
  assert hlo.collectives(programs[1].as_text()) == {} and "cublas" in programs[1].as_text()
  assert hlo.collectives(programs[8].as_text())["all-reduce"]["count"] == 1
  weights, rows = 2 * 320 * 1280, 2 * 4096 * 320
  assert programs[1].memory_analysis().argument_size_in_bytes == weights + rows
  assert programs[8].memory_analysis().argument_size_in_bytes == weights + rows // 8


@pytest.mark.slow
@needs_compiler
def test_a_real_step_compiles_for_one_gpu_and_for_eight(tmp_path, monkeypatch):
  monkeypatch.setenv("IDEJAX_CACHE", "off")
  folder, out = tiny_pipelines.write(tmp_path, "sd21-base") / "sd21-base", tmp_path / "plan.json"
  ask = ["--model", str(folder), "--method", "textual-inversion", "--batch", "8", "--limit", "0", "--out", str(out)]
  stream = io.StringIO()
  with contextlib.redirect_stdout(stream):
    plan.main(plan.parse([*ask, "--topology", "h200:1", "h200:8"], "idejax plan"))
  one, eight = json.loads(out.read_text())
  assert (one["devices"], eight["devices"]) == (1, 8) and one["fits"] and eight["fits"]
  assert one["collectives"] == {} and eight["collectives"]["all-reduce"]["count"] >= 1
  assert eight["temporaries"] < one["temporaries"] and one["flops"] == 8 * eight["flops"] > 1e7
  assert 0 < one["donated"] <= one["state"] and one["versions"]["cuda"] == gpus.plugin()
  assert "h200:8" in stream.getvalue() and "CUDA" in plan.text(eight) and "at least" in plan.text(eight)
