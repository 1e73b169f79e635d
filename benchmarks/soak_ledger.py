"""What came to a subscriber: which results are missing, which came twice, and whether every frame is accounted for."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

Json = dict[str, Any]
MOST_TOLD = 10


class Ledger:
    """Takes messages in any order, as often as they come."""

    def __init__(self) -> None:
        self._seqs: dict[tuple[str, str], set[int]] = {}  # by boot and stream
        self.duplicates = 0
        self.telemetry = 0  # messages
        self.unaccounted: list[str] = []
        self.outbox_dropped = 0
        self.has_stopped = False  # the daemon's last status came

    def take(self, topic: str, body: Json) -> None:
        if topic.endswith("/results"):
            self._take_result(body)
        elif topic.endswith("/telemetry"):
            self._take_telemetry(body)
        elif topic.endswith("/status") and "/streams/" not in topic:
            self.has_stopped = body["state"] == "stopped"

    def _take_result(self, body: Json) -> None:
        seqs = self._seqs.setdefault((body["boot"], body["stream"]), set())
        self.duplicates += body["seq"] in seqs
        seqs.add(body["seq"])

    def _take_telemetry(self, body: Json) -> None:
        self.telemetry += 1
        self.outbox_dropped = max(self.outbox_dropped, body["outbox"]["dropped"])
        for name, told in body["streams"].items():
            accounted = told["results"] + sum(told["dropped"].values()) + told["in_flight"]
            if told["frames"] != accounted and len(self.unaccounted) < MOST_TOLD:
                self.unaccounted.append(f"{name} at {body['at']}: {told['frames']} frames, {accounted} accounted for")

    def add(self, other: Ledger) -> int:
        """Take over the results that came to another ledger alone; return how many those were."""
        before = self.results
        for key, seqs in other._seqs.items():
            self._seqs.setdefault(key, set()).update(seqs)
        return self.results - before

    @property
    def results(self) -> int:
        """How many different results came."""
        return sum(map(len, self._seqs.values()))

    @property
    def missing(self) -> list[str]:
        """Name the results before the newest of their stream that never came.

        As the daemon sends in order and its last status comes last, none can be missing after the newest either.
        """
        return [
            f"{stream}: seq {_shortened(lost)}"
            for (_, stream), seqs in sorted(self._seqs.items())
            if (lost := sorted(set(range(max(seqs) + 1)) - seqs))
        ]


def _shortened(numbers: Iterable[int]) -> str:
    first = list(numbers)
    more = f" and {len(first) - MOST_TOLD} more" if len(first) > MOST_TOLD else ""
    return ", ".join(map(str, first[:MOST_TOLD])) + more
