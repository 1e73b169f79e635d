"""Start history, and daemons that exit unexpectedly again and again."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.daemon import start_history
from edge.daemon.start_history import HEALTHY_UPTIME_S, CrashLoop, End, StartHistory

ENGINES = {"detector": "trt/fp16/3f9c"}


class Clock:
    """Time as a test sets it."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> int:
        return int(self.now_s * 1e9)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(start_history, "now_ns", clock)
    return clock


def start(
    folder: Path,
    clock: Clock,
    seconds: float = 10,
    end: End | None = None,
    engines: dict[str, str] = ENGINES,
) -> CrashLoop | None:
    """Let a daemon start and serve for a while; without an end it is killed. Return what it found at its start."""
    began = StartHistory(folder, restarted=True)
    found = began.crash_loop()
    began.begin()
    began.update(engines)
    clock.now_s += seconds
    began.update(engines)
    if end:
        began.end(end)
    clock.now_s += 5
    return found


@pytest.mark.parametrize("at_ns", [-(10**30), 10**20, 10**400])
def test_starts_at_impossible_times_are_no_loop(tmp_path: Path, clock: Clock, at_ns: int) -> None:
    for _ in range(3):
        start(tmp_path, clock)
    record = json.loads((tmp_path / "starts.json").read_bytes())
    for each in record["starts"]:
        each["at_ns"] = at_ns
    (tmp_path / "starts.json").write_text(json.dumps(record), encoding="utf-8")
    assert start(tmp_path, clock) is None


def test_three_bad_ends_in_a_row_are_a_loop(tmp_path: Path, clock: Clock) -> None:
    found = [start(tmp_path, clock, end=end) for end in (None, "lost", None, None)]
    assert found[:3] == [None, None, None]
    assert found[3] is not None
    assert found[3].count == 3
    assert found[3].reason == ("the daemon exited unexpectedly 3 times within 10 min, each time shortly after starting")


@pytest.mark.parametrize("good", ["clean", "settled", "rebooted", "long ago"])
def test_a_start_that_ended_well_in_between_breaks_the_row(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch, good: str
) -> None:
    start(tmp_path, clock)
    start(tmp_path, clock)
    if good == "rebooted":
        monkeypatch.setattr(start_history, "_machine_boot", lambda: "another")
    elif good == "long ago":
        clock.now_s += start_history.WITHIN_S
    else:
        start(
            tmp_path,
            clock,
            HEALTHY_UPTIME_S if good == "settled" else 10,
            "clean" if good == "clean" else None,
        )
    assert [start(tmp_path, clock) for _ in range(3)] == [None, None, None]
    assert start(tmp_path, clock) is not None


def test_each_further_start_of_a_loop_waits_longer_up_to_a_bound(tmp_path: Path, clock: Clock) -> None:
    loops = [start(tmp_path, clock) for _ in range(12)]
    assert [loop.pause_s for loop in loops if loop] == [5, 10, 20, 40, 60, 60, 60, 60, 60]


def test_an_engine_that_served_well_comes_before_the_reference_and_not_after_it_failed_too(
    tmp_path: Path, clock: Clock
) -> None:
    good, bad = {"detector": "trt/fp16/3f9c"}, {"detector": "trt/int8/3f9c"}
    start(tmp_path, clock, HEALTHY_UPTIME_S, "clean", good)
    for _ in range(3):
        assert start(tmp_path, clock, engines=bad) is None
    loop = start(tmp_path, clock, engines=good)
    assert loop is not None
    assert loop.engines == good
    loop = start(tmp_path, clock, engines=good)
    assert loop is not None
    assert loop.engines == {}


def test_the_medium_is_written_a_few_times_a_start_and_not_while_it_serves(tmp_path: Path, clock: Clock) -> None:
    began = StartHistory(tmp_path, restarted=True)
    began.begin()
    record = tmp_path / "starts.json"
    written = [record.stat().st_ino]
    for _ in range(5000):
        clock.now_s += 0.1
        began.update(ENGINES)
        written.append(record.stat().st_ino)
    assert sum(before != after for before, after in itertools.pairwise(written)) == 2


def test_without_somebody_who_restarts_it_nothing_is_kept(tmp_path: Path) -> None:
    began = StartHistory(tmp_path, restarted=False)
    began.begin()
    began.update(ENGINES)
    began.end("lost")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_is_no_reason_not_to_start(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    began = StartHistory(tmp_path / "missing", restarted=True)
    began.begin()
    assert began.crash_loop() is None
    assert "starts.json cannot be written (No such file or directory)" in caplog.text


@given(
    st.one_of(
        st.binary(max_size=200),
        st.recursive(
            st.one_of(st.none(), st.booleans(), st.integers(), st.text(max_size=5)),
            lambda inner: st.one_of(
                st.lists(inner, max_size=3),
                st.dictionaries(st.sampled_from(["starts", "good_engines", "at_ns", "x"]), inner),
            ),
        ).map(lambda value: json.dumps(value).encode()),
    )
)
def test_a_record_of_whatever_content_lets_the_daemon_start(content: bytes) -> None:
    with TemporaryDirectory() as folder:
        (Path(folder) / "starts.json").write_bytes(content)
        began = StartHistory(Path(folder), restarted=True)
        assert began.crash_loop() is None
        began.begin()
        assert StartHistory(Path(folder), restarted=True).crash_loop() is None
