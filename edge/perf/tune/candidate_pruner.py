"""Settings that cannot win, given the measurements so far: left out with the reason."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol

from edge.perf.tune.setting import MeasuredSetting, Setting

# A rate or latency within this ratio of another one is taken for the same.
_SAME = 1.03
# A slower power mode is left out where a faster one missed the target by more than this ratio.
_CLEARLY = 1.1
_TOO_LARGE = "smaller batches miss the target already"


class Reason(NamedTuple):
    """Why a candidate was left out."""

    kind: str  # for many of them
    text: str  # for this one


class IsSlower(Protocol):
    """Tells whether a power mode is capped at or below another one in everything."""

    def __call__(self, mode: str, than: str, /) -> bool: ...


@dataclass(frozen=True)
class CandidatePruner:
    """Knows what has been measured, and tells what need not be."""

    measured: Mapping[Setting, MeasuredSetting]
    target_p99_ms: float | None
    is_slower: IsSlower

    def why_not(self, candidate: Setting) -> Reason | None:
        """Return why a candidate cannot be better than what is measured; None where it may be."""
        by_batch = self._smaller_batches(candidate)
        return (
            self._over_target_in_a_faster_mode(candidate)
            or self._never_full(by_batch)
            or self._too_large(by_batch)
            or self._more_lanes_for_nothing(candidate)
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
                told = f"p99 was {p99_ms:.3g} ms in {each.power_mode} already, which is faster in everything"
                return Reason("a faster power mode misses the target already", told)
        return None

    @staticmethod
    def _never_full(smaller: Mapping[int, MeasuredSetting]) -> Reason | None:
        for batch, measured in smaller.items():
            if measured.batch_most < batch:
                told = f"no batch was fuller than {measured.batch_most} where {batch} were allowed"
                return Reason("this load does not fill a smaller batch", told)
        return None

    def _too_large(self, smaller: Mapping[int, MeasuredSetting]) -> Reason | None:
        """Tell where smaller batches missed the target, and not for want of larger ones."""
        if self.target_p99_ms is None:
            return None
        before_ms: float | None = None
        for batch, measured in smaller.items():
            p99_ms, service_ms = measured.point.latency_p99_ms, measured.service_ms
            if service_ms is not None and service_ms > self.target_p99_ms:
                return Reason(_TOO_LARGE, f"batches of {batch} took {service_ms:.3g} ms by themselves")
            if p99_ms is None:
                continue
            if before_ms is not None and p99_ms > max(self.target_p99_ms, before_ms):
                told = f"p99 had risen from {before_ms:.3g} to {p99_ms:.3g} ms with batches of {batch}"
                return Reason(_TOO_LARGE, told)
            before_ms = p99_ms
        return None

    def _more_lanes_for_nothing(self, candidate: Setting) -> Reason | None:
        """Tell where the last lanes that were added gave neither more images a second nor less latency."""
        fewer = list(self._fewer_lanes(candidate).items())
        if len(fewer) < 2:  # noqa: PLR2004 -- a trend has two points
            return None
        (few, before), (more, after) = fewer[-2:]
        rate, p99_ms = after.point.images_per_s or 0.0, after.point.latency_p99_ms
        before_p99_ms = before.point.latency_p99_ms
        if p99_ms is None or before_p99_ms is None:
            return None
        if rate < (before.point.images_per_s or 0.0) * _SAME and p99_ms * _SAME > before_p99_ms:
            told = f"{more} lanes gave no more images a second than {few}, and no less latency"
            return Reason("fewer lanes give as much", told)
        return None


def fastest_first(modes: tuple[str | None, ...], is_slower: IsSlower) -> tuple[str | None, ...]:
    """Return power modes with the faster ones first, else as they were."""

    def faster(mode: str | None) -> int:
        return sum(1 for each in modes if mode and each and each != mode and is_slower(mode, each))

    return tuple(sorted(modes, key=faster))
