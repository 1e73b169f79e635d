"""Resources and signals of this process."""

from __future__ import annotations

import contextlib
import os
import signal
from types import SimpleNamespace

import pytest

from edge.core.process import signal_handler, trim_heap, usable_cores, use_one_heap


def test_the_cores_are_those_that_the_process_is_bound_to() -> None:
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(allowed)})
    try:
        assert usable_cores() == 1
    finally:
        os.sched_setaffinity(0, allowed)
    assert usable_cores() == len(allowed)


def test_signals_are_handled_for_a_while_and_the_handlers_before_restored() -> None:
    heard: list[int] = []
    before = signal.getsignal(signal.SIGUSR1)
    with contextlib.suppress(OSError), signal_handler(lambda number, _: heard.append(number), [signal.SIGUSR1]):
        signal.raise_signal(signal.SIGUSR1)
        raise OSError
    assert heard == [signal.SIGUSR1]
    assert signal.getsignal(signal.SIGUSR1) is before


def test_freed_memory_is_returned_on_any_c_library(monkeypatch: pytest.MonkeyPatch) -> None:
    trim_heap()
    monkeypatch.setattr("ctypes.CDLL", lambda _: object())  # as one without malloc_trim and mallopt
    trim_heap()
    use_one_heap()


def test_there_is_one_heap_unless_the_environment_says_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    set_by_us: dict[int, int] = {}
    library = SimpleNamespace(mallopt=lambda parameter, value: set_by_us.update({parameter: value}))
    monkeypatch.setattr("ctypes.CDLL", lambda _: library)
    monkeypatch.delenv("MALLOC_ARENA_MAX", raising=False)
    use_one_heap()
    assert set_by_us == {-8: 1}
    set_by_us.clear()
    monkeypatch.setenv("MALLOC_ARENA_MAX", "4")
    use_one_heap()
    assert set_by_us == {}
