"""Which range each tensor of a model takes on calibration frames: streaming histograms, then one of four methods."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, ValueInfoProto

from edge.core.errors import ModelError

BINS = 4096  # when the range has just doubled, the older half of them is still 2048
LEVELS = 127  # of int8 on each side of 0
_KL_LEVELS = 128
_KL_STEP = 16  # bins between two thresholds that are tried
_KEPT_SHARE = 0.9999  # of the values, by `percentile`
_LOG_FATAL = 4  # what goes wrong reaches us as an exception
_LEAST = 1e-30  # what is smaller counts as 0: its scale would be beyond float32
_LEAST_KEPT = 64  # bins: no threshold is tried below this part of the range


@dataclass(frozen=True)
class Range:
    """What quantized values of a tensor must reach; values beyond are clipped."""

    low: float
    high: float

    @property
    def magnitude(self) -> float:
        return max(-self.low, self.high)


class Probe:
    """An FP32 model that gives the tensors inside it; one picture at a time, so that memory does not grow."""

    def __init__(self, model: ModelProto, tensors: Iterable[str], threads: int) -> None:
        import onnxruntime  # noqa: PLC0415 -- slow to import

        probed = ModelProto()
        probed.CopyFrom(model)
        self._inputs = {value.name for value in model.graph.input}
        known = {value.name for value in model.graph.output}
        self._tensors = sorted(set(tensors) - self._inputs)
        probed.graph.output.extend(ValueInfoProto(name=name) for name in self._tensors if name not in known)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = _LOG_FATAL
        # Higher levels would fuse tensors away that are to be seen.
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
        data = probed.SerializeToString()
        self._session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])

    def __call__(self, picture: NDArray[Any]) -> dict[str, NDArray[Any]]:
        """Return the tensors that one picture (1×…) makes, the model's input among them."""
        feed = dict.fromkeys(self._inputs, picture)
        return feed | dict(zip(self._tensors, self._session.run(self._tensors, feed), strict=True))


def calibrate(probe: Probe, tensors: Collection[str], pictures: Iterable[NDArray[Any]]) -> dict[str, Histogram]:
    """Return the histogram of each tensor; raise ModelError where one is not finite on these pictures."""
    histograms = {name: Histogram() for name in tensors}
    for picture in pictures:
        found = probe(picture)
        for name, histogram in histograms.items():
            try:
                histogram.add(found[name])
            except ValueError:
                raise ModelError(
                    f"tensor {name!r} is not finite on a calibration frame; wanted a model that computes numbers on "
                    "these frames: see that [input] in model.toml fits it"
                ) from None
    return histograms


class Histogram:
    """The magnitudes of a tensor's values, however many come, in bins over 0…`limit`, which doubles where needed."""

    def __init__(self) -> None:
        self.counts: NDArray[np.int64] = np.zeros(BINS, np.int64)  # of values from _LEAST on
        self.limit = 0.0
        self.low = 0.0
        self.high = 0.0
        self.size = 0  # numbers of the tensor, in one picture

    def add(self, values: NDArray[Any]) -> None:
        """Count the values; raise ValueError where one is not finite."""
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
        """Return the range that quantization should keep."""
        if not self.counts.any():
            return Range(0.0, 0.0)
        kept = METHODS[method](self)
        return Range(max(self.low, -kept), min(self.high, kept))


def _minmax(histogram: Histogram) -> float:
    return max(-histogram.low, histogram.high)


def _percentile(histogram: Histogram) -> float:
    """Keep all but a ten-thousandth of the values."""
    reached = np.cumsum(histogram.counts)
    place = int(np.searchsorted(reached, _KEPT_SHARE * reached[-1]))
    return min(_edge(histogram, place + 1), _minmax(histogram))


def _mse(histogram: Histogram) -> float:
    """Keep what makes the mean squared error least: rounding within the threshold, clipping beyond it."""
    counts = histogram.counts.astype(np.float64)
    centers = np.arange(BINS) + 0.5
    # Of the values in and beyond each bin: how many, their sum, their sum of squares.
    beyond = [np.append(np.cumsum(each[::-1])[::-1], 0.0) for each in (counts, counts * centers, counts * centers**2)]
    places = np.arange(_LEAST_KEPT, BINS + 1)
    count, total, squares = (each[places] for each in beyond)
    clipping = squares - 2 * places * total + places**2 * count
    rounding = (counts.sum() - count) * (places / LEVELS) ** 2 / 12
    return min(_edge(histogram, int(places[np.argmin(clipping + rounding)])), _minmax(histogram))


def _entropy(histogram: Histogram) -> float:
    """Keep what loses the least information (Kullback-Leibler) when 2048 bins become 128 levels."""
    counts = histogram.counts.reshape(-1, 2).sum(axis=1).astype(np.float64)
    places = range(_KL_LEVELS, len(counts) + 1, _KL_STEP)
    losses = [_information_lost(counts, place) for place in places]
    return min(_edge(histogram, 2 * places[int(np.argmin(losses))]), _minmax(histogram))


def _information_lost(counts: NDArray[np.float64], place: int) -> float:
    """Return the divergence of the quantized distribution from the true one, when values beyond `place` are clipped."""
    true = counts[:place].copy()
    true[-1] += counts[place:].sum()
    starts = np.arange(_KL_LEVELS) * place // _KL_LEVELS
    filled = counts[:place] > 0
    widths = np.diff(np.append(starts, place))
    totals = np.add.reduceat(counts[:place], starts)
    shares = totals / np.maximum(np.add.reduceat(filled, starts, dtype=np.float64), 1)
    quantized = np.repeat(shares, widths) * filled
    if not quantized.sum():
        return np.inf
    compared = true > 0
    p, q = true[compared] / true.sum(), np.maximum(quantized[compared] / quantized.sum(), 1e-12)
    return float((p * np.log(p / q)).sum())


def _edge(histogram: Histogram, place: int) -> float:
    return place * histogram.limit / BINS


METHODS: dict[str, Callable[[Histogram], float]] = {
    "entropy": _entropy,
    "percentile": _percentile,
    "minmax": _minmax,
    "mse": _mse,
}
