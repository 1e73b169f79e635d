"""Counters and latency histograms of streams and models, reported once a period."""

from __future__ import annotations

import math
import threading
from bisect import bisect_left
from dataclasses import dataclass
from typing import Any

import numpy as np

from edge.core.records import DROP_CAUSES, ENGINE_PARTS, STAGES, DropCause, EngineTimes, Result

# Bins whose bounds grow by this ratio, reported by their geometric middle, are off by at most sqrt(1.039) - 1 = 1.93 %.
_BIN_RATIO = 1.039
_LOWEST_MS = 1e-3
_HIGHEST_MS = 1e6  # 17 minutes; longer durations count in the last bin, and `max` is exact
_BINS = math.ceil(math.log(_HIGHEST_MS / _LOWEST_MS) / math.log(_BIN_RATIO)) + 1
_LOG_RATIO = math.log(_BIN_RATIO)
_QUANTILES = {"p50": 0.50, "p90": 0.90, "p99": 0.99}
# The default buckets of Prometheus's clients.
BUCKET_BOUNDS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
# Durations by bucket and their sum in seconds, since the start; one bucket holds all of them.
Spread = tuple[tuple[int, ...], float]
_MIDDLES_MS = _LOWEST_MS * _BIN_RATIO ** (np.arange(_BINS) + 0.5)


@dataclass(frozen=True, slots=True)
class PeriodStats:
    """Figures of one stream over a period."""

    frames: int  # captured
    found: int  # frames brought to their end, whether or not the filter let their result out
    late: int  # of these the ones over the target, and frames dropped because no lane was free in time
    p99_ms: float | None  # from capture to findings; None without results


@dataclass(frozen=True, slots=True)
class ModelWork:
    """Work of one model in a period."""

    images: int = 0
    busy_ms: float = 0.0  # of all its lanes


class LatencyHistogram:
    """Durations of one period in log-spaced bins."""

    def __init__(self) -> None:
        self._counts = [0] * _BINS
        self._max_ms = 0.0
        self._added, self._sum_ms = 0, 0.0  # since the start

    def add(self, duration_ms: float) -> None:
        position = math.log(duration_ms / _LOWEST_MS) / _LOG_RATIO if duration_ms > _LOWEST_MS else 0
        self._counts[min(int(position), _BINS - 1)] += 1
        self._max_ms = max(self._max_ms, duration_ms)
        self._added += 1
        self._sum_ms += duration_ms

    def totals(self) -> Spread:
        """Return the number and the sum of all durations since the start, in one bucket."""
        return (self._added,), self._sum_ms / 1000

    def drain(self) -> dict[str, float] | None:
        """Return the percentiles in milliseconds, and start anew; None where nothing was added."""
        counts, max_ms = np.array(self._counts), self._max_ms
        self._counts, self._max_ms = [0] * _BINS, 0.0
        total = int(counts.sum())
        if not total:
            return None
        ranks = np.cumsum(counts)
        percentiles = {
            name: round(min(float(_MIDDLES_MS[np.searchsorted(ranks, math.ceil(quantile * total))]), max_ms), 6)
            for name, quantile in _QUANTILES.items()
        }
        return percentiles | {"max": round(max_ms, 6)}


class BucketHistogram:
    """All durations since the start, in buckets that are the same on every device, so that a fleet's can be added."""

    def __init__(self) -> None:
        self._counts = [0] * (len(BUCKET_BOUNDS_S) + 1)
        self._sum_ms = 0.0

    def add(self, duration_ms: float) -> None:
        self._counts[bisect_left(BUCKET_BOUNDS_S, duration_ms / 1000)] += 1
        self._sum_ms += duration_ms

    def totals(self) -> Spread:
        """Return the count of each bucket, the last one above all bounds, and the sum of all durations in seconds."""
        return tuple(self._counts), self._sum_ms / 1000


class StreamMeter:
    """Counts one stream's frames: at any moment, each captured one is a result, a drop or in flight."""

    def __init__(self, target_ms: float | None = None) -> None:
        """Take the latency, from capture to findings, above which a result counts as late."""
        self._target_ms = math.inf if target_ms is None else target_ms
        self._lock = threading.Lock()
        self._frames = 0
        self._results = 0
        self._in_flight = 0
        self._late = 0
        self._until_found = LatencyHistogram()
        self._before = PeriodStats(0, 0, 0, None)  # totals at the end of the previous period
        self.period = PeriodStats(0, 0, 0, None)  # the last one reported
        self._dropped: dict[DropCause, int] = dict.fromkeys(DROP_CAUSES, 0)
        self._period_results = 0
        self._latency = {stage: LatencyHistogram() for stage in STAGES}
        self._buckets = {"found": BucketHistogram(), "acknowledged": BucketHistogram()}

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
        """Return the counts of all frames since the stream started."""
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
        """Count a result that is not published; its work was done, in time or late, like any other's."""
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
        self._buckets["found"].add(until_found_ms)
        self._late += until_found_ms > self._target_ms

    def acknowledged(self, publish_ms: float, total_ms: float) -> None:
        with self._lock:
            self._latency["publish"].add(publish_ms)
            self._latency["total"].add(total_ms)
            self._buckets["acknowledged"].add(total_ms)

    def buckets(self) -> dict[str, Spread]:
        """Return the latencies of all frames since the start: until found, and until acknowledged by the broker."""
        with self._lock:
            return {until: histogram.totals() for until, histogram in self._buckets.items()}

    def stages(self) -> dict[str, Spread]:
        """Return the durations of each stage since the start."""
        with self._lock:
            return {stage: histogram.totals() for stage, histogram in self._latency.items()}

    def report(self, period_s: float) -> dict[str, Any]:
        """Return the counts, and the rate and latency of the period that ends now."""
        counts = self.counts()
        with self._lock:
            results, self._period_results = self._period_results, 0
            latency_ms = {stage: histogram.drain() for stage, histogram in self._latency.items()}
            found = self._until_found.drain()
            late = self._late
        late += counts["dropped"]["overrun"] + counts["dropped"]["stale"]
        served = counts["results"] + counts["dropped"]["gated"]
        now = PeriodStats(counts["frames"], served, late, found["p99"] if found else None)
        before, self._before = self._before, now
        self.period = PeriodStats(
            now.frames - before.frames, now.found - before.found, now.late - before.late, now.p99_ms
        )
        return counts | {"results_per_s": round(results / period_s, 2), "latency_ms": latency_ms}


class ModelMeter:
    """Measures the load of one model's lanes, and the parts of a batch's time."""

    def __init__(self, lanes: int) -> None:
        self.lanes = lanes  # changes with the engine
        self._lock = threading.Lock()
        self._parts = {part: LatencyHistogram() for part in ENGINE_PARTS}
        self._images = 0
        self._batches = 0
        self._busy_ms = 0.0
        self._compared = 0  # frames
        self._agreement: float | None = None
        self.work = ModelWork()  # of the last period reported

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

    def parts(self) -> dict[str, Spread]:
        """Return the durations of each part of a batch's inference since the start."""
        with self._lock:
            return {part: histogram.totals() for part, histogram in self._parts.items()}

    def compared(self, frames: int, agreement: float | None) -> None:
        """Record the agreement of the last compared frames with the reference."""
        with self._lock:
            self._compared, self._agreement = frames, agreement

    def report(self, period_s: float, engine: str) -> dict[str, Any]:
        """Return the load and the engine's times of the period that ends now."""
        with self._lock:
            images, batches, busy_ms = self._images, self._batches, self._busy_ms
            self._images, self._batches, self._busy_ms = 0, 0, 0.0
            compared, agreement = self._compared, self._agreement
            parts_ms = {part: histogram.drain() for part, histogram in self._parts.items()}
        self.work = ModelWork(images, busy_ms)
        return {
            "engine": engine,
            "images_per_s": round(images / period_s, 2),
            "busy": round(min(1.0, busy_ms / 1000 / (period_s * self.lanes)), 4),
            "batch_mean": round(images / batches, 3) if batches else None,
            "engine_ms": parts_ms,
            "shadow": {"frames": compared, "agreement": agreement},
        }
