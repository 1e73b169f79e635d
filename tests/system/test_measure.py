"""Power of a measurement, from waveforms that another process plays."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from edge.host.sensors.sensors import Sensors
from edge.perf.bench.load_generator import Length
from edge.perf.bench.measure import Effort, Measurement
from tests.support.benched import Known, setting
from tests.support.emulated_boards import boards, tree
from tests.support.waiting import PATIENCE_S
from tests.support.waveforms import MEANS_W, WAVEFORMS


@pytest.fixture
def board(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    root = boards.build("tx2", tmp_path / "board")
    monkeypatch.setenv("EDGE_ROOT", str(root))
    return root


@pytest.mark.parametrize("waveform", ["square", "ramp"])
def test_scripted_power_gives_the_joules_that_were_written(board: Path, tmp_path: Path, waveform: str) -> None:
    """Against the integral of what was really written, and the waveform's own mean over whole periods."""
    rail = {
        "path": str(tree.value_files(board, "VDD_IN")[0]), "waveform": waveform, "per_watt": 1e3, "how": "replaced",
        "outage": None,
    }  # fmt: skip
    (tmp_path / "spec").write_text(json.dumps({"seconds": 9.0, "rails": {"VDD_IN": rail}}), encoding="utf-8")
    script = str(Path(WAVEFORMS[waveform].__code__.co_filename))
    command = [sys.executable, script, str(tmp_path / "spec"), str(tmp_path / "log")]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as writer:
        assert writer.stdout is not None
        writer.stdout.readline()
        sensors = Sensors()
        sensors.start()
        seconds = 6.58 if waveform == "ramp" else 6.85  # whole periods
        effort = Effort(Length(seconds), 0.5, is_thorough=False, target_p99_ms=None, seed=1)
        with Known(0.005) as system:
            measurement = Measurement(system, sensors, setting(), effort)
            row = measurement.measure()
        (run,) = measurement.stretches
        sensors.stop()
        assert writer.wait(PATIENCE_S) == 0
    log = json.loads((tmp_path / "log").read_text(encoding="utf-8"))["VDD_IN"]
    end_ns = run.queries[-1].end_ns
    joules = sum(
        watts * max(0, min(then, end_ns) - max(at, run.start_ns)) / 1e9
        for (at, watts), (then, _) in zip(log, [*log[1:], (end_ns, None)], strict=True)
    )
    images = sum(query.images for query in run.queries)
    assert row.images_per_s is not None
    assert row.energy_j_per_image == pytest.approx(joules / images, rel=0.02)
    assert row.images_per_s_per_w == pytest.approx(
        row.images_per_s / (joules / (end_ns - run.start_ns) * 1e9), rel=0.02
    )
    assert row.power_w == pytest.approx(MEANS_W[waveform], rel=0.03)
