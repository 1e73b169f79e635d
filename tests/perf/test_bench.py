"""`edge bench` with the built-in model and small ones, on this CPU and on emulated boards."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edge.core.errors import ConfigError, EdgeError, ModelError
from edge.core.state_dir import state_lock
from edge.host.sensors.sensors import Sensors
from edge.inference.runtime_identity import onnxruntime_identity
from edge.perf.bench.networks import NAMES
from edge.perf.bench.plan import BenchPlan
from edge.perf.bench.report import Report
from edge.perf.bench.session import bench
from edge.power.mode_guard import Power
from tests.support.configuration import Tables, belt, write_toml
from tests.support.emulated_boards import boards
from tests.support.project import CONVEYOR, conveyor_copy
from tests.support.small_models import identity
from tests.support.tiny_model import tiny_model
from tests.support.tuned_board import KnownPower

Bench = Callable[..., Report]
SLOW = """
import time
import numpy as np

calls = 0

def decode(outputs, options):
    global calls
    calls += 1
    time.sleep(0.6 if calls == 60 else 0.004)
    return np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, int)
"""


@pytest.fixture
def plan(tmp_path: Path) -> BenchPlan:
    return BenchPlan((str(CONVEYOR),), seconds=0.3, quick=True, state_dir=tmp_path / "state")


@pytest.fixture
def measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    """Measure without any sensor or power mode, unless they are given."""

    def run(plan: BenchPlan, power: Power | None = None, root: Path | None = None) -> Report:
        monkeypatch.setenv("EDGE_ROOT", str(root or tmp_path))
        return bench(plan, power, Sensors())

    return run


def test_what_no_option_names_is_not_swept(plan: BenchPlan, measured: Bench) -> None:
    (row,) = measured(plan).rows
    assert (row.scenario, row.batch, row.precision, row.lanes) == ("single-stream", 1, "fp32", 1)
    assert row.network == "conveyor"
    assert row.power_mode is None


@pytest.mark.parametrize("engine_only", [True, False])
def test_rate_times_mean_latency_is_the_batch_in_single_stream(
    plan: BenchPlan, measured: Bench, *, engine_only: bool
) -> None:
    report = measured(replace(plan, batches=(1, 3), engine_only=engine_only))
    assert [row.batch for row in report.rows] == [1, 3]
    for row in report.rows:
        latencies_ms = [each for block in row.samples for each in block.latency_ms]
        rate = row.images_per_s or 0
        assert rate * statistics.fmean(latencies_ms) / 1e3 / row.batch == pytest.approx(1, rel=0.02)
        assert len(row.samples) >= 5


def test_every_scenario_runs_the_serving_path_in_full_batches(plan: BenchPlan, measured: Bench) -> None:
    report = measured(replace(plan, scenarios=("single-stream", "multi-stream", "offline"), batches=(2,), lanes=(2,)))
    assert [row.scenario for row in report.rows] == ["single-stream", "multi-stream", "offline"]
    assert all(row.lanes == 2 and row.images_per_s for row in report.rows)


def test_watts_are_null_and_the_reason_is_one_line(plan: BenchPlan, measured: Bench) -> None:
    report = measured(plan)
    assert all(row.power_w is None and row.images_per_s_per_w is None for row in report.rows)
    (note,) = report.notes
    assert "no power sensor was found" in note


def test_row_of_an_emulated_board_tells_its_power_and_machine(plan: BenchPlan, measured: Bench, tmp_path: Path) -> None:
    root = boards.build("tx2", tmp_path / "board")
    report = measured(replace(plan, seconds=1.0), root=root)
    (row,) = report.rows
    watts = boards.BOARDS["tx2"].watts()
    assert row.device == "Jetson TX2"
    assert row.power_w == pytest.approx(watts, rel=0.02)
    assert row.images_per_s_per_w == pytest.approx((row.images_per_s or 0) / watts, rel=0.02)
    assert row.energy_j_per_image == pytest.approx(watts / (row.images_per_s or 0), rel=0.02)
    assert row.temperature_start_c is not None
    assert report.machine["board"]["l4t"] == "32.7.6"
    assert report.machine["clocks"]["gpu_mhz"] == pytest.approx(1122)
    assert len(report.machine["sha256"]["conveyor"]) == 64


def test_power_modes_are_gone_through_and_put_back(plan: BenchPlan, measured: Bench) -> None:
    power = KnownPower()
    report = measured(replace(plan, power_modes=("max-p", "Low")), power)
    assert [row.power_mode for row in report.rows] == ["HIGH", "LOW"]
    assert power.switched == ["HIGH", "LOW", "MID"]
    report = measured(replace(plan, power_modes=("all",)), power)
    assert [row.power_mode for row in report.rows] == ["HIGH", "MID", "LOW"]
    assert any("OTHER needs a reboot" in note for note in report.notes)
    assert power.mode == "MID"


def test_power_mode_is_told_where_none_is_asked_for(plan: BenchPlan, measured: Bench) -> None:
    power = KnownPower()
    assert measured(plan, power).rows[0].power_mode == "MID"
    assert power.switched == []


def test_best_row_within_the_target_is_marked(plan: BenchPlan, measured: Bench) -> None:
    report = measured(replace(plan, batches=(1, 2), target_p99_ms=10_000.0, engine_only=True))
    rates = [row.images_per_s or 0 for row in report.rows if row.valid] or [
        row.images_per_s or 0 for row in report.rows
    ]
    (place,) = report.best()
    assert report.rows[place].images_per_s == max(rates)
    assert measured(replace(plan, target_p99_ms=0.001)).best() == []


def test_precision_that_cannot_be_had_is_left_out_with_the_reason(
    plan: BenchPlan, measured: Bench, tmp_path: Path
) -> None:
    folder = str(tiny_model(tmp_path / "tiny"))
    report = measured(replace(plan, what=(folder,), precisions=("fp32", "int8")))
    assert [row.precision for row in report.rows] == ["fp32"]
    assert any("int8 batch 1 is skipped" in note for note in report.notes)
    with pytest.raises(ModelError, match="nothing could be measured: tiny int8"):
        measured(replace(plan, what=(folder,), precisions=("int8",)))


@pytest.fixture
def later_release(monkeypatch: pytest.MonkeyPatch) -> str:
    """Have a release of ONNX Runtime with which no record was made."""
    later = replace(onnxruntime_identity(), library="onnxruntime 99.0")
    monkeypatch.setattr("edge.inference.engine_provider.onnxruntime_identity", lambda: later)
    return later.library


def libraries(folder: Path) -> list[str]:
    return [each["library"] for each in json.loads((folder / "precision.json").read_text("utf-8"))["entries"]]


def test_int8_of_the_built_in_model_is_verified_with_a_later_release(
    plan: BenchPlan, measured: Bench, tmp_path: Path, later_release: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = conveyor_copy(tmp_path)
    monkeypatch.setattr("edge.perf.bench.subject.built_in_model", lambda _: folder)
    plan = replace(plan, what=(str(folder),), precisions=("int8",))
    assert [row.precision for row in measured(plan).rows] == ["int8"]
    shipped, added = libraries(folder)
    assert (shipped != later_release, added) == (True, later_release)
    monkeypatch.delattr("edge.perf.bench.system_serving.verify_int8")
    assert [row.precision for row in measured(plan).rows] == ["int8"], "it is verified once"


def test_int8_of_a_configuration_is_verified_on_its_streams(
    plan: BenchPlan, measured: Bench, tmp_path: Path, later_release: str
) -> None:
    folder = conveyor_copy(tmp_path)
    tables: Tables = {"models.conveyor": {"path": str(folder)}, "streams.a": belt()}
    config = write_toml(tmp_path / "edge.toml", tables)
    (row,) = measured(replace(plan, what=(str(config),), precisions=("int8",))).rows
    assert row.precision == "int8"
    assert later_release in libraries(folder)


@pytest.mark.usefixtures("later_release")
def test_int8_without_frames_to_verify_it_on_is_left_out_with_the_way_to_it(
    plan: BenchPlan, measured: Bench, tmp_path: Path
) -> None:
    folder = conveyor_copy(tmp_path)
    report = measured(replace(plan, what=(str(folder),), precisions=("fp32", "int8")))
    assert [row.precision for row in report.rows] == ["fp32"]
    assert any("this machine has onnxruntime 99.0" in note for note in report.notes)
    assert any("verify it here: edge engines verify MODEL --precision int8" in note for note in report.notes)


@pytest.mark.usefixtures("later_release")
def test_int8_that_is_seen_to_disagree_is_left_out(plan: BenchPlan, measured: Bench, tmp_path: Path) -> None:
    folder = conveyor_copy(tmp_path)
    with (folder / "model.toml").open("a", encoding="utf-8") as manifest:
        manifest.write("\n[accuracy]\nmin_agreement = 1.0\n")
    tables: Tables = {"models.conveyor": {"path": str(folder)}, "streams.a": belt(fps=2)}
    config = write_toml(tmp_path / "edge.toml", tables)
    report = measured(replace(plan, what=(str(config),), precisions=("fp32", "int8")))
    assert [row.precision for row in report.rows] == ["fp32"]
    assert any("int8 agrees with fp32 by f1 0.9" in note for note in report.notes)


def test_configuration_brings_its_pictures_model_and_state(plan: BenchPlan, measured: Bench, tmp_path: Path) -> None:
    tables: Tables = {
        "device": {"state_dir": str(tmp_path / "of-config")},
        "models.conveyor": {"path": str(CONVEYOR), "lanes": 2},
        "streams.a": belt(size="160x120"),
    }
    config = write_toml(tmp_path / "edge.toml", tables)
    (row,) = measured(replace(plan, what=(str(config),), state_dir=None)).rows
    assert (row.network, row.lanes) == ("conveyor", 2)
    assert (tmp_path / "of-config" / "lock").exists()


def test_engine_that_stalls_is_seen_by_all_who_came_meanwhile(
    plan: BenchPlan, measured: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At 4 ms a picture nearly all rates below 250/s meet 300 ms, but for those that came while the decoder hung."""
    monkeypatch.setattr("edge.perf.bench.measure.MOST_PROBES", 3)
    folder = str(tiny_model(tmp_path / "tiny", SLOW))
    server = replace(plan, what=(folder,), scenarios=("server",), target_p99_ms=10_000.0, frames=100, lanes=(1,))
    (row,) = measured(server).rows
    assert row.latency_p99_ms is not None
    assert row.images_per_s
    offline = replace(plan, what=(folder,), scenarios=("single-stream",), frames=100)
    (alone,) = measured(offline).rows
    latencies_ms = [each for block in alone.samples for each in block.latency_ms]
    assert len([each for each in latencies_ms if each > 300]) == 1, "one query at a time: only one was in the stall"


def test_machine_in_use_by_a_daemon_is_not_measured(plan: BenchPlan, measured: Bench, tmp_path: Path) -> None:
    with state_lock(tmp_path / "state"), pytest.raises(EdgeError, match="another edge process holds"):
        measured(plan)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        (
            {"what": ("nobody",)},
            rf"'nobody' is not a network, .*wanted a network \({NAMES[0]}, .*conveyor",
        ),
        ({"scenarios": ("server",)}, "--scenario server: found no --target-p99-ms"),
        ({"power_modes": ("max-q",)}, "--power-mode: this machine has no power modes"),
        ({"what": ("a.toml", "conveyor")}, "wanted one configuration"),
        ({"what": ("nowhere.toml",)}, "nowhere.toml cannot be read"),
    ],
)
def test_wrong_input_is_one_sentence(plan: BenchPlan, measured: Bench, changes: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        measured(replace(plan, **changes))


def test_batch_beyond_the_engines_own_is_refused_before_anything_is_measured(
    plan: BenchPlan, measured: Bench, tmp_path: Path
) -> None:
    folder = tiny_model(tmp_path / "tiny")
    identity(folder, 2).rename(folder / "tiny.onnx")
    for engine_only in (True, False):
        with pytest.raises(ConfigError, match="--batch: found 4, but tiny was exported for batches of 2"):
            measured(replace(plan, what=(str(folder),), batches=(1, 4), engine_only=engine_only))
