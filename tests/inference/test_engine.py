"""Contract of an engine: one suite for ONNX Runtime, TensorRT emulated in host memory, and TensorRT on a GPU."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from onnx import helper

from edge.core.errors import EngineError
from edge.inference.backends.cuda import open_device
from edge.inference.backends.engine import Context, Engine, TensorSpec
from edge.inference.backends.ort import OrtEngine
from tests.support.emulated_engines import build_and_load, emulated_gpu
from tests.support.real_tensorrt import real_tensorrt
from tests.support.small_models import FLOAT, Shape, identity, nonzero, numbers, rows_found, save

Open = Callable[[Path], Engine]
MAX_BATCH = 5
EMULATED = ("orin-nano", "thor", "discrete")  # mapped, registered and copied buffers


@pytest.fixture(
    params=["ort", "ort, 2 threads", *EMULATED, pytest.param("gpu", marks=pytest.mark.gpu)],
)
def opened(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Open]:
    """Give a function that opens an ONNX file with one of the backends."""
    if request.param in EMULATED:
        with emulated_gpu(device=request.param):
            yield lambda path: build_and_load(path, tmp_path, MAX_BATCH)
    elif request.param == "gpu":
        try:
            open_device()
        except EngineError as error:
            pytest.skip(str(error))
        real_tensorrt()
        yield lambda path: build_and_load(path, tmp_path, MAX_BATCH)
    else:
        threads = 1 if request.param == "ort" else 2
        yield lambda path: OrtEngine(path, threads=threads)


def test_an_engine_tells_its_tensors(opened: Open, tmp_path: Path) -> None:
    engine = opened(identity(tmp_path))
    assert engine.inputs == (TensorSpec("x", (None, 3, 2, 2), np.dtype(np.float32)),)
    assert engine.outputs == (TensorSpec("y", (None, 3, 2, 2), np.dtype(np.float32)),)
    assert engine.inputs[0].shape_text == "?×3×2×2"
    assert engine.fixed_batch is None


def test_an_engine_of_fixed_batch_tells_it(opened: Open, tmp_path: Path) -> None:
    engine = opened(identity(tmp_path, batch=4))
    assert (engine.fixed_batch, engine.inputs[0].shape) == (4, (4, 3, 2, 2))


@pytest.mark.parametrize("batch_size", [1, 2, 5])
def test_outputs_have_the_rows_that_were_run(opened: Open, tmp_path: Path, batch_size: int) -> None:
    engine = opened(identity(tmp_path))
    with engine.make_context(5) as context:
        assert context.inputs["x"].shape == (5, 3, 2, 2)
        context.inputs["x"][:] = numbers((5, 3, 2, 2))
        times = context.infer(batch_size)
        assert np.array_equal(context.outputs["y"], numbers((5, 3, 2, 2))[:batch_size])
        parts_ms = [each for each in (times.h2d_ms, times.compute_ms, times.d2h_ms) if each is not None]
        assert times.infer_ms == sum(parts_ms) > 0
        assert all(each >= 0 for each in parts_ms)


def test_a_context_uses_the_same_memory_each_time(opened: Open, tmp_path: Path) -> None:
    with opened(identity(tmp_path)).make_context(2) as context:
        addresses = set()
        for seed in range(3):
            context.inputs["x"][:] = numbers((2, 3, 2, 2), seed)
            context.infer(2)
            assert np.array_equal(context.outputs["y"], numbers((2, 3, 2, 2), seed))
            addresses.add((context.inputs["x"].ctypes.data, context.outputs["y"].ctypes.data))
        assert len(addresses) == 1


def test_a_fixed_batch_runs_whole(opened: Open, tmp_path: Path) -> None:
    with opened(identity(tmp_path, batch=4)).make_context(4) as context:
        context.inputs["x"][:] = numbers((4, 3, 2, 2))
        context.infer(4)
        assert np.array_equal(context.outputs["y"], numbers((4, 3, 2, 2)))


def test_two_inputs_and_two_outputs_are_told_apart(opened: Open, tmp_path: Path) -> None:
    nodes = [helper.make_node("Add", ["a", "b"], ["sum"]), helper.make_node("Sub", ["a", "b"], ["difference"])]
    shape: Shape = ["N", 2]
    path = save(tmp_path, nodes, {"a": shape, "b": shape}, {"sum": (FLOAT, shape), "difference": (FLOAT, shape)})
    with opened(path).make_context(2) as context:
        context.inputs["a"][:] = [[1, 2], [3, 4]]
        context.inputs["b"][:] = [[10, 20], [30, 40]]
        context.infer(2)
        assert context.outputs["sum"].tolist() == [[11, 22], [33, 44]]
        assert context.outputs["difference"].tolist() == [[-9, -18], [-27, -36]]


@pytest.mark.parametrize("model", [lambda folder: nonzero(folder, ["N", 4]), rows_found])
def test_the_shape_of_an_output_may_depend_on_the_data(
    opened: Open, tmp_path: Path, model: Callable[[Path], Path]
) -> None:
    with opened(model(tmp_path)).make_context(3) as context:
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


def test_contexts_of_one_engine_run_side_by_side(opened: Open, tmp_path: Path) -> None:
    engine = opened(identity(tmp_path))
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


def test_an_engine_is_what_the_contract_says(opened: Open, tmp_path: Path) -> None:
    engine: Engine = opened(identity(tmp_path))
    context: Context = engine.make_context(1)
    with context as entered:
        assert entered is context
