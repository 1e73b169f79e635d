"""Progress where there is no terminal."""

from __future__ import annotations

import pytest

from edge.core import progress


def test_a_pipe_gets_a_line_a_minute(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    now_s = 0.0
    monkeypatch.setattr("time.monotonic", lambda: now_s)
    done = []
    for item in progress.tracked(("a", "b", "c", "d"), 4):
        done.append(item)
        now_s += 45.0
    assert done == ["a", "b", "c", "d"]
    assert capsys.readouterr().err == "3/4 c\n"
