"""Rows made by the real kernel in an engine of TensorRT."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge.core.manifest import InputSettings
from edge.inference.preprocess import DevicePreprocessor, Preprocessor, target_settings
from tests.inference.test_input_tensors import predictor, summing
from tests.support.emulated_engines import build_and_load, emulated_gpu
from tests.support.project import CONVEYOR

KINDS = {"orin-nano": "mapped", "thor": "registered", "discrete": "pinned"}


@pytest.fixture
def discrete() -> Iterator[Any]:
    with emulated_gpu(device="discrete") as module:
        yield module


@pytest.mark.parametrize("device", KINDS)
def test_rows_made_on_the_device_are_those_made_on_the_cpu(tmp_path: Path, letterbox_library: str, device: str) -> None:
    """Pictures of several sizes in one batch, larger and smaller than those before them."""
    onnx = CONVEYOR / "conveyor.onnx"
    settings = InputSettings(resize="letterbox", anchor="center", scale=1 / 255)
    random = np.random.default_rng(7)
    pictures = [
        random.integers(0, 256, size, np.uint8) for size in ((40, 60, 3), (480, 640, 3), (33, 21, 3), (320, 320, 3))
    ]
    with emulated_gpu(device=device, letterbox_library=letterbox_library):
        engine = build_and_load(onnx, tmp_path, 2)
        spec = engine.inputs[0]
        cpu = Preprocessor(spec, settings)
        with engine.make_context(2) as by_cpu, engine.make_context(2, target_settings(spec, settings)) as by_gpu:
            assert by_gpu.pictures is not None
            gpu = DevicePreprocessor(by_gpu.pictures, spec, settings)
            by_gpu.infer(2)  # as when warming up: no picture is there yet
            for start in (0, 2, 1):
                batch = pictures[start : start + 2]
                wanted = [cpu.fill(picture, by_cpu.inputs[spec.name][row]) for row, picture in enumerate(batch)]
                assert [gpu.fill(picture, row) for row, picture in enumerate(batch)] == wanted
                by_cpu.infer(2)
                times = by_gpu.infer(2)
                assert times.h2d_ms is not None
                for name, array in by_cpu.outputs.items():
                    np.testing.assert_allclose(by_gpu.outputs[name], array, rtol=0.02, atol=0.5)
        engine.close()


@pytest.mark.parametrize("device", ["orin-nano", "discrete"])
def test_further_inputs_are_filled_beside_pictures_that_the_device_preprocesses(
    tmp_path: Path, letterbox_library: str, device: str
) -> None:
    path = summing(tmp_path, ["N", 3, "h", "w"], {"sizes": ["N", 2], "other": ["N", 2]})
    values = {"sizes": "source-size", "other": [7, 9]}
    with emulated_gpu(device=device, letterbox_library=letterbox_library):
        model = predictor(
            path,
            lambda onnx, inputs: build_and_load(onnx, tmp_path, 2, inputs=inputs),
            size=[64, 48],
            resize="stretch",
            values=values,
        )
        with model.session(2) as session:
            for row, size in enumerate(((100, 50), (30, 80))):
                session.fill(np.full((size[1], size[0], 3), 10 + row, np.uint8), row)
            assert session.run(2).h2d_ms is not None  # the device made the rows
            found = [session.copy_outputs(row) for row in (0, 1)]
        assert [each["sizes_out"].tolist() for each in found] == [[100, 50], [30, 80]]
        assert [each["other_out"].tolist() for each in found] == [[7, 9]] * 2
        assert [float(each["mean"]) for each in found] == pytest.approx([10, 11], abs=0.01)
