"""The budget of all streams' pictures: what fits, what does not, and what is given back."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge.capture.picture_memory import PictureMemory, expected_bytes, needed_bytes
from edge.capture.source import SourceLimits
from edge.core.errors import ConfigError, SourceError
from edge.core.process import usable_memory_bytes
from edge.core.source_address import parse_address

MB = 10**6


def test_what_does_not_fit_is_refused_in_a_sentence_and_what_was_reserved_stays() -> None:
    memory = PictureMemory(100)
    memory.reserve("a", "camera a", 60 * MB)
    with pytest.raises(SourceError) as raised:
        memory.reserve("b", "camera b", 50 * MB)
    assert not raised.value.permanent  # a stream that ends makes room
    for told in ("camera b need 50 MB", "other streams 60 MB", "at most 100 MB", "[device] picture_memory_mb"):
        assert told in str(raised.value)
    memory.reserve("b", "camera b", 40 * MB)


def test_a_camera_reserves_in_place_of_what_it_had_and_gives_it_back() -> None:
    memory = PictureMemory(100)
    for size in (90, 10, 100):
        memory.reserve("a", "camera a", size * MB)
    memory.release("a")
    memory.release("a")
    memory.reserve("b", "camera b", 100 * MB)


def test_streams_that_do_not_fit_together_are_a_configuration_error() -> None:
    memory = PictureMemory(100)
    memory.check({"a": 60 * MB, "b": 40 * MB})
    memory.check({})
    with pytest.raises(
        ConfigError, match=r"3 streams need 140 MB, most of it \[streams\.c\] with 80 MB; wanted at most 100"
    ):
        memory.check({"a": 30 * MB, "b": 30 * MB, "c": 80 * MB})


def test_without_a_number_the_budget_is_a_part_of_this_machines_memory() -> None:
    memory = PictureMemory()
    memory.reserve("a", "camera a", usable_memory_bytes() // 4)
    with pytest.raises(SourceError):
        memory.reserve("b", "camera b", usable_memory_bytes())


def test_a_synthetic_address_shows_what_it_will_need() -> None:
    address = parse_address("synthetic://conveyor?size=1000x800", Path())
    assert expected_bytes(address, 3, SourceLimits()) == needed_bytes(address, 800_000, 3) > 3 * 3 * 800_000
    assert expected_bytes(parse_address("rtsp://cam/main", Path()), 3, SourceLimits()) == 0
    assert expected_bytes(parse_address("synthetic://conveyor?size=x", Path()), 3, SourceLimits()) == 0
    with pytest.raises(SourceError, match="wanted at most 0"):
        expected_bytes(address, 3, SourceLimits(max_mpx=0.5))
