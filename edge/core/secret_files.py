"""Secret files: passwords and private keys, their permissions and systemd credentials."""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path

from edge.core.errors import ConfigError
from edge.core.files import BYTE_ORDER_MARK

CREDENTIAL = "credential:"  # prefix of the name that a unit's LoadCredential= gives a file
# Permissions that make a secret public. A file of root's may be readable by the group: so it reaches a service.
PUBLIC_BITS = stat.S_IRWXG | stat.S_IRWXO
PUBLIC_BITS_OF_ROOTS = PUBLIC_BITS & ~stat.S_IRGRP
MAX_SECRET_CHARACTERS = 65_536

_CREDENTIAL_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,254}")


def credential_path(name: str) -> Path:
    """Return the path of a systemd credential of this service; raise ValueError if there is none."""
    if not _CREDENTIAL_NAME.fullmatch(name):
        raise ValueError(f"found {CREDENTIAL}{name!r}, wanted {CREDENTIAL}NAME as in LoadCredential=NAME:PATH")
    folder = os.environ.get("CREDENTIALS_DIRECTORY")
    if not folder:
        raise ValueError(
            f"credential {name} comes from systemd alone, and this process has no credentials; wanted a unit with "
            f"LoadCredential={name}:PATH, by hand `systemd-run --pty --uid=edge -p LoadCredential={name}:PATH edge …`, "
            "or a path"
        )
    path = Path(folder) / name
    if not path.exists():
        raise ValueError(
            f"{folder} contains no credential {name}; wanted LoadCredential={name}:PATH in the service's unit"
        )
    return path


def check_private(path: Path) -> None:
    """Raise ValueError if other users may read or change a secret, or this one may not read it."""
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise ValueError(f"{path} is not a regular file; wanted a file that contains the secret")
    if _of_systemd(path):
        return
    if is_public(status.st_mode, status.st_uid, os.geteuid()):
        raise ValueError(
            f"{path} can be read or changed by others (mode {stat.S_IMODE(status.st_mode):04o}); "
            f"wanted a file for its owner alone: chmod 600 {path}"
        )
    if not os.access(path, os.R_OK):
        raise ValueError(f"{path} cannot be read by this user; wanted it owned by that user: chown")


def is_public(mode: int, owner: int, reader: int) -> bool:
    """Return whether a file's mode makes a secret in it public."""
    is_shared_by_root = owner == 0 != reader
    return bool(mode & (PUBLIC_BITS_OF_ROOTS if is_shared_by_root else PUBLIC_BITS))


def _of_systemd(path: Path) -> bool:
    """Return whether a file is a systemd credential: systemd sets its mode and closes its folder to others."""
    folder = os.environ.get("CREDENTIALS_DIRECTORY")
    return bool(folder) and Path(os.path.realpath(path)).is_relative_to(os.path.realpath(str(folder)))


def read_secret(path: Path) -> str:
    """Read a password file, without its trailing newline; raise ConfigError if it cannot be used."""
    try:
        check_private(path)
        with path.open(encoding="utf-8", newline="") as file:
            text = file.read(MAX_SECRET_CHARACTERS + 1).removeprefix(BYTE_ORDER_MARK)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"password file {path} cannot be read ({error}); wanted a readable text file") from None
    except ValueError as error:
        raise ConfigError(f"password file {error}") from None
    secret = text.rstrip("\r\n")
    if not secret or len(text) > MAX_SECRET_CHARACTERS:
        found = "nothing" if not secret else f"more than {MAX_SECRET_CHARACTERS} characters"
        raise ConfigError(f"password file {path} contains {found}; wanted one password")
    return secret
