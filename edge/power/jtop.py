"""Power modes through jtop's service (jetson-stats), for users of its group; jtop is loaded in another process."""

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
from edge.core.installation import install_advice
from edge.host.paths import root

log = logging.getLogger(__name__)

# The path that jtop's library uses, whatever EDGE_ROOT says.
SOCKET = Path("/run/jtop.sock")
# The bridge gives up by itself after 40 s; a process that still hangs is killed.
REPLY_S = 45.0

_EDGE_POWER = "use edge-power instead (systemctl enable --now edge-power.socket)"


class JtopError(EdgeError):
    """jtop's service cannot be used."""


class JtopRefusedError(JtopError):
    """jtop's service left the mode unchanged."""


@dataclass(frozen=True, slots=True)
class JtopModes:
    """Power modes as reported by jtop's service."""

    mode: str
    mode_id: int
    modes: tuple[str, ...]


class JtopClient:
    """Client of jtop's service, through a process for each request."""

    def __init__(self, python: str = sys.executable, reply_s: float = REPLY_S) -> None:
        """Use the jetson-stats of the interpreter `python`; wait at most `reply_s` for a reply."""
        self._python = python
        self._reply_s = reply_s

    def available(self) -> bool:
        """Return whether the service can be used; starts no process."""
        return self.missing_reason() is None

    def missing_reason(self) -> str | None:
        """Return the reason why the service cannot be used, in one sentence; None if it can."""
        if self._python == sys.executable and importlib.util.find_spec("jtop") is None:
            return _message("missing", "")
        if not _is_ours(SOCKET):
            return _message("absent", "")
        return None if os.access(SOCKET, os.R_OK | os.W_OK) else _message("forbidden", "")

    def read(self) -> JtopModes:
        """Return the current mode and all modes; raise JtopError if the service cannot be used."""
        return self._ask({"verb": "get"})

    def current(self) -> str:
        """Return the name of the current mode; raise JtopError if the service cannot be used."""
        return self.read().mode

    def modes(self) -> tuple[str, ...]:
        """Return the names of all modes; raise JtopError if the service cannot be used."""
        return self.read().modes

    def set_mode(self, name: str) -> None:
        """Set a mode and read it back; takes up to half a minute, and never reboots.

        Raises JtopRefusedError if the mode stayed unchanged, JtopError if the service cannot be used.
        """
        found = self._ask({"verb": "set", "mode": name})
        if found.mode != name:
            raise JtopRefusedError(_message("refused", f"mode is {found.mode}"))
        log.info("power mode %s set through jtop by %s", name, _user())

    def _ask(self, request: dict[str, str]) -> JtopModes:
        if (reason := self.missing_reason()) is not None:
            raise JtopError(reason)
        reply = self._exchange(json.dumps(request) + "\n")
        if "error" in reply:
            refused = reply["error"] == "refused"
            subject = f"power mode {request['mode']}: " if "mode" in request else ""
            message = subject + _message(str(reply["error"]), str(reply.get("reason", "")))
            raise (JtopRefusedError if refused else JtopError)(message)
        return JtopModes(str(reply["mode"]), int(reply["id"]), tuple(reply["modes"]))

    def _exchange(self, line: str) -> dict[str, Any]:
        """Start the bridge, send it one line, and return its reply; nothing of it is left behind."""
        command = [self._python, "-m", "edge.power.jtop_bridge"]
        pipe = subprocess.PIPE
        try:
            bridge = subprocess.Popen(  # noqa: S603 -- our own module, by our own interpreter
                command, stdin=pipe, stdout=pipe, stderr=pipe, text=True, cwd="/", start_new_session=True
            )
        except OSError as error:
            raise JtopError(_message("failed", f"{self._python} cannot be started: {error.strerror}")) from None
        try:
            out, diagnostics = bridge.communicate(line, self._reply_s)
        except subprocess.TimeoutExpired:
            raise JtopError(_message("hangs", f"no reply within {self._reply_s:g} s")) from None
        finally:
            _end(bridge)
        try:
            reply: dict[str, Any] = json.loads(out)
        except ValueError:
            last = (diagnostics.strip().splitlines() or ["no message"])[-1]
            kind = "hangs" if bridge.returncode == -signal.SIGALRM else "failed"
            raise JtopError(_message(kind, f"exit code {bridge.returncode}; {last[:200]}")) from None
        return reply


def _end(bridge: subprocess.Popen[str]) -> None:
    """Kill the bridge with all that jtop has started in it, and close its pipes."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(bridge.pid, signal.SIGKILL)
    bridge.wait()
    for pipe in (bridge.stdin, bridge.stdout, bridge.stderr):
        if pipe is not None:
            pipe.close()


def _is_ours(socket: Path) -> bool:
    """Return whether the socket exists and belongs to the machine below EDGE_ROOT: an emulated board has none."""
    try:
        return socket.samefile(root() / socket.relative_to("/"))
    except OSError:
        return False


def _message(kind: str, reason: str) -> str:
    """Return one sentence with the fault and the next step."""
    sentences = {
        "missing": f"jetson-stats is not installed for this Python; {install_advice('jetson')}",
        "absent": f"jtop's service is not running (no {SOCKET}); start it: sudo systemctl start jtop.service",
        "forbidden": f"user {_user()} may not use jtop's service; add it to the group (sudo usermod -aG jtop "
        f"{_user()}) and log in again",
        "mismatch": f"jtop's service and this Python's jetson-stats do not match ({reason}); install the same version "
        "for both, and restart the service: sudo systemctl restart jtop.service",
        "unknown": f"jtop does not know this mode: {reason}",
        "gaps": f"this board's mode ids have gaps, so jtop would set the wrong mode ({reason}); {_EDGE_POWER}",
        "refused": f"jtop's service refused the change: {reason}; choose a mode that needs no reboot, or set this one "
        "with edge power set --allow-reboot",
        "hangs": f"jtop's service hangs ({reason}); restart it: sudo systemctl restart jtop.service",
    }
    default = f"jtop's service failed ({reason}); see journalctl -u jtop.service"
    return sentences.get(kind, default).replace("\n", " ")


def _user() -> str:
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return f"number {os.geteuid()}"
