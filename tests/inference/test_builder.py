"""Building plans with NVIDIA's parser and builder where they are installed; a stand-in plays what needs a board."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edge.core.errors import EngineError, GpuMemoryError
from edge.inference.backends.tensorrt import builder as build_module
from edge.inference.backends.tensorrt.build_progress import Reporter
from edge.inference.backends.tensorrt.build_protocol import (
    BuildCancelled,
    BuildFacts,
    BuildRequest,
    BuildSettings,
    UnsupportedModelError,
)
from edge.inference.backends.tensorrt.builder import build
from edge.inference.backends.tensorrt.library import library_name
from edge.inference.backends.tensorrt.plan_store import MAGIC, read_header
from edge.inference.fp16.convert import fp16_file
from tests.support import stand_in_tensorrt
from tests.support.project import CONVEYOR, real_data
from tests.support.real_tensorrt import building_tensorrt

SETTINGS = BuildSettings("fp32", "gpu", max_batch=4, builder_level=3, workspace_mb=256)
ROW = (3, 16, 16)

Lines = list[Mapping[str, Any]]


@pytest.fixture(scope="session")
def trt() -> Any:
    return building_tensorrt()


def request_in(
    folder: Path, path: Path, *, fp32: Path | None = None, tactic_mb: int | None = None, **settings: Any
) -> BuildRequest:
    return BuildRequest(
        onnx=path,
        fp32_onnx=fp32 or path,
        settings=replace(SETTINGS, **settings),
        plan=folder / "made.plan",
        tactic_mb=tactic_mb,
        timing_folder=folder / "timing",
        machine="Orin-sm_87-8sm-board",
        log_level=30,
    )


@pytest.fixture
def order(tmp_path: Path) -> Callable[..., BuildRequest]:
    """Give a function that makes a request."""
    return partial(request_in, tmp_path)


def built(request: BuildRequest) -> BuildFacts:
    return build(request, Reporter(lambda _: None))


# Networks -------------------------------------------------------------------------------------------------------------


def save(
    path: Path,
    nodes: list[onnx.NodeProto],
    *,
    shape: list[Any] | None = None,
    result: list[Any] | None = None,
    constants: Mapping[str, Any] | None = None,
    domain: str = "",
) -> Path:
    """Write a model from `x` of this shape to `y`."""
    shape = ["n", *ROW] if shape is None else shape
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, result)
    inits = [numpy_helper.from_array(value, name) for name, value in (constants or {}).items()]
    graph = helper.make_graph(nodes, "graph", [x], [y], inits)
    opsets = [helper.make_opsetid("", 19), *([helper.make_opsetid(domain, 1)] if domain else [])]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=9), path)
    return path


def relu(path: Path, shape: list[Any] | None = None) -> Path:
    return save(path, [helper.make_node("Relu", ["x"], ["y"])], shape=shape)


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
        return save(path, self.nodes, shape=["n", 3, 224, 224], result=["n", 1000], constants=self._constants)


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


# With the real library ------------------------------------------------------------------------------------------------


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


def test_progress_rises_from_nothing_to_all(order: Callable[..., BuildRequest], trt: Any) -> None:
    lines: Lines = []
    build(order(CONVEYOR / "conveyor.onnx"), Reporter(lines.append))
    fractions = [line["fraction"] for line in lines]
    assert fractions[0] == 0
    assert fractions[-1] == 1
    assert fractions == sorted(fractions)
    assert len({line["phase"] for line in lines}) > 4


def test_a_build_is_cancelled_between_two_steps(order: Callable[..., BuildRequest], trt: Any, tmp_path: Path) -> None:
    reporter = Reporter(lambda _: None)
    lines: Lines = []

    def write(line: Mapping[str, Any]) -> None:
        lines.append(line)
        reporter.cancelled = line["fraction"] > 0.1

    reporter._write = write
    with pytest.raises(BuildCancelled, match="cancelled"):
        build(order(CONVEYOR / "conveyor.onnx"), reporter)
    assert lines[-1]["fraction"] < 0.9
    assert not list(tmp_path.glob("*.plan"))


NO_SUCH_OP = [helper.make_node("Relu", ["x"], ["a"]), helper.make_node("NoSuchOp", ["a"], ["y"], "odd")]
OWN_OP = [helper.make_node("Blur", ["x"], ["y"], "blur", domain="com.example")]
BAD_CONV = [helper.make_node("Conv", ["x", "w"], ["y"], "head")]


@pytest.mark.parametrize(
    ("nodes", "constants", "told"),
    [
        (NO_SUCH_OP, {}, ["does not know operator NoSuchOp (node 'odd')", "set backend to onnxruntime"]),
        (OWN_OP, {}, ["does not know operator Blur (node 'blur')", "set backend to onnxruntime"]),
        ([helper.make_node("Det", ["x"], ["y"])], {}, ["does not know operator Det (node number 0)"]),
        (
            BAD_CONV,
            {"w": np.zeros((8, 4, 3, 3), np.float32)},
            ["does not support operator Conv (node 'head': ", "broadcast"],
        ),
    ],
    ids=["no such op", "a domain of one's own", "no importer", "shapes that do not fit"],
)
def test_what_the_parser_refuses_is_told_with_operator_node_and_what_to_do(
    nodes: list[onnx.NodeProto],
    constants: dict[str, Any],
    told: list[str],
    order: Callable[..., BuildRequest],
    trt: Any,
    tmp_path: Path,
) -> None:
    path = save(tmp_path / "odd.onnx", nodes, constants=constants, domain="com.example")
    with pytest.raises(UnsupportedModelError) as caught:
        built(order(path))
    for part in (f"model odd.onnx: TensorRT {trt.__version__}", *told):
        assert part in str(caught.value)


@pytest.mark.parametrize(
    ("content", "told"),
    [(b"", "holds no network"), (b"\x00\xff" * 100, "holds no network"), (None, "cannot be read as an ONNX model")],
    ids=["empty", "noise", "cut short"],
)
def test_a_file_that_is_no_model_is_told_as_such(
    content: bytes | None, told: str, order: Callable[..., BuildRequest], trt: Any, tmp_path: Path
) -> None:
    path = relu(tmp_path / "m.onnx")
    path.write_bytes(path.read_bytes()[:40] if content is None else content)
    with pytest.raises(EngineError, match=told) as caught:
        built(order(path))
    assert not isinstance(caught.value, UnsupportedModelError)
    assert "export it again" in str(caught.value)


@pytest.mark.parametrize(
    ("shape", "told"),
    [(["n", 3, "h", "w"], "?×3×?×?"), ([1, 3, "h", 16], "1×3×?×16")],
    ids=["size of the picture", "behind a fixed batch"],
)
def test_sizes_other_than_the_batch_must_be_known(
    shape: list[Any], told: str, order: Callable[..., BuildRequest], trt: Any, tmp_path: Path
) -> None:
    with pytest.raises(EngineError) as caught:
        built(order(relu(tmp_path / "m.onnx", shape)))
    assert f"input 'x' has the shape {told}; wanted only the batch (the first axis) dynamic" in str(caught.value)


@pytest.mark.parametrize("max_batch", [1, 7])
def test_the_profile_reaches_from_one_to_the_largest_batch(
    max_batch: int, order: Callable[..., BuildRequest], trt: Any, tmp_path: Path
) -> None:
    facts = built(order(relu(tmp_path / "m.onnx"), max_batch=max_batch))
    largest = (max_batch, *ROW)
    assert facts.profile == {"x": {"min": (1, *ROW), "opt": largest, "max": largest}}


def test_a_network_that_parses_and_cannot_be_built_is_told_with_tensorrts_reason(
    order: Callable[..., BuildRequest], trt: Any, tmp_path: Path
) -> None:
    reshape = [helper.make_node("Reshape", ["x", "sizes"], ["y"], "squeeze")]
    path = save(tmp_path / "m.onnx", reshape, constants={"sizes": np.array([7, 11])})
    with pytest.raises(EngineError, match=r"built no plan .*squeeze.*set backend to onnxruntime"):
        built(order(path))


def test_a_dla_that_is_not_there_is_refused(order: Callable[..., BuildRequest], trt: Any, tmp_path: Path) -> None:
    with pytest.raises(EngineError, match=r"device 'dla0' cannot be used: .* found 0 DLA cores .* set device to gpu"):
        built(order(relu(tmp_path / "m.onnx"), device="dla0", precision="fp16"))


# With the stand-in ----------------------------------------------------------------------------------------------------


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Put the stand-in in place of the library; it has two DLA cores and types that it may choose, as TensorRT 10.3."""
    monkeypatch.setattr(build_module, "load_tensorrt", lambda: stand_in_tensorrt)
    monkeypatch.delenv("STAND_IN", raising=False)
    stand_in_tensorrt.configs.clear()
    yield stand_in_tensorrt
    stand_in_tensorrt.dla_cores = 2


CLASSES = ("Builder", "INetworkDefinition", "OnnxParser", "IBuilderConfig", "IOptimizationProfile", "ITimingCache")
OWN = {"limits", "timing_cache", "network", "file"}


def test_the_stand_in_has_no_member_that_the_library_lacks(trt: Any) -> None:
    config = stand_in_tensorrt.IBuilderConfig()
    assert {name for name in vars(config) if not hasattr(trt.IBuilderConfig, name)} <= OWN
    for name in (*CLASSES, "ITensor", "ILayer", "IProgressMonitor", "ILogger"):
        members = {each for each in vars(getattr(stand_in_tensorrt, name)) if not each.startswith("_")}
        assert members <= set(dir(getattr(trt, name))), name


def test_settings_reach_the_builder(stand_in: Any, order: Callable[..., BuildRequest], tmp_path: Path) -> None:
    facts = built(order(tmp_path / "m.onnx", builder_level=5, workspace_mb=128, tactic_mb=512))
    (config,) = stand_in.configs
    assert config.limits == {
        stand_in.MemoryPoolType.WORKSPACE: 128 * 10**6,
        stand_in.MemoryPoolType.TACTIC_DRAM: 512 * 10**6,
    }
    assert config.builder_optimization_level == 5
    assert config.profiling_verbosity == stand_in.ProfilingVerbosity.DETAILED
    assert config.max_aux_streams == 0
    assert config.default_device_type == stand_in.DeviceType.GPU
    assert (facts.flags, facts.placement) == (("STRONGLY_TYPED",), None)


def test_a_gpu_with_memory_of_its_own_has_no_limit_but_the_workspace(
    stand_in: Any, order: Callable[..., BuildRequest], tmp_path: Path
) -> None:
    built(order(tmp_path / "m.onnx"))
    assert list(stand_in.configs[0].limits) == [stand_in.MemoryPoolType.WORKSPACE]


def test_a_dla_gets_its_core_the_model_before_conversion_and_a_fixed_batch(
    stand_in: Any, order: Callable[..., BuildRequest], tmp_path: Path
) -> None:
    request = order(tmp_path / "m.fp16.onnx", fp32=tmp_path / "m.onnx", device="dla1", precision="fp16")
    facts = built(request)
    (config,) = stand_in.configs
    assert (config.default_device_type, config.DLA_core) == (stand_in.DeviceType.DLA, 1)
    assert facts.flags == ("FP16", "GPU_FALLBACK", "PREFER_PRECISION_CONSTRAINTS")
    assert facts.placement == {"dla": 2, "gpu": ["resize"]}
    assert config.network.file == "m.onnx"
    assert (facts.inputs["images"]["shape"], facts.profile) == ((4, 3, 8, 8), {})


def test_where_types_cannot_be_chosen_a_dla_takes_them_from_the_file(
    stand_in: Any, order: Callable[..., BuildRequest], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flags = {each.name: each.value for each in stand_in.BuilderFlag if each.name == "GPU_FALLBACK"}
    monkeypatch.setattr(stand_in, "BuilderFlag", stand_in.enum.IntEnum("BuilderFlag", flags))
    request = order(tmp_path / "m.fp16.onnx", fp32=tmp_path / "m.onnx", device="dla0", precision="fp16")
    assert built(request).flags == ("GPU_FALLBACK", "STRONGLY_TYPED")
    assert stand_in.configs[0].network.file == "m.fp16.onnx"


@pytest.mark.parametrize(
    ("cores", "device", "precision", "told"),
    [
        (0, "dla0", "fp16", "TensorRT 10.3.0 found 0 DLA cores on this machine; set device to gpu"),
        (1, "dla1", "fp16", "TensorRT 10.3.0 found 1 DLA cores on this machine; set device to gpu"),
        (2, "dla1", "fp32", "a DLA computes in fp16; set precision to fp16, or device to gpu"),
    ],
)
def test_a_dla_is_refused_in_a_sentence(
    cores: int,
    device: str,
    precision: str,
    told: str,
    stand_in: Any,
    order: Callable[..., BuildRequest],
    tmp_path: Path,
) -> None:
    stand_in.dla_cores = cores
    with pytest.raises(EngineError) as caught:
        built(order(tmp_path / "m.onnx", device=device, precision=precision))
    assert f"device '{device}' cannot be used" in str(caught.value)
    assert str(caught.value).endswith(told)


def test_where_typed_fp16_fails_the_builder_chooses_types_itself(
    stand_in: Any, order: Callable[..., BuildRequest], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STAND_IN", "refuse types")
    facts = built(order(tmp_path / "m.fp16.onnx", fp32=tmp_path / "m.onnx", precision="fp16"))
    assert facts.flags == ("FP16",)
    assert [config.network.file for config in stand_in.configs] == ["m.fp16.onnx", "m.onnx"]


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_where_every_way_fails_the_first_reason_is_told(
    precision: str,
    stand_in: Any,
    order: Callable[..., BuildRequest],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("STAND_IN", "refuse")
    request = order(tmp_path / "first.onnx", fp32=tmp_path / "second.onnx", precision=precision)
    with pytest.raises(EngineError, match=r"model first.onnx: .*no implementation for node conv"):
        built(request)
    assert len(stand_in.configs) == {"fp32": 1, "fp16": 2}[precision]


def test_running_out_of_memory_is_told_as_that_and_not_tried_another_way(
    stand_in: Any, order: Callable[..., BuildRequest], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STAND_IN", "starve")
    with pytest.raises(GpuMemoryError, match=r"workspace of 256 MB .*could not be allocated"):
        built(order(tmp_path / "m.onnx", precision="fp16"))
    assert len(stand_in.configs) == 1


def test_a_machine_without_a_driver_is_told(
    stand_in: Any, order: Callable[..., BuildRequest], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STAND_IN", "no driver")
    with pytest.raises(EngineError, match=r"cannot build here .*error: 35.* wanted a working NVIDIA driver"):
        built(order(tmp_path / "m.onnx"))


def timing_file(folder: Path) -> Path:
    return folder / "timing" / "10.3.0-Orin-sm_87-8sm-board.cache"


def test_what_was_measured_is_used_by_the_next_build(
    stand_in: Any, order: Callable[..., BuildRequest], tmp_path: Path
) -> None:
    for measured in (b"t", b"tt"):
        built(order(tmp_path / "m.onnx"))
        assert timing_file(tmp_path).read_bytes() == stand_in.MACHINE + b":" + measured
    assert list((tmp_path / "timing").iterdir()) == [timing_file(tmp_path)]


@pytest.mark.parametrize("content", [b"", b"damaged", b"another GPU:ttt"])
def test_a_timing_cache_that_does_not_fit_is_replaced(
    content: bytes, stand_in: Any, order: Callable[..., BuildRequest], tmp_path: Path
) -> None:
    timing_file(tmp_path).parent.mkdir()
    timing_file(tmp_path).write_bytes(content)
    built(order(tmp_path / "m.onnx"))
    assert timing_file(tmp_path).read_bytes() == stand_in.MACHINE + b":t"


def test_a_timing_cache_that_cannot_be_kept_does_not_matter(
    stand_in: Any, order: Callable[..., BuildRequest], tmp_path: Path
) -> None:
    (tmp_path / "timing").write_text("not a folder", encoding="utf-8")
    assert built(order(tmp_path / "m.onnx")).layers == 3


def test_a_cancelled_build_goes_no_step_further_and_keeps_what_it_measured(
    stand_in: Any, order: Callable[..., BuildRequest], tmp_path: Path
) -> None:
    reporter = Reporter(lambda _: None)
    reporter.cancelled = True
    with pytest.raises(BuildCancelled):
        build(order(tmp_path / "m.onnx"), reporter)
    assert timing_file(tmp_path).read_bytes() == stand_in.MACHINE + b":"


def test_measurements_of_a_build_that_failed_are_kept(
    stand_in: Any, order: Callable[..., BuildRequest], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STAND_IN", "refuse")
    with pytest.raises(EngineError):
        built(order(tmp_path / "m.onnx"))
    assert timing_file(tmp_path).exists()
