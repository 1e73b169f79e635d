"""The built-in networks are those of their papers, and what is written of them runs, converts and builds everywhere."""

from __future__ import annotations

import gc
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from math import prod
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import checker, shape_inference

from edge.core.config import ModelSettings
from edge.core.errors import ConfigError, EdgeError
from edge.core.manifest import read_manifest
from edge.inference.backends.tensorrt import builder as build_module
from edge.inference.backends.tensorrt.build_progress import Reporter
from edge.inference.backends.tensorrt.build_protocol import BuildRequest, BuildSettings
from edge.inference.fp16.convert import fp16_file
from edge.inference.fp16.ranges import check_ranges
from edge.perf.bench.networks import NAMES, Network, find, write
from edge.pipeline.served_model import ServedModel
from edge.precision.activation_ranges import Probe, calibrate
from edge.precision.qdq import insert_qdq, serialize
from edge.precision.quantizable_graph import activations, layers_of, prepare
from tests.support.real_tensorrt import building_tensorrt

# One process writes the networks: 1.6 GB.
pytestmark = pytest.mark.xdist_group("networks")


# Parameters as the reference implementations of each have them without training's extra heads, and the papers'
# multiply-accumulates in 10⁹ (ResNets with the stride in the 3×3 layer).
PUBLISHED = {
    "AlexNet": (60_965_224, 0.72),
    "GoogLeNet": (6_998_552, 1.58),
    "ResNet-50": (25_557_032, 4.09),
    "VGG-19": (143_667_240, 19.63),
    "ResNet-152": (60_192_808, 11.51),
    "Inception-v3": (23_834_568, 5.71),
    "Inception-v4": (42_679_816, 12.25),
    "MobileNet-v2": (3_504_872, 0.30),
}
SIDES_PX = {"AlexNet": 227, "Inception-v3": 299, "Inception-v4": 299}
SMALL = ("GoogLeNet", "MobileNet-v2")


# Seconds each; the others have the same layers.
LARGE = ("VGG-19", "ResNet-152", "Inception-v4")
LARGE_ONES_LONG = [pytest.param(name, marks=pytest.mark.long) if name in LARGE else name for name in NAMES]
Written = Callable[[str], Path]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Written]:
    """Give a function that writes a network once and returns its ONNX file; all together take 1.6 GB, so they go."""
    folder = tmp_path_factory.mktemp("networks")

    def made(name: str) -> Path:
        return onnx_file(write(find(name), folder))

    yield made
    shutil.rmtree(folder)


def onnx_file(folder: Path) -> Path:
    return folder / read_manifest(folder).onnx


def gaussian(network: Network, rows: int, seed: int = 1) -> NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal((rows, *network.input_shape), np.float32)


def opened(model: Path | bytes) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 2
    options.log_severity_level = 4
    source = model if isinstance(model, bytes) else str(model)
    return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])


def run(model: Path | bytes, rows: NDArray[np.float32]) -> NDArray[np.float32]:
    session = opened(model)
    found: NDArray[np.float32] = session.run(None, {session.get_inputs()[0].name: rows})[0]
    return found


# Which network --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "published"), PUBLISHED.items())
def test_parameters_and_multiplications_are_the_papers(name: str, published: tuple[int, float]) -> None:
    network = find(name)
    assert (network.parameters, round(network.multiplications / 1e9, 2)) == published
    assert (network.input_shape, network.unit) == ((3, *[SIDES_PX.get(name, 224)] * 2), "images")


def test_the_translator_takes_sequences() -> None:
    network = find("lstm")
    assert (network.name, network.unit, network.input_shape) == ("LSTM", "sequences", (1, 20, 500))
    layers = 4 * (2 * 2000 * 500 + 4000)
    assert network.parameters == layers + 500 * 500 + 1000 * 500 + 500 * 50_000 + 50_000


@given(st.sampled_from(NAMES), st.integers(0), st.sampled_from(["", " ", "_", "-"]))
def test_a_name_is_found_in_upper_and_lower_case_and_without_hyphens(name: str, cases: int, hyphen: str) -> None:
    letters = [letter.upper() if cases >> place & 1 else letter.lower() for place, letter in enumerate(name)]
    assert find("".join(letters).replace("-", hyphen)).name == name


@pytest.mark.parametrize("name", ["", "ResNet", "ResNet-51", "resnet-50.onnx", "日本"])
def test_an_unknown_name_is_refused_with_those_that_there_are(name: str) -> None:
    with pytest.raises(ConfigError) as raised:
        find(name)
    assert repr(name) in str(raised.value)
    assert all(each in str(raised.value) for each in NAMES)
    assert "\n" not in str(raised.value)


def test_a_mistyped_name_is_guessed() -> None:
    with pytest.raises(ConfigError, match=r"did you mean GoogLeNet\?"):
        find("googelnet")


# What is written ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", LARGE_ONES_LONG)
def test_the_file_is_valid_and_computes_what_was_counted(name: str, written: Written) -> None:
    file, network = written(name), find(name)
    checker.check_model(file, full_check=True)
    model = shape_inference.infer_shapes(onnx.load(file, load_external_data=False), strict_mode=True, data_prop=True)
    sizes = {value.name: sizes_of(value) for value in (*model.graph.value_info, *model.graph.output)}
    weights = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    assert sum(products(node, sizes, weights) for node in model.graph.node) == network.multiplications
    assert sizes[model.graph.output[0].name][0] == "N"
    assert sizes_of(model.graph.input[0]) == ("N", *network.input_shape)


def sizes_of(value: onnx.ValueInfoProto) -> tuple[Any, ...]:
    return tuple(each.dim_param or each.dim_value for each in value.type.tensor_type.shape.dim)


def products(node: onnx.NodeProto, sizes: dict[str, Any], weights: dict[str, tuple[int, ...]]) -> int:
    """Count the multiplications of a layer with weights by what ONNX itself infers of its output."""
    if node.op_type not in ("Conv", "Gemm", "MatMul", "LSTM") or node.input[1] not in weights:
        return 0
    weight = weights[node.input[1]]
    if node.op_type == "LSTM":
        steps = 20
        return steps * (prod(weight) + prod(weights[node.input[2]]))
    each = weight[0] if node.op_type == "MatMul" else prod(weight[1:])
    return int(prod(sizes[node.output[0]][1:])) * each


@pytest.mark.parametrize("name", LARGE_ONES_LONG)
def test_outputs_are_finite_and_differ_from_picture_to_picture(name: str, written: Written) -> None:
    network = find(name)
    session = opened(written(name))
    rows = gaussian(network, 2)
    feed = session.get_inputs()[0].name
    both, first = session.run(None, {feed: rows})[0], session.run(None, {feed: rows[:1]})[0]
    assert both.shape == (2, 50_000 if network.unit == "sequences" else 1000)
    assert np.isfinite(both).all()
    assert both.sum(axis=1) == pytest.approx([1, 1], abs=1e-3)
    assert both.max() < 0.99  # else softmax hides what comes before it
    assert both[0].std() > 0
    assert np.allclose(both[:1], first, rtol=1e-2, atol=1e-6)
    assert np.abs(np.log(both[0] / both[1])).max() > 0.01
    del session
    gc.collect()


@pytest.mark.parametrize("name", ["ResNet-50", *SMALL])
def test_activations_stay_far_within_fp16(name: str, written: Written) -> None:
    file, network = written(name), find(name)
    feed = onnx.load(file, load_external_data=False).graph.input[0].name
    assert check_ranges(file, [{feed: gaussian(network, 1)}]).keep == ()


def test_layers_before_fusion_are_those_that_were_published() -> None:
    """ONNX flattens in a node of its own; in Caffe, in which ResNet-152 is, two layers normalise."""
    from edge.perf.bench.networks.catalog import graph_of  # noqa: PLC0415 -- not for users of the package

    nodes = {name: Counter(node.op for node in graph_of(name).nodes) for name in PUBLISHED}
    assert nodes["VGG-19"].total() - nodes["VGG-19"]["Flatten"] == 43
    assert nodes["Inception-v3"].total() - nodes["Inception-v3"]["Flatten"] == 309
    deep = nodes["ResNet-152"]
    assert deep.total() - deep["Flatten"] + deep["BatchNormalization"] == 670


@pytest.mark.parametrize("name", ["GoogLeNet", "LSTM"])
def test_the_folder_is_a_model_that_is_served(name: str, written: Written, tmp_path: Path) -> None:
    settings = ModelSettings.model_validate({"path": str(written(name).parent), "backend": "onnxruntime"})
    model = ServedModel(name, settings)
    assert model.predictor.input.shape[1:] == find(name).input_shape
    model.close()


# How it is written ----------------------------------------------------------------------------------------------------


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(tmp_path: Path) -> None:
    network = find("MobileNet-v2")
    first, again, other = (write(network, tmp_path / str(n), seed) for n, seed in enumerate((5, 5, 6)))
    assert first.name == again.name != other.name
    assert contents(first) == contents(again)
    weights = [(each / "mobilenet-v2.weights").read_bytes() for each in (first, other)]
    assert weights[0] != weights[1]
    assert len(weights[0]) == len(weights[1])


def test_weights_are_gaussian_of_the_deviation_that_keeps_the_scale(written: Written) -> None:
    tensors = {
        each.name: onnx.numpy_helper.to_array(each) for each in onnx.load(written("GoogLeNet")).graph.initializer
    }
    largest = max(tensors.values(), key=lambda each: each.size)
    wanted = np.sqrt(1 / 1024) if largest.ndim == 2 else np.sqrt(2 / prod(largest.shape[1:]))
    scaled = largest.ravel() / wanted
    assert abs(scaled.mean()) < 0.01
    assert scaled.std() == pytest.approx(1, abs=0.01)
    assert np.mean(np.abs(scaled) < 1) == pytest.approx(0.6827, abs=0.005)


def test_what_is_there_is_not_written_again(tmp_path: Path) -> None:
    network = find("MobileNet-v2")
    place = write(network, tmp_path)
    before = {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in place.iterdir()}
    assert write(network, tmp_path) == place
    assert {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in place.iterdir()} == before


def test_what_was_cut_is_written_again(tmp_path: Path) -> None:
    network = find("MobileNet-v2")
    place = write(network, tmp_path)
    whole = contents(place)
    os.truncate(place / "mobilenet-v2.weights", 1000)
    assert write(network, tmp_path) == place
    assert contents(place) == whole


def test_several_writers_at_once_leave_one_whole_folder(tmp_path: Path) -> None:
    network = find("MobileNet-v2")
    with ThreadPoolExecutor(3) as pool:
        places = set(pool.map(lambda _: write(network, tmp_path), range(3)))
    assert places == set(tmp_path.iterdir())
    assert run(onnx_file(places.pop()), gaussian(network, 1)).shape == (1, 1000)


def test_no_room_is_told_with_what_is_wanted_and_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=100_000_000))
    with pytest.raises(EdgeError) as raised:
        write(find("VGG-19"), tmp_path)
    assert str(raised.value) == (
        f"network VGG-19 needs 575 MB in {tmp_path}, but only 100 MB are free there; "
        "free some, or choose another --state-dir"
    )
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(
        EdgeError, match=r"network GoogLeNet cannot be written to .*/file/networks/googlenet-.* \(Not a"
    ):
        write(find("GoogLeNet"), tmp_path / "file" / "networks")


# In less precision, and in TensorRT -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SMALL)
def test_fp16_is_close_to_fp32(name: str, written: Written, tmp_path: Path) -> None:
    file, rows = written(name), gaussian(find(name), 1)
    half = fp16_file(file, tmp_path)
    assert half.stat().st_size < 0.52 * (file.with_suffix(".weights").stat().st_size + file.stat().st_size)
    assert np.abs(run(half, rows) - (wanted := run(file, rows))).max() < 0.02 * wanted.max()


@pytest.mark.parametrize("name", SMALL)
def test_int8_is_close_to_fp32(name: str, written: Written) -> None:
    file, network = written(name), find(name)
    prepared = prepare(file)
    tensors, rows = activations(prepared), gaussian(network, 1)
    found = calibrate(Probe(prepared, tensors, 2), tensors, [{prepared.graph.input[0].name: rows}])
    ranges = {each: histogram.range("minmax") for each, histogram in found.items()}
    layers = [layer.name for layer in layers_of(prepared)]
    wanted = np.log(run(file, rows))
    for placement in ("tensorrt", "cpu"):
        data = serialize(insert_qdq(prepared, layers, ranges, {}, placement), "abc")
        assert np.corrcoef(np.log(run(data, rows))[0], wanted[0])[0, 1] > 0.99


@pytest.mark.parametrize("name", [pytest.param("ResNet-50", marks=pytest.mark.long), "LSTM"])
def test_nvidias_builder_takes_it(name: str, written: Written, tmp_path: Path) -> None:
    building_tensorrt()
    file = written(name)
    request = BuildRequest(
        onnx=file,
        fp32_onnx=file,
        settings=BuildSettings("fp32", "gpu", max_batch=4, builder_level=3, workspace_mb=256),
        plan=tmp_path / "made.plan",
        tactic_mb=None,
        timing_folder=tmp_path / "timing",
        machine="Orin-sm_87-8sm-board",
        log_level=30,
    )
    facts = build_module.build(request, Reporter(lambda _: None))
    (profile,) = facts.profile.values()
    assert [sizes[0] for sizes in profile.values()] == [1, 4, 4]
    assert request.plan.stat().st_size > 3.9 * find(name).parameters
    request.plan.unlink()
