"""Atomic writes: a reader, or a loss of power, finds the old file or the new one, whole."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path

BYTE_ORDER_MARK = "\ufeff"  # some editors put it before the text of a file
_PRIVATE = 0o600
_NAME_SHOWN = 50  # characters of the file's name in that of its temporary file, which must not become too long
# File systems on which a folder cannot be synced keep its entries in order by themselves, or not at all.
_NOT_SYNCABLE = (errno.EINVAL, errno.ENOTSUP)


def write_atomic(path: Path, data: bytes | memoryview, *, durable: bool, mode: int | None = None) -> None:
    """Write a file in one step, through a temporary file beside it; raise OSError if that fails.

    `durable`: once this returns, a loss of power cannot undo it. `mode`: permissions; None: as the umask has it.
    """
    token = f"{os.getpid()}.{secrets.token_hex(4)}"  # process ids alone are not unique across containers
    temporary = path.with_name(f".{path.name[:_NAME_SHOWN]}.{token}.tmp")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    handle = os.open(temporary, flags, 0o666 if mode is None else 0o600)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            if mode is not None:
                os.fchmod(handle, mode)
            if durable:
                file.flush()
                os.fsync(handle)
        temporary.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
    if durable:
        _sync_folder(path.parent)


def open_private(path: Path, flags: int) -> int:
    """Open or create a file that nobody else may read, from its first byte on; raise OSError for a link."""
    handle = os.open(path, flags | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, _PRIVATE)
    try:
        if stat.S_IMODE(os.fstat(handle).st_mode) != _PRIVATE:  # of an earlier version
            os.fchmod(handle, _PRIVATE)
    except BaseException:
        os.close(handle)
        raise
    return handle


def permissions(path: Path) -> int:
    """Return a file's permission bits, for a file that is to have the same."""
    return stat.S_IMODE(path.stat().st_mode)


def unfinished_writes(folder: Path, pid: int | None = None) -> Iterator[Path]:
    """Yield the temporary files in a folder, of one process or of all; a process that was killed leaves its own."""
    return folder.glob(f".*.{'*' if pid is None else pid}.*.tmp")


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in _NOT_SYNCABLE:
            raise
    finally:
        os.close(handle)
