"""Activation ranges: streaming histograms lose nothing that matters, and each method does what its name says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.core.errors import ModelError
from edge.precision.activation_ranges import BINS, METHODS, Histogram, Probe, Range, calibrate
from tests.support.quantizable import feeds, images, network

FINITE = st.floats(-1e4, 1e4, width=32)


def histogram_of(*batches: np.ndarray) -> Histogram:
    histogram = Histogram()
    for batch in batches:
        histogram.add(batch.astype(np.float32))
    return histogram


@given(st.lists(st.lists(FINITE, min_size=1, max_size=30), min_size=1, max_size=8))
def test_memory_does_not_grow_and_no_value_is_lost(batches: list[list[float]]) -> None:
    histogram = histogram_of(*(np.array(batch) for batch in batches))
    values = np.concatenate([np.array(batch, np.float32) for batch in batches])
    assert histogram.counts.shape == (BINS,)
    assert histogram.counts.sum() == np.count_nonzero(np.abs(values) >= 1e-30)
    assert histogram.limit + 1e-30 >= np.abs(values).max()
    found = histogram.range("minmax")
    assert [found.low, found.high] == pytest.approx([min(0.0, values.min()), max(0.0, values.max())], abs=1e-30)


@given(st.lists(st.lists(FINITE, min_size=1, max_size=30), min_size=1, max_size=8), st.sampled_from(sorted(METHODS)))
def test_no_method_keeps_more_than_there_is(batches: list[list[float]], method: str) -> None:
    histogram = histogram_of(*(np.array(batch) for batch in batches))
    found, widest = histogram.range(method), histogram.range("minmax")
    assert widest.low <= found.low <= 0 <= found.high <= widest.high
    assert found.magnitude > 0 or widest.magnitude < 1e-30


def test_a_range_that_grew_by_and_by_is_that_of_all_values_at_once() -> None:
    values = np.random.default_rng(3).laplace(size=40_000) * np.linspace(0.01, 5, 40_000)
    at_once, by_and_by = histogram_of(values), histogram_of(*np.array_split(values, 50))
    for method in METHODS:
        assert by_and_by.range(method).magnitude == pytest.approx(at_once.range(method).magnitude, rel=0.08)


def test_percentile_leaves_out_a_ten_thousandth() -> None:
    values = np.linspace(0, 1, 100_001)[1:]
    values[-5:] = 50.0  # a twenty-thousandth
    found = histogram_of(values).range("percentile")
    assert found.high == pytest.approx(1.0, abs=50 / 2048)


def quantization_error(values: np.ndarray, kept: float) -> float:
    step = kept / 127
    return float(((np.clip(np.rint(values / step), -127, 127) * step - values) ** 2).mean())


@pytest.mark.parametrize("tail", [1.0, 4.0, 20.0])
def test_mse_keeps_what_makes_the_error_least(tail: float) -> None:
    random = np.random.default_rng(5)
    values = random.normal(size=50_000) * np.where(random.random(50_000) < 0.001, tail, 1)
    kept = histogram_of(values).range("mse").magnitude
    candidates = np.linspace(0.02, 1, 200) * np.abs(values).max()
    least = min(quantization_error(values, each) for each in candidates)
    assert quantization_error(values, kept) <= 1.05 * least


def test_entropy_clips_outliers_that_minmax_keeps() -> None:
    random = np.random.default_rng(6)
    histogram = histogram_of(np.append(random.normal(size=100_000), 400.0))
    assert histogram.range("minmax").high == 400
    assert 2 < histogram.range("entropy").high < 60


def test_entropy_of_an_even_distribution_keeps_it() -> None:
    histogram = histogram_of(np.random.default_rng(8).uniform(-1, 1, 200_000))
    assert histogram.range("entropy").magnitude > 0.95


def test_zeros_alone_have_no_range() -> None:
    assert histogram_of(np.zeros(10)).range("entropy") == Range(0.0, 0.0)


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan])
def test_a_tensor_that_is_not_finite_is_named(tmp_path: Path, value: float) -> None:
    model = onnx.load(network(tmp_path, opset=17))
    rows = images(1)
    rows[0][0, 0, 0, 0] = value
    with pytest.raises(ModelError, match=r"tensor 'seen' is not finite on a calibration frame"):
        calibrate(Probe(model, ["seen"], 1), ["seen"], feeds(rows))


def test_tensors_inside_are_seen_picture_by_picture(tmp_path: Path) -> None:
    model = onnx.load(network(tmp_path, opset=17))
    rows = images(3)
    found = calibrate(Probe(model, ["images", "c", "scores"], 1), ["images", "c"], feeds(rows))
    assert found["images"].high == pytest.approx(max(float(row.max()) for row in rows))
    assert found["c"].low == 0
    assert found["c"].size == 8 * 16 * 16
