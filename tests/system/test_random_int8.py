"""INT8 of the built-in networks, whose weights are drawn at random: made once, for its speed."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from edge.core.errors import GpuMemoryError
from edge.host.sensors.sensors import Sensors
from edge.inference.backends.ort import OrtEngine
from edge.inference.derived_files import source_sha256
from edge.inference.model_variants import variant_file
from edge.perf.bench import interleaved as together
from edge.perf.bench.networks import find, write
from edge.perf.bench.plan import BenchPlan
from edge.perf.bench.random_int8 import make_int8_variant
from edge.perf.bench.report import Report
from edge.perf.bench.session import SPEED_ONLY, bench, count_layers
from edge.perf.bench.subject import NETWORKS
from edge.perf.bench.system_engine import fill_gaussian
from edge.perf.bench.systems import open_alone

# One process writes and calibrates the network.
pytestmark = pytest.mark.xdist_group("random_int8")

Measured = Callable[..., Report]


@pytest.fixture
def measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Measured:
    monkeypatch.setenv("EDGE_ROOT", str(tmp_path))

    def run(**changes: object) -> Report:
        given = {"what": ("mobilenet-v2",), "precisions": ("fp32", "int8"), "frames": 5, "quick": True}
        return bench(BenchPlan(**{**given, "state_dir": tmp_path / "state", **changes}), None, Sensors())  # type: ignore[arg-type]

    return run


def forms(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.int8*.onnx"))


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a state directory for tests that do not ask who makes the form."""
    return tmp_path_factory.mktemp("state")


@pytest.fixture(scope="module")
def network(state: Path) -> Path:
    """Give MobileNet-v2's file, which is quickly written."""
    return write(find("MobileNet-v2"), state / NETWORKS) / "mobilenet-v2.onnx"


@pytest.mark.parametrize("engine_only", [True, False])
def test_any_batch_of_a_network_is_measured_in_int8(measured: Measured, tmp_path: Path, *, engine_only: bool) -> None:
    report = measured(batches=(1, 3), engine_only=engine_only)
    found = [(row.precision, row.batch) for row in report.rows]
    assert found == [("fp32", 1), ("int8", 1), ("fp32", 3), ("int8", 3)]
    assert all(row.images_per_s for row in report.rows)
    assert SPEED_ONLY in report.notes
    (form,) = forms(tmp_path)
    before_ns = form.stat().st_mtime_ns
    measured(precisions=("int8",), engine_only=engine_only)
    assert form.stat().st_mtime_ns == before_ns, "it is made once"


@pytest.mark.parametrize(("backend", "name"), [("ort-cpu", "int8-cpu"), ("trt", "int8")])
def test_form_is_that_of_its_backend_and_near_its_source(
    network: Path, tmp_path: Path, backend: str, name: str
) -> None:
    make_int8_variant(network, backend, tmp_path)
    form = variant_file(network, "int8", backend, tmp_path)
    assert form.name == f"mobilenet-v2.{name}.onnx"
    assert form.stat().st_size < 0.35 * network.with_suffix(".weights").stat().st_size
    model = onnx.load(form)
    assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_param, "the batch is left open"
    assert any(each.value == source_sha256(network) for each in model.metadata_props)
    logs = [np.log(run(file)) for file in (network, form)]
    assert np.corrcoef(logs[0], logs[1])[0, 1] > 0.98


def run(file: Path) -> NDArray[Any]:
    with ExitStack() as opened:
        context = opened.enter_context(OrtEngine(file, threads=1).make_context(2))
        fill_gaussian(context, 3)
        context.infer(2)
        output: NDArray[Any] = next(iter(context.outputs.values()))[1].copy()
    return output


def test_fusion_of_a_network_is_counted_in_int8(tmp_path: Path) -> None:
    (counted,) = count_layers(("mobilenet-v2",), ("int8",), tmp_path / "state")
    assert counted.precision == "int8"
    assert not any("quantize first" in reason for reason in counted.why.values())


def test_what_memory_has_no_room_for_is_measured_alone_and_told(
    measured: Measured, state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = iter([4_000_000_000, 1_000_000_000, 1_000_000_000, *[1_000_000_000] * 10])
    monkeypatch.setattr(together, "free_bytes", lambda: next(left))
    report = measured(engine_only=True, state_dir=state)
    assert [row.precision for row in report.rows] == ["fp32", "int8"]
    (note,) = [each for each in report.notes if "not interleaved" in each]
    assert "1000 MB of memory free, wanted 3000 MB" in note
    assert [row.memory_mb is None for row in report.rows] == [True, False]


def test_gpu_without_room_for_another_engine_has_them_one_after_the_other(
    measured: Measured, state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []

    def full(subject: object, setting: object, *rest: object) -> object:
        opened.append(str(setting))
        if len(opened) == 2:
            raise GpuMemoryError("the GPU has no room")
        return open_alone(subject, setting, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(together, "open_alone", full)
    report = measured(engine_only=True, state_dir=state)
    assert opened == ["fp32 batch 1", "int8 batch 1", "int8 batch 1"]
    assert [row.precision for row in report.rows] == ["fp32", "int8"]
    assert any("the GPU has no room" in note for note in report.notes)
