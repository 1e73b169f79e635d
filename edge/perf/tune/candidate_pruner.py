"""Pruning of candidates that cannot beat the settings measured so far."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol

from edge.perf.tune.setting import MeasuredSetting, Setting

# Rates or latencies within this ratio of each other count as equal.
_SAME = 1.03
# A slower power mode is skipped if a faster one missed the target by more than this ratio.
_CLEARLY = 1.1
_TOO_LARGE = "smaller batches already miss the target"


class Reason(NamedTuple):
    """Reason for skipping a candidate."""

    kind: str  # shared by many candidates
    text: str  # with the figures of this one


class IsSlower(Protocol):
    """Test for a power mode whose every cap is at or below that of another one."""

    def __call__(self, mode: str, than: str, /) -> bool: ...


@dataclass(frozen=True)
class CandidatePruner:
    """Rules that derive from the measurements so far which candidates need no measurement."""

    measured: Mapping[Setting, MeasuredSetting]
    target_p99_ms: float | None
    is_slower: IsSlower

    def reason_to_skip(self, candidate: Setting) -> Reason | None:
        """Return the reason that a candidate cannot beat the measured settings; None if it might."""
        by_batch = self._smaller_batches(candidate)
        return (
            self._over_target_in_a_faster_mode(candidate)
            or self._never_full(by_batch)
            or self._too_large(by_batch)
            or self._useless_lanes(candidate)
        )

    def _smaller_batches(self, candidate: Setting) -> dict[int, MeasuredSetting]:
        found = {
            each.max_batch: measured
            for each, measured in self.measured.items()
            if each.max_batch < candidate.max_batch and replace(each, max_batch=candidate.max_batch) == candidate
        }
        return dict(sorted(found.items()))

    def _fewer_lanes(self, candidate: Setting) -> dict[int, MeasuredSetting]:
        found = {
            each.lanes: measured
            for each, measured in self.measured.items()
            if each.lanes < candidate.lanes and replace(each, lanes=candidate.lanes) == candidate
        }
        return dict(sorted(found.items()))

    def _over_target_in_a_faster_mode(self, candidate: Setting) -> Reason | None:
        if self.target_p99_ms is None or candidate.power_mode is None:
            return None
        for each, measured in self.measured.items():
            p99_ms = measured.point.latency_p99_ms
            same = replace(each, power_mode=candidate.power_mode) == candidate and not measured.point.is_throttled
            if not same or each.power_mode is None or p99_ms is None:
                continue
            if p99_ms > _CLEARLY * self.target_p99_ms and self.is_slower(candidate.power_mode, each.power_mode):
                text = f"p99 was already {p99_ms:.3g} ms in {each.power_mode}, which is faster in every respect"
                return Reason("a faster power mode already misses the target", text)
        return None

    @staticmethod
    def _never_full(smaller: Mapping[int, MeasuredSetting]) -> Reason | None:
        for batch, measured in smaller.items():
            if measured.batch_most < batch:
                text = f"the fullest batch held {measured.batch_most} of {batch} images"
                return Reason("this load does not fill a smaller batch", text)
        return None

    def _too_large(self, smaller: Mapping[int, MeasuredSetting]) -> Reason | None:
        """Return a reason if smaller batches missed the target, and not because they were too small for the load."""
        if self.target_p99_ms is None:
            return None
        before_ms: float | None = None
        for batch, measured in smaller.items():
            p99_ms, service_ms = measured.point.latency_p99_ms, measured.service_ms
            if service_ms is not None and service_ms > self.target_p99_ms:
                return Reason(_TOO_LARGE, f"batches of {batch} alone took {service_ms:.3g} ms")
            if p99_ms is None:
                continue
            if before_ms is not None and p99_ms > max(self.target_p99_ms, before_ms):
                text = f"p99 rose from {before_ms:.3g} to {p99_ms:.3g} ms with batches of {batch}"
                return Reason(_TOO_LARGE, text)
            before_ms = p99_ms
        return None

    def _useless_lanes(self, candidate: Setting) -> Reason | None:
        """Return a reason if the lanes added last gave neither more images/s nor less latency."""
        fewer = list(self._fewer_lanes(candidate).items())
        if len(fewer) < 2:  # noqa: PLR2004 -- a trend has two points
            return None
        (few, before), (more, after) = fewer[-2:]
        rate, p99_ms = after.point.images_per_s or 0.0, after.point.latency_p99_ms
        before_p99_ms = before.point.latency_p99_ms
        if p99_ms is None or before_p99_ms is None:
            return None
        if rate < (before.point.images_per_s or 0.0) * _SAME and p99_ms * _SAME > before_p99_ms:
            text = f"{more} lanes gave no more images/s than {few}, and no less latency"
            return Reason("fewer lanes perform as well", text)
        return None


def fastest_first(modes: tuple[str | None, ...], is_slower: IsSlower) -> tuple[str | None, ...]:
    """Sort power modes so that faster ones come first; the order is otherwise kept."""

    def faster(mode: str | None) -> int:
        return sum(1 for each in modes if mode and each and each != mode and is_slower(mode, each))

    return tuple(sorted(modes, key=faster))
