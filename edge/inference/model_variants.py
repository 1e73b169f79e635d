"""Variants of a model by precision: files derived from the FP32 file, beside it or in the state directory."""

from __future__ import annotations

import mmap
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from edge.core.errors import ModelError
from edge.inference.derived_files import derived_paths, source_sha256
from edge.inference.fp16.convert import fp16_file

# INT8 files that a backend runs, best first: TensorRT fuses layers that are slow in ONNX Runtime.
_INT8_NAMES = {"ort-cpu": ("int8-cpu", "int8"), "trt": ("int8",)}

Precision = Literal["fp32", "fp16", "int8", "engine"]  # engine: as an engine file was built, which it does not tell


@dataclass(frozen=True)
class ModelFiles:
    """Hashes of a model in one precision, which an entry of precision.json must match."""

    precision: Precision
    onnx_sha256: str  # of the FP32 model
    file_sha256: str  # of the variant that is served
    reading_sha256: str  # of the settings in model.toml that affect its results


def variant_file(onnx: Path, precision: Precision, backend: str, state_dir: Path) -> Path:
    """Return the ONNX file that this backend runs or builds from; raise ModelError if there is none."""
    if precision == "fp32":
        return onnx
    return fp16_file(onnx, state_dir) if precision == "fp16" else _int8_file(onnx, backend, state_dir)


def plan_sha256(onnx: Path, precision: Precision, state_dir: Path) -> str:
    """Return the hash that identifies a plan: the variant's own, as a model can have several of one precision."""
    return source_sha256(variant_file(onnx, precision, "trt", state_dir))


def model_files(onnx: Path, file: Path, precision: Precision, reading_sha256: str) -> ModelFiles:
    """Return the hashes that an entry of precision.json must match."""
    onnx_sha256 = source_sha256(onnx)
    return ModelFiles(precision, onnx_sha256, onnx_sha256 if file == onnx else source_sha256(file), reading_sha256)


def _int8_file(onnx: Path, backend: str, state_dir: Path) -> Path:
    candidates = [
        path
        for name in _INT8_NAMES[backend]
        for path in reversed(derived_paths(onnx, state_dir, f"{name}.onnx"))  # one's own before the shipped one
        if path.is_file()
    ]
    command = "edge engines quantize MODEL --calibration PATH|SOURCE"
    if not candidates:
        names = " or ".join(f"{onnx.stem}.{name}.onnx" for name in _INT8_NAMES[backend])
        raise ModelError(f"model {onnx} has no INT8 variant (wanted {names} beside it); quantize first: {command}")
    sha256 = source_sha256(onnx)
    fitting = next((path for path in candidates if _is_made_from(path, sha256)), None)
    if fitting is None:
        raise ModelError(
            f"{candidates[0]} was made from another {onnx.name} than the current one; quantize again: {command}"
        )
    return fitting


def _is_made_from(path: Path, sha256: str) -> bool:
    """Return whether a file's metadata, which protobuf writes as plain bytes, names this source."""
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return data.rfind(sha256.encode()) >= 0
    except (OSError, ValueError):  # ValueError: an empty file
        return False
