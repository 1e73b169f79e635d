"""Activation ranges of a model's tensors on calibration frames: streaming histograms and four methods."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, ValueInfoProto

from edge.core.errors import ModelError
from edge.inference.backends.input_tensors import Feed

BINS = 4096  # just after the range has doubled, older values still fill 2048
LEVELS = 127  # of int8 on each side of 0
_KL_LEVELS = 128
_KL_STEP = 16  # bins between two candidate thresholds
_KEPT_FRACTION = 0.9999  # of the values, by `percentile`
_LOG_FATAL = 4  # faults reach us as exceptions
_LEAST = 1e-30  # smaller values count as 0: their scale would be beyond float32
_LEAST_KEPT = 64  # bins: the smallest candidate threshold


@dataclass(frozen=True)
class Range:
    """Range of a tensor's quantized values; values beyond it are clipped."""

    low: float
    high: float

    @property
    def magnitude(self) -> float:
        return max(-self.low, self.high)


class Probe:
    """An FP32 model that returns its inner tensors; one image at a time, so that memory does not grow."""

    def __init__(self, model: ModelProto, tensors: Iterable[str], threads: int) -> None:
        import onnxruntime  # noqa: PLC0415 -- slow to import

        probed = ModelProto()
        probed.CopyFrom(model)
        known = {value.name for value in model.graph.output}
        self._tensors = sorted(set(tensors) - {value.name for value in model.graph.input})
        probed.graph.output.extend(ValueInfoProto(name=name) for name in self._tensors if name not in known)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = _LOG_FATAL
        # Higher levels would fuse away tensors that must stay visible.
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
        data = probed.SerializeToString()
        self._session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])

    def __call__(self, feed: Feed) -> dict[str, NDArray[Any]]:
        """Return the tensors for the inputs of one image (1×…), including the inputs."""
        return dict(feed) | dict(zip(self._tensors, self._session.run(self._tensors, dict(feed)), strict=True))


def calibrate(probe: Probe, tensors: Collection[str], feeds: Iterable[Feed]) -> dict[str, Histogram]:
    """Return the histogram of each tensor; raise ModelError if one is not finite on these inputs."""
    histograms = {name: Histogram() for name in tensors}
    for feed in feeds:
        found = probe(feed)
        for name, histogram in histograms.items():
            try:
                histogram.add(found[name])
            except ValueError:
                raise ModelError(
                    f"tensor {name!r} is not finite on a calibration frame; wanted finite values: check that [input] "
                    "in model.toml fits the model"
                ) from None
    return histograms


class Histogram:
    """Magnitudes of any number of a tensor's values, in bins over 0…`limit`, which doubles when needed."""

    def __init__(self) -> None:
        self.counts: NDArray[np.int64] = np.zeros(BINS, np.int64)  # of values from _LEAST on
        self.limit = 0.0
        self.low = 0.0
        self.high = 0.0
        self.size = 0  # of the tensor, for one image

    def add(self, values: NDArray[Any]) -> None:
        """Count the values; raise ValueError if one is not finite."""
        self.size = values.size
        magnitudes = np.abs(values, dtype=np.float32).ravel()
        largest = float(magnitudes.max(initial=0.0))
        if not np.isfinite(largest):
            raise ValueError
        if largest < _LEAST:
            return
        self._grow(largest)
        self.low, self.high = min(self.low, float(values.min())), max(self.high, float(values.max()))
        bins = np.minimum((magnitudes[magnitudes >= _LEAST] * (BINS / self.limit)).astype(np.int32), BINS - 1)
        self.counts += np.bincount(bins, minlength=BINS)

    def _grow(self, largest: float) -> None:
        self.limit = self.limit or largest
        while largest > self.limit:
            merged = self.counts.reshape(-1, 2).sum(axis=1)
            self.counts = np.concatenate([merged, np.zeros_like(merged)])
            self.limit *= 2

    def range(self, method: str) -> Range:
        """Return the range to quantize, by a method."""
        if not self.counts.any():
            return Range(0.0, 0.0)
        kept = METHODS[method](self)
        return Range(max(self.low, -kept), min(self.high, kept))


def _minmax(histogram: Histogram) -> float:
    return max(-histogram.low, histogram.high)


def _percentile(histogram: Histogram) -> float:
    """Keep all but a ten-thousandth of the values."""
    reached = np.cumsum(histogram.counts)
    index = int(np.searchsorted(reached, _KEPT_FRACTION * reached[-1]))
    return min(_edge(histogram, index + 1), _minmax(histogram))


def _mse(histogram: Histogram) -> float:
    """Minimize the mean squared error: of rounding within the threshold, of clipping beyond it."""
    counts = histogram.counts.astype(np.float64)
    centers = np.arange(BINS) + 0.5
    # Of the values in and beyond each bin: their count, sum and sum of squares.
    beyond = [np.append(np.cumsum(each[::-1])[::-1], 0.0) for each in (counts, counts * centers, counts * centers**2)]
    thresholds = np.arange(_LEAST_KEPT, BINS + 1)
    count, total, squares = (each[thresholds] for each in beyond)
    clipping = squares - 2 * thresholds * total + thresholds**2 * count
    rounding = (counts.sum() - count) * (thresholds / LEVELS) ** 2 / 12
    return min(_edge(histogram, int(thresholds[np.argmin(clipping + rounding)])), _minmax(histogram))


def _entropy(histogram: Histogram) -> float:
    """Minimize the loss of information (Kullback-Leibler) when 2048 bins become 128 levels."""
    counts = histogram.counts.reshape(-1, 2).sum(axis=1).astype(np.float64)
    thresholds = range(_KL_LEVELS, len(counts) + 1, _KL_STEP)
    losses = [_information_lost(counts, threshold) for threshold in thresholds]
    return min(_edge(histogram, 2 * thresholds[int(np.argmin(losses))]), _minmax(histogram))


def _information_lost(counts: NDArray[np.float64], threshold: int) -> float:
    """Return the divergence of the quantized distribution from the true one, with values beyond a bin clipped."""
    true = counts[:threshold].copy()
    true[-1] += counts[threshold:].sum()
    starts = np.arange(_KL_LEVELS) * threshold // _KL_LEVELS
    filled = counts[:threshold] > 0
    widths = np.diff(np.append(starts, threshold))
    totals = np.add.reduceat(counts[:threshold], starts)
    means = totals / np.maximum(np.add.reduceat(filled, starts, dtype=np.float64), 1)
    quantized = np.repeat(means, widths) * filled
    if not quantized.sum():
        return np.inf
    compared = true > 0
    p, q = true[compared] / true.sum(), np.maximum(quantized[compared] / quantized.sum(), 1e-12)
    return float((p * np.log(p / q)).sum())


def _edge(histogram: Histogram, bins: int) -> float:
    return bins * histogram.limit / BINS


METHODS: dict[str, Callable[[Histogram], float]] = {
    "entropy": _entropy,
    "percentile": _percentile,
    "minmax": _minmax,
    "mse": _mse,
}
