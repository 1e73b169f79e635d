"""Log handler for systemd's journal, with fields (systemd.io/JOURNAL_NATIVE_PROTOCOL), on the standard library."""

from __future__ import annotations

import array
import errno
import fcntl
import logging
import os
import socket
import sys

SOCKET = "/run/systemd/journal/socket"
IDENTIFIER = "edge"
# Keys that a record may carry in `extra=`, and the journal field of each.
FIELDS = {"stream": "EDGE_STREAM", "model": "EDGE_MODEL", "engine": "EDGE_ENGINE", "alarm": "EDGE_ALARM"}
# syslog(3)'s numbers: error, warning, info, debug.
_PRIORITIES = ((logging.CRITICAL, 2), (logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6))
_DEBUG = 7
# Errors for a datagram longer than the socket's buffer.
_TOO_LONG = (errno.EMSGSIZE, errno.ENOBUFS)
_ALL_SEALS = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE


def journal_handler() -> JournalHandler | None:
    """Return a handler for the journal if standard error goes there, else None."""
    return JournalHandler(SOCKET) if stderr_is_journal() else None


def stderr_is_journal() -> bool:
    """Return whether standard error is the stream that $JOURNAL_STREAM names (systemd.exec(5))."""
    try:
        status = os.fstat(sys.stderr.fileno())
    except (OSError, ValueError, AttributeError):
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"


class JournalHandler(logging.Handler):
    """Sends each record as one entry; it neither blocks nor raises, and counts the records it could not send."""

    def __init__(self, path: str) -> None:
        super().__init__()
        self._path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
        self._lost = 0
        self.setFormatter(logging.Formatter("%(message)s"))

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._send(entry(self._fields(record)))
            self._lost = 0
        # A full or missing journal, or a record whose arguments do not fit, is no reason to stop serving.
        except Exception:  # noqa: BLE001
            self._lost += 1

    def close(self) -> None:
        self._socket.close()
        super().close()

    def _fields(self, record: logging.LogRecord) -> dict[str, str]:
        fields = {
            "MESSAGE": self.format(record),  # with its traceback
            "PRIORITY": str(next((number for level, number in _PRIORITIES if record.levelno >= level), _DEBUG)),
            "SYSLOG_IDENTIFIER": IDENTIFIER,
            "CODE_FILE": record.pathname,
            "CODE_LINE": str(record.lineno),
            "CODE_FUNC": record.funcName or "",
            "LOGGER": record.name,
            "THREAD_NAME": record.threadName or "",
        }
        fields |= {field: str(getattr(record, key)) for key, field in FIELDS.items() if getattr(record, key, None)}
        return fields | ({"EDGE_RECORDS_LOST": str(self._lost)} if self._lost else {})

    def _send(self, data: bytes) -> None:
        try:
            self._socket.sendto(data, self._path)
        except OSError as error:
            if error.errno not in _TOO_LONG:
                raise
            self._send_as_file(data)

    def _send_as_file(self, data: bytes) -> None:
        """Send an entry too long for a datagram as a sealed file in memory."""
        fd = os.memfd_create("edge-log", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            with open(fd, "wb", closefd=False) as file:
                file.write(data)
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _ALL_SEALS)
            rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd]))
            self._socket.sendmsg([], [rights], 0, self._path)
        finally:
            os.close(fd)


def entry(fields: dict[str, str]) -> bytes:
    """Return fields in the journal's native format; text of several lines is prefixed with its length."""
    return b"".join(_field(name, value.encode("utf-8", "replace")) for name, value in fields.items())


def _field(name: str, value: bytes) -> bytes:
    if b"\n" not in value:
        return name.encode() + b"=" + value + b"\n"
    return name.encode() + b"\n" + len(value).to_bytes(8, "little") + value + b"\n"
