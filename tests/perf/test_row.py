"""A row of a benchmark's report: its figures from samples, and its JSON."""

from __future__ import annotations

import json
from dataclasses import fields

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.perf.bench.row import LEAST_SAMPLES, BenchRow, Block, percentile, ratio, speed_of
from edge.perf.bench.tables import PUBLISHED_COLUMNS

MS = st.floats(0.001, 1e5)
BLOCKS = st.lists(
    st.builds(
        Block,
        st.lists(MS, min_size=1, max_size=40).map(tuple),
        st.integers(1, 10_000),
        st.floats(0.001, 1000),
    ),
    min_size=1,
    max_size=8,
)


def a_row(blocks: tuple[Block, ...]) -> BenchRow:
    return BenchRow(
        device="Jetson TX2", power_mode="MAXQ", precision="fp16", network="GoogLeNet", batch=2, images_per_s=140.0,
        power_w=7.0, images_per_s_per_w=20.0, gpu_power_w=None, gpu_images_per_s_per_w=None, latency_ms=14.2,
        latency_p90_ms=None, latency_p99_ms=None, latency_max_ms=15.0, energy_j_per_image=0.05,
        scenario="single-stream", lanes=1, spread=0.01, valid=True, why=None, rails_w={"VDD_IN": 7.0, "VDD_SOC": None},
        cpu_load=0.5, gpu_load=None, memory_mb=400.0, temperature_start_c=40.0, temperature_end_c=41.0,
        throttled=False, samples=blocks,
    )  # fmt: skip


@given(BLOCKS)
def test_row_comes_back_from_its_json(blocks: list[Block]) -> None:
    row = a_row(tuple(blocks))
    assert BenchRow.from_json(json.loads(json.dumps(row.to_json(), allow_nan=False)) | {"of a later version": 1}) == row


def test_row_tells_the_columns_of_the_published_table_and_ours() -> None:
    told = a_row((Block((1.0,), 1, 0.001),)).to_json()
    published = tuple(field.name for field in fields(BenchRow))[:11]
    assert published == tuple(PUBLISHED_COLUMNS)
    assert tuple(told)[:11] == published
    ours = {"latency_p90_ms", "latency_p99_ms", "latency_max_ms", "energy_j_per_image", "scenario", "lanes", "spread"}
    assert ours | {"valid", "why"} <= set(told)
    assert told["samples"] == [{"latency_ms": [1.0], "images": 1, "seconds": 0.001}]


@given(st.lists(MS, max_size=300))
def test_percentile_from_fewer_than_100_samples_is_null(samples: list[float]) -> None:
    found = percentile(samples, 99)
    if len(samples) < LEAST_SAMPLES:
        assert found is None
    else:
        assert found == pytest.approx(np.percentile(samples, 99), rel=1e-5)


def test_figures_are_of_all_blocks_together() -> None:
    speed = speed_of([Block((10.0, 20.0, 90.0), 6, 0.12), Block((30.0, 40.0), 4, 0.08)])
    assert (speed.images, speed.images_per_s, speed.latency_ms, speed.latency_max_ms) == (10, 50.0, 30.0, 90.0)
    assert (speed.latency_p90_ms, speed.latency_p99_ms) == (None, None)


@pytest.mark.parametrize(
    ("value", "to", "wanted"), [(6.0, 3.0, 2.0), (None, 3.0, None), (6.0, None, None), (6.0, 0.0, None)]
)
def test_ratio_with_what_is_not_known_is_not_known(value: float | None, to: float | None, wanted: float | None) -> None:
    assert ratio(value, to) == wanted
