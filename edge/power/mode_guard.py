"""Power modes while `edge tune` goes through them; at its end, however that comes, the first one is set again."""

from __future__ import annotations

import logging
import signal
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

from edge.core.errors import ConfigError, EdgeError
from edge.core.process import heard_by

log = logging.getLogger(__name__)


class Power(Protocol):
    """The board's power modes, by name."""

    def modes(self) -> Sequence[str]: ...

    def current(self) -> str: ...

    def name_of(self, text: str) -> str:
        """Return the mode that max-q, max-p, a name or an id means; raise ConfigError where the board has none such."""

    def is_live(self, mode: str) -> bool:
        """Tell whether a mode can be set without a reboot."""

    def is_slower(self, mode: str, than: str, /) -> bool:
        """Tell whether a mode is capped at or below another one in everything."""

    def set_mode(self, mode: str, *, allow_reboot: bool = False) -> bool:
        """Set a mode; tell whether the board reboots for it. Raises EdgeError where it was not set."""


class ModeRecord(Protocol):
    """The modes to remember across a reboot or a power failure."""

    mode_before: str | None  # to be restored at the end
    mode_set: str | None  # the last one switched to; a board found in another was switched by somebody else

    def save(self) -> None:
        """Store both durably; raise EdgeError on failure."""


class RebootingError(EdgeError):
    """The board goes down, to come up in another power mode."""

    exit_code = 0


class ModeGuard:
    """Switches modes, and puts the first one back; a context manager."""

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
        with _undisturbed():
            try:
                self._put_back(may_reboot=self._allow_reboot and kind is None)
            except EdgeError as error:
                if kind is None:
                    raise
                log.warning("%s", error)

    def choose(self, wanted: Sequence[str]) -> tuple[tuple[str, ...], list[str]]:
        """Return the modes to measure, those that can be had now first, and notes on those left out.

        Raises ConfigError for a mode that the board does not have.
        """
        known = tuple(self._power.modes())
        if missing := [mode for mode in wanted if mode not in known]:
            raise ConfigError(f"--power-modes: found {missing[0]!r}, wanted some of {', '.join(known)}")
        modes = tuple(wanted) or known
        live = [mode for mode in modes if self._power.is_live(mode)]
        others = [mode for mode in modes if mode not in live]
        if self._allow_reboot:
            return (*live, *others), []
        return tuple(live), [f"{mode} needs a reboot; --allow-reboot lets it be measured" for mode in others]

    def switch(self, mode: str) -> None:
        """Go over to a mode; raise RebootingError where the board goes down for it."""
        if self._power.current() == mode:
            return
        self._record.mode_set = mode
        self._record.save()  # a reboot or the loss of power must not cost what is measured
        if self._power.set_mode(mode, allow_reboot=self._allow_reboot):
            raise RebootingError(f"the board reboots into {mode}; start the same command again to go on")

    def _put_back(self, *, may_reboot: bool) -> None:
        before, now = self._record.mode_before, self._power.current()
        if before is None:
            return
        if before != now and not self._power.is_live(before) and not may_reboot:
            raise EdgeError(
                f"the board stays in {now}: it needs a reboot for {before}, which was set before; "
                f"set it with edge power set {before} --allow-reboot"
            )
        if before != now:
            try:
                self._power.set_mode(before, allow_reboot=may_reboot)
            except EdgeError as error:
                raise EdgeError(f"the board stays in {now}; wanted {before}, as before: {error}") from None
        self._record.mode_before = self._record.mode_set = None
        self._record.save()


def _undisturbed() -> AbstractContextManager[None]:
    """Let no second Ctrl-C keep the mode from being put back, which takes seconds."""
    return heard_by(signal.SIG_IGN, (signal.SIGINT, signal.SIGTERM, signal.SIGHUP))


def terminable() -> AbstractContextManager[None]:
    """Let SIGTERM, and the end of the terminal, end a command as Ctrl-C does: with the power mode put back."""

    def on_signal(_number: int, _frame: Any) -> None:
        raise KeyboardInterrupt

    return heard_by(on_signal, (signal.SIGTERM, signal.SIGHUP))
