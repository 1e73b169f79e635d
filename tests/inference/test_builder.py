"""Building plans with NVIDIA's parser and builder where they are installed; a stand-in plays what needs a board."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

from edge.core.errors import EngineError, GpuMemoryError
from edge.inference.backends.tensorrt import builder as build_module
from edge.inference.backends.tensorrt.build_progress import Reporter
from edge.inference.backends.tensorrt.build_protocol import (
    BuildCancelled,
    BuildRequest,
    UnsupportedModelError,
)
from edge.inference.backends.tensorrt.builder import build
from tests.support import stand_in_tensorrt
from tests.support.build_requests import ROW, built, request_in, save_graph
from tests.support.project import CONVEYOR
from tests.support.real_tensorrt import building_tensorrt

Lines = list[Mapping[str, Any]]


@pytest.fixture(scope="session")
def trt() -> Any:
    return building_tensorrt()


@pytest.fixture
def order(tmp_path: Path) -> Callable[..., BuildRequest]:
    """Give a function that makes a request."""
    return partial(request_in, tmp_path)


def relu(path: Path, shape: list[Any] | None = None) -> Path:
    return save_graph(path, [helper.make_node("Relu", ["x"], ["y"])], shape=shape)


# With the real library ------------------------------------------------------------------------------------------------


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
    path = save_graph(tmp_path / "odd.onnx", nodes, constants=constants, domain="com.example")
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
    path = save_graph(tmp_path / "m.onnx", reshape, constants={"sizes": np.array([7, 11])})
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
