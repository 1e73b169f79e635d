"""Event counters of the over-current comparators."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge.host.sensors.over_current import OverCurrentCounters
from tests.support.emulated_boards import boards, tree


def test_events_are_counted_from_the_start_also_where_a_counter_is_set_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGE_ROOT", str(boards.build("thor", tmp_path)))
    path = tmp_path / "sys/devices/platform/soctherm-oc-event/hwmon/hwmon9/oc3_event_cnt"
    counters = OverCurrentCounters()
    assert counters.read() == {"oc1": 0, "oc2": 0, "oc3": 0}
    for count, events in ((4, 2), (4, 2), (1, 3), ("?", 3), (2, 4)):
        tree.write(path, count)
        assert (counters.read() or {})["oc3"] == events
    counters.close()
