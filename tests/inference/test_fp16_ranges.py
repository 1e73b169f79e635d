"""Ranges of a model's tensors on real inputs, and the nodes that stay in FP32 for them."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from edge.core.errors import ModelError
from edge.inference.backends.input_tensors import Feed
from edge.inference.fp16 import ranges
from edge.inference.fp16.cast import to_fp16
from edge.inference.fp16.convert import fp16_file
from edge.inference.fp16.ranges import FP16_MAX, MARGIN, beyond_fp16, check_ranges, measure_ranges
from tests.inference.test_fp16_convert import (
    BOOL,
    INT64,
    assert_agrees,
    branches,
    casts,
    float32,
    make_model,
    node,
    row,
    session,
    value,
)
from tests.support.project import ROOT

LIMIT = FP16_MAX / MARGIN


def copy(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy: a conversion changes what it is given."""
    other = onnx.ModelProto()
    other.CopyFrom(model)
    return other


def checked(model: onnx.ModelProto, *feeds: Feed) -> onnx.ModelProto:
    """Convert the model as a check on these inputs has it."""
    converted, _ = to_fp16(copy(model), beyond_fp16(model, measure_ranges(model, feeds)))
    onnx.checker.check_model(converted, full_check=True)
    return converted


def run(model: onnx.ModelProto, feed: Feed) -> list[NDArray[Any]]:
    """Run a converted model as its file says; ONNX Runtime keeps float32 between nodes that it has in float32 only."""
    with np.errstate(over="ignore", invalid="ignore"):
        return list(ReferenceEvaluator(model).run(None, dict(feed)))


def variance() -> onnx.ModelProto:
    """Make a model that squares and takes the root again, between two nodes that do nothing of the kind."""
    nodes = [
        node("Relu", ["x"], ["a"], "before"),
        node("Mul", ["a", "a"], ["b"], "square"),
        node("Add", ["b", "w"], ["c"], "shift"),
        node("Sqrt", ["c"], ["d"], "root"),
        node("Mul", ["d", "w"], ["y"], "after"),
    ]
    return make_model(nodes, [row("x")], [row("y")], {"w": float32(0.5)})


BRIGHT = {"x": float32(0, 20, 300, 1000)[None]}


def test_what_overflows_in_plain_fp16_is_right_after_the_check_with_the_needed_nodes_alone_in_fp32() -> None:
    model = variance()
    wanted = session(model).run(None, BRIGHT)[0]
    plain, _ = to_fp16(copy(model))
    assert np.isinf(run(plain, BRIGHT)[0]).any()
    keep = beyond_fp16(model, measure_ranges(model, [BRIGHT]))
    assert keep == ["root", "shift", "square"]
    converted, _ = to_fp16(copy(model), keep)
    onnx.checker.check_model(converted, full_check=True)
    assert {each for each, _ in casts(converted)} == {"x", "a", "d", "y_fp16"}
    np.testing.assert_allclose(run(converted, BRIGHT)[0], wanted, rtol=2e-3)


def test_what_stays_in_range_is_computed_in_fp16_throughout() -> None:
    keep = beyond_fp16(variance(), measure_ranges(variance(), [{"x": float32(0, 1, 2, 100)[None]}]))
    assert keep == []


def test_the_largest_of_all_inputs_counts_negative_numbers_as_well() -> None:
    model = make_model([node("Neg", ["x"], ["a"]), node("Relu", ["a"], ["y"])], [row("x")], [row("y")])
    feeds: list[Feed] = [{"x": float32(1, 2, 3, 4)[None]}, {"x": float32(0, 7, 0, 0)[None]}]
    assert measure_ranges(model, feeds).largest == {"x": 7.0, "a": 7.0, "y": 0.0}


@pytest.mark.parametrize(("number", "kept"), [(LIMIT, False), (LIMIT * 1.01, True), (np.nan, True), (-np.inf, True)])
def test_a_number_beyond_the_limit_or_none_at_all_keeps_its_reader(number: float, kept: bool) -> None:  # noqa: FBT001 -- a parameter of the test
    model = make_model([node("Sigmoid", ["x"], ["y"], "only")], [row("x")], [row("y")])
    assert bool(beyond_fp16(model, measure_ranges(model, [{"x": float32(0, number, 0, 0)[None]}]))) == kept


def test_a_constant_within_fp16_needs_no_margin() -> None:
    nodes = [
        node("Constant", [], ["k"], value_float=60_000.0),
        node("Min", ["x", "k"], ["y"]),
    ]
    model = make_model(nodes, [row("x")], [row("y")])
    assert beyond_fp16(model, measure_ranges(model, [BRIGHT])) == []


def test_nodes_without_names_are_told_by_their_outputs() -> None:
    nodes = [node("Mul", ["x", "x"], ["a"]), node("Sqrt", ["a"], ["y"])]
    model = make_model(nodes, [row("x")], [row("y")])
    assert beyond_fp16(model, measure_ranges(model, [BRIGHT])) == ["a", "y"]
    np.testing.assert_allclose(run(checked(model, BRIGHT), BRIGHT)[0], BRIGHT["x"], rtol=2e-3)


@pytest.mark.parametrize("condition", [True, False])
def test_branches_cannot_be_looked_into_and_stay_fp32_whole(condition: bool) -> None:  # noqa: FBT001 -- likewise
    inner = [node("Mul", ["a", "a"], ["u"]), node("Sqrt", ["u"], ["t"])]
    nodes = [node("Relu", ["x"], ["a"], "before"), branches(*inner), node("Neg", ["y"], ["z"], "after")]
    model = make_model(nodes, [value("c", BOOL, []), row("x")], [row("z")])
    feed = BRIGHT | {"c": np.array(condition)}
    assert beyond_fp16(model, measure_ranges(model, [feed])) == ["y"]
    converted = checked(model, feed)
    assert run(converted, feed)[0].tolist() == session(model).run(None, feed)[0].tolist()


def test_a_loop_that_leaves_the_range_of_fp16_stays_fp32() -> None:
    body = helper.make_graph(
        [node("Identity", ["on"], ["on1"]), node("Mul", ["v", "k"], ["v1"])],
        "body",
        [value("i", INT64, []), value("on", BOOL, []), row("v")],
        [value("on1", BOOL, []), row("v1")],
    )
    weights = {"n": np.array(3), "yes": np.array(True), "k": float32(100)}  # noqa: FBT003 -- NumPy's signature
    nodes = [node("Relu", ["x"], ["a"]), node("Loop", ["n", "yes", "a"], ["y"], body=body)]
    model = make_model(nodes, [row("x")], [row("y")], weights)
    found = run(checked(model, BRIGHT), BRIGHT)[0]
    assert found.tolist() == (BRIGHT["x"] * 1e6).tolist()


def test_functions_of_the_model_are_looked_into(tmp_path: Path) -> None:
    twice = [node("Mul", ["a", "a"], ["b"]), node("Sqrt", ["b"], ["c"])]
    function = helper.make_function("mine", "Magnitude", ["a"], ["c"], twice, [helper.make_opsetid("", 17)])
    graph = helper.make_graph([node("Magnitude", ["x"], ["y"], domain="mine")], "graph", [row("x")], [row("y")])
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("mine", 1)]
    model = helper.make_model(graph, opset_imports=imports, functions=[function], ir_version=8)
    onnx.save(model, tmp_path / "net.onnx")
    found = fp16_file(tmp_path / "net.onnx", tmp_path, ranges=check_ranges(tmp_path / "net.onnx", [BRIGHT]))
    np.testing.assert_allclose(run(onnx.load(found), BRIGHT)[0], BRIGHT["x"], rtol=2e-3)


def test_tensors_that_are_empty_or_of_changing_size_are_looked_at() -> None:
    nodes = [
        node("NonZero", ["x"], ["at"]),
        node("Transpose", ["at"], ["places"], perm=[1, 0]),
        node("GatherND", ["x", "places"], ["found"]),
        node("Mul", ["found", "w"], ["y"]),
    ]
    model = make_model(nodes, [row("x")], [value("y", TensorProto.FLOAT, ["n"])], {"w": float32(1000)})
    empty: Feed = {"x": np.zeros((1, 4), np.float32)}
    assert measure_ranges(model, [empty]).largest == {"x": 0.0}
    assert measure_ranges(model, [empty, BRIGHT]).largest["y"] == 1e6


def test_the_tensors_of_a_large_model_are_looked_at_in_several_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    feeds: list[Feed] = [BRIGHT, {"x": float32(2000, 0, 0, 0)[None]}]
    whole = measure_ranges(variance(), feeds)
    opened = count_sessions(monkeypatch)
    monkeypatch.setattr(ranges, "_CHUNK_BYTES", 2 * 16)  # two tensors of four numbers
    assert measure_ranges(variance(), feeds) == whole
    assert [len(names) for names in opened] == [2, 2, 1]


def test_a_few_inputs_wait_at_a_time_and_may_come_in_one_buffer(monkeypatch: pytest.MonkeyPatch) -> None:
    opened = count_sessions(monkeypatch)
    monkeypatch.setattr(ranges, "_BLOCK_INPUTS", 2)
    taken: list[int] = []

    def frames() -> Iterator[Feed]:
        buffer = np.zeros((1, 4), np.float32)
        for number in (50, 40, 30, 20, 10):
            taken.append(len(opened))
            buffer[:] = number
            yield {"x": buffer}

    assert measure_ranges(variance(), frames()).largest["b"] == 2500
    assert taken == [0, 0, 1, 1, 2]


def count_sessions(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Return the list that will hold, for each session opened from now on, the tensors that it gives."""
    opened: list[list[str]] = []
    real = ranges._open_session

    def open_session(model: onnx.ModelProto, names: list[str]) -> Any:
        opened.append(names)
        return real(model, names)

    monkeypatch.setattr(ranges, "_open_session", open_session)
    return opened


def test_the_hash_tells_inputs_apart_by_numbers_shape_type_and_order() -> None:
    model = make_model([node("Neg", ["x"], ["y"])], [value("x", 1, ["n", "m"])], [value("y", 1, ["n", "m"])])
    one, other = np.ones((1, 4), np.float32), np.zeros((1, 4), np.float32)
    sets = [[one, other], [other, one], [one], [one.reshape(2, 2), other]]
    hashes = [measure_ranges(model, [{"x": each} for each in arrays]).data_sha256 for arrays in sets]
    assert len(set(hashes)) == len(sets)
    assert measure_ranges(model, [{"x": one.copy()}]).data_sha256 == hashes[2]


def save(model: onnx.ModelProto, folder: Path) -> Path:
    onnx.save(model, folder / "net.onnx")
    return folder / "net.onnx"


@pytest.mark.parametrize(
    ("feeds", "told"),
    [
        ([], r"net\.onnx cannot be checked: there are no calibration inputs; wanted at least one"),
        ([{"z": BRIGHT["x"]}], r"failed on the calibration input z float32\[1, 4\].*names, types and shapes"),
        ([{"x": np.zeros((1, 5), np.float32)}], r"failed on the calibration input x float32\[1, 5\]"),
    ],
)
def test_inputs_that_do_not_fit_are_refused_in_one_sentence(feeds: list[Feed], told: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=told) as raised:
        check_ranges(save(variance(), tmp_path), feeds)
    assert "\n" not in str(raised.value)


def test_what_cannot_be_run_is_refused_in_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "text.onnx").write_bytes(b"this is text")
    with pytest.raises(ModelError, match=r"text\.onnx cannot be read .*wanted a complete ONNX file"):
        check_ranges(tmp_path / "text.onnx", [BRIGHT])
    graph = helper.make_graph([node("Mine", ["x"], ["y"], domain="mine")], "graph", [row("x")], [row("y")])
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("mine", 1)]
    model = helper.make_model(graph, opset_imports=imports, ir_version=8)
    with pytest.raises(ModelError, match=r"ONNX Runtime cannot load it.*Mine"):
        check_ranges(save(model, tmp_path), [BRIGHT])


def test_a_checked_file_is_right_where_a_plain_one_is_not(tmp_path: Path) -> None:
    source = save(variance(), tmp_path)
    assert np.isinf(run(onnx.load(fp16_file(source, tmp_path)), BRIGHT)[0]).any()
    found = check_ranges(source, [BRIGHT])
    made = fp16_file(source, tmp_path, ranges=found)
    np.testing.assert_allclose(run(onnx.load(made), BRIGHT)[0], session(variance()).run(None, BRIGHT)[0], rtol=2e-3)


def test_the_benchmark_rounds_as_an_fp16_file_says(tmp_path: Path) -> None:
    sys.path.insert(0, str(ROOT / "benchmarks"))
    from rounded import rounded  # noqa: PLC0415 -- found by the path above

    half = fp16_file(save(variance(), tmp_path), tmp_path)
    found = session(onnx.load(rounded(half, tmp_path / "rounded.onnx"))).run(None, BRIGHT)[0]
    assert found.tolist() == run(onnx.load(half), BRIGHT)[0].tolist()
    assert np.isinf(found).any()


FACTORS = st.sampled_from([-300.0, 0.25, 3.0, 40.0, 1000.0])


@st.composite
def growing_models(draw: st.DrawFn) -> onnx.ModelProto:
    """Draw a graph of rows of four whose numbers may grow far beyond FP16, and come back."""
    nodes: list[onnx.NodeProto] = []
    names = ["x"]
    for index in range(draw(st.integers(1, 8))):
        made, first, second = f"t{index}", draw(st.sampled_from(names)), draw(st.sampled_from(names))
        factor = numpy_helper.from_array(float32(draw(FACTORS)))
        scaled = [node("Constant", [], [f"{made}k"], value=factor), node("Mul", [first, f"{made}k"], [made])]
        ways = [scaled, *([node(name, [first], [made])] for name in ("Relu", "Neg", "Sigmoid", "Tanh"))]
        ways += [[node(name, [first, second], [made])] for name in ("Add", "Sub", "Max", "Mul")]
        nodes += draw(st.sampled_from(ways))
        names.append(made)
    return make_model(nodes, [row("x")], [row(name) for name in names[1:]])


@given(growing_models(), st.lists(st.integers(-64, 64).map(float), min_size=4, max_size=4))
def test_any_graph_is_finite_in_fp16_where_fp32_is_within_range(model: onnx.ModelProto, numbers: list[float]) -> None:
    feed: dict[str, NDArray[np.float32]] = {"x": float32(*numbers)[None]}
    converted = checked(model, feed)
    for wanted, found in zip(session(model).run(None, feed), run(converted, feed), strict=True):
        assert np.isfinite(found[np.isfinite(wanted)]).all()


@given(growing_models(), st.lists(st.integers(-64, 64).map(float), min_size=4, max_size=4))
def test_exactly_the_nodes_beyond_the_limit_stay_fp32(model: onnx.ModelProto, numbers: list[float]) -> None:
    feed: dict[str, NDArray[np.float32]] = {"x": float32(*numbers)[None]}
    reached = dict(zip([each.name for each in model.graph.output], session(model).run(None, feed), strict=True)) | feed
    beyond = {name for name, array in reached.items() if not np.abs(array).max() <= LIMIT}
    wanted = [each.output[0] for each in model.graph.node if beyond & {*each.input, *each.output}]
    assert beyond_fp16(model, measure_ranges(model, [feed])) == sorted(wanted)


def test_the_plain_conversion_is_as_it_was() -> None:
    assert_agrees(variance(), {"x": float32(0, 1, 2, 3)[None]})
