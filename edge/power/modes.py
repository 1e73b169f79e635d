"""Power modes of the board: the available ones, the current one, and setting another."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import socket
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from edge.core.errors import ConfigError, EdgeError
from edge.host.paths import root
from edge.power import edge_power
from edge.power.edge_power import Conf, Mode, ModeChange

# Longer than edge-power takes at worst: queries, a change, jetson_clocks, and another client's change before.
REPLY_S = 150.0
_REPLY_BYTES = 1_000_000
_ENABLE = "or enable the service: systemctl enable --now edge-power.socket"
_AS_WHO_MAY = "or as the user that edge-power serves: sudo -u edge edge power set …"

log = logging.getLogger(__name__)


class PowerModeError(EdgeError):
    """The power mode cannot be read, or was not set."""


class NoSuchModeError(ConfigError):
    """The board has no power mode of that name or id."""


class ModeSetter(Protocol):
    """A client of jtop's service."""

    def missing_reason(self) -> str | None:
        """Return the reason why the service cannot be used; None if it can."""

    def set_mode(self, name: str) -> None:
        """Set a mode by its name, without a reboot; raise EdgeError if it was not set."""


@dataclass(frozen=True, slots=True)
class PowerModes:
    """The modes of this board's nvpmodel.conf, and the current one at the time of reading."""

    conf: Conf
    current: Mode | None
    unknown: str | None = None  # the reason, if `current` is not known

    @property
    def modes(self) -> tuple[Mode, ...]:
        return self.conf.modes

    @property
    def default(self) -> Mode | None:
        """The mode of a newly flashed board."""
        return None if self.conf.default is None else self.conf.mode(self.conf.default)

    @property
    def file(self) -> str:
        """The configuration's file name, which names the board's variant."""
        return self.conf.file

    @property
    def reboot_groups(self) -> Sequence[Sequence[int]]:
        """Ids of modes by group; within a group the board switches without a reboot."""
        return self.conf.reboot_groups()

    def reachable(self, mode: Mode) -> bool | None:
        """Return whether a mode can be set without a reboot; None if the current one is not known."""
        return None if self.current is None else mode.masks == self.current.masks

    def stored(self) -> Mode | None:
        """Return the mode in nvpmodel's status file: reads one small file and starts no program."""
        mode = edge_power.stored_mode_id()
        return None if mode is None else self.conf.mode(mode)


def read_modes() -> PowerModes | None:
    """Return the modes of this board; None if it has none (not a Jetson). Raises PowerModeError."""
    with _translated_errors():
        conf = edge_power.read_conf()
    if conf is None:
        return None
    try:
        return PowerModes(conf, edge_power.current_mode(conf))
    except edge_power.PowerError as error:  # in a container there is the board's status but no nvpmodel
        stored = PowerModes(conf, None).stored()
        return PowerModes(conf, stored, None if stored else str(error))


def set_mode(
    modes: PowerModes, mode: Mode, *, allow_reboot: bool = False, jtop: ModeSetter | None = None
) -> ModeChange:
    """Set a mode through edge-power, else as root, else through jtop; return once it was read back.

    Raises PowerModeError with the reason and the next step, also if a reboot is needed but not allowed. Takes seconds,
    at worst REPLY_S.
    """
    request = {"verb": "set", "mode": mode.id, "name": mode.name, "allow_reboot": allow_reboot}
    answer, unreachable = _ask(request)
    if answer is not None:
        return ModeChange(
            answer["mode"], answer["name"], answer["before"], answer["rebooting"], answer["clocks_locked"]
        )
    if os.geteuid() == 0:
        with _translated_errors():
            change = edge_power.set_mode(modes.conf, mode, allow_reboot=allow_reboot)
        log.info("power mode %s set by uid 0, pid %d", mode.shown, os.getpid())
        return change
    without_jtop = "jtop was not tried" if jtop is None else jtop.missing_reason()
    if jtop is not None and without_jtop is None:
        return _set_by_jtop(modes, mode, jtop)
    raise PowerModeError(
        f"power mode {mode.shown} cannot be set by user {os.geteuid()}: {unreachable}; {without_jtop}; run as root, "
        f"{_AS_WHO_MAY if _is_for_others() else _ENABLE}"
    )


def _is_for_others() -> bool:
    """Return whether edge-power listens, but not for this user."""
    path = _socket_path()
    return path.exists() and not os.access(path, os.W_OK)


def _socket_path() -> Path:
    return root() / edge_power.SOCKET.lstrip("/")


def _set_by_jtop(modes: PowerModes, mode: Mode, jtop: ModeSetter) -> ModeChange:
    before = modes.current
    if before is None or modes.reachable(mode) is False:
        reason = modes.unknown or f"switching from {before.shown if before else 'here'} needs a reboot"
        raise PowerModeError(
            f"power mode {mode.shown} cannot be set through jtop: {reason}; use edge-power or root with --allow-reboot"
        )
    jtop.set_mode(mode.name)
    with _translated_errors():
        after = edge_power.current_mode(modes.conf)
    if after.id != mode.id:
        raise PowerModeError(f"jtop left the board in {after.shown}; wanted {mode.shown}; see journalctl -u jtop")
    return ModeChange(mode.id, mode.name, before.id)


def _ask(request: dict[str, Any]) -> tuple[dict[str, Any] | None, str]:
    """Return edge-power's answer, or None and the reason if it cannot be reached. A refusal is a PowerModeError."""
    path = _socket_path()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(REPLY_S)
        try:
            connection.connect(str(path))
        except OSError as error:
            return None, f"edge-power cannot be reached at {path} ({error.strerror or error})"
        try:
            line = _exchange(connection, request)
            answer = json.loads(line)
        except (OSError, ValueError) as error:
            raise PowerModeError(f"edge-power gave no answer ({error}); see journalctl -u edge-power") from None
    if answer.pop("ok"):
        return answer, ""
    raise (NoSuchModeError if answer["kind"] == "no-such-mode" else PowerModeError)(answer["error"])


def _exchange(connection: socket.socket, request: dict[str, Any]) -> bytes:
    # A refusal may arrive before the request is written.
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        connection.sendall(json.dumps(request).encode() + b"\n")
    with connection.makefile("rb") as answers:
        return answers.readline(_REPLY_BYTES)


@contextlib.contextmanager
def _translated_errors() -> Iterator[None]:
    """Raise errors of edge_power, which imports nothing of this package, as errors of this package."""
    try:
        yield
    except edge_power.PowerError as error:
        raise (NoSuchModeError if error.kind == "no-such-mode" else PowerModeError)(str(error)) from None
