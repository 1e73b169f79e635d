"""Counters and latency histograms of streams and models, reported once a period."""

from __future__ import annotations

import math
import threading
from bisect import bisect_left
from dataclasses import dataclass
from typing import Any

import numpy as np

from edge.core.records import DROP_CAUSES, ENGINE_PARTS, STAGES, DropCause, EngineTimes, Result

# Bins whose bounds grow by this ratio, told by their geometric middle, are off by at most sqrt(1.039) - 1 = 1.93 %.
_BIN_RATIO = 1.039
_LOWEST_MS = 1e-3
_HIGHEST_MS = 1e6  # 17 minutes; what is longer is counted there, and `max` tells it
_BINS = math.ceil(math.log(_HIGHEST_MS / _LOWEST_MS) / math.log(_BIN_RATIO)) + 1
_LOG_RATIO = math.log(_BIN_RATIO)
_QUANTILES = {"p50": 0.50, "p90": 0.90, "p99": 0.99}
# Those that Prometheus's clients take where nobody says otherwise.
SPREAD_BOUNDS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_MIDDLES_MS = _LOWEST_MS * _BIN_RATIO ** (np.arange(_BINS) + 0.5)


@dataclass(frozen=True, slots=True)
class PeriodStats:
    """How one stream fared in a period."""

    frames: int  # captured
    found: int  # frames that were brought to their end, whether or not the gate let their result out
    late: int  # of those the ones over the target, and frames dropped because a lane was not free in time
    p99_ms: float | None  # from capture to what was found; None without results


@dataclass(frozen=True, slots=True)
class Work:
    """What one model did in a period."""

    images: int = 0
    busy_ms: float = 0.0  # of all its lanes


class LatencyHistogram:
    """Durations of one period in log-spaced bins."""

    def __init__(self) -> None:
        self._counts = [0] * _BINS
        self._max_ms = 0.0

    def add(self, duration_ms: float) -> None:
        position = math.log(duration_ms / _LOWEST_MS) / _LOG_RATIO if duration_ms > _LOWEST_MS else 0
        self._counts[min(int(position), _BINS - 1)] += 1
        self._max_ms = max(self._max_ms, duration_ms)

    def take(self) -> dict[str, float] | None:
        """Return the percentiles in milliseconds, and start anew; None where nothing was added."""
        counts, max_ms = np.array(self._counts), self._max_ms
        self._counts, self._max_ms = [0] * _BINS, 0.0
        total = int(counts.sum())
        if not total:
            return None
        ranks = np.cumsum(counts)
        told = {
            name: round(min(float(_MIDDLES_MS[np.searchsorted(ranks, math.ceil(share * total))]), max_ms), 6)
            for name, share in _QUANTILES.items()
        }
        return told | {"max": round(max_ms, 6)}


class Spread:
    """All durations since the start, counted by bounds that every device has: what can be added up over a fleet."""

    def __init__(self) -> None:
        self._counts = [0] * (len(SPREAD_BOUNDS_S) + 1)
        self._sum_ms = 0.0

    def add(self, duration_ms: float) -> None:
        self._counts[bisect_left(SPREAD_BOUNDS_S, duration_ms / 1000)] += 1
        self._sum_ms += duration_ms

    def told(self) -> tuple[tuple[int, ...], float]:
        """Return how many lie up to each bound and above the one before, then those above all; and their sum, in s."""
        return tuple(self._counts), self._sum_ms / 1000


class StreamMeter:
    """What became of one stream's frames; every captured frame is a result, a drop or in flight, at any moment."""

    def __init__(self, target_ms: float | None = None) -> None:
        """Take the latency, from capture to what was found, over which a result counts as late."""
        self._target_ms = math.inf if target_ms is None else target_ms
        self._lock = threading.Lock()
        self._frames = 0
        self._results = 0
        self._in_flight = 0
        self._late = 0
        self._until_found = LatencyHistogram()
        self._before = PeriodStats(0, 0, 0, None)  # counts at the end of the period before
        self.pace = PeriodStats(0, 0, 0, None)  # of the period that was taken last
        self._dropped: dict[DropCause, int] = dict.fromkeys(DROP_CAUSES, 0)
        self._period_results = 0
        self._latency = {stage: LatencyHistogram() for stage in STAGES}
        self._spreads = {"found": Spread(), "acknowledged": Spread()}

    @property
    def in_flight(self) -> int:
        """Frames captured that are neither a result nor a drop yet."""
        return self._in_flight

    def captured(self) -> int:
        """Count a frame; return its number."""
        with self._lock:
            self._frames += 1
            self._in_flight += 1
            return self._frames - 1

    def dropped(self, cause: DropCause) -> None:
        with self._lock:
            self._dropped[cause] += 1
            self._in_flight -= 1

    def counts(self) -> dict[str, Any]:
        """Return what became of all frames since the stream started."""
        with self._lock:
            return {
                "frames": self._frames,
                "results": self._results,
                "in_flight": self._in_flight,
                "dropped": dict(self._dropped),
            }

    def drops(self) -> dict[DropCause, int]:
        with self._lock:
            return dict(self._dropped)

    def resulted(self, result: Result) -> None:
        with self._lock:
            self._results += 1
            self._period_results += 1
            self._found(result)

    def gated(self, result: Result) -> None:
        """Count a result that is not published; the work for it was done, and in time or late, like any other's."""
        with self._lock:
            self._dropped["gated"] += 1
            self._found(result)

    def _found(self, result: Result) -> None:
        self._in_flight -= 1
        self._latency["wait"].add(result.wait_ms)
        self._latency["preprocess"].add(result.preprocess_ms)
        self._latency["infer"].add(result.infer_ms)
        self._latency["decode"].add(result.decode_ms)
        until_found_ms = (result.decoded_ns - result.captured_ns) / 1e6
        self._until_found.add(until_found_ms)
        self._spreads["found"].add(until_found_ms)
        self._late += until_found_ms > self._target_ms

    def acknowledged(self, publish_ms: float, total_ms: float) -> None:
        with self._lock:
            self._latency["publish"].add(publish_ms)
            self._latency["total"].add(total_ms)
            self._spreads["acknowledged"].add(total_ms)

    def spreads(self) -> dict[str, tuple[tuple[int, ...], float]]:
        """Return how long all frames since the start took: until found, and until the broker had the result."""
        with self._lock:
            return {until: spread.told() for until, spread in self._spreads.items()}

    def take(self, period_s: float) -> dict[str, Any]:
        """Return the counts, and the rate and latency of the period that ends now."""
        counts = self.counts()
        with self._lock:
            results, self._period_results = self._period_results, 0
            latency_ms = {stage: histogram.take() for stage, histogram in self._latency.items()}
            found = self._until_found.take()
            late = self._late
        late += counts["dropped"]["overrun"] + counts["dropped"]["stale"]
        served = counts["results"] + counts["dropped"]["gated"]
        now = PeriodStats(counts["frames"], served, late, found["p99"] if found else None)
        before, self._before = self._before, now
        self.pace = PeriodStats(
            now.frames - before.frames, now.found - before.found, now.late - before.late, now.p99_ms
        )
        return counts | {"results_per_s": round(results / period_s, 2), "latency_ms": latency_ms}


class ModelMeter:
    """How busy one model's lanes are, and where the time of a batch goes."""

    def __init__(self, lanes: int) -> None:
        self.lanes = lanes  # changes with the engine
        self._lock = threading.Lock()
        self._parts = {part: LatencyHistogram() for part in ENGINE_PARTS}
        self._images = 0
        self._batches = 0
        self._busy_ms = 0.0
        self._compared = 0  # frames
        self._agreement: float | None = None
        self.work = Work()  # of the period that was taken last

    def inferred(self, images: int, times: EngineTimes) -> None:
        with self._lock:
            self._images += images
            self._batches += 1
            self._busy_ms += times.infer_ms
            self._parts["compute"].add(times.compute_ms)
            if times.h2d_ms is not None:
                self._parts["h2d"].add(times.h2d_ms)
            if times.d2h_ms is not None:
                self._parts["d2h"].add(times.d2h_ms)

    def compared(self, frames: int, agreement: float | None) -> None:
        """Note how well the newest frames that were compared agree with the reference."""
        with self._lock:
            self._compared, self._agreement = frames, agreement

    def take(self, period_s: float, engine: str) -> dict[str, Any]:
        with self._lock:
            images, batches, busy_ms = self._images, self._batches, self._busy_ms
            self._images, self._batches, self._busy_ms = 0, 0, 0.0
            compared, agreement = self._compared, self._agreement
            parts_ms = {part: histogram.take() for part, histogram in self._parts.items()}
        self.work = Work(images, busy_ms)
        return {
            "engine": engine,
            "images_per_s": round(images / period_s, 2),
            "busy": round(min(1.0, busy_ms / 1000 / (period_s * self.lanes)), 4),
            "batch_mean": round(images / batches, 3) if batches else None,
            "engine_ms": parts_ms,
            "shadow": {"frames": compared, "agreement": agreement},
        }
