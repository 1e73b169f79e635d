"""Numeric attributes of sysfs: units, half-written text and replaced files."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.host.sensors.sysfs import Attribute, number_in
from tests.support.emulated_boards import tree


@given(st.integers(-(10**9), 10**9), st.sampled_from(["", " ma", "mV", " mW", " %"]), st.sampled_from(["", "\n"]))
def test_numbers_are_read_with_and_without_unit(number: int, unit: str, end: str) -> None:
    assert number_in(f"{number}{unit}{end}".encode()) == number


@given(st.binary(max_size=80))
def test_any_bytes_are_a_number_or_none(raw: bytes) -> None:
    value = number_in(raw)
    assert value is None or any(digit in raw for digit in b"0123456789")


def test_a_file_replaced_by_another_is_not_read_for_ever(tmp_path: Path) -> None:
    path = tmp_path / "in1_input"
    tree.write(path, 1)
    attribute = Attribute(path)
    assert (attribute.read(), attribute.read()) == (1, 1)
    tree.write(tmp_path / "new", 2)
    (tmp_path / "new").replace(path)
    assert attribute.read() == 2
    path.unlink()
    with pytest.raises(FileNotFoundError):
        attribute.read()
