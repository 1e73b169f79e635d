"""The naive INT8 form of a model, for tests of what is done with such a form."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx
from numpy.typing import NDArray
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

from edge.inference.derived_files import source_sha256


class _Rows(CalibrationDataReader):  # type: ignore[misc]  # the base is Any
    def __init__(self, name: str, rows: list[NDArray[Any]]) -> None:
        self._feeds = iter([{name: row} for row in rows])

    def get_next(self) -> dict[str, NDArray[Any]] | None:
        return next(self._feeds, None)


def quantize(source: Path, rows: list[NDArray[Any]], suffix: str = "int8-cpu", **options: Any) -> Path:
    """Write NAME.SUFFIX.onnx beside the model, min-max calibrated on these rows (each with a batch axis)."""
    target = source.with_name(f"{source.stem}.{suffix}.onnx")
    name = onnx.load(source).graph.input[0].name
    quantize_static(
        source,
        target,
        _Rows(name, rows),
        quant_format=QuantFormat.QDQ,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        **{"per_channel": True, **options},
    )
    sign(target, source)
    return target


def sign(file: Path, source: Path) -> None:
    """Note in a file's metadata which model it was made from."""
    model = onnx.load(file)
    model.metadata_props.add(key="edge.int8_of", value=f"1:{source_sha256(source)}")
    onnx.save(model, file)
