"""Where each message is published."""

from __future__ import annotations

from edge.mqtt.topics import Topics

TOPICS = Topics("edge", "bench-01")


def test_topics_are_as_designed() -> None:
    assert TOPICS.status == "edge/bench-01/status"
    assert TOPICS.telemetry == "edge/bench-01/telemetry"
    assert TOPICS.results("door") == "edge/bench-01/streams/door/results"
    assert TOPICS.stream_status("door") == "edge/bench-01/streams/door/status"


def test_a_prefix_may_have_levels_of_its_own() -> None:
    assert Topics("site/hall 3", "d").results("s") == "site/hall 3/d/streams/s/results"
