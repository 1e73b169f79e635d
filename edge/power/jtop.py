"""Power modes through jtop's service (jetson-stats), for a user of its group; jtop itself is loaded elsewhere only."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import logging
import os
import pwd
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge.core.errors import EdgeError
from edge.host.paths import root

log = logging.getLogger(__name__)

# Where jtop's library looks for its service, whatever EDGE_ROOT says.
SOCKET = Path("/run/jtop.sock")
# The bridge gives up by itself after 40 s; a process that hangs even so is killed.
REPLY_S = 45.0

_EDGE_POWER = "let edge-power do it (systemctl enable --now edge-power.socket)"


class JtopError(EdgeError):
    """jtop's service cannot be asked."""


class JtopRefusedError(JtopError):
    """jtop's service left the mode as it was."""


@dataclass(frozen=True, slots=True)
class JtopModes:
    """What jtop's service tells of power modes."""

    mode: str
    mode_id: int
    modes: tuple[str, ...]


class JtopClient:
    """Asks jtop's service through a process that lives for one question."""

    def __init__(self, python: str = sys.executable, reply_s: float = REPLY_S) -> None:
        """Use the jetson-stats of the interpreter `python`; wait at most `reply_s` for a reply."""
        self._python = python
        self._reply_s = reply_s

    def available(self) -> bool:
        """Tell whether the service can be asked; starts nothing and is quick."""
        return self.missing_reason() is None

    def missing_reason(self) -> str | None:
        """Return, in one sentence, what keeps the service from being asked; None where nothing does."""
        if self._python == sys.executable and importlib.util.find_spec("jtop") is None:
            return _told("missing", "")
        if not _is_ours(SOCKET):
            return _told("absent", "")
        return None if os.access(SOCKET, os.R_OK | os.W_OK) else _told("forbidden", "")

    def read(self) -> JtopModes:
        """Return the mode that is set and all there are; raise JtopError where the service cannot be asked."""
        return self._ask({"verb": "get"})

    def current(self) -> str:
        """Return the name of the mode that is set; raise JtopError where the service cannot be asked."""
        return self.read().mode

    def modes(self) -> tuple[str, ...]:
        """Return the names of all modes; raise JtopError where the service cannot be asked."""
        return self.read().modes

    def set_mode(self, name: str) -> None:
        """Set a mode and read it back; takes up to half a minute, and never reboots.

        Raises JtopRefusedError where the mode stayed as it was, JtopError where the service cannot be asked.
        """
        found = self._ask({"verb": "set", "mode": name})
        if found.mode != name:
            raise JtopRefusedError(_told("refused", f"mode is {found.mode}"))
        log.info("power mode %s set through jtop by %s", name, _user())

    def _ask(self, request: dict[str, str]) -> JtopModes:
        if (reason := self.missing_reason()) is not None:
            raise JtopError(reason)
        reply = self._exchange(json.dumps(request) + "\n")
        if "error" in reply:
            refused = reply["error"] == "refused"
            wanted = f"power mode {request['mode']}: " if "mode" in request else ""
            told = wanted + _told(str(reply["error"]), str(reply.get("reason", "")))
            raise (JtopRefusedError if refused else JtopError)(told)
        return JtopModes(str(reply["mode"]), int(reply["id"]), tuple(reply["modes"]))

    def _exchange(self, line: str) -> dict[str, Any]:
        """Start the bridge, hand it one line, and return its reply; nothing of it is left afterwards."""
        command = [self._python, "-m", "edge.power.jtop_bridge"]
        pipe = subprocess.PIPE
        try:
            bridge = subprocess.Popen(  # noqa: S603 -- our own module, by our own interpreter
                command, stdin=pipe, stdout=pipe, stderr=pipe, text=True, cwd="/", start_new_session=True
            )
        except OSError as error:
            raise JtopError(_told("failed", f"{self._python} cannot be started: {error.strerror}")) from None
        try:
            out, said = bridge.communicate(line, self._reply_s)
        except subprocess.TimeoutExpired:
            raise JtopError(_told("hangs", f"no reply within {self._reply_s:g} s")) from None
        finally:
            _end(bridge)
        try:
            reply: dict[str, Any] = json.loads(out)
        except ValueError:
            last = (said.strip().splitlines() or ["it said nothing"])[-1]
            kind = "hangs" if bridge.returncode == -signal.SIGALRM else "failed"
            raise JtopError(_told(kind, f"exit code {bridge.returncode}; {last[:200]}")) from None
        return reply


def _end(bridge: subprocess.Popen[str]) -> None:
    """Kill the bridge with all that jtop has started in it, and give its pipes back."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(bridge.pid, signal.SIGKILL)
    bridge.wait()
    for pipe in (bridge.stdin, bridge.stdout, bridge.stderr):
        if pipe is not None:
            pipe.close()


def _is_ours(socket: Path) -> bool:
    """Tell whether the socket is there, and is that of the machine below EDGE_ROOT: an emulated board has none."""
    try:
        return socket.samefile(root() / socket.relative_to("/"))
    except OSError:
        return False


def _told(kind: str, reason: str) -> str:
    """Return one sentence: what is the matter, and what to do."""
    sentences = {
        "missing": 'jetson-stats is not installed for this Python; install it: pip install "edge-runtime[jetson]"',
        "absent": f"jtop's service is not there ({SOCKET}); start it: sudo systemctl start jtop.service",
        "forbidden": f"user {_user()} may not use jtop's service; let it into the group (sudo usermod -aG jtop "
        f"{_user()}) and log in again",
        "mismatch": f"jtop's service does not fit this Python's jetson-stats ({reason}); install the same version for "
        "both, and restart the service: sudo systemctl restart jtop.service",
        "unknown": f"jtop does not know this mode: {reason}",
        "gaps": f"the ids of this board's modes have gaps, with which jtop would set another mode ({reason}); "
        f"{_EDGE_POWER}",
        "refused": f"jtop's service refused the change: {reason}; choose a mode that needs no reboot, or set this one "
        "with edge power set --allow-reboot",
        "hangs": f"jtop's service hangs ({reason}); restart it: sudo systemctl restart jtop.service",
    }
    default = f"jtop's service cannot be asked ({reason}); see journalctl -u jtop.service"
    return sentences.get(kind, default).replace("\n", " ")


def _user() -> str:
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return f"number {os.geteuid()}"
