"""Identity of the backend and machine that run a model, recorded with each measurement."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from pathlib import Path

from edge.inference.backends.cuda import Gpu
from edge.inference.backends.ort import import_onnxruntime
from edge.inference.backends.tensorrt.library import library_name, load_tensorrt

# Instructions that multiply INT8 and accumulate without overflow, best first; without them other kernels run.
_INT8 = ("amx_int8", "avx512_vnni", "avx_vnni", "avx512bw", "avx2", "i8mm", "asimddp")
_CPU_INFO = Path("/proc/cpuinfo")


@dataclass(frozen=True)
class RuntimeIdentity:
    """Everything that a model's accuracy can depend on, apart from its files."""

    backend: str  # ort-cpu or trt
    library: str  # "onnxruntime 1.23.0", "tensorrt 10.3.0.30"
    gpu: str | None  # "Orin sm_87 8 SMs"
    instructions: str | None  # of the CPU that runs it: "x86_64 avx512_vnni"; without some, INT8 sums can overflow
    machine: str  # the processor: affects speed, not agreement

    def __str__(self) -> str:
        return ", ".join(each for each in (self.library, self.gpu, self.instructions) if each)


def onnxruntime_identity() -> RuntimeIdentity:
    """Describe ONNX Runtime on this CPU."""
    facts = _cpu_facts()
    flags = facts.get("flags", facts.get("Features", "")).split()
    best = next((name for name in _INT8 if name in flags), None)
    instructions = " ".join(each for each in (platform.machine(), best) if each)
    library = f"onnxruntime {import_onnxruntime().__version__}"
    return RuntimeIdentity("ort-cpu", library, None, instructions, _machine(facts))


def tensorrt_identity(gpu: Gpu) -> RuntimeIdentity:
    """Describe TensorRT on this GPU."""
    trt = load_tensorrt()
    described = f"{gpu.name} {gpu.architecture} {gpu.sm_count} SMs"
    return RuntimeIdentity("trt", f"{library_name(trt)} {trt.__version__}", described, None, _machine(_cpu_facts()))


def _machine(facts: dict[str, str]) -> str:
    name = facts.get("model name") or f"{platform.machine()} {facts.get('CPU part', '')}".strip()
    return f"{name}, {facts['cores']} cores"


def _cpu_facts() -> dict[str, str]:
    """Return the kernel's facts about the first core, and the number of cores."""
    try:
        lines = _CPU_INFO.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError):
        lines = []
    pairs = [(name.strip(), value.strip()) for name, _, value in (line.partition(":") for line in lines)]
    cores = sum(name == "processor" for name, _ in pairs)
    return {**dict(reversed(pairs)), "cores": str(cores)}
