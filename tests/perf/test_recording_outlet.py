"""When a load counts as steady, and how slices are joined."""

from __future__ import annotations

import pytest

from edge.perf.tune.recording_outlet import Slice, is_settled, percentile, total


def loaded(images: int, hottest_c: float | None = None) -> Slice:
    return Slice(seconds=1.0, latencies_ms=[1.0] * images, hottest_c=hottest_c)


@pytest.mark.parametrize(
    ("images", "degrees", "settled"),
    [
        ([100, 100, 100, 100], [50.0, 50.0, 50.5, 51.0], True),
        ([100, 100, 100], [50.0, 50.0, 50.0], False),  # too few to tell
        ([100, 95, 105, 100], [None, None, None, None], True),
        ([60, 80, 95, 100], [50.0, 50.0, 50.0, 50.0], False),  # still rising
        ([100, 100, 100, 100], [48.0, 49.0, 50.0, 51.0], False),  # still warming
        ([3, 2, 3, 3], [50.0, 50.0, 50.0, 50.0], True),  # a camera of few frames a second
    ],
)
def test_load_is_settled_where_rate_and_temperature_stay(
    images: list[int], degrees: list[float | None], *, settled: bool
) -> None:
    slices = [loaded(count, hottest_c) for count, hottest_c in zip(images, degrees, strict=True)]
    assert is_settled(slices) is settled


def test_sum_with_something_unknown_is_unknown() -> None:
    assert total([1.0, 2.5]) == 3.5
    assert total([1.0, None]) is None


def test_percentile_of_nothing_is_unknown() -> None:
    assert percentile([], 99) is None
    assert percentile([float(number) for number in range(101)], 99) == 99.0
