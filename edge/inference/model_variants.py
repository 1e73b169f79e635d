"""The files of a model in each precision: made from the FP32 file, and standing beside it or in the state."""

from __future__ import annotations

import mmap
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from edge.core.errors import ModelError
from edge.inference.derived_files import derived_paths, source_sha256
from edge.inference.fp16.convert import fp16_file

# Which of the INT8 files a backend runs, the best first: TensorRT fuses what is slow in ONNX Runtime.
_INT8_NAMES = {"ort-cpu": ("int8-cpu", "int8"), "trt": ("int8",)}

Precision = Literal["fp32", "fp16", "int8"]


@dataclass(frozen=True)
class ModelFiles:
    """A model in one precision: the files that an entry must have been measured with."""

    precision: Precision
    onnx_sha256: str  # of the FP32 model
    file_sha256: str  # of what is to be served
    reading_sha256: str  # of how model.toml feeds and reads it


def variant_file(onnx: Path, precision: Precision, backend: str, state_dir: Path) -> Path:
    """Return the ONNX file that this backend runs, or builds from; raise ModelError where there is none to be used."""
    if precision == "fp32":
        return onnx
    return fp16_file(onnx, state_dir) if precision == "fp16" else _int8_file(onnx, backend, state_dir)


def plan_sha256(onnx: Path, precision: Precision, state_dir: Path) -> str:
    """Return the hash that a plan goes by: that of the very form, as of one model there can be several."""
    return source_sha256(variant_file(onnx, precision, "trt", state_dir))


def model_files(onnx: Path, file: Path, precision: Precision, reading_sha256: str) -> ModelFiles:
    """Return what an entry of precision.json must have been measured with."""
    onnx_sha256 = source_sha256(onnx)
    return ModelFiles(precision, onnx_sha256, onnx_sha256 if file == onnx else source_sha256(file), reading_sha256)


def _int8_file(onnx: Path, backend: str, state_dir: Path) -> Path:
    candidates = [
        path
        for name in _INT8_NAMES[backend]
        for path in derived_paths(onnx, state_dir, f"{name}.onnx")
        if path.is_file()
    ]
    again = "edge engines quantize MODEL --calibration PATH|SOURCE"
    if not candidates:
        names = " or ".join(f"{onnx.stem}.{name}.onnx" for name in _INT8_NAMES[backend])
        raise ModelError(f"model {onnx} has no INT8 form here (wanted {names} beside it); quantize first: {again}")
    sha256 = source_sha256(onnx)
    fitting = next((path for path in candidates if _names(path, sha256)), None)
    if fitting is None:
        raise ModelError(
            f"{candidates[0]} was made from another {onnx.name} than the one that is here; quantize again: {again}"
        )
    return fitting


def _names(path: Path, sha256: str) -> bool:
    """Tell whether a file names the one it was made from: protobuf writes its metadata as plain bytes."""
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return data.rfind(sha256.encode()) >= 0
    except (OSError, ValueError):  # ValueError: an empty file
        return False
