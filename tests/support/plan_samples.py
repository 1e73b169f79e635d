"""A plan, its GPU, its key and its facts."""

from __future__ import annotations

from edge.inference.backends.cuda import Gpu
from edge.inference.backends.tensorrt.build_protocol import BuildFacts, BuiltPlan
from edge.inference.backends.tensorrt.plan_key import PlanKey

ORIN = Gpu(
    name="Orin",
    compute_capability=(8, 7),
    sm_count=8,
    memory_bytes=7_600_000_000,
    cuda_version="12.6",
    integrated=True,
    pageable_access=False,
)
KEY = PlanKey(
    onnx_sha256="c0ffee",
    precision="fp16",
    device="gpu",
    max_batch=4,
    builder_level=3,
    workspace_mb=512,
    flags=("STRONGLY_TYPED",),
    library="tensorrt",
    version="10.3.0",
    cuda="12.6",
    gpu="Orin",
    compute_capability="8.7",
    sm_count=8,
    board="Jetson Orin Nano",
)
FACTS = BuildFacts(
    flags=("STRONGLY_TYPED", "TF32"),
    workspace_mb=512,
    layers=136,
    inputs={"images": {"shape": [-1, 3, 8, 8], "dtype": "FLOAT"}},
    outputs={},
    profile={},
    placement=None,
    build_s=1.5,
)


def header(magic: bytes = b"ftrt", version: tuple[int, ...] = (10, 3, 0, 30)) -> bytes:
    return magic + bytes(20) + bytes(version)


def plan(content: bytes = b"kernels and weights", name: str = "net") -> BuiltPlan:
    return BuiltPlan(name, header() + content, FACTS)
