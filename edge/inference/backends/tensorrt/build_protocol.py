"""Messages between the parent process and the builder process."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from edge.core.errors import EngineError, GpuMemoryError

MB = 10**6
InputShapes = tuple[tuple[str, tuple[int | None, ...]], ...]  # by name; None: the batch
CANCELLED_EXIT_CODE = 75  # of a builder that is cancelled before it can answer


class UnsupportedModelError(EngineError):
    """TensorRT does not support the whole model; another engine may."""


class BuildCancelled(EngineError):  # noqa: N818 -- a request, not a failure
    """The build was cancelled on request."""


# Failures by their names in messages.
FAILURES: dict[str, type[EngineError]] = {
    "unsupported": UnsupportedModelError,
    "cancelled": BuildCancelled,
    "memory": GpuMemoryError,
    "failed": EngineError,
}


@dataclass(frozen=True)
class BuildSettings:
    """Settings that determine a plan."""

    precision: str  # fp32 or fp16, of the ONNX file, which fixes the network's types
    device: str  # gpu, dla0, dla1
    max_batch: int
    builder_level: int  # 0…5: how long the builder searches for faster kernels
    workspace_mb: int
    input_shapes: InputShapes = ()  # of inputs whose open sizes are set


@dataclass(frozen=True)
class BuildRequest:
    """Request of the parent process."""

    onnx: Path
    fp32_onnx: Path  # the model before its conversion, for builders that choose the types themselves
    settings: BuildSettings
    plan: Path  # destination
    tactic_mb: int | None  # limit of all memory while building, on a GPU that shares memory with the CPU
    timing_folder: Path
    machine: str | None  # GPU and board, for the timing cache's name; None: no timing cache
    log_level: int

    @classmethod
    def from_json(cls, line: bytes) -> BuildRequest:
        values = json.loads(line)
        paths = {key: Path(values[key]) for key in ("onnx", "fp32_onnx", "plan", "timing_folder")}
        settings = values["settings"]
        shapes = tuple((name, tuple(shape)) for name, shape in settings["input_shapes"])
        return cls(**(values | paths | {"settings": BuildSettings(**(settings | {"input_shapes": shapes}))}))

    def to_json(self) -> bytes:
        return json.dumps(asdict(self), default=str).encode() + b"\n"


@dataclass(frozen=True)
class BuildFacts:
    """Facts of a successful build."""

    flags: tuple[str, ...]  # by name: their values differ between versions
    workspace_mb: int
    layers: int  # of the parsed network, before fusion
    inputs: Mapping[str, Any]  # name → shape (-1: the batch) and type
    outputs: Mapping[str, Any]
    profile: Mapping[str, Any]  # input → min, opt and max shape; empty if the batch is fixed
    placement: Mapping[str, Any] | None  # on a DLA: its number of layers, and the names of those left to the GPU
    build_s: float

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> BuildFacts:
        return cls(**{**values, "flags": tuple(values["flags"])})


@dataclass(frozen=True)
class BuiltPlan:
    """A plan in memory."""

    name: str  # the model's
    plan: bytes
    facts: BuildFacts
