"""Ledger of received messages: missing and duplicate results, and frames unaccounted for."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

Json = dict[str, Any]
MOST_NAMED = 10


class Ledger:
    """Ledger that accepts messages in any order and any number of times."""

    def __init__(self) -> None:
        self._seqs: dict[tuple[str, str], set[int]] = {}  # by boot and stream
        self.duplicates = 0
        self.telemetry = 0  # messages
        self.unaccounted: list[str] = []
        self.outbox_dropped = 0
        self.has_stopped = False  # the daemon's last status has arrived

    def record(self, topic: str, body: Json) -> None:
        if topic.endswith("/results"):
            self._record_result(body)
        elif topic.endswith("/telemetry"):
            self._record_telemetry(body)
        elif topic.endswith("/status") and "/streams/" not in topic:
            self.has_stopped = body["state"] == "stopped"

    def _record_result(self, body: Json) -> None:
        seqs = self._seqs.setdefault((body["boot"], body["stream"]), set())
        self.duplicates += body["seq"] in seqs
        seqs.add(body["seq"])

    def _record_telemetry(self, body: Json) -> None:
        self.telemetry += 1
        self.outbox_dropped = max(self.outbox_dropped, body["outbox"]["dropped"])
        for name, counts in body["streams"].items():
            accounted = counts["results"] + sum(counts["dropped"].values()) + counts["in_flight"]
            if counts["frames"] != accounted and len(self.unaccounted) < MOST_NAMED:
                self.unaccounted.append(f"{name} at {body['at']}: {counts['frames']} frames, {accounted} accounted for")

    def add(self, other: Ledger) -> int:
        """Add the results that only another ledger received; return their number."""
        before = self.results
        for key, seqs in other._seqs.items():
            self._seqs.setdefault(key, set()).update(seqs)
        return self.results - before

    @property
    def results(self) -> int:
        """Number of distinct results."""
        return sum(map(len, self._seqs.values()))

    @property
    def missing(self) -> list[str]:
        """Name the results before the newest of their stream that never arrived.

        Since the daemon sends in order and its status last, none can be missing after the newest either.
        """
        return [
            f"{stream}: seq {_shortened(lost)}"
            for (_, stream), seqs in sorted(self._seqs.items())
            if (lost := sorted(set(range(max(seqs) + 1)) - seqs))
        ]


def _shortened(numbers: Iterable[int]) -> str:
    first = list(numbers)
    more = f" and {len(first) - MOST_NAMED} more" if len(first) > MOST_NAMED else ""
    return ", ".join(map(str, first[:MOST_NAMED])) + more
