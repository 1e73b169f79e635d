"""More frames than the machine can take: what is dropped is counted, everyone gets a share, memory stays flat."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import mean

import pytest

from tests.support.configuration import Configure, Json, belt
from tests.support.long_form import IS_LONG
from tests.support.process import StartEdge
from tests.support.subscriber import Subscriber
from tests.support.tiny_model import tiny_model
from tests.support.waiting import eventually

pytestmark = pytest.mark.broker

STREAMS = 32
OVERLOAD_S = 60.0 if IS_LONG else 15.0

# Takes 50 ms a picture.
SLOW = """
import time
import numpy as np

def decode(outputs, options):
    time.sleep(0.05)
    return np.empty((0, 4), np.float32), np.empty(0, np.float32), np.empty(0, np.int64)
"""


def unaccounted(stream: Json) -> int:
    """Return how many captured frames are neither a result, nor a drop, nor in flight."""
    accounted = stream["results"] + sum(stream["dropped"].values()) + stream["in_flight"]
    return int(stream["frames"] - accounted)


def assert_all_frames_are_accounted_for(subscriber: Subscriber) -> None:
    for message in subscriber.telemetry():
        for name, stream in message["streams"].items():
            assert unaccounted(stream) == 0, f"{name} at {message['at']}: {stream}"
    for name, stream in subscriber.telemetry()[-1]["streams"].items():
        assert stream["in_flight"] == 0
        assert subscriber.seqs(name) == list(range(stream["results"]))


def growth_mb(memory_mb: Sequence[float]) -> float:
    """Return by how much the last third of a run's readings is above its middle third."""
    third = len(memory_mb) // 3
    return mean(memory_mb[-third:]) - mean(memory_mb[third : 2 * third])


def test_under_overload_every_frame_is_accounted_for_and_memory_stays_flat(
    configure: Configure, start_edge: StartEdge, subscriber: Subscriber
) -> None:
    names = [f"belt-{number:02}" for number in range(STREAMS)]
    config = configure({f"streams.{name}": belt(seed=seed) for seed, name in enumerate(names)})
    daemon = start_edge(config)
    eventually(
        lambda: sum(message["period_s"] for message in subscriber.telemetry()) > OVERLOAD_S,
        "telemetry of the whole time",
        timeout_s=4 * OVERLOAD_S,
    )
    assert daemon.end() == 0
    subscriber.wait_for_state("stopped")
    assert_all_frames_are_accounted_for(subscriber)
    last = subscriber.telemetry()[-1]["streams"]
    results = {name: last[name]["results"] for name in names}
    assert sum(last[name]["dropped"]["overrun"] for name in names) > sum(results.values()), "this was no overload"
    # Streams start one after the other, and the first have the lanes to themselves: what tells is the second half.
    middle = subscriber.telemetry()[len(subscriber.telemetry()) // 2]["streams"]
    late = {name: results[name] - middle[name]["results"] for name in names}
    # One frame of each is in work, which counts where a busy machine makes only a few results.
    assert min(late.values()) > 0.6 * max(late.values()) - 1, late
    assert growth_mb([message["board"]["memory_mb"] for message in subscriber.telemetry()]) < 6


def test_a_slow_stream_gets_its_share_beside_a_fast_one(
    tmp_path: Path, configure: Configure, start_edge: StartEdge, subscriber: Subscriber
) -> None:
    folder = tiny_model(tmp_path / "slow", SLOW)
    config = configure(
        {
            "models.slow": {"path": str(folder), "lanes": 1, "max_batch": 1},
            "streams.fast": belt(fps=300, size="160x120") | {"model": "slow"},
            "streams.calm": belt(fps=2, size="160x120") | {"model": "slow"},
        }
    )
    daemon = start_edge(config)
    subscriber.wait_for_results("calm", 10)
    assert daemon.end() == 0
    subscriber.wait_for_state("stopped")
    assert_all_frames_are_accounted_for(subscriber)
    last = subscriber.telemetry()[-1]["streams"]
    assert last["calm"]["dropped"]["overrun"] <= 2, "a frame waits for at most the one in work and one of the fast ones"
    assert last["fast"]["dropped"]["overrun"] > last["fast"]["results"] > 0


def test_a_frame_past_its_age_is_dropped_before_any_work_and_counted(
    tmp_path: Path, configure: Configure, start_edge: StartEdge, subscriber: Subscriber
) -> None:
    folder = tiny_model(tmp_path / "slow", SLOW.replace("0.05", "0.3"))
    slow = {"model": "slow"}
    config = configure(
        {
            "models.slow": {"path": str(folder), "lanes": 1, "max_batch": 1},
            "streams.aged": belt(fps=4, size="160x120", max_age_ms=60) | slow,
            "streams.free": belt(fps=4, size="160x120") | slow,
        }
    )
    daemon = start_edge(config)
    subscriber.wait_for_results("free", 15)
    assert daemon.end() == 0
    subscriber.wait_for_state("stopped")
    assert_all_frames_are_accounted_for(subscriber)
    last = subscriber.telemetry()[-1]["streams"]
    assert last["aged"]["dropped"]["stale"] > 0
    assert last["free"]["dropped"]["stale"] == 0
    assert all(result["latency_ms"]["wait"] <= 60 for result in subscriber.results("aged"))
    assert any(result["latency_ms"]["wait"] > 60 for result in subscriber.results("free"))
