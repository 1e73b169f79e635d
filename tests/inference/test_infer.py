"""Batched runs: batch limits, padding, warm-up, and one picture's outputs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from edge.core.records import EngineTimes
from edge.inference.backends.engine import Engine
from edge.inference.backends.ort import OrtEngine
from edge.inference.infer import Inference, batch_limit


def engine(folder: Path, batch: int | str, inputs: tuple[str, ...] = ("x",)) -> Engine:
    """Make a model that adds its inputs up and doubles the sum."""
    shape = [batch, 3]
    nodes: list[Any] = [
        helper.make_node("Sum", list(inputs), ["sum"]),
        helper.make_node("Add", ["sum", "sum"], ["twice"]),
    ]
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in inputs],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in ("sum", "twice")],
    )
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), folder / "small.onnx"
    )
    return OrtEngine(folder / "small.onnx", threads=1)


@pytest.mark.parametrize(("fixed", "max_batch", "limit"), [("N", 4, 4), (1, 4, 1), (8, 4, 4), (4, 4, 4)])
def test_a_fixed_batch_limits_what_is_formed(tmp_path: Path, fixed: int | str, max_batch: int, limit: int) -> None:
    assert batch_limit(engine(tmp_path, fixed), max_batch) == limit


@pytest.mark.parametrize("fixed", ["N", 4])
def test_a_short_batch_gives_its_own_rows_whatever_came_before(tmp_path: Path, fixed: int | str) -> None:
    model = engine(tmp_path, fixed)
    with model.make_context(4) as context:
        inference = Inference(context, model, 4)
        for batch_size in (4, 1, 3, 2):
            rows = context.inputs["x"]
            rows[:batch_size] = np.arange(batch_size * 3).reshape(batch_size, 3) + batch_size
            assert inference.run(batch_size).infer_ms > 0
            for row in range(batch_size):
                outputs = inference.outputs_of(row)
                assert outputs["sum"].tolist() == rows[row].tolist()
                assert outputs["twice"].tolist() == (2 * rows[row]).tolist()


def test_a_fixed_batch_larger_than_max_batch_runs(tmp_path: Path) -> None:
    model = engine(tmp_path, 8)
    with model.make_context(batch_limit(model, 2)) as context:
        inference = Inference(context, model, 2)
        inference.warm_up()
        context.inputs["x"][0] = 5
        inference.run(1)
        assert inference.outputs_of(0)["twice"].tolist() == [10, 10, 10]


@pytest.mark.parametrize(("fixed", "max_batch"), [("N", 1), ("N", 4), (4, 4)])
def test_warming_up_leaves_everything_ready(tmp_path: Path, fixed: int | str, max_batch: int) -> None:
    model = engine(tmp_path, fixed)
    with model.make_context(max_batch) as context:
        inference = Inference(context, model, max_batch)
        inference.warm_up()
        assert len(context.outputs["sum"]) >= 1


@pytest.mark.parametrize(
    ("fixed", "max_batch", "sizes"),
    [("N", 4, [1, 2, 3, 4]), ("N", 8, list(range(1, 9))), ("N", 64, [1, 64]), (4, 2, [4])],
)
def test_each_size_that_a_stream_will_meet_is_warm(
    tmp_path: Path, fixed: int | str, max_batch: int, sizes: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = engine(tmp_path, fixed)
    with model.make_context(batch_limit(model, max_batch)) as context:
        ran: list[int] = []
        infer = context.infer

        def recorded(batch_size: int) -> EngineTimes:
            ran.append(batch_size)
            return infer(batch_size)

        monkeypatch.setattr(context, "infer", recorded)
        Inference(context, model, max_batch).warm_up()
        assert ran == sizes
