"""Results that a daemon publishes where only changes are wanted."""

from __future__ import annotations

import pytest

from tests.support.configuration import Configure, Json, belt
from tests.support.process import StartEdge
from tests.support.subscriber import Subscriber


def counts_of(found: Json) -> list[str]:
    return sorted(each["label"] for each in found["detections"])


@pytest.mark.broker
def test_the_daemon_publishes_changes_alone_and_accounts_for_the_rest(
    configure: Configure, start_edge: StartEdge, subscriber: Subscriber
) -> None:
    scene = belt(frames=150, size="320x240", delivery="every")
    streams = {
        "streams.all": scene,
        "streams.changes": scene | {"only_changes": True},
        "streams.slow": belt(fps=30, frames=45, size="320x240", max_results_per_s=4),
    }
    daemon = start_edge(configure(streams))
    assert daemon.wait() == 0
    subscriber.wait_for_state("stopped")
    every = [counts_of(each) for each in subscriber.results("all")]
    assert len(every) == 150
    changed = [now for before, now in zip([None, *every], every, strict=False) if now != before]
    assert [counts_of(each) for each in subscriber.results("changes")] == changed
    assert 1 < len(changed) < len(every)
    last = subscriber.telemetry()[-1]["streams"]
    for name, stream in last.items():
        assert stream["frames"] == stream["results"] + sum(stream["dropped"].values()) + stream["in_flight"]
        assert subscriber.seqs(name) == list(range(stream["results"]))
    assert last["changes"]["dropped"]["gated"] == 150 - len(changed)
    assert 0 < last["slow"]["results"] <= 45 / 30 * 4 + 2 + last["slow"]["dropped"]["overrun"]
    assert last["slow"]["dropped"]["gated"] > 0
