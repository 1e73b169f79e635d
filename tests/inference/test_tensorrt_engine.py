"""TensorRT engines on the emulation: results, preparation, and the error for each fault."""

from __future__ import annotations

import gc
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import helper

from edge.core.errors import EngineError, GpuLostError, GpuMemoryError
from edge.core.manifest import InputSettings
from edge.inference.backends.cuda import find_gpu, open_device
from edge.inference.backends.cuda_runtime import CudaGraph, graphs_work
from edge.inference.backends.ort import OrtEngine
from edge.inference.preprocess import target_settings
from tests.support.emulated_boards import boards
from tests.support.emulated_engines import build_and_load, build_plan_here, emulated_gpu, load
from tests.support.project import CONVEYOR
from tests.support.small_models import identity, nonzero, numbers, save

SHAPE = (3, 2, 2)
KINDS = {"orin-nano": "mapped", "thor": "registered", "discrete": "pinned"}


@pytest.fixture
def emulation() -> Iterator[Any]:
    with emulated_gpu() as module:
        yield module


@pytest.fixture
def discrete() -> Iterator[Any]:
    with emulated_gpu(device="discrete") as module:
        yield module


def without_cuda_bindings(patch: pytest.MonkeyPatch) -> None:
    """Make `from cuda.bindings import runtime` fail, as where it is not installed."""
    patch.setitem(sys.modules, "cuda", None)
    patch.setitem(sys.modules, "cuda.bindings", None)


@pytest.mark.parametrize(("device", "kind"), KINDS.items())
def test_buffers_are_shared_as_suits_the_device(tmp_path: Path, device: str, kind: str) -> None:
    with emulated_gpu(device=device):
        engine = build_and_load(identity(tmp_path), tmp_path, 2)
        assert engine.memory == open_device().memory_kind() == kind
        with engine.make_context(2) as context:
            context.inputs["x"][:] = numbers((2, *SHAPE))
            times = context.infer(2)
            assert ((times.h2d_ms is None), (times.d2h_ms is None)) == (kind != "pinned", kind != "pinned")
        engine.close()


@pytest.mark.parametrize("device", KINDS)
@pytest.mark.parametrize("memory", KINDS.values())
def test_the_kind_of_memory_can_be_chosen(tmp_path: Path, device: str, memory: str) -> None:
    with emulated_gpu(device=device):
        engine = build_and_load(identity(tmp_path), tmp_path, 2, memory=memory)
        with engine.make_context(2) as context:
            for seed in range(3):
                context.inputs["x"][:] = numbers((2, *SHAPE), seed)
                context.infer(2)
                assert np.array_equal(context.outputs["y"], numbers((2, *SHAPE), seed))
        engine.close()


def test_registered_memory_takes_cuda_bindings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with emulated_gpu(device="thor"):
        without_cuda_bindings(monkeypatch)
        assert open_device().memory_kind() == "mapped"
        engine = build_and_load(identity(tmp_path), tmp_path, 2, memory="registered")
        with pytest.raises(EngineError, match=r"registered.*cuda-bindings"), engine.make_context(1):
            pass
        monkeypatch.undo()


@pytest.mark.parametrize("max_batch", [1, 3, 8, 9, 20])
def test_batches_of_every_size_give_their_rows(tmp_path: Path, discrete: Any, max_batch: int) -> None:
    engine = build_and_load(identity(tmp_path), tmp_path, max_batch)
    with engine.make_context(max_batch) as context:
        assert context.inputs["x"].shape == (max_batch, *SHAPE)
        for batch_size in [*range(1, max_batch + 1), 1]:
            rows = numbers((batch_size, *SHAPE), batch_size)
            context.inputs["x"][:batch_size] = rows
            context.infer(batch_size)
            assert context.outputs["y"].shape == (batch_size, *SHAPE)
            assert np.array_equal(context.outputs["y"], rows)
    engine.close()


@pytest.fixture
def launches(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Give a list that grows by one with each launch of a graph."""
    launched: list[int] = []
    launch = CudaGraph.launch

    def counted(graph: CudaGraph, handle: int) -> None:
        launched.append(handle)
        launch(graph, handle)

    monkeypatch.setattr(CudaGraph, "launch", counted)
    return launched


@pytest.mark.parametrize("bindings", [True, False])
def test_graphs_are_launched_where_they_can_be_made(
    tmp_path: Path, emulation: Any, launches: list[int], monkeypatch: pytest.MonkeyPatch, *, bindings: bool
) -> None:
    if not bindings:
        without_cuda_bindings(monkeypatch)
    assert graphs_work() is bindings
    engine = build_and_load(identity(tmp_path), tmp_path, 2)
    with engine.make_context(2) as context:
        for _ in range(5):
            context.infer(2)
        assert len(launches) == (5 if bindings else 0)
        assert 0 not in launches  # the stream that all others wait for
    engine.close()
    monkeypatch.undo()


def test_an_output_that_depends_on_the_data_is_run_without_a_graph(
    tmp_path: Path, emulation: Any, launches: list[int]
) -> None:
    engine = build_and_load(nonzero(tmp_path, ["N", 4]), tmp_path, 2)
    with engine.make_context(2) as context:
        for ones in (1, 8, 3, 0, 5):
            context.inputs["x"][:] = 0
            context.inputs["x"].ravel()[:ones] = 1
            context.infer(2)
            assert context.outputs["places"].shape == (2, ones)
        assert launches == []
    engine.close()


def test_the_built_in_model_computes_what_onnx_runtime_computes(tmp_path: Path, discrete: Any) -> None:
    onnx = CONVEYOR / "conveyor.onnx"
    reference, engine = OrtEngine(onnx, threads=1), build_and_load(onnx, tmp_path, 3)
    assert engine.inputs == reference.inputs
    assert [spec.name for spec in engine.outputs] == [spec.name for spec in reference.outputs]
    name = engine.inputs[0].name
    with reference.make_context(3) as wanted, engine.make_context(3) as got:
        for context in (wanted, got):
            context.inputs[name][:] = 255 * numbers(context.inputs[name].shape)
            context.infer(3)
        for output, array in wanted.outputs.items():
            np.testing.assert_allclose(got.outputs[output], array, rtol=1e-5, atol=1e-5)
    engine.close()


def test_two_engines_and_their_contexts_give_all_memory_back(tmp_path: Path, discrete: Any) -> None:
    plan = build_plan_here(identity(tmp_path), tmp_path, 4)
    held = discrete.machine.memory.used_bytes
    for _ in range(2):
        engine = load(plan)
        with engine.make_context(4), engine.make_context(4) as context:
            context.infer(4)
        engine.close()
    assert discrete.machine.memory.used_bytes == held


def test_a_failed_batch_is_an_error_and_the_next_one_runs(
    tmp_path: Path, emulation: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_cuda_bindings(monkeypatch)
    engine = build_and_load(identity(tmp_path), tmp_path, 2)
    with engine.make_context(2) as context:
        emulation.controls.fail_enqueue = emulation.machine.enqueues + 1
        with pytest.raises(EngineError, match="failed while running a batch of 2") as raised:
            context.infer(2)
        assert not isinstance(raised.value, GpuLostError | GpuMemoryError)
        context.inputs["x"][:] = numbers((2, *SHAPE))
        context.infer(2)
        assert np.array_equal(context.outputs["y"], numbers((2, *SHAPE)))
    engine.close()
    monkeypatch.undo()


@pytest.mark.parametrize("control", ["fail_enqueue", "sticky_from_enqueue", "lost_from_enqueue"])
def test_an_error_that_another_thread_drops_takes_no_stream_with_it(
    tmp_path: Path, emulation: Any, control: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_cuda_bindings(monkeypatch)
    engine = build_and_load(identity(tmp_path), tmp_path, 1)
    kept = list[EngineError]()
    with engine.make_context(1) as context:
        setattr(emulation.controls, control, emulation.machine.enqueues + 1)
        try:
            context.infer(1)
        except EngineError as error:
            kept.append(error)
    engine.close()
    dropping = threading.Thread(target=lambda: (kept.pop(), gc.collect()))
    dropping.start()
    dropping.join()
    assert emulation.misuses == []  # what a thread without the context frees is leaked, which the emulation notes
    monkeypatch.undo()


def test_a_graph_that_is_refused_gives_way_to_queueing_layer_by_layer(
    tmp_path: Path, emulation: Any, caplog: pytest.LogCaptureFixture
) -> None:
    engine = build_and_load(identity(tmp_path), tmp_path, 1)
    with engine.make_context(1) as context:
        emulation.controls.fail_enqueue = emulation.machine.enqueues + 1
        context.inputs["x"][:] = numbers((1, *SHAPE))
        context.infer(1)
        assert np.array_equal(context.outputs["y"], numbers((1, *SHAPE)))
        assert "its layers are queued one by one" in caplog.text
    engine.close()


@pytest.mark.parametrize("control", ["sticky_from_enqueue", "lost_from_enqueue"])
def test_an_error_that_stays_means_that_the_gpu_is_lost_for_this_process(
    tmp_path: Path, emulation: Any, control: str
) -> None:
    engine = build_and_load(identity(tmp_path), tmp_path, 1)
    with engine.make_context(1) as context:
        setattr(emulation.controls, control, emulation.machine.enqueues + 1)
        with pytest.raises(GpuLostError, match="only a new process can use it again") as raised:
            context.infer(1)
        assert raised.value.exit_code == 3
        assert len(str(raised.value).splitlines()) == 1
        with pytest.raises(GpuLostError):
            context.infer(1)


def test_a_gpu_that_is_gone_is_a_sentence_when_it_is_looked_for() -> None:
    with emulated_gpu(gpu_lost=True), pytest.raises(EngineError, match=r"no GPU can be used: .*no CUDA-capable device"):
        find_gpu()


def test_where_pycuda_is_missing_it_is_named_if_there_is_a_gpu_to_use_it_with(tmp_path: Path) -> None:
    open_device.cache_clear()
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "pycuda", None)
        patch.setenv("EDGE_ROOT", str(boards.build("orin-nano", tmp_path / "board")))
        with pytest.raises(EngineError, match=r"pycuda cannot be imported.*pip install '.\[jetson\]'"):
            find_gpu()
        patch.setenv("EDGE_ROOT", str(tmp_path / "laptop"))
        with pytest.raises(EngineError, match=r"neither an NVIDIA driver nor pycuda"):
            find_gpu()
    open_device.cache_clear()


def test_memory_that_is_short_is_told_as_such(tmp_path: Path, discrete: Any) -> None:
    engine = build_and_load(identity(tmp_path), tmp_path, 2)
    discrete.controls.context_fails = True
    with pytest.raises(GpuMemoryError, match="use a smaller max_batch or fewer lanes"), engine.make_context(2):
        pass
    discrete.controls.context_fails = False
    memory = discrete.machine.memory
    limit_bytes, memory.limit_bytes = memory.limit_bytes, memory.used_bytes + 64
    with pytest.raises(GpuMemoryError, match="out of memory"), engine.make_context(2):
        pass
    memory.limit_bytes = limit_bytes
    with engine.make_context(2) as context:
        context.infer(2)
    engine.close()


@pytest.mark.parametrize("spoil", [lambda plan: plan[:40], lambda plan: b"vtrt" + plan[4:], lambda _plan: b""])
def test_a_plan_that_tensorrt_refuses_is_an_error_with_its_reason(tmp_path: Path, emulation: Any, spoil: Any) -> None:
    plan = build_plan_here(identity(tmp_path), tmp_path, 2)
    with pytest.raises(EngineError, match="failed while loading a plan") as raised:
        load(spoil(plan))
    assert "no reason" not in str(raised.value)


def test_a_plan_of_another_version_is_refused(tmp_path: Path) -> None:
    with emulated_gpu(tensorrt_version="10.3.0.26"):
        plan = build_plan_here(identity(tmp_path), tmp_path, 2)
    with emulated_gpu(), pytest.raises(EngineError, match="not compatible with this version"):
        load(plan)


def test_several_inputs_are_taken(tmp_path: Path, discrete: Any) -> None:
    nodes = [helper.make_node("Sub", ["a", "b"], ["y"])]
    path = save(tmp_path, nodes, {"a": ["N", 2], "b": ["N", 2]}, {"y": (1, ["N", 2])})
    engine = build_and_load(path, tmp_path, 2)
    with engine.make_context(2) as context:
        context.inputs["a"][:] = 5
        context.inputs["b"][:] = 3
        context.infer(2)
        assert context.outputs["y"].tolist() == [[2, 2], [2, 2]]
    engine.close()


def test_without_a_kernel_for_the_gpu_rows_are_made_on_the_cpu(
    tmp_path: Path, emulation: Any, caplog: pytest.LogCaptureFixture
) -> None:
    engine = build_and_load(CONVEYOR / "conveyor.onnx", tmp_path, 1)
    with engine.make_context(1, target_settings(engine.inputs[0], InputSettings())) as context:
        assert context.pictures is None
        assert "images" in context.inputs
    assert "pictures are preprocessed on the CPU" in caplog.text
    engine.close()
