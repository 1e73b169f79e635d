"""The contract of an engine, held by ONNX Runtime over small real models."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper

from edge.backends.engine import Context, Engine, TensorSpec, open_engine
from edge.errors import EngineError, ModelError

FLOAT = TensorProto.FLOAT
Shape = list[int | str]


def save(folder: Path, nodes: list[Any], inputs: dict[str, Shape], outputs: dict[str, tuple[Any, Shape]]) -> Path:
    """Write a model of these nodes; its inputs are float32."""
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info(name, FLOAT, shape) for name, shape in inputs.items()],
        [helper.make_tensor_value_info(name, dtype, shape) for name, (dtype, shape) in outputs.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    onnx.save(model, folder / "small.onnx")
    return folder / "small.onnx"


def identity(folder: Path, batch: int | str = "N") -> Path:
    shape: Shape = [batch, 3, 2, 2]
    return save(folder, [helper.make_node("Identity", ["x"], ["y"])], {"x": shape}, {"y": (FLOAT, shape)})


def nonzero(folder: Path, shape: Shape) -> Path:
    """Write a model whose output has as many columns as the input has numbers other than 0."""
    outputs: dict[str, tuple[Any, Shape]] = {"places": (TensorProto.INT64, [len(shape), "found"])}
    return save(folder, [helper.make_node("NonZero", ["x"], ["places"])], {"x": shape}, outputs)


def rows_found(folder: Path) -> Path:
    """Write a model whose output has as many rows as the input has numbers other than 0."""
    nodes = [
        helper.make_node("NonZero", ["x"], ["places"]),
        helper.make_node("Transpose", ["places"], ["rows"], perm=[1, 0]),
    ]
    return save(folder, nodes, {"x": ["N", 4]}, {"rows": (TensorProto.INT64, ["found", 2])})


def reshaping(folder: Path) -> Path:
    """Write a model that loads and then fails on every batch but one of 2."""
    nodes = [
        helper.make_node("Constant", [], ["shape"], value_ints=[2, 6]),
        helper.make_node("Reshape", ["x"], ["y"]),
    ]
    nodes[1].input.append("shape")
    return save(folder, nodes, {"x": ["N", 6]}, {"y": (FLOAT, ["N", 6])})


def numbers(shape: tuple[int, ...], seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).random(shape, np.float32)


def refusal(path: Path) -> str:
    with pytest.raises(ModelError) as raised:
        open_engine(path, threads=1)
    assert len(str(raised.value).splitlines()) == 1
    assert str(path) in str(raised.value)
    return str(raised.value)


def test_an_engine_tells_its_tensors(tmp_path: Path) -> None:
    engine = open_engine(identity(tmp_path), threads=1)
    assert engine.inputs == (TensorSpec("x", (None, 3, 2, 2), np.dtype(np.float32)),)
    assert engine.outputs == (TensorSpec("y", (None, 3, 2, 2), np.dtype(np.float32)),)
    assert engine.inputs[0].shape_text == "?×3×2×2"
    assert engine.fixed_batch is None


def test_an_engine_of_fixed_batch_tells_it(tmp_path: Path) -> None:
    engine = open_engine(identity(tmp_path, batch=4), threads=1)
    assert (engine.fixed_batch, engine.inputs[0].shape) == (4, (4, 3, 2, 2))


def test_the_label_names_backend_precision_and_file(tmp_path: Path) -> None:
    path = identity(tmp_path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    backend, precision, shown = open_engine(path, threads=1).label.split("/")
    assert (backend, precision) == ("ort-cpu", "fp32")
    assert digest.startswith(shown)
    assert len(shown) >= 8


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("batch_size", [1, 2, 5])
def test_outputs_have_the_rows_that_were_run(tmp_path: Path, threads: int, batch_size: int) -> None:
    engine = open_engine(identity(tmp_path), threads=threads)
    with engine.make_context(5) as context:
        assert context.inputs["x"].shape == (5, 3, 2, 2)
        context.inputs["x"][:] = numbers((5, 3, 2, 2))
        times = context.infer(batch_size)
        assert np.array_equal(context.outputs["y"], numbers((5, 3, 2, 2))[:batch_size])
        assert times.compute_ms > 0
        assert (times.h2d_ms, times.d2h_ms, times.infer_ms) == (None, None, times.compute_ms)


def test_a_context_uses_the_same_memory_each_time(tmp_path: Path) -> None:
    with open_engine(identity(tmp_path), threads=1).make_context(2) as context:
        addresses = set()
        for seed in range(3):
            context.inputs["x"][:] = numbers((2, 3, 2, 2), seed)
            context.infer(2)
            assert np.array_equal(context.outputs["y"], numbers((2, 3, 2, 2), seed))
            addresses.add((context.inputs["x"].ctypes.data, context.outputs["y"].ctypes.data))
        assert len(addresses) == 1


def test_a_fixed_batch_runs_whole(tmp_path: Path) -> None:
    with open_engine(identity(tmp_path, batch=4), threads=1).make_context(4) as context:
        context.inputs["x"][:] = numbers((4, 3, 2, 2))
        context.infer(4)
        assert np.array_equal(context.outputs["y"], numbers((4, 3, 2, 2)))


def test_two_inputs_and_two_outputs_are_told_apart(tmp_path: Path) -> None:
    nodes = [helper.make_node("Add", ["a", "b"], ["sum"]), helper.make_node("Sub", ["a", "b"], ["difference"])]
    shape: Shape = ["N", 2]
    path = save(tmp_path, nodes, {"a": shape, "b": shape}, {"sum": (FLOAT, shape), "difference": (FLOAT, shape)})
    with open_engine(path, threads=1).make_context(2) as context:
        context.inputs["a"][:] = [[1, 2], [3, 4]]
        context.inputs["b"][:] = [[10, 20], [30, 40]]
        context.infer(2)
        assert context.outputs["sum"].tolist() == [[11, 22], [33, 44]]
        assert context.outputs["difference"].tolist() == [[-9, -18], [-27, -36]]


@pytest.mark.parametrize("model", [lambda folder: nonzero(folder, ["N", 4]), rows_found])
def test_the_shape_of_an_output_may_depend_on_the_data(tmp_path: Path, model: Callable[[Path], Path]) -> None:
    with open_engine(model(tmp_path), threads=1).make_context(3) as context:
        for places in ([(0, 1)], [(0, 0), (1, 2), (2, 3)], []):
            assert found_at(context, places) == sorted(places)


def found_at(context: Context, places: list[tuple[int, int]]) -> list[tuple[int, int]]:
    context.inputs["x"][:] = 0
    for row, column in places:
        context.inputs["x"][row, column] = 1
    context.infer(3)
    (output,) = context.outputs.values()
    rows = output if output.shape[1:] == (2,) and output.shape[0] == len(places) else output.T
    return sorted((int(row), int(column)) for row, column in rows)


def test_an_engine_that_fails_while_it_runs_says_so_and_runs_on(tmp_path: Path) -> None:
    with open_engine(reshaping(tmp_path), threads=1).make_context(3) as context:
        with pytest.raises(EngineError, match="failed on a batch of 3: ") as raised:
            context.infer(3)
        assert len(str(raised.value).splitlines()) == 1
        context.inputs["x"][:] = numbers((3, 6))
        context.infer(2)
        assert np.array_equal(context.outputs["y"], numbers((3, 6))[:2])


@pytest.mark.parametrize("threads", [1, 2])
def test_contexts_of_one_engine_run_side_by_side(tmp_path: Path, threads: int) -> None:
    engine = open_engine(identity(tmp_path), threads=threads)
    wrong: list[int] = []

    def serve(seed: int) -> None:
        with engine.make_context(2) as context:
            for _ in range(200):
                context.inputs["x"][:] = numbers((2, 3, 2, 2), seed)
                context.infer(2)
                if not np.array_equal(context.outputs["y"], numbers((2, 3, 2, 2), seed)):
                    wrong.append(seed)

    lanes = [threading.Thread(target=serve, args=(seed,)) for seed in range(4)]
    for lane in lanes:
        lane.start()
    for lane in lanes:
        lane.join()
    assert wrong == []


@pytest.mark.parametrize("content", [b"", b"a text file\n", bytes(1000)])
def test_a_file_that_is_no_model_is_a_sentence(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "m.onnx").write_bytes(content)
    told = refusal(tmp_path / "m.onnx")
    assert "cannot be loaded" in told
    assert "wanted a complete ONNX file: fetch or export it again" in told


def test_a_truncated_model_is_a_sentence(tmp_path: Path) -> None:
    path = identity(tmp_path)
    path.write_bytes(path.read_bytes()[:-20])
    assert "cannot be loaded" in refusal(path)


def test_a_model_that_is_not_there_is_a_sentence(tmp_path: Path) -> None:
    assert "cannot be loaded" in refusal(tmp_path / "none.onnx")


def test_a_model_without_an_input_is_a_sentence(tmp_path: Path) -> None:
    node = helper.make_node("Constant", [], ["y"], value_floats=[1.0, 2.0])
    assert "input" in refusal(save(tmp_path, [node], {}, {"y": (FLOAT, [2])}))


def test_an_input_without_a_batch_axis_is_a_sentence(tmp_path: Path) -> None:
    node = helper.make_node("Identity", ["x"], ["y"])
    assert "'x'" in refusal(save(tmp_path, [node], {"x": []}, {"y": (FLOAT, [])}))


def test_a_tensor_of_text_is_a_sentence(tmp_path: Path) -> None:
    node = helper.make_node("Constant", [], ["y"], value_strings=["a"])
    keep = helper.make_node("Identity", ["x"], ["z"])
    outputs: dict[str, tuple[Any, Shape]] = {"z": (FLOAT, ["N"]), "y": (TensorProto.STRING, [1])}
    told = refusal(save(tmp_path, [node, keep], {"x": ["N"]}, outputs))
    assert "tensor 'y' is of type tensor(string); wanted a tensor of numbers" in told


def test_an_engine_is_what_the_contract_says(tmp_path: Path) -> None:
    engine: Engine = open_engine(identity(tmp_path), threads=1)
    context: Context = engine.make_context(1)
    with context as entered:
        assert entered is context
