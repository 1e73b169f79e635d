"""Start history of the daemon: how each start ended, and detection of crash loops."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from edge.core.backoff import bound_after
from edge.core.clock import now_ns
from edge.core.files import write_atomic

log = logging.getLogger(__name__)

End = Literal["clean", "lost"]

HEALTHY_UPTIME_S = 120.0  # after serving for so long, an exit has nothing to do with the start
WITHIN_S = 600.0
MANY = 3  # bad ends within that time that make a loop
KEPT = 8
FIRST_PAUSE_S = 5.0
LONGEST_PAUSE_S = 60.0
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


@dataclass
class Start:
    """One start of the daemon; a killed process has recorded no end."""

    machine_boot: str  # the machine's, not the daemon's: with it the monotonic clock restarts
    at_ns: int
    settled: bool = False
    ended: End | None = None
    engines: dict[str, str] = field(default_factory=dict)  # model → label of what served it last

    @property
    def was_bad(self) -> bool:
        """True if it ended by a crash or a lost GPU shortly after starting."""
        return not self.settled and self.ended != "clean"


@dataclass(frozen=True)
class CrashLoop:
    """Consecutive starts that ended badly, and the pause and engines that follow from them."""

    count: int
    pause_s: float
    tried: Mapping[str, frozenset[str]]  # model → labels of what served in these starts
    engines: Mapping[str, str]  # model → label of what served well, and not in these starts

    @property
    def reason(self) -> str:
        return (
            f"the daemon exited unexpectedly {self.count} times within {WITHIN_S / 60:g} min, "
            "each time shortly after starting"
        )


class StartHistory:
    """Record of starts in the state directory: a few writes per start, and none while the daemon serves."""

    def __init__(self, state_dir: Path, *, restarted: bool) -> None:
        """Read the record; without `restarted`, nobody restarts the daemon: there is no loop, and no record."""
        self._path = state_dir / "starts.json" if restarted else None
        self._good_engines: dict[str, str] = {}
        self._past = self._read()
        self._now = Start(_machine_boot(), now_ns())
        self._serving_since_ns: int | None = None

    def crash_loop(self) -> CrashLoop | None:
        """Return the crash loop that the starts before this one make, if any."""
        bad = list(itertools.takewhile(self._counts, reversed(self._past)))
        if len(bad) < MANY:
            return None
        names = {name for start in bad for name in start.engines}
        tried = {name: frozenset(start.engines[name] for start in bad if name in start.engines) for name in names}
        engines = {name: label for name, label in self._good_engines.items() if label not in tried.get(name, ())}
        pause_s = bound_after(len(bad) - MANY, FIRST_PAUSE_S, LONGEST_PAUSE_S)
        return CrashLoop(len(bad), pause_s, tried, engines)

    def begin(self) -> None:
        """Record this start, before anything that can end the process."""
        self._write()

    def update(self, engines: Mapping[str, str]) -> bool:
        """Record the serving engines, and once that they are healthy; return whether they have just become so."""
        now = self._now
        self._serving_since_ns = self._serving_since_ns or now_ns()
        settles = not now.settled and (now_ns() - self._serving_since_ns) / 1e9 >= HEALTHY_UPTIME_S
        if settles or engines != now.engines:
            now.settled, now.engines = now.settled or settles, dict(engines)
            self._good_engines = now.engines if now.settled else self._good_engines
            self._write()
        return settles

    def end(self, how: End) -> None:
        """Record how this start ended; a crash records nothing."""
        self._now.ended = how
        self._write()

    def _counts(self, start: Start) -> bool:
        # Whole numbers: a damaged record may have any.
        is_new = start.machine_boot == self._now.machine_boot and 0 <= self._now.at_ns - start.at_ns <= WITHIN_S * 10**9
        return is_new and start.was_bad

    def _read(self) -> list[Start]:
        """Read the record; a damaged one counts as none, and is replaced."""
        if self._path is None:
            return []
        try:
            record = _HistoryFile.model_validate_json(self._path.read_bytes())
        except FileNotFoundError:
            return []
        except (OSError, ValueError) as error:
            log.warning("start history %s cannot be read (%s); a new one is started", self._path, type(error).__name__)
            return []
        self._good_engines = record.good_engines
        return record.starts

    def _write(self) -> None:
        """Write the record atomically; if that fails, the next start knows less, and this one continues."""
        if self._path is None:
            return
        record = _HistoryFile(good_engines=self._good_engines, starts=[*self._past[1 - KEPT :], self._now])
        try:
            write_atomic(self._path, record.model_dump_json(indent=1).encode(), durable=True, mode=0o600)
        except OSError as error:
            log.warning("start history %s cannot be written (%s)", self._path, error.strerror)


class _HistoryFile(BaseModel):
    """Format of the file."""

    model_config = ConfigDict(strict=True)

    good_engines: dict[str, str]  # model → label of what served it in the last start that settled
    starts: list[Start]  # the oldest first


def _machine_boot() -> str:
    try:
        return _BOOT_ID.read_text(encoding="ascii").strip()
    except OSError:
        return "unknown"
