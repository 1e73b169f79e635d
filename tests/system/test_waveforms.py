"""Energy of power that changes as known, written live to emulated sensors: at most 1 % off, outages left out and told.

One run serves all waveforms: half a minute, the whole one in the long form. What is compared against is the integral
of what was really written, at the times it was, as a loaded machine writes late; that this is the waveform is held
against its analytic mean.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from edge.host.sensors.sensors import SensorReading, Sensors
from tests.support.emulated_boards import boards, tree
from tests.support.long_form import IS_LONG
from tests.support.project import ROOT
from tests.support.waveforms import MEANS_W

MEASURED_S = 60.0 if IS_LONG else 27.0
SECONDS = MEASURED_S + 2.0
READ_S = 3.17  # no multiple of the sampling
OUTAGE = (20.3, 23.3) if IS_LONG else (9.3, 12.3)
PATIENCE_S = 30.0
NAP_S = 0.02
HELD_UP_S = 0.1
ATTEMPTS = 3

# One run for all tests of this file, in one process.
pytestmark = pytest.mark.xdist_group("waveforms")

# Rail, waveform, how its file is written, how its sensor fails.
RAILS = [
    ("VDD_GPU_SOC", "constant", "replaced", None),
    ("VDD_CPU_CV", "square", "rewritten", None),
    ("VIN_SYS_5V0", "ramp", "replaced", None),
    ("VDDQ_VDD2_1V8AO", "noisy", "rewritten", None),
    ("VDD_IN", "constant", "rewritten", "empties"),
    ("VDD_SYS_GPU", "square", "replaced", "vanishes"),
    ("VDD_SYS_CPU", "ramp", "rewritten", "halves"),
    ("VDD_SYS_SOC", "noisy", "replaced", "garbles"),
    ("VDD_SYS_DDR", "square", "replaced", None),
]
MV = 5000


@dataclass(frozen=True)
class Run:
    """What was read, and what had been written."""

    readings: list[SensorReading]
    log: dict[str, list[tuple[int, float | None]]]

    def written_j(self, rail: str, start_ns: int, end_ns: int) -> tuple[float, float]:
        """Return joules and seconds of what was shown in a period, outages left out."""
        joules = seconds = 0.0
        for (at_ns, watts), (next_ns, _) in pairwise([*self.log[rail], (end_ns, None)]):
            part_s = (min(next_ns, end_ns) - max(at_ns, start_ns)) / 1e9
            if watts is not None and part_s > 0:
                joules += watts * part_s
                seconds += part_s
        return joules, seconds


def rail_spec(folder: Path, rail: str, waveform: str, how: str, failing: str | None) -> dict[str, Any]:
    *voltage, path = tree.value_files(folder, rail)  # the last is the current, or the power
    if voltage:
        tree.write(voltage[0], MV)
    per_watt = 1e6 / MV if voltage else 1e3
    return {
        "path": str(path),
        "waveform": waveform,
        "per_watt": per_watt,
        "how": how,
        "outage": [*OUTAGE, failing] if failing else None,
    }


@contextlib.contextmanager
def before_others() -> Iterator[None]:
    """Have the processor first, where that is allowed: sampler and writer that wait for it are both late."""
    before = os.getpriority(os.PRIO_PROCESS, 0)
    with contextlib.suppress(PermissionError):
        os.setpriority(os.PRIO_PROCESS, 0, -10)
    try:
        yield
    finally:
        with contextlib.suppress(PermissionError):
            os.setpriority(os.PRIO_PROCESS, 0, before)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Measure once; again where something else had the processor meanwhile, which is no fault of the sampling."""
    made, held_up_s = attempt(tmp_path_factory)
    for _ in range(ATTEMPTS - 1):
        if held_up_s < HELD_UP_S:
            break
        made, held_up_s = min((made, held_up_s), attempt(tmp_path_factory), key=lambda each: each[1])
    return made


def attempt(tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, float]:
    """Measure, with two boards' monitors on one; return also how long writer or reader were held up at most."""
    root = boards.build("tx2", tmp_path_factory.mktemp("board"))
    for number, monitor in enumerate(boards.BOARDS["agx-orin"].monitors, 20):
        tree.write_monitor(root, monitor, number)
    files = tmp_path_factory.mktemp("files")
    spec = {"seconds": SECONDS, "rails": {row[0]: rail_spec(root, *row) for row in RAILS}}
    (files / "spec").write_text(json.dumps(spec), encoding="utf-8")
    command = [
        *(sys.executable, "-m", "tests.support.waveforms"),
        *(str(files / "spec"), str(files / "log")),
    ]
    with (
        before_others(),
        pytest.MonkeyPatch.context() as patch,
        subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) as writer,
    ):
        patch.setenv("EDGE_ROOT", str(root))
        assert writer.stdout is not None
        writer.stdout.readline()
        readings, held_up_s = measure()
        assert writer.wait(PATIENCE_S) == 0
    log = json.loads((files / "log").read_text(encoding="utf-8"))
    writes_ns = [at_ns for at_ns, _ in log[RAILS[0][0]]]
    held_up_s = max(held_up_s, *((after - before) / 1e9 for before, after in pairwise(writes_ns)))
    return Run(readings, {rail: [(at, watts) for at, watts in each] for rail, each in log.items()}), held_up_s


def measure() -> tuple[list[SensorReading], float]:
    sensors = Sensors()
    start_ns = time.monotonic_ns()
    sensors.start()
    readings, held_up_s = [], 0.0
    sensors.read()  # what came before the first reading
    try:
        while time.monotonic_ns() - start_ns < (MEASURED_S - READ_S) * 1e9:
            held_up_s = max(held_up_s, sleep(READ_S))
            readings.append(sensors.read())
    finally:
        sensors.stop()
    return readings, held_up_s


def sleep(seconds: float) -> float:
    """Sleep in short naps; return by how much the latest of them was late."""
    end_s, held_up_s = time.monotonic() + seconds, 0.0
    while (left_s := end_s - (before_s := time.monotonic())) > 0:
        nap_s = min(left_s, NAP_S)
        time.sleep(nap_s)
        held_up_s = max(held_up_s, time.monotonic() - before_s - nap_s)
    return held_up_s


@pytest.mark.parametrize(("rail", "waveform"), [(rail, waveform) for rail, waveform, *_ in RAILS])
def test_energy_over_the_whole_run_is_within_1_percent(run: Run, rail: str, waveform: str) -> None:
    start_ns, end_ns = run.readings[0].period.start_ns, run.readings[-1].period.end_ns
    told_j = sum(reading.to_json()["rails_j"][rail] or 0.0 for reading in run.readings)
    gap_s = sum(reading.period.rails[rail].gap_s for reading in run.readings)
    written_j, written_s = run.written_j(rail, start_ns, end_ns)
    # Beside an outage, a reading can be lost now and then, and each end of an outage falls between two readings.
    lost_s = gap_s - ((end_ns - start_ns) / 1e9 - written_s)
    assert told_j + lost_s * written_j / written_s == pytest.approx(written_j, rel=0.01)
    assert lost_s < 0.05 * written_s
    assert written_j / written_s == pytest.approx(MEANS_W[waveform], rel=0.03)


@pytest.mark.parametrize(("rail", "failing"), [(rail, failing) for rail, _, _, failing in RAILS if failing])
def test_an_outage_is_left_out_and_told_as_a_gap(run: Run, rail: str, failing: str) -> None:
    lost_s = sum(reading.period.rails[rail].gap_s for reading in run.readings)  # it may fall into two periods
    assert OUTAGE[1] - OUTAGE[0] - 0.1 < lost_s < OUTAGE[1] - OUTAGE[0] + 2.5, failing


@pytest.mark.parametrize(
    "rail", [rail for rail, waveform, _, failing in RAILS if waveform in ("constant", "ramp") and not failing]
)
def test_energy_of_each_period_is_within_1_percent(run: Run, rail: str) -> None:
    """Where nothing jumps between two readings; a jump's moment is known to half a sampling period."""
    for reading in run.readings:
        period = reading.period.rails[rail]
        written_j, written_s = run.written_j(rail, reading.period.start_ns, reading.period.end_ns)
        assert period.joules + period.gap_s * written_j / written_s == pytest.approx(written_j, rel=0.01)
        assert period.gap_s < 1.0


def test_the_total_is_the_input_whatever_else_is_measured(run: Run) -> None:
    for reading in run.readings:
        told = reading.to_json()
        assert told["power_rail"] == "VDD_IN"
        assert told["energy_j"] == told["rails_j"]["VDD_IN"]
        assert told["gap_s"] == pytest.approx(reading.period.rails["VDD_IN"].gap_s, abs=1e-3)
