"""State directory of this device: plans, timing caches, derived models, measurements."""

from __future__ import annotations

import contextlib
import fcntl
import grp
import os
import pwd
import stat
from collections.abc import Iterator
from pathlib import Path

from edge.core.errors import ConfigError, EdgeError
from edge.core.files import open_private

# The home of the user that scripts/install makes, and the unit's StateDirectory=.
SERVICE_HOME = Path("/var/lib/edge")
_ANOTHER = "or set another one with --state-dir or [device] state_dir"


def find_state_dir(given: Path | None = None, configured: str | None = None) -> Path:
    """Return the state directory: the given one, the configured one, that of systemd, or the user's.

    Raises ConfigError if others could have put files there: plans are code, and results are private.
    """
    path = given or default_state_dir(configured)
    if refusal := _refusal(path):
        raise ConfigError(f"state directory {path} {refusal}, {_ANOTHER}")
    return path


def default_state_dir(configured: str | None = None) -> Path:
    """Return the configured folder, else the one from systemd, else the user's; for those who only read there."""
    if configured:
        return Path(configured).expanduser()
    if under_systemd := os.environ.get("STATE_DIRECTORY"):
        return Path(under_systemd.split(":")[0])
    if state_home := os.environ.get("XDG_STATE_HOME"):
        return Path(state_home) / "edge"
    home = Path.home()
    return home if home == SERVICE_HOME else home / ".local/state/edge"


def _refusal(path: Path) -> str | None:
    """Return why a folder is unsuitable, and what to do; None for one that is ours alone or does not exist yet."""
    try:
        return _refusal_of_folder(path, path.stat()) or _refusal_of_content(path)
    except FileNotFoundError:
        return None
    except OSError as error:
        return f"cannot be used ({error.strerror}); wanted a writable one: change its permissions"


def _refusal_of_folder(path: Path, found: os.stat_result) -> str | None:
    if not stat.S_ISDIR(found.st_mode):
        return "is not a folder; wanted one"
    foreign = [each.st_uid for each in (path.lstat(), found) if each.st_uid not in (os.geteuid(), 0)]
    if foreign:
        owner = _user_name(foreign[0])
        return f"belongs to user {owner}; wanted one of this user: run this as {owner} (sudo -u {owner} edge …)"
    if found.st_mode & stat.S_ISVTX and found.st_mode & stat.S_IWOTH:
        return f"is everybody's; wanted one for its owner alone: a folder in it, as {path / 'edge'}"
    if _others_can_write(found):
        mode = stat.S_IMODE(found.st_mode)
        return f"can be written by others (mode {mode:04o}); wanted one for its owner alone: chmod go-w {path}"
    return None


def _refusal_of_content(path: Path) -> str | None:
    for folder, folders, files in os.walk(path):
        for name in (*folders, *files):
            if (inner := Path(folder, name)).is_symlink():
                return f"contains the link {inner}; wanted files and folders of its own: remove the link"
    return None


def _others_can_write(status: os.stat_result) -> bool:
    """Return whether a user other than the owner can write; a group of the owner alone is no other user."""
    if status.st_mode & stat.S_IWOTH:
        return True
    return bool(status.st_mode & stat.S_IWGRP) and not _is_private_group(status.st_gid, status.st_uid)


def _is_private_group(gid: int, uid: int) -> bool:
    try:
        group, user = grp.getgrgid(gid), pwd.getpwuid(uid)
    except KeyError:
        return False
    return user.pw_gid == gid and group.gr_name == user.pw_name and set(group.gr_mem) <= {user.pw_name}


def _user_name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


@contextlib.contextmanager
def state_lock(state_dir: Path) -> Iterator[None]:
    """Hold the lock that keeps a second daemon or benchmark off this board; raise EdgeError if it is taken."""
    path = state_dir / "lock"
    try:
        state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        find_state_dir(state_dir)  # once more, as somebody else may have made it meanwhile
        lock = open_private(path, os.O_RDWR)
    except OSError as error:
        raise ConfigError(
            f"state directory {state_dir} cannot be used ({error.strerror}); wanted a writable one: "
            "set it with --state-dir or [device] state_dir"
        ) from None
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise EdgeError(f"another edge process holds {path}; stop it first, or use another --state-dir") from None
        yield
    finally:
        os.close(lock)
