"""Identity of a plan: model, settings, library and machine it was built for."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from edge.inference.backends.cuda import Gpu
from edge.inference.backends.tensorrt.build_protocol import BuildSettings, InputShapes
from edge.inference.backends.tensorrt.builder import build_strategies
from edge.inference.backends.tensorrt.library import library_name, load_tensorrt


@dataclass(frozen=True)
class PlanKey:
    """Everything that must match for a plan to be used."""

    onnx_sha256: str  # of the variant that it was built from
    precision: str
    device: str
    max_batch: int
    builder_level: int
    workspace_mb: int
    flags: tuple[str, ...]  # by name
    library: str  # tensorrt or tensorrt-rtx
    version: str
    cuda: str | None  # this and the next three: None if built without a GPU
    gpu: str | None
    compute_capability: str | None
    sm_count: int | None
    board: str
    input_shapes: InputShapes | None = None  # of inputs whose open sizes were set; None: there were none

    @property
    def digest(self) -> str:
        """Hash of the key, in hexadecimal."""
        # Without open sizes the hash is that of versions that did not know them.
        values = {name: value for name, value in asdict(self).items() if (name, value) != ("input_shapes", None)}
        return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()

    def mismatches(self, found: Mapping[str, Any]) -> list[str]:
        """List the fields in which a manifest's key differs from this one, each as a phrase after "the plan PATH"."""
        expected = json.loads(json.dumps(asdict(self)))
        return [
            f"was built for {field.name} {found.get(field.name)!r}, wanted {expected[field.name]!r}"
            for field in fields(self)
            if found.get(field.name) != expected[field.name]
        ]


def plan_key(onnx_sha256: str, settings: BuildSettings, gpu: Gpu | None, board: str) -> PlanKey:
    """Return the key of the plan that this machine's TensorRT builds with these settings."""
    trt = load_tensorrt()
    return PlanKey(
        onnx_sha256=onnx_sha256,
        precision=settings.precision,
        device=settings.device,
        max_batch=settings.max_batch,
        builder_level=settings.builder_level,
        workspace_mb=settings.workspace_mb,
        flags=build_strategies(trt, settings)[0],
        library=library_name(trt),
        version=trt.__version__,
        cuda=gpu.cuda_version if gpu else None,
        gpu=gpu.name if gpu else None,
        compute_capability=".".join(map(str, gpu.compute_capability)) if gpu else None,
        sm_count=gpu.sm_count if gpu else None,
        board=board,
        input_shapes=settings.input_shapes or None,
    )
