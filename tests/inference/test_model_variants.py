"""Files of a model in each precision, and the choice among them for a backend."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from edge.core.errors import ModelError
from edge.inference.derived_files import source_sha256
from edge.inference.model_variants import Precision, model_files, variant_file
from tests.support.quantized import sign
from tests.support.small_models import identity


def variant(source: Path, name: str, folder: Path | None = None) -> Path:
    """Write an INT8 variant; what it computes does not matter here."""
    path = (folder or source.parent) / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(source.read_bytes())
    sign(path, source)
    return path


def in_state(source: Path, suffix: str) -> str:
    return f"{source.stem}-{hashlib.sha256(os.fsencode(source.resolve())).hexdigest()[:12]}.{suffix}.onnx"


def test_fp32_is_the_model_and_fp16_is_made_of_it(tmp_path: Path) -> None:
    onnx = identity(tmp_path)
    assert variant_file(onnx, "fp32", "ort-cpu", tmp_path) == onnx
    assert variant_file(onnx, "fp16", "ort-cpu", tmp_path) == onnx.with_name("small.fp16.onnx")


def test_each_backend_has_its_own_int8(tmp_path: Path) -> None:
    onnx = identity(tmp_path)
    for_tensorrt = variant(onnx, "small.int8.onnx")
    assert variant_file(onnx, "int8", "ort-cpu", tmp_path) == for_tensorrt
    for_cpu = variant(onnx, "small.int8-cpu.onnx")
    assert variant_file(onnx, "int8", "ort-cpu", tmp_path) == for_cpu
    assert variant_file(onnx, "int8", "trt", tmp_path) == for_tensorrt


def test_int8_of_a_read_only_folder_lies_in_the_state(tmp_path: Path) -> None:
    onnx = identity(tmp_path)
    path = variant(onnx, in_state(onnx, "int8-cpu"), tmp_path / "state" / "models")
    assert variant_file(onnx, "int8", "ort-cpu", tmp_path / "state") == path


@pytest.mark.parametrize("backend", ["ort-cpu", "trt"])
def test_without_int8_it_is_told_how_to_make_it(tmp_path: Path, backend: str) -> None:
    onnx = identity(tmp_path)
    with pytest.raises(ModelError, match="quantize first: edge engines quantize MODEL"):
        variant_file(onnx, "int8", backend, tmp_path)


def test_int8_of_another_file_is_not_taken(tmp_path: Path) -> None:
    onnx = identity(tmp_path)
    variant(onnx, "small.int8-cpu.onnx")
    onnx = identity(tmp_path, batch=1)
    with pytest.raises(ModelError, match=r"made from another small\.onnx .*quantize again"):
        variant_file(onnx, "int8", "ort-cpu", tmp_path)
    (tmp_path / "small.int8-cpu.onnx").write_bytes(b"")
    with pytest.raises(ModelError, match="quantize again"):
        variant_file(onnx, "int8", "ort-cpu", tmp_path)
    fitting = variant(onnx, "small.int8.onnx")
    assert variant_file(onnx, "int8", "ort-cpu", tmp_path) == fitting


def test_a_form_is_told_by_the_hashes_of_both_files(tmp_path: Path) -> None:
    onnx = identity(tmp_path)
    other = variant(onnx, "small.int8.onnx")
    precision: Precision = "int8"
    files = model_files(onnx, other, precision, "r")
    assert (files.precision, files.reading_sha256) == ("int8", "r")
    assert (files.onnx_sha256, files.file_sha256) == (source_sha256(onnx), source_sha256(other))
    assert files.onnx_sha256 != files.file_sha256
