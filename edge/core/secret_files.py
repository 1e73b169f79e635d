"""Files that hold secrets, passwords and private keys: where they are, who may read them, and what stands in them."""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path

from edge.core.errors import ConfigError

CREDENTIAL = "credential:"  # before the name that a unit's LoadCredential= gives a file
# What nobody but its owner may do with a secret; a file of root's is handed to a service through the service's group.
OTHERS_MAY = stat.S_IRWXG | stat.S_IRWXO
OTHERS_MAY_WITH_ROOTS = OTHERS_MAY & ~stat.S_IRGRP
MAX_SECRET_CHARACTERS = 65_536

_CREDENTIAL_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,254}")


def credential_path(name: str) -> Path:
    """Return where systemd has put a credential of this service; raise ValueError where it gave none."""
    if not _CREDENTIAL_NAME.fullmatch(name):
        raise ValueError(f"found {CREDENTIAL}{name!r}, wanted {CREDENTIAL}NAME as in LoadCredential=NAME:PATH")
    folder = os.environ.get("CREDENTIALS_DIRECTORY")
    if not folder:
        raise ValueError(
            f"credential {name} is given by systemd alone, and this process has none; wanted a start by a unit with "
            f"LoadCredential={name}:PATH (by hand, set CREDENTIALS_DIRECTORY), or a path"
        )
    path = Path(folder) / name
    if not path.exists():
        raise ValueError(
            f"{folder} holds no credential {name}; wanted LoadCredential={name}:PATH in the service's unit"
        )
    return path


def check_private(path: Path) -> None:
    """Raise ValueError with a sentence where others than us may read or change a secret."""
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise ValueError(f"{path} is no file; wanted a file with the secret in it")
    if _of_systemd(path):
        return
    if others_may(status.st_mode, status.st_uid, os.geteuid()):
        raise ValueError(
            f"{path} can be read or changed by others (mode {stat.S_IMODE(status.st_mode):04o}); "
            f"wanted a secret of its owner alone: chmod 600 {path}"
        )
    if not os.access(path, os.R_OK):
        raise ValueError(f"{path} cannot be read by this user; wanted its owner to be who runs this: chown")


def others_may(mode: int, owner: int, reader: int) -> bool:
    """Tell whether a file's mode makes a secret in it none."""
    handed_on = owner == 0 != reader
    return bool(mode & (OTHERS_MAY_WITH_ROOTS if handed_on else OTHERS_MAY))


def _of_systemd(path: Path) -> bool:
    """Tell whether a file is a credential: its mode is systemd's business, its folder is closed to others."""
    folder = os.environ.get("CREDENTIALS_DIRECTORY")
    return bool(folder) and Path(os.path.realpath(path)).is_relative_to(os.path.realpath(str(folder)))


def read_secret(path: Path) -> str:
    """Read a password file, without the newline at its end."""
    try:
        check_private(path)
        with path.open(encoding="utf-8", newline="") as file:
            text = file.read(MAX_SECRET_CHARACTERS + 1)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"password file {path} cannot be read ({error}); wanted a readable text file") from None
    except ValueError as error:
        raise ConfigError(f"password file {error}") from None
    secret = text.rstrip("\r\n")
    if not secret or len(text) > MAX_SECRET_CHARACTERS:
        found = "nothing" if not secret else f"more than {MAX_SECRET_CHARACTERS} characters"
        raise ConfigError(f"password file {path} holds {found}; wanted one password")
    return secret
