"""The soak benchmark: its judge tells leaks from noise, its ledger sees what is lost, and it runs."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.configuration import Json
from tests.support.project import ROOT, program

sys.path.insert(0, str(ROOT / "benchmarks"))

from soak_judge import LEAST_POINTS, WARM_UP, Series, judge, theil_sen
from soak_ledger import Ledger

HALF_HOUR_S = 1800
TIMES_S = np.arange(HALF_HOUR_S, dtype=np.float64)
TOLERANCE_MB = 1.0
SEEDS = range(5)


def calm(seed: int) -> Series:
    return 300 + np.random.default_rng(seed).normal(0, 0.5, HALF_HOUR_S)


def wandering(seed: int) -> Series:
    """Return noise each reading of which is much like the one before."""
    random = np.random.default_rng(seed)
    values: Series = np.full(HALF_HOUR_S, 300.0)
    for number in range(1, HALF_HOUR_S):
        values[number] = 300 + 0.95 * (values[number - 1] - 300) + random.normal(0, 0.1)
    return values


def saw_tooth(seed: int) -> Series:
    """Return memory that is given back every two minutes."""
    return calm(seed) + TIMES_S % 120 / 40


def warming(seed: int) -> Series:
    cold: Series = np.exp(-TIMES_S / 90)
    return calm(seed) + 40 - 40 * cold


def one_step(seed: int) -> Series:
    """Return memory that grows once, at any time."""
    return calm(seed) + 4 * (np.random.default_rng(seed).uniform(0, HALF_HOUR_S) < TIMES_S)


def with_spikes(seed: int) -> Series:
    return calm(seed) + 30 * (np.random.default_rng(seed).random(HALF_HOUR_S) < 0.05)


Noise = Callable[[int], Series]
NOISES: list[Noise] = [calm, wandering, saw_tooth, warming, one_step, with_spikes]


@pytest.mark.parametrize("noise", NOISES)
def test_noise_is_no_leak(noise: Noise) -> None:
    assert [judge(TIMES_S, noise(seed), TOLERANCE_MB).is_flat for seed in SEEDS] == [True] * len(SEEDS)


@pytest.mark.parametrize("noise", NOISES)
def test_twelve_megabytes_an_hour_are_a_leak(noise: Noise) -> None:
    leak = TIMES_S * 12 / 3600
    assert [judge(TIMES_S, noise(seed) + leak, TOLERANCE_MB).is_flat for seed in SEEDS] == [False] * len(SEEDS)


def test_a_leak_that_comes_in_steps_is_one() -> None:
    steps = np.floor(TIMES_S / 200) * 0.8  # a reload every 200 s leaves 0.8 MB behind
    assert not judge(TIMES_S, calm(0) + steps, TOLERANCE_MB).is_flat


def test_a_thread_that_is_left_behind_every_five_minutes_is_seen() -> None:
    busy = np.random.default_rng(0).integers(0, 3, HALF_HOUR_S)
    assert judge(TIMES_S, (20 + busy).tolist(), 0.5).is_flat
    assert not judge(TIMES_S, (20 + busy + TIMES_S // 300).tolist(), 0.5).is_flat


def test_memory_that_falls_is_no_leak() -> None:
    assert judge(TIMES_S, calm(1) - TIMES_S / 100, TOLERANCE_MB).is_flat


def test_the_slope_and_its_confidence_hold_the_truth() -> None:
    verdict = judge(TIMES_S, wandering(3) + TIMES_S * 20 / 3600, TOLERANCE_MB)
    assert verdict.whole.low < 20 < verdict.whole.high
    assert verdict.whole.slope == pytest.approx(20, abs=2)
    assert verdict.whole.growth == pytest.approx(20 * HALF_HOUR_S * (1 - WARM_UP) / 3600, abs=1)


def test_the_same_readings_give_the_same_verdict() -> None:
    assert judge(TIMES_S, calm(2), TOLERANCE_MB) == judge(TIMES_S, calm(2), TOLERANCE_MB)


def test_a_constant_is_flat() -> None:
    verdict = judge(TIMES_S, np.full(HALF_HOUR_S, 7.0), 0.5)
    assert verdict.is_flat
    assert verdict.whole.slope == verdict.whole.low == verdict.whole.high == 0


def test_too_few_readings_are_told() -> None:
    with pytest.raises(ValueError, match="found 10 readings"):
        judge(TIMES_S[:10], calm(0)[:10], 1.0)
    judge(TIMES_S[:40], calm(0)[:40], 1.0)


@given(st.floats(-1e3, 1e3), st.integers(LEAST_POINTS, 40), st.integers(0, 4), st.sampled_from([-1e6, 1e6]))
def test_one_point_in_five_that_is_far_off_does_not_turn_the_slope(
    slope: float, count: int, first: int, off: float
) -> None:
    times_s = np.arange(count, dtype=np.float64)
    values = slope * times_s
    values[first::5] += off
    assert theil_sen(times_s, values) == pytest.approx(slope, abs=1e-6)


def result(seq: int, *, boot: str = "b1", stream: str = "s0") -> tuple[str, Json]:
    return f"edge/soak/streams/{stream}/results", {"boot": boot, "stream": stream, "seq": seq}


def telemetry(**counts: int) -> tuple[str, Json]:
    told = {"frames": 10, "results": 6, "in_flight": 1, "dropped": {"overrun": 2, "gated": 1}} | counts
    return "edge/soak/telemetry", {"at": "now", "streams": {"s0": told}, "outbox": {"dropped": 0}}


def test_what_is_missing_is_named_and_what_came_twice_is_counted() -> None:
    ledger = Ledger()
    for seq in (0, 1, 3, 3, 4, 6):
        ledger.record(*result(seq))
    ledger.record(*result(0, boot="b2"))
    ledger.record(*result(1, stream="s1"))
    assert ledger.missing == ["s0: seq 2, 5", "s1: seq 0"]
    assert (ledger.results, ledger.duplicates) == (7, 1)


def test_what_comes_late_is_not_missing() -> None:
    ledger = Ledger()
    for seq in (2, 1, 0):
        ledger.record(*result(seq))
    assert ledger.missing == []


def test_what_only_the_other_ear_heard_is_not_missing_and_is_counted() -> None:
    ledger, heard = Ledger(), Ledger()
    for seq in (0, 2):
        ledger.record(*result(seq))
    for seq in (0, 1):
        heard.record(*result(seq))
    assert ledger.add(heard) == 1
    assert (ledger.missing, ledger.results, ledger.duplicates) == ([], 3, 0)


def test_a_long_loss_is_told_in_short() -> None:
    ledger = Ledger()
    ledger.record(*result(1000))
    assert ledger.missing == ["s0: seq 0, 1, 2, 3, 4, 5, 6, 7, 8, 9 and 990 more"]


def test_a_frame_that_is_not_accounted_for_is_told() -> None:
    ledger = Ledger()
    ledger.record(*telemetry())
    assert ledger.unaccounted == []
    ledger.record(*telemetry(frames=11))
    assert ledger.unaccounted == ["s0 at now: 11 frames, 10 accounted for"]


def test_the_end_is_the_daemon_s_own_status_and_no_stream_s() -> None:
    ledger = Ledger()
    ledger.record("edge/soak/streams/s0/status", {"state": "off"})
    assert not ledger.has_stopped
    ledger.record("edge/soak/status", {"state": "stopped"})
    assert ledger.has_stopped


@pytest.mark.broker
def test_a_short_run_accounts_for_everything(tmp_path: Path) -> None:
    program("mosquitto", "mosquitto")
    out, plot = tmp_path / "soak.json", tmp_path / "soak.png"
    options = ["--minutes", "0.75", "--every", "5", "--fps", "3", "--json", str(out), "--plot", str(plot)]
    command = [sys.executable, str(ROOT / "benchmarks" / "soak.py"), *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert out.exists(), done.stderr
    told = json.loads(out.read_text(encoding="utf-8"))
    # So short a run is all warm-up: whether anything grows is not asked.
    assert [fault for fault in told["faults"] if "per hour" not in fault] == []
    assert done.returncode == (4 if told["faults"] else 0)
    assert told["results"] > 0
    assert {"broker killed", "configuration changed"} <= {event["kind"] for event in told["events"]}
    assert plot.read_bytes().startswith(b"\x89PNG")
