"""Power that changes as known, written into a board's files as a driver would show it: waveforms.py SPEC LOG.

A process of its own, so that neither waits for the other. SPEC is JSON: seconds, and rails with their waveform, the
file that is written, what one watt is in it, how it is written, and when and how its sensor fails. LOG gets what was
really written, and when: `[[monotonic ns, watts or null], …]` by rail.
"""

from __future__ import annotations

import json
import math
import random
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

RATE_HZ = 100
# Periods are no multiples of the sampling's.
SQUARE_S, RAMP_S = 1.37, 3.29

_noise = random.Random(7)


def constant(_: float) -> float:
    return 7.5


def square(at_s: float) -> float:
    return 12.0 if at_s % SQUARE_S < SQUARE_S / 2 else 4.0


def ramp(at_s: float) -> float:
    """Rise from 2 W to 14 W, and fall again."""
    return 2 + 12 * (1 - abs(2 * (at_s % RAMP_S) / RAMP_S - 1))


def noisy(at_s: float) -> float:
    return 9 + math.sin(at_s) + _noise.gauss(0, 0.8)


WAVEFORMS: dict[str, Callable[[float], float]] = {
    "constant": constant,
    "square": square,
    "ramp": ramp,
    "noisy": noisy,
}
# The means of whole periods.
MEANS_W = {"constant": 7.5, "square": 8.0, "ramp": 8.0, "noisy": 9.0}


def show(path: Path, text: str, how: str) -> None:
    """Write a file in one go as sysfs would show it (`replaced`), or so that it is empty for a moment (`rewritten`)."""
    if how == "replaced":
        new = path.with_name(f".{path.name}")
        new.write_text(text, encoding="utf-8")
        new.replace(path)
    else:
        path.write_text(text, encoding="utf-8")


def fail(path: Path, how: str) -> None:
    if how == "vanishes":
        path.unlink(missing_ok=True)
    else:
        path.write_text({"empties": "", "halves": "7", "garbles": "#?!\n"}[how], encoding="utf-8")


class Writer:
    """Writes one rail."""

    def __init__(self, rail: dict[str, Any]) -> None:
        self._path = Path(rail["path"])
        self._waveform = WAVEFORMS[rail["waveform"]]
        self._per_watt = rail["per_watt"]
        self._how = rail["how"]
        self._outage = rail["outage"]  # from, to, how
        self.log: list[tuple[int, float | None]] = []

    def write(self, at_s: float) -> None:
        if self._outage and self._outage[0] <= at_s < self._outage[1]:
            if not self.log or self.log[-1][1] is not None:
                fail(self._path, self._outage[2])
                self.log.append((time.monotonic_ns(), None))
            return
        shown = round(self._waveform(at_s) * self._per_watt)
        show(self._path, f"{shown}\n", self._how)
        self.log.append((time.monotonic_ns(), shown / self._per_watt))


def main() -> None:
    spec = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    writers = {name: Writer(rail) for name, rail in spec["rails"].items()}
    start_s = time.monotonic()
    tick = 0
    while (at_s := time.monotonic() - start_s) < spec["seconds"]:
        for writer in writers.values():
            writer.write(at_s)
        if tick == 0:
            sys.stdout.write("ready\n")
            sys.stdout.flush()
        tick = max(tick + 1, int(at_s * RATE_HZ))
        time.sleep(max(0.0, start_s + tick / RATE_HZ - time.monotonic()))
    Path(sys.argv[2]).write_text(json.dumps({name: each.log for name, each in writers.items()}), encoding="utf-8")


if __name__ == "__main__":
    main()
