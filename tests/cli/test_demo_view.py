"""The demo's table and lines."""

from __future__ import annotations

from edge.cli.demo_view import DemoView, _drops, _line


def test_drops_are_told_by_cause() -> None:
    assert _drops({"overrun": 5, "stale": 0, "gated": 0, "error": 1}) == "overrun 5, error 1"
    assert _drops({"overrun": 0, "stale": 0}) == "0"


def test_a_line_sums_the_drops_of_all_streams() -> None:
    streams = {name: {"results_per_s": 30.0, "dropped": {"overrun": 2, "stale": 0}} for name in ("a", "b")}
    line = _line(DemoView(telemetry={"streams": streams}))
    assert line == "a 30.0 frames/s, b 30.0 frames/s, 0 results, dropped: overrun 4"
