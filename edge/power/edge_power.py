"""`edge-power`: the service that sets the board's power mode, as root, on behalf of permitted users.

One file on the standard library alone, so that everything that runs as root can be read in one sitting. It listens on a
Unix socket and answers JSON lines: `{"verb":"modes"}`, `{"verb":"get"}` and
`{"verb":"set","mode":2,"name":"MODE_30W","allow_reboot":false}`.

In order: modes and configuration, the parser of nvpmodel.conf, the board's files, reading and setting the mode, the
programs of the board, requests, who may make them, the service, its server and socket, the command line.
"""

from __future__ import annotations

import argparse
import contextlib
import grp
import json
import logging
import os
import pwd
import re
import select
import signal
import socket
import stat
import struct
import subprocess
import sys
import threading
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from time import monotonic
from typing import Any

CONF = "/etc/nvpmodel.conf"
STATUS = "/var/lib/nvpmodel/status"  # stored by nvpmodel, and applied again at boot
SOCKET = "/run/edge-power.sock"
QUERY_LIMIT_S = 10.0
CHANGE_LIMIT_S = 30.0  # switching cores off and on takes seconds; nothing takes half a minute
LINE_BYTES = 4096  # a request is a tenth of this
LINE_S = 5.0  # a client that has not sent a whole line by then is disconnected
CONNECTIONS_PER_USER = 8
CHANGES_PER_MINUTE = 20
SHOWN_CHARACTERS = 80  # of a client's text, in messages and in the log
CONF_BYTES = 1_000_000  # the largest known is 20 kB
INT_MAX = 2**31 - 1  # how `nvpmodel -p --verbose` prints -1, "no cap"

log = logging.getLogger("edge-power")


class PowerError(Exception):
    """A power mode was not read or not set, for the given reason; `kind` is "refused", "failed" or "no-such-mode"."""

    def __init__(self, reason: str, kind: str = "failed") -> None:
        super().__init__(reason)
        self.kind = kind


# Modes and configuration.


@dataclass(frozen=True, slots=True)
class Mode:
    """One power mode of nvpmodel.conf. A cap of None means no cap, or none stated (see `unstated`)."""

    id: int
    name: str
    cores: int | None  # online; None if not stated
    cpu_max_mhz: float | None = None  # of the fastest online cluster
    gpu_max_mhz: float | None = None
    emc_max_mhz: float | None = None
    dla_max_mhz: float | None = None  # of the faster core
    masks: tuple[tuple[str, int], ...] = ()  # power-gating masks of the GPU, which only a reboot changes
    unstated: frozenset[str] = frozenset()  # of cpu, gpu, emc and dla, those that the file does not mention

    @property
    def shown(self) -> str:
        return f"{self.name} (mode {self.id})"

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"masks": dict(self.masks), "unstated": sorted(self.unstated)}


@dataclass(frozen=True, slots=True)
class Conf:
    """The content of an nvpmodel.conf."""

    file: str  # its name without folders, links resolved: it names the board's variant
    modes: tuple[Mode, ...]
    default: int | None

    def mode(self, mode_id: int) -> Mode | None:
        """Return the mode of this id; None if there is none."""
        return next((mode for mode in self.modes if mode.id == mode_id), None)

    def no_such_mode(self, requested: object) -> PowerError:
        """Return the error for a mode that is not in this file."""
        names = ", ".join(mode.shown for mode in self.modes)
        return PowerError(f"power mode {requested} is not in {self.file}; wanted one of {names}", "no-such-mode")

    def reboot_groups(self) -> list[list[int]]:
        """Return groups of mode ids within which the board switches without a reboot: modes of equal masks."""
        groups: dict[tuple[tuple[str, int], ...], list[int]] = {}
        for mode in self.modes:
            groups.setdefault(mode.masks, []).append(mode.id)
        return list(groups.values())


# The parser of nvpmodel.conf.

_SECTION = re.compile(r"<\s*([A-Z_]+)\s+(.*?)\s*>")
_ATTRIBUTE = re.compile(r"(\w+)\s*=\s*(.*?)(?=\s+\w+\s*=|$)")
_COMMENT = re.compile(r"(?:^|\s)#.*")
_CORE = re.compile(r"^CORE_(\d+)\b|/cpu(\d+)/online")
_MASK = re.compile(r"(?i)\b((?:tpc|fbp|gpu)_pg_mask)")
_MAXIMUM = re.compile(r"(?i)max_freq|emc_iso_cap|clk_cap/emc")
_FIRST_CORE = re.compile(r"/(?:cpu|policy)(\d+)/")
# A knob is known by its name or, in the files of L4T 28 and on new boards, by its path.
_UNITS = (
    ("cpu", re.compile(r"^CPU|/cpufreq/")),
    ("dla", re.compile(r"^DLA\d?_CORE")),
    ("emc", re.compile(r"^EMC|/emc_iso_cap|/clk_cap/emc")),
    ("gpu", re.compile(r"^GPU|/(?:gp10b|gv11b|ga10b|gb10b|gpu|57000000\.gpu)/|\.(?:gp10b|gv11b|ga10b|gb10b|gpu)/")),
)


def parse_conf(text: str, file: str = "nvpmodel.conf") -> Conf:
    """Parse the text of an nvpmodel.conf; raise PowerError naming the first line that cannot be parsed."""
    paths: dict[tuple[str, str], str] = {}
    drafts: list[_ModeDraft] = []
    default: int | None = None
    section, attributes = "", dict[str, str]()
    for number, whole_line in enumerate(text.splitlines(), 1):
        line = _COMMENT.sub("", whole_line).strip()
        try:
            if line.startswith("<"):
                section, attributes = _header(line)
                if section == "POWER_MODEL":
                    drafts.append(_ModeDraft(_identity(attributes["ID"]), attributes["NAME"]))
                elif section == "PM_CONFIG":
                    default = _identity(attributes["DEFAULT"])
            elif line and section == "PARAM":
                argument, path = line.split(maxsplit=1)
                paths[attributes["NAME"], argument] = path
            elif line and section == "POWER_MODEL":
                drafts[-1].add(*_setting(line, paths))
            elif line and not section:
                raise ValueError("outside any section")
        except (ValueError, KeyError, OverflowError) as error:
            why = f"lacks {error}" if isinstance(error, KeyError) else str(error)
            raise PowerError(f"{file}, line {number}: {_cut(line)} is not understood ({why}); see that file") from None
    return _checked(Conf(file, tuple(draft.mode() for draft in drafts), default))


def _header(line: str) -> tuple[str, dict[str, str]]:
    match = _SECTION.fullmatch(line)
    if match is None:
        raise ValueError("wanted < NAME KEY=value … >")
    return match[1], {key: value for key, value in _ATTRIBUTE.findall(match[2]) if value}


def _identity(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,9}", text):
        raise ValueError(f"wanted a number, found {_cut(text)}")
    return int(text)


def _setting(line: str, paths: Mapping[tuple[str, str], str]) -> tuple[str, str, str, str]:
    """Return a setting's knob, argument, path and value. Files of L4T 28 contain the path itself."""
    words = line.split(maxsplit=2)
    if line.startswith("/"):
        path, value = words
        return "", path, path, value
    knob, argument, value = words
    path = paths.get((knob, argument)) or paths.get((knob, f"{argument}_KNEXT"), "")
    return knob, argument, path, value


@dataclass(slots=True)
class _ModeDraft:
    """A mode while its lines are read."""

    id: int
    name: str
    online: dict[int, bool] = field(default_factory=dict)  # by core
    clusters: list[tuple[int | None, float | None]] = field(default_factory=list)  # first core, cap in MHz
    caps: dict[str, list[float | None]] = field(default_factory=dict)  # by unit, MHz
    masks: dict[str, int] = field(default_factory=dict)

    def add(self, knob: str, argument: str, path: str, value: str) -> None:
        """Add one setting; ignore it if it is about neither cores, caps nor masks. Raises ValueError."""
        if match := _CORE.search(f"{argument} {path}"):
            self.online[int(match[1] or match[2])] = int(value) == 1
        elif match := _MASK.search(f"{argument} {path}"):
            self.masks[match[1].upper()] = int(value, 0)
        elif _MAXIMUM.search(argument) and (unit := _unit(knob, path)):
            if unit == "cpu":
                first = _FIRST_CORE.search(path)
                self.clusters.append((int(first[1]) if first else None, _cap_mhz(value, per_mhz=1e3)))
            else:
                self.caps.setdefault(unit, []).append(_cap_mhz(value, per_mhz=1e6))

    def mode(self) -> Mode:
        # The first core cannot be switched off, and the TX2's file does not name it.
        cores = sum(({0: True} | self.online).values()) if self.online else None
        running = [cap for first, cap in self.clusters if first is None or self.online.get(first, True)]
        caps = self.caps | ({"cpu": running} if running else {})
        units = ("cpu", "gpu", "emc", "dla")
        highest = {f"{unit}_max_mhz": _highest(caps.get(unit, ())) for unit in units}
        masks = tuple(sorted(self.masks.items()))
        return Mode(self.id, self.name, cores, **highest, masks=masks, unstated=frozenset(set(units) - set(caps)))


def _unit(knob: str, path: str) -> str | None:
    return next((unit for unit, known in _UNITS if known.search(f"{knob} {path}")), None)


def _cap_mhz(text: str, per_mhz: float) -> float | None:
    """Return a cap in MHz; None for no cap: -1, or 0 for the EMC."""
    value = int(text)
    return None if value <= 0 or value == INT_MAX else value / per_mhz


def _highest(caps: Iterable[float | None]) -> float | None:
    known = [cap for cap in caps if cap is not None]
    return max(known) if known and len(known) == len(list(caps)) else None


def _checked(conf: Conf) -> Conf:
    if not conf.modes:
        raise PowerError(f"{conf.file} contains no power mode; wanted < POWER_MODEL ID=… NAME=… > sections")
    for mode_id, times in Counter(mode.id for mode in conf.modes).items():
        if times > 1:
            raise PowerError(f"{conf.file} contains {times} power modes with id {mode_id}; wanted one of each")
    if conf.default is not None and conf.mode(conf.default) is None:
        raise PowerError(f"{conf.file} contains no mode {conf.default}, which is its default; see PM_CONFIG")
    return conf


def _cut(value: object) -> str:
    """Return foreign text for display: plain ASCII on one line, and not too long."""
    shown = ascii(value)
    return shown if len(shown) <= SHOWN_CHARACTERS else f"{shown[:SHOWN_CHARACTERS]}…"


# The board's files.


def resolved(path: str) -> Path:
    """Return the place of a path of the board below EDGE_ROOT, absolute symbolic links included."""
    root = Path(os.environ.get("EDGE_ROOT", "/"))
    left, place, links = path.split("/")[::-1], root, 0
    while left:
        part = left.pop()
        if part in ("", ".", ".."):
            place = place.parent if part == ".." and place != root else place
        elif (place / part).is_symlink():
            links += 1
            if links > 40:  # noqa: PLR2004 -- as many as Linux follows
                raise PowerError(f"{path} is a symbolic link that leads back to itself; fix it")
            target = (place / part).readlink()
            place = root if target.is_absolute() else place
            left += str(target).split("/")[::-1]
        else:
            place /= part
    return place


def read_conf() -> Conf | None:
    """Read the board's /etc/nvpmodel.conf; return None if there is none (not a Jetson). Raises PowerError."""
    path = resolved(CONF)
    try:
        if not path.exists():
            return None
        if not path.is_file():  # reading a pipe would block
            raise PowerError(f"{path} is not a file; wanted nvpmodel's configuration")
        with path.open(encoding="utf-8", errors="replace") as file:
            text = file.read(CONF_BYTES)
    except OSError as error:
        raise PowerError(f"{path} cannot be read ({error.strerror}); check its permissions") from None
    return parse_conf(text, path.name)


def stored_mode_id() -> int | None:
    """Return the mode in nvpmodel's status file, at the cost of one small read; None if it names none."""
    with contextlib.suppress(OSError, PowerError):
        path = resolved(STATUS)
        if path.is_file():
            match = re.search(r"\bpmode:(\d{1,9})\b", path.read_text(encoding="utf-8", errors="replace"))
            return int(match[1]) if match else None
    return None


# Reading and setting the mode.


@dataclass(frozen=True, slots=True)
class ModeChange:
    """Outcome of a change of the power mode."""

    mode: int
    name: str
    before: int
    rebooting: bool = False
    clocks_locked: bool | None = None  # by jetson_clocks again; None if they were not before

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def parse_query(text: str) -> tuple[int | None, str | None]:
    """Return id and name from the output of `nvpmodel -q`, past its warnings and errors; None for what it lacks."""
    mode, name = None, None
    for line in map(str.strip, text.splitlines()):
        if line.startswith("NV Power Mode:"):
            name = line.partition(":")[2].strip() or None
        elif mode is None and re.fullmatch(r"[0-9]{1,9}", line):
            mode = int(line)
    return mode, name


def current_mode(conf: Conf) -> Mode:
    """Ask nvpmodel for the board's mode; raise PowerError if it cannot be determined."""
    code, text = _run(["nvpmodel", "-q"], QUERY_LIMIT_S)
    mode, name = parse_query(text)
    found = [each for each in conf.modes if each.id == mode or (mode is None and each.name == name)]
    if len(found) == 1:
        return found[0]
    reason = _fault(code, text) or f"nvpmodel reported {_cut(text)}"
    raise PowerError(f"the current power mode is not in {conf.file}: {reason}; run `nvpmodel -q` by hand as root")


def set_mode(conf: Conf, target: Mode, *, allow_reboot: bool = False, limit_s: float = CHANGE_LIMIT_S) -> ModeChange:
    """Set a power mode, as root; return once it was read back, or raise PowerError.

    Reboots only if `allow_reboot` is set and the mode needs it. Ends in bounded time whatever nvpmodel does.
    """
    before = current_mode(conf)
    if before.id == target.id:
        return ModeChange(target.id, target.name, before.id)
    if before.masks != target.masks and not allow_reboot:
        raise PowerError(_needs_reboot(before, target), "refused")
    were_locked = clocks_locked()
    fault, rebooting = _apply(target, limit_s, allow_reboot=allow_reboot)
    if rebooting:
        return ModeChange(target.id, target.name, before.id, rebooting=True)
    # NVIDIA's order: first the mode, then jetson_clocks, which locks within the new caps. Nothing is restored before
    # that: a file stored when the clocks were locked also contains the cores of the mode of that time.
    locked = _lock_clocks() if were_locked else None
    _read_back(conf, before, target, fault)
    return ModeChange(target.id, target.name, before.id, clocks_locked=locked)


def _apply(target: Mode, limit_s: float, *, allow_reboot: bool) -> tuple[str | None, bool]:
    """Run nvpmodel; return the fault, if any, and whether the board now reboots."""
    # With nothing to read, its question whether to reboot now ends in an error instead of a wait.
    command = ["nvpmodel", "-m", str(target.id)]
    try:
        code, text = _run(command, limit_s)
        if not (allow_reboot and _asks_for_reboot(text)):
            return _fault(code, text), False
        log.warning("the board reboots for power mode %s", _cut(target.shown))
        fault = _fault(*_run(command, limit_s, answer=b"YES\n"), prompted=True)
    except PowerError as error:
        return str(error), False
    return fault, fault is None


def _read_back(conf: Conf, before: Mode, target: Mode, fault: str | None) -> None:
    """Raise PowerError unless nvpmodel reported no fault and the board is in the target mode."""
    try:
        after: Mode | None = current_mode(conf)
    except PowerError as error:
        after, fault = None, fault or str(error)
    now = f"the board is in {after.shown}" if after else "the board's mode is unknown"
    if fault and "reboot" in fault.lower():
        raise PowerError(f"{_needs_reboot(before, target)} ({fault}; {now})", "refused")
    if fault:
        raise PowerError(f"power mode {target.shown} was not set: {fault}; {now}; see `nvpmodel -q --verbose`")
    if after is None or after.id != target.id:
        raise PowerError(f"power mode {target.shown} was not set although nvpmodel reported no error: {now}; try again")


def _needs_reboot(before: Mode, target: Mode) -> str:
    return f"switching from {before.shown} to {target.shown} needs a reboot; request it with --allow-reboot"


def _asks_for_reboot(text: str) -> bool:
    return "Reboot required" in text or "WANT TO REBOOT" in text


def _fault(code: int, text: str, *, prompted: bool = False) -> str | None:
    """Return the fault in an output of nvpmodel, if any; errors also occur with exit code 0."""
    lines = [line.strip() for line in text.splitlines()]
    if not prompted and _asks_for_reboot(text):
        return "nvpmodel requires a reboot"
    errors = [line for line in lines if line.startswith("NVPM ERROR") or "ignoring request" in line]
    if errors:
        return f"nvpmodel reported {_cut(errors[0])}"
    return f"nvpmodel reported {_cut(lines[-1] if lines else '')} with exit code {code}" if code else None


# The programs of the board.


def clocks_locked() -> bool:
    """Return whether jetson_clocks locks the clocks: every online core and the GPU have a single frequency."""
    try:
        _, text = _run(["jetson_clocks", "--show"], QUERY_LIMIT_S)
    except PowerError:
        return False
    ranges = re.findall(r"^(cpu\d+:.*\bOnline=1|GPU)\b.*\bMinFreq=(\d+)\s+MaxFreq=(\d+)", text, re.MULTILINE)
    return any(name == "GPU" for name, *_ in ranges) and all(low == high for _, low, high in ranges)


def _lock_clocks() -> bool:
    try:
        code, text = _run(["jetson_clocks"], CHANGE_LIMIT_S)
    except PowerError as error:
        code, text = 1, str(error)
    if code:
        log.warning("jetson_clocks could not lock the clocks again: %s; run it by hand", _cut(text))
    return code == 0


def _run(command: Sequence[str], limit_s: float, answer: bytes | None = None) -> tuple[int, str]:
    """Run a program of the board to its end, or to the limit; return exit code and output."""
    try:
        process = subprocess.Popen(  # noqa: S603 -- the programs are named in this file
            command,
            stdin=subprocess.DEVNULL if answer is None else subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env=os.environ | {"LC_ALL": "C"},
        )
    except OSError as error:
        raise PowerError(f"{command[0]} cannot be run ({error.strerror}); it comes with JetPack, check PATH") from None
    try:
        output, _ = process.communicate(answer, timeout=limit_s)
    except subprocess.TimeoutExpired:
        _end(process)
        raise PowerError(f"{' '.join(command)} did not finish within {limit_s:g} s and was killed") from None
    except BaseException:
        _end(process)
        raise
    return process.returncode, output.decode(errors="replace")


def _end(process: subprocess.Popen[bytes]) -> None:
    """Kill a program with all that it started; one that is stuck in the kernel is left behind."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.communicate(timeout=2)


# Requests, and who may make them.


@dataclass(frozen=True, slots=True)
class PowerRequest:
    """Request of a client."""

    verb: str
    mode: int = -1
    name: str = ""
    allow_reboot: bool = False


_VERBS: Mapping[str, Mapping[str, type]] = {
    "modes": {},
    "get": {},
    "set": {"mode": int, "name": str, "allow_reboot": bool},
}


def parse_request(line: bytes) -> PowerRequest:
    """Parse one line; raise PowerError unless it is one of the few valid requests."""
    try:
        request = json.loads(line.decode("utf-8"))
    except (ValueError, RecursionError):
        raise PowerError(f"request {_cut(line)} is not JSON; wanted one object on one line", "refused") from None
    verb = request.get("verb") if isinstance(request, dict) else None
    if not isinstance(verb, str) or verb not in _VERBS:
        raise PowerError(f"verb {_cut(verb)} is unknown; wanted one of {', '.join(_VERBS)}", "refused")
    keys = _VERBS[verb]
    given = {key: value for key, value in request.items() if key != "verb"}
    # By type(), because to isinstance JSON's true is an int.
    if {key: type(value) for key, value in given.items()} != keys:
        wanted = ", ".join(f"{key} ({kind.__name__})" for key, kind in keys.items()) or "nothing else"
        raise PowerError(f"{verb}: found {_cut(given)}, wanted {wanted}", "refused")
    return PowerRequest(verb, **given)


@dataclass(frozen=True, slots=True)
class Peer:
    """The process at the other end of a connection, as reported by the kernel."""

    pid: int
    uid: int
    gid: int

    @classmethod
    def of(cls, connection: socket.socket) -> Peer:
        credentials = struct.Struct("3i")
        return cls(*credentials.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, credentials.size)))

    def __str__(self) -> str:
        return f"uid {self.uid}, pid {self.pid}"


@dataclass(frozen=True, slots=True)
class PermittedUsers:
    """Users who may make requests besides root."""

    uid: int | None = None
    gid: int | None = None

    def includes(self, peer: Peer) -> bool:
        return peer.uid in (0, self.uid) or (self.gid is not None and self.gid in _groups(peer))


def _groups(peer: Peer) -> Sequence[int]:
    try:
        return os.getgrouplist(pwd.getpwuid(peer.uid).pw_name, peer.gid)
    except (KeyError, OSError):  # a user without a name, as in containers
        return [peer.gid]


# The service.


class ModeService:
    """The power modes as clients see them: one change at a time, and a limited number per minute."""

    def __init__(self, *, allow_reboot: bool, changes_per_minute: int, limit_s: float) -> None:
        self._allow_reboot = allow_reboot
        self._changes_per_minute = changes_per_minute
        self._limit_s = limit_s
        self._turn = threading.Lock()
        self._changes_s: dict[int, deque[float]] = {}  # by user, of the last minute
        self._read_s = 0.0
        self._last_read: Mode | None = None

    def answer(self, request: PowerRequest, peer: Peer) -> dict[str, Any]:
        """Carry out a request and return its answer; raise PowerError if it is refused or fails."""
        conf = read_conf()
        if conf is None:
            raise PowerError(f"there is no {CONF}: this machine has no power modes", "refused")
        if request.verb == "modes":
            modes = [mode.to_json() for mode in conf.modes]
            return {"file": conf.file, "default": conf.default, "modes": modes, "reboot_groups": conf.reboot_groups()}
        if not self._turn.acquire(timeout=self._limit_s):
            raise PowerError(f"another change has not finished within {self._limit_s:g} s; try again later", "refused")
        try:
            if request.verb == "get":
                return self._get(conf)
            return self._set(conf, request, peer)
        finally:
            self._turn.release()

    def _get(self, conf: Conf) -> dict[str, Any]:
        # Requests within a second start no further program.
        if self._last_read is None or monotonic() - self._read_s > 1 or self._last_read not in conf.modes:
            self._last_read, self._read_s = current_mode(conf), monotonic()
        return {"mode": self._last_read.id, "name": self._last_read.name}

    def _set(self, conf: Conf, request: PowerRequest, peer: Peer) -> dict[str, Any]:
        target = conf.mode(request.mode)
        if target is None:
            raise conf.no_such_mode(request.mode)
        if target.name != request.name:
            raise PowerError(
                f"mode {target.id} of {conf.file} is {_cut(target.name)}, not {_cut(request.name)}; reread the modes",
                "refused",
            )
        if request.allow_reboot and not self._allow_reboot:
            raise PowerError(
                "reboots are not allowed here; start edge-power with --allow-reboot to allow them", "refused"
            )
        self._count(peer)
        self._last_read = None
        # Logged beforehand too: after a reboot nobody would know who requested it.
        log.info("%s requests %s%s", peer, _cut(target.shown), ", reboot allowed" if request.allow_reboot else "")
        return set_mode(conf, target, allow_reboot=request.allow_reboot, limit_s=self._limit_s).to_json()

    def _count(self, peer: Peer) -> None:
        changes_s, now_s = self._changes_s.setdefault(peer.uid, deque()), monotonic()
        while changes_s and now_s - changes_s[0] > 60:  # noqa: PLR2004 -- a minute
            changes_s.popleft()
        if len(changes_s) >= self._changes_per_minute:
            raise PowerError(
                f"user {peer.uid} has reached the limit of {len(changes_s)} changes per minute; wait a little",
                "refused",
            )
        changes_s.append(now_s)


# Its server and socket.


class Server:
    """Accepts connections and serves each in a thread of its own, until it is asked to stop."""

    def __init__(self, listener: socket.socket, permitted: PermittedUsers, service: ModeService) -> None:
        self._listener = listener
        self._permitted = permitted
        self._service = service
        self._open: dict[socket.socket, tuple[int, threading.Thread]] = {}
        self._lock = threading.Lock()
        self._stopping = False

    def run(self, stopping: socket.socket, limit_s: float) -> None:
        """Serve until `stopping` is readable; then finish what has begun, within at most `limit_s`."""
        self._listener.setblocking(False)  # noqa: FBT003 -- the socket's own interface
        while stopping not in select.select([self._listener, stopping], [], [])[0]:
            try:
                connection, _ = self._listener.accept()
            except OSError as error:  # out of descriptors, or the client has gone
                log.warning("a connection was not accepted: %s", error.strerror)
                select.select([stopping], [], [], 0.1)
                continue
            self._admit(connection)
        self._drain(limit_s)

    def _admit(self, connection: socket.socket) -> None:
        peer = Peer.of(connection)
        try:
            if not self._permitted.includes(peer):
                raise PowerError(
                    f"user {peer.uid} may not change the power mode; use the user or group given to edge-power",
                    "refused",
                )
            self._start(connection, peer)
        except PowerError as error:
            with connection, contextlib.suppress(OSError):
                _send(connection, _refusal(error, peer))

    def _start(self, connection: socket.socket, peer: Peer) -> None:
        with self._lock:
            if sum(uid == peer.uid for uid, _ in self._open.values()) >= CONNECTIONS_PER_USER:
                raise PowerError(f"user {peer.uid} has {CONNECTIONS_PER_USER} connections open; close one", "refused")
            thread = threading.Thread(target=self._serve, args=(connection, peer), daemon=True)
            try:
                thread.start()
            except RuntimeError:  # no more threads
                raise PowerError("edge-power has no thread left for this connection; try again later") from None
            self._open[connection] = peer.uid, thread  # under the lock, which the thread needs to end

    def _serve(self, connection: socket.socket, peer: Peer) -> None:
        try:
            for line in _lines(connection):
                _send(connection, self._answer(line, peer))
                if self._stopping:
                    return
        except PowerError as error:
            with contextlib.suppress(OSError):
                _send(connection, _refusal(error, peer))
        except OSError as error:  # the client is too slow, or gone
            log.debug("connection of %s ended: %s", peer, error)
        finally:
            with self._lock:
                del self._open[connection]
            connection.close()

    def _answer(self, line: bytes, peer: Peer) -> dict[str, Any]:
        try:
            request = parse_request(line)
            answer = self._service.answer(request, peer)
        except PowerError as error:
            return _refusal(error, peer)
        except Exception:
            log.exception("unexpected failure in a request of %s", peer)
            return {
                "ok": False,
                "kind": "failed",
                "error": "edge-power failed unexpectedly; see its log, and report it",
            }
        if request.verb == "set":
            log.info("power mode set, requested by %s: %s", peer, json.dumps(answer))
        return {"ok": True} | answer

    def _drain(self, limit_s: float) -> None:
        """Let started changes finish and be answered; disconnect clients that only listen."""
        self._stopping = True
        with self._lock:
            left = list(self._open.items())
            for connection, _ in left:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RD)
        until_s = monotonic() + limit_s
        for _, (_, thread) in left:
            thread.join(max(0.0, until_s - monotonic()))


def _lines(connection: socket.socket) -> Iterator[bytes]:
    """Yield whole lines; raise PowerError for one too long or unfinished, TimeoutError for a client too slow."""
    buffer = b""
    until_s = monotonic() + LINE_S
    while True:
        line, newline, rest = buffer.partition(b"\n")
        if len(line) > LINE_BYTES:
            raise PowerError(f"request is longer than {LINE_BYTES} bytes; wanted one line of JSON", "refused")
        if newline:
            buffer = rest
            yield line
            until_s = monotonic() + LINE_S
            continue
        connection.settimeout(max(0.001, until_s - monotonic()))
        piece = connection.recv(LINE_BYTES)
        if not piece:
            if buffer:  # half a request may mean something else than the whole
                raise PowerError(f"request {_cut(buffer)} ended before its newline; send it again", "refused")
            return
        buffer += piece


def _send(connection: socket.socket, answer: Mapping[str, Any]) -> None:
    connection.settimeout(LINE_S)
    connection.sendall(json.dumps(answer).encode() + b"\n")


def _refusal(error: PowerError, peer: Peer) -> dict[str, Any]:
    log.warning("%s, requested by %s: %s", error.kind, peer, error)
    return {"ok": False, "kind": error.kind, "error": str(error)}


@contextlib.contextmanager
def _listening(path: str, permitted: PermittedUsers) -> Iterator[socket.socket]:
    """Yield the socket passed by systemd, else one at `path`, which is removed at the end."""
    if os.environ.pop("LISTEN_PID", "") == str(os.getpid()) and os.environ.pop("LISTEN_FDS", "0") != "0":
        with socket.socket(fileno=3) as given:  # SD_LISTEN_FDS_START
            yield given
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        _bind(listener, path, permitted)
        try:
            listener.listen(64)
            yield listener
        finally:
            with contextlib.suppress(OSError):
                os.unlink(path)  # noqa: PTH108 -- a path as it was given


def _bind(listener: socket.socket, path: str, permitted: PermittedUsers) -> None:
    """Bind to a path, also that of a service that was killed, but never that of a live one."""
    if os.path.lexists(path):
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            raise PowerError(f"{path} exists and is not a socket; choose another with --socket")
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.settimeout(1)
            if probe.connect_ex(path) == 0:
                raise PowerError(f"another edge-power is listening at {path}; stop it, or choose a path with --socket")
        os.unlink(path)  # noqa: PTH108
    mask = os.umask(0o177)
    try:
        listener.bind(path)
    except OSError as error:
        raise PowerError(f"{path} cannot be created ({error.strerror or error}); check its folder") from None
    finally:
        os.umask(mask)
    if permitted.uid is not None or permitted.gid is not None:
        group = permitted.gid if permitted.gid is not None else pwd.getpwuid(permitted.uid or 0).pw_gid
        with contextlib.suppress(PermissionError):  # only root gives a file away
            os.chown(path, -1, group)
        os.chmod(path, 0o660)  # noqa: PTH101


# The command line.


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="edge-power", description="Sets the power mode on behalf of permitted users.", allow_abbrev=False
    )
    parser.add_argument(
        "--socket",
        default=SOCKET,
        metavar="PATH",
        help=f"path of the socket if systemd passes none (default: {SOCKET})",
    )
    parser.add_argument("--user", help="user who may make requests besides root")
    parser.add_argument("--group", help="group whose members may make requests besides root")
    parser.add_argument(
        "--allow-reboot", action="store_true", help="reboot if a mode needs it and the request allows it too"
    )
    parser.add_argument(
        "--changes-per-minute",
        type=int,
        default=CHANGES_PER_MINUTE,
        help=f"most changes of one user (default: {CHANGES_PER_MINUTE})",
    )
    parser.add_argument(
        "--limit-s",
        type=float,
        default=CHANGE_LIMIT_S,
        help=f"longest time for one change (default: {CHANGE_LIMIT_S:g})",
    )
    return parser


def _permitted(user: str | None, group: str | None) -> PermittedUsers:
    try:
        uid = pwd.getpwnam(user).pw_uid if user else None
    except KeyError:
        raise PowerError(f"user {_cut(user)} does not exist; create it, or choose another with --user") from None
    try:
        return PermittedUsers(uid, grp.getgrnam(group).gr_gid if group else None)
    except KeyError:
        raise PowerError(f"group {_cut(group)} does not exist; create it, or choose another with --group") from None


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until SIGTERM or SIGINT; a started change is finished first."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(levelname)s %(message)s")
    wakeup, stopping = socket.socketpair()
    wakeup.setblocking(False)  # noqa: FBT003 -- as set_wakeup_fd requires
    signal.set_wakeup_fd(wakeup.fileno())
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    service = ModeService(
        allow_reboot=options.allow_reboot, changes_per_minute=options.changes_per_minute, limit_s=options.limit_s
    )
    try:
        permitted = _permitted(options.user, options.group)
        with _listening(options.socket, permitted) as listener:
            log.info("ready")
            # Two queries, a change, and jetson_clocks: none of them longer than its own limit.
            Server(listener, permitted, service).run(stopping, options.limit_s * 2 + QUERY_LIMIT_S * 3 + CHANGE_LIMIT_S)
    except PowerError as error:
        print(f"edge-power: {error}", file=sys.stderr)  # noqa: T201 -- the command's output
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
