"""Paths of the machine's files: below one root, with absolute symbolic links resolved inside it."""

from __future__ import annotations

import errno
import fnmatch
import os
from collections.abc import Iterator
from pathlib import Path

_MOST_LINKS = 40  # as the kernel follows
_WILD = frozenset("*?[")


def root() -> Path:
    """Return the folder that stands for `/` when the machine is read (an emulated board, a container)."""
    return Path(os.environ.get("EDGE_ROOT") or "/")


def is_emulated() -> bool:
    """Return whether another folder stands for `/`: a library that asks the kernel would then ask the wrong machine."""
    return root() != Path("/")


def inside(path: str) -> Path:
    """Return the place of an absolute path below the root.

    Raises OSError if symbolic links form a loop. A path that does not exist is not an error here.
    """
    base = root()
    if base == Path("/"):
        return Path(path)
    resolved: list[str] = []
    waiting = [part for part in reversed(path.split("/")) if part]
    links = 0
    while waiting:
        part = waiting.pop()
        if part == "..":
            resolved[-1:] = []
        elif part != ".":
            place = base.joinpath(*resolved, part)
            if not place.is_symlink():
                resolved.append(part)
                continue
            links += 1
            if links > _MOST_LINKS:
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)
            target = str(place.readlink())
            if target.startswith("/"):
                resolved.clear()
            waiting += [each for each in reversed(target.split("/")) if each]
    return base.joinpath(*resolved)


def glob(pattern: str) -> list[str]:
    """Return the absolute paths below the root that match a pattern, in order; an unreadable folder is empty."""
    return list(_matches("", [part for part in pattern.split("/") if part]))


def _matches(folder: str, parts: list[str]) -> Iterator[str]:
    if not parts:
        yield folder
        return
    pattern, *rest = parts
    for name in _names(folder, pattern):
        yield from _matches(f"{folder}/{name}", rest)


def _names(folder: str, pattern: str) -> list[str]:
    try:
        if _WILD.isdisjoint(pattern):
            return [pattern] if os.path.lexists(inside(folder) / pattern) else []
        names = [each.name for each in inside(folder or "/").iterdir()]
    except OSError:
        return []
    return sorted(fnmatch.filter(names, pattern), key=lambda name: (len(name), name))  # hwmon10 comes after hwmon9


def read_text(path: str) -> str | None:
    """Return a small file's text without trailing zero bytes and blanks; None if it is empty or cannot be read.

    Not for sensors: a FIFO without a writer does not block it, but a driver that hangs does.
    """
    try:
        handle = os.open(inside(path), os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        with os.fdopen(handle, "rb") as file:
            return (file.read() or b"").decode(errors="replace").rstrip("\0 \n") or None
    except OSError:
        return None
