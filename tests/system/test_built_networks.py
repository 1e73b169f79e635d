"""Networks as people have them, built with NVIDIA's parser and builder in each precision."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

from edge.core.engine_file import MAGIC
from edge.inference.backends.tensorrt.build_protocol import BuildFacts
from edge.inference.backends.tensorrt.library import library_name
from edge.inference.backends.tensorrt.plan_store import read_header
from edge.inference.fp16.convert import fp16_file
from tests.support.build_requests import built, request_in, save_graph
from tests.support.project import CONVEYOR, real_data
from tests.support.real_tensorrt import building_tensorrt


@pytest.fixture(scope="session")
def trt() -> Any:
    return building_tensorrt()


class ResNet:
    """A network of the shape and size of ResNet-50, with seeded weights; with `int8`, each convolution is quantised."""

    def __init__(self, *, int8: bool) -> None:
        self._int8 = int8
        self._random = np.random.default_rng(0)
        self._constants: dict[str, Any] = {"scale": np.float32(0.05), "zero": np.int8(0)}
        self.nodes: list[onnx.NodeProto] = []

    def _node(self, operator: str, inputs: list[str], **attributes: Any) -> str:
        output = f"t{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, inputs, [output], f"{operator}{len(self.nodes)}", **attributes))
        return output

    def _constant(self, value: Any) -> str:
        name = f"c{len(self._constants)}"
        self._constants[name] = value
        return name

    def _quantised(self, x: str) -> str:
        return self._node("DequantizeLinear", [self._node("QuantizeLinear", [x, "scale", "zero"]), "scale", "zero"])

    def _weights(self, shape: tuple[int, ...]) -> str:
        if not self._int8:
            return self._constant(
                self._random.standard_normal(shape, np.float32) / np.float32(np.prod(shape[1:]) ** 0.5)
            )
        values = self._constant(self._random.integers(-127, 128, shape, np.int8))
        scales = self._constant(np.full(shape[0], 0.01, np.float32))
        zeros = self._constant(np.zeros(shape[0], np.int8))
        return self._node("DequantizeLinear", [values, scales, zeros], axis=0)

    def _conv(self, x: str, sizes: tuple[int, int, int], stride: int = 1) -> str:
        before, after, kernel = sizes
        x = self._quantised(x) if self._int8 else x
        weights = self._weights((after, before, kernel, kernel))
        return self._node("Conv", [x, weights], strides=[stride] * 2, pads=[kernel // 2] * 4)

    def _block(self, x: str, before: int, width: int, stride: int) -> str:
        skipped = x if before == 4 * width else self._conv(x, (before, 4 * width, 1), stride)
        x = self._node("Relu", [self._conv(x, (before, width, 1))])
        x = self._node("Relu", [self._conv(x, (width, width, 3), stride)])
        return self._node("Relu", [self._node("Add", [self._conv(x, (width, 4 * width, 1)), skipped])])

    def save(self, path: Path) -> Path:
        x = self._node("MaxPool", [self._conv("x", (3, 64, 7), 2)], kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4)
        before = 64
        for width, blocks in ((64, 3), (128, 4), (256, 6), (512, 3)):
            for block in range(blocks):
                x = self._block(x, before, width, 2 if block == 0 and width > 64 else 1)
                before = 4 * width
        x = self._node("Flatten", [self._node("GlobalAveragePool", [x])])
        head = self._random.standard_normal((before, 1000), np.float32)
        self.nodes.append(helper.make_node("MatMul", [x, self._constant(head)], ["y"], "head"))
        return save_graph(path, self.nodes, shape=["n", 3, 224, 224], result=["n", 1000], constants=self._constants)


def quantised(source: Path, folder: Path) -> Path:
    """Quantise a model with explicit Q/DQ nodes, in the one form that TensorRT takes and fuses."""
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static  # noqa: PLC0415
    from onnxruntime.quantization.shape_inference import quant_pre_process  # noqa: PLC0415 -- takes a second to import

    prepared, made = folder / "prepared.onnx", folder / "int8.onnx"
    quant_pre_process(source, prepared, skip_symbolic_shape=True)
    picture = onnx.load(prepared).graph.input[0]
    sizes = [each.dim_value or 1 for each in picture.type.tensor_type.shape.dim]

    class OnePicture(CalibrationDataReader):  # type: ignore[misc]  # the base has no annotations
        def __init__(self) -> None:
            values = np.random.default_rng(0).uniform(0, 255, sizes).astype(np.float32)
            self._pictures = iter([{picture.name: values}])

        def get_next(self) -> Any:
            return next(self._pictures, None)

    operators = ["Conv", "ConvTranspose", "Gemm", "MatMul"]
    quantize_static(
        prepared,
        made,
        OnePicture(),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        activation_type=QuantType.QInt8,
        weight_type=QuantType.QInt8,
        op_types_to_quantize=operators,
        extra_options={
            "ActivationSymmetric": True,
            "WeightSymmetric": True,
            "QuantizeBias": False,
            "OpTypesToExcludeOutputQuantization": operators,
        },
    )
    return made


@pytest.fixture(scope="session")
def network(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], Path]:
    """Give a function that makes a network in a precision, once."""

    @lru_cache
    def made(name: str, precision: str) -> Path:
        folder = tmp_path_factory.mktemp(f"{name}-{precision}")
        if name == "resnet" and precision != "fp16":
            return ResNet(int8=precision == "int8").save(folder / "resnet.onnx")
        if precision == "fp32":
            return CONVEYOR / "conveyor.onnx" if name == "conveyor" else real_data("models/yolox_nano.onnx")
        source = folder / f"{name}.onnx"
        source.symlink_to(made(name, "fp32"))
        return fp16_file(source, folder) if precision == "fp16" else quantised(source, folder)

    return made


@pytest.fixture(scope="session")
def planned(
    network: Callable[[str, str], Path], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str, str], tuple[BuildFacts, Path]]:
    """Give a function that builds the plan of a network in a precision, once."""

    @lru_cache
    def made(name: str, precision: str) -> tuple[BuildFacts, Path]:
        request = request_in(tmp_path_factory.mktemp("plan"), network(name, precision), precision=precision)
        return built(request), request.plan

    return made


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
@pytest.mark.parametrize(
    ("name", "picture", "is_open"),
    [
        pytest.param(name, picture, is_open, marks=pytest.mark.xdist_group(f"plans of {name}"))
        for name, picture, is_open in (
            ("conveyor", (3, 320, 320), True),
            ("yolox", (3, 416, 416), False),
            ("resnet", (3, 224, 224), True),
        )
    ],
)
def test_networks_of_each_precision_are_built(
    name: str,
    picture: tuple[int, ...],
    is_open: bool,  # noqa: FBT001 -- parametrised
    precision: str,
    planned: Callable[[str, str], tuple[BuildFacts, Path]],
    trt: Any,
) -> None:
    facts, plan = planned(name, precision)
    magic, version = read_header(plan.read_bytes())
    assert magic == MAGIC[library_name(trt)]
    assert version[:3] == tuple(int(part) for part in trt.__version__.split(".")[:3])
    least, largest = [1, *picture], [4, *picture]
    wanted = {"min": least, "opt": largest, "max": largest}
    assert [{key: list(sizes) for key, sizes in each.items()} for each in facts.profile.values()] == (
        [wanted] if is_open else []
    )
    assert [each["dtype"] for each in (*facts.inputs.values(), *facts.outputs.values())] == ["FLOAT", "FLOAT"]
    assert "STRONGLY_TYPED" in facts.flags
    plain, plain_plan = planned(name, "fp32")
    if precision == "fp16":
        assert plan.stat().st_size < 0.75 * plain_plan.stat().st_size
    if precision == "int8":
        assert facts.layers > 1.5 * plain.layers  # by the quantising ones
