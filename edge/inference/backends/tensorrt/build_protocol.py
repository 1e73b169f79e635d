"""What is ordered of a build, and what comes of it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from edge.core.errors import EngineError, GpuMemoryError

MB = 10**6
GIVEN_UP = 75  # what the builder exits with where it had no time left for an answer


class UnsupportedModelError(EngineError):
    """TensorRT does not take this model whole; another engine may."""


class BuildCancelled(EngineError):  # noqa: N818 -- no failure: it was asked for
    """The build was given up because someone asked for it."""


# How a failure is named between the two processes.
KINDS: dict[str, type[EngineError]] = {
    "unsupported": UnsupportedModelError,
    "cancelled": BuildCancelled,
    "memory": GpuMemoryError,
    "failed": EngineError,
}


@dataclass(frozen=True)
class BuildSettings:
    """All that shapes a plan and is chosen by us."""

    precision: str  # fp32 or fp16: that of the ONNX file, which fixes the types of the network
    device: str  # gpu, dla0, dla1
    max_batch: int
    builder_level: int  # 0…5: how long the builder looks for faster kernels
    workspace_mb: int


@dataclass(frozen=True)
class BuildRequest:
    """What the parent process sends."""

    onnx: Path
    fp32_onnx: Path  # the model before its conversion, for builders that choose types themselves
    settings: BuildSettings
    plan: Path  # where the plan is written
    tactic_mb: int | None  # limit of all memory while building, on a GPU that shares it with the CPU
    timing_folder: Path
    machine: str | None  # GPU and board, for the name of the timing cache; None: no such cache
    log_level: int

    @classmethod
    def from_json(cls, line: bytes) -> BuildRequest:
        values = json.loads(line)
        paths = {key: Path(values[key]) for key in ("onnx", "fp32_onnx", "plan", "timing_folder")}
        return cls(**(values | paths | {"settings": BuildSettings(**values["settings"])}))

    def to_json(self) -> bytes:
        return json.dumps(asdict(self), default=str).encode() + b"\n"


@dataclass(frozen=True)
class BuildFacts:
    """What is told of a build that succeeded."""

    flags: tuple[str, ...]  # by name: their numbers differ between versions
    workspace_mb: int
    layers: int  # of the network as TensorRT reads it, before fusion
    inputs: Mapping[str, Any]  # name → shape (-1: the batch), and type
    outputs: Mapping[str, Any]
    profile: Mapping[str, Any]  # input → least, best and largest shape; empty where the batch is fixed
    placement: Mapping[str, Any] | None  # on a DLA: how many layers, and the names of those left to the GPU
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
