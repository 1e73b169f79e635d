"""Power-mode switching for `edge bench` and `edge tune`, with the original mode restored however they end."""

from __future__ import annotations

import logging
import signal
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

from edge.core.errors import ConfigError, EdgeError
from edge.core.process import signal_handler

log = logging.getLogger(__name__)


class Power(Protocol):
    """The board's power modes, by name."""

    def modes(self) -> Sequence[str]: ...

    def current(self) -> str: ...

    def name_of(self, text: str) -> str:
        """Resolve max-q, max-p, a name or an id to a mode; raise ConfigError if the board has no such mode."""

    def is_live(self, mode: str) -> bool:
        """Return whether a mode can be set without a reboot."""

    def is_slower(self, mode: str, than: str, /) -> bool:
        """Return whether every cap of a mode is at or below that of another one."""

    def set_mode(self, mode: str, *, allow_reboot: bool = False) -> bool:
        """Set a mode and return whether the board reboots for it; raise EdgeError on failure."""


class ModeRecord(Protocol):
    """The modes to remember across a reboot or a power failure."""

    mode_before: str | None  # to be restored at the end
    mode_set: str | None  # the last one switched to; a board found in another was switched by somebody else

    def save(self) -> None:
        """Store both durably; raise EdgeError on failure."""


class RebootingError(EdgeError):
    """The board is rebooting into another power mode."""

    exit_code = 0


class ModeGuard:
    """Context manager that switches modes and restores the original one."""

    def __init__(self, power: Power, record: ModeRecord, *, allow_reboot: bool) -> None:
        self._power = power
        self._record = record
        self._allow_reboot = allow_reboot

    def __enter__(self) -> ModeGuard:
        now = self._power.current()
        if self._record.mode_before is None or self._record.mode_set != now:
            self._record.mode_before = now
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is RebootingError:
            return
        with _signals_ignored():
            try:
                self._restore(can_reboot=self._allow_reboot and kind is None)
            except EdgeError as error:
                if kind is None:
                    raise
                log.warning("%s", error)

    def choose(self, requested: Sequence[str]) -> tuple[tuple[str, ...], list[str]]:
        """Return the modes to measure, those that need no reboot first, and the modes to skip.

        All modes are meant if none is requested. Raises ConfigError for a mode that the board does not have.
        """
        known = tuple(self._power.modes())
        if missing := [mode for mode in requested if mode not in known]:
            raise ConfigError(f"--power-modes: found {missing[0]!r}, wanted some of {', '.join(known)}")
        modes = tuple(requested) or known
        live = [mode for mode in modes if self._power.is_live(mode)]
        others = [mode for mode in modes if mode not in live]
        if self._allow_reboot:
            return (*live, *others), []
        return tuple(live), others

    def switch(self, mode: str) -> None:
        """Switch to a mode; raise RebootingError if the board reboots for it."""
        if self._power.current() == mode:
            return
        self._record.mode_set = mode
        self._record.save()  # a reboot or a power failure must not lose the measurements
        if self._power.set_mode(mode, allow_reboot=self._allow_reboot):
            raise RebootingError(f"the board is rebooting into {mode}; run the same command again to continue")

    def _restore(self, *, can_reboot: bool) -> None:
        before, now = self._record.mode_before, self._power.current()
        if before is None:
            return
        if before != now and not self._power.is_live(before) and not can_reboot:
            raise EdgeError(
                f"the board stays in {now}: restoring {before} needs a reboot; "
                f"run edge power set {before} --allow-reboot"
            )
        if before != now:
            try:
                self._power.set_mode(before, allow_reboot=can_reboot)
            except EdgeError as error:
                raise EdgeError(f"the board stays in {now}; restoring {before} failed: {error}") from None
        self._record.mode_before = self._record.mode_set = None
        self._record.save()


def _signals_ignored() -> AbstractContextManager[None]:
    """Ignore signals, so that a second Ctrl-C cannot interrupt restoring the mode, which takes seconds."""
    return signal_handler(signal.SIG_IGN, (signal.SIGINT, signal.SIGTERM, signal.SIGHUP))


def terminable() -> AbstractContextManager[None]:
    """Make SIGTERM and SIGHUP end a command as Ctrl-C does, with the power mode restored."""

    def on_signal(_number: int, _frame: Any) -> None:
        raise KeyboardInterrupt

    return signal_handler(on_signal, (signal.SIGTERM, signal.SIGHUP))
