"""A compiled step -> figures for one device: memory, work, collectives, time, what fits, warnings."""

import math
from typing import Any

from idejax.planning import hlo, topology, work
from idejax.planning.topology import Topology

SPARE = 0.06  # share of the memory for the runtime and for fragmentation
_BYTES = {
  "cuda": "arguments and results once, for XLA counts none for CUDA (nor were its kernels tuned, so that the program "
  "shows what fits and its collectives, not its speed)"
}


def assumptions(t: Topology) -> str:
  """What a step's figures rest on."""
  count = _BYTES.get(t.platform, "the compiler's count")
  return (
    f"FLOPs: matmuls and convolutions of the jaxpr, at the chip's dense bfloat16 peak; bytes: {count}, "
    "at full memory bandwidth; the longer of the two, plus collectives at link bandwidth, not overlapped. No step "
    "is faster; real ones reach perhaps 40 to 60 % of it."
  )


def of(compiled: Any, w: work.Work, t: Topology, total_flops: int) -> dict[str, Any]:
  """All figures of a compiled step on one device."""
  m = compiled.memory_analysis()
  arguments, temporaries = int(m.argument_size_in_bytes), int(m.temp_size_in_bytes)
  outputs, donated = int(m.output_size_in_bytes), hlo.donated(compiled)
  peak = max(int(getattr(m, "peak_memory_in_bytes", 0)), arguments + temporaries + outputs - donated)
  collectives = hlo.collectives(compiled.as_text())
  return derive(
    w,
    t,
    total_flops,
    arguments=arguments,
    temporaries=temporaries,
    outputs=outputs,
    donated=donated,
    peak=peak,
    collectives=collectives,
    bytes=accessed(compiled),
  ) | {"estimate": False, "program": int(m.generated_code_size_in_bytes)}


def derive(w: work.Work, t: Topology, total_flops: int, **f: Any) -> dict[str, Any]:
  """The figures that follow from a step's memory, bytes and collectives: time, what fits, warnings."""
  # Weights that the step does not read, such as the VAE's, are no arguments but stay on the device.
  unread = max(0, w.state_bytes + w.frozen_bytes - f["arguments"])
  flops = total_flops * max(1, w.people) / (t.size if w.people else active(w, t))
  f |= {"flops": flops, "unread": unread, "peak": f["peak"] + unread, "state": w.state_bytes}
  f |= roofline(t, flops, f["bytes"], hlo.link_bytes(f["collectives"]))
  memory = device_memory(t)
  f |= {"memory": memory, "fits": f["peak"] <= memory * (1 - SPARE)}
  f["largest"] = largest(w, t, f)
  return f | {"warnings": warnings(w, t, f)}


def device_memory(t: Topology) -> float:
  """Bytes of memory of one device."""
  return topology.chip(t.kind).memory / topology.chip(t.kind).devices


def roofline(t: Topology, flops: float, accessed: float, linked: float) -> dict[str, Any]:
  """A lower bound of a step's seconds; see `assumptions`."""
  chip = topology.chip(t.kind)
  compute = flops * chip.devices / chip.flops
  memory = accessed * chip.devices / chip.bandwidth
  links = linked * chip.devices / chip.links
  bound = "memory" if memory > compute else "compute"
  return {
    "seconds": max(compute, memory) + links,
    "seconds_compute": compute,
    "seconds_memory": memory,
    "seconds_links": links,
    "bound": bound if links < max(compute, memory) else "links",
  }


def rows(w: work.Work, t: Topology) -> float:
  """Rows of the batch, or of a part of it, on a device."""
  part = _part(w)
  return part * w.people / t.size if w.people else part / active(w, t)


def _part(w: work.Work) -> int:
  return w.settings.cfg.batch // w.settings.run.accumulate


def active(w: work.Work, t: Topology) -> int:
  """The number of devices that work: for one person, those among which the batch can be divided."""
  return t.size if w.people else math.gcd(_part(w), t.size)


def largest(w: work.Work, t: Topology, f: dict[str, Any]) -> dict[str, Any]:
  """The largest batch or crowd that fits, if temporaries grow with the rows and a crowd's state with the people."""
  free = device_memory(t) * (1 - SPARE) - f["unread"]
  if w.people:
    here = w.people // t.size
    each = (f["temporaries"] + f["state"]) / here
    fixed = f["peak"] - f["unread"] - each * here
    return {"people_per_device": max(0, int((free - fixed) // each)) if each else 0}
  each = f["temporaries"] / rows(w, t)
  fixed = f["peak"] - f["unread"] - f["temporaries"]
  return {"batch": max(0, int((free - fixed) // each)) * t.size * w.settings.run.accumulate if each else 0}


def warnings(w: work.Work, t: Topology, f: dict[str, Any]) -> list[str]:
  """Sentences on what a user would want to change."""
  out = []
  state = w.args[0]
  if not f["fits"]:
    out.append(f"does not fit: {gib(f['peak'])} of {gib(f['memory'])} a device")
  if f["donated"] < 0.9 * f["state"]:
    out.append(f"not donated: {gib(f['state'] - f['donated'])} of the state are held twice while a step runs")
  if not w.people and t.size > 1 and work.size(state.opt) > 1e8 and f["state"] > 0.9 * work.size(state):
    out.append("the optimiser's state is replicated on every device: --fsdp divides it")
  bytes_moved = f["collectives"].get("all-to-all", {}).get("bytes", 0) + f["collectives"].get(
    "collective-permute", {}
  ).get("bytes", 0)
  if bytes_moved > 1e6:
    out.append(f"resharding: {gib(bytes_moved)} move between devices within a step")
  if w.people and f["collectives"]:
    out.append("people wait for one another: a crowd's step should have no collective")
  if (idle := t.size - active(w, t)) > 0:
    out.append(f"the batch does not divide by the devices: {idle} of {t.size} are idle")
  return out


def exceeded(f: dict[str, Any], w: work.Work, t: Topology, failure: dict[str, Any] | None) -> dict[str, Any]:
  """An estimate with the compiler's figure for the whole step's memory, if it gave one."""
  if not failure:
    return f
  f |= {"peak": max(f["peak"], failure["needed"]), "fits": False}
  sentence = f"the compiler gives up on the whole step, which would need {gib(failure['needed'])}"
  return f | {"needed": failure["needed"], "warnings": [*warnings(w, t, f), sentence]}


def accessed(compiled: Any) -> float:
  """The compiler's count of bytes read and written; of one that counts none (CUDA's), arguments and results once."""
  cost = compiled.cost_analysis() or {}
  if isinstance(cost, list):
    cost = cost[0] if cost else {}
  m = compiled.memory_analysis()
  return float(cost.get("bytes accessed") or m.argument_size_in_bytes + m.output_size_in_bytes)


def gib(n: float) -> str:
  return f"{n / 2**30:.2f} GiB" if n >= 2**27 else f"{n / 2**20:.2f} MiB"
