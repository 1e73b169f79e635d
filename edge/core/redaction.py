"""Redaction: values and sentences in displayable form, without passwords and tokens."""

from __future__ import annotations

import re
from typing import Any

from edge.core.environment import FromEnvironment

MAX_SHOWN = 80  # characters of a value
_UNQUOTED = re.compile(r"[^'\"]+")
# Schemes that people put before an address; any other text before a colon may be a user name.
_SCHEME = re.compile(
    r"(?:rtsps?|rtspu|rtmps?|mqtts?|wss?|https?|tcp|udp|ssl|srt|ftp|file|v4l2|csi|synthetic):/{0,2}", re.IGNORECASE
)
_END_OF_AUTHORITY = re.compile(r"[/?#;]")
_ADDRESS = re.compile(r"(?:\[[0-9A-Fa-f:.]*\]|[\w.-]*)(?::[0-9]{1,5})?")
_MISSPELT_SCHEME = re.compile(r"[^@:/?#\s]{1,12}://")
_LOCAL = re.compile(r"file|v4l2|csi|synthetic", re.IGNORECASE)
_SECRET_KEY = re.compile(r"pass|pwd|secret|token|credential|auth|api_?key|\bpin\b", re.IGNORECASE)
# Some vendors' cameras take user name and password in the path: /user=admin_password=secret_channel=1
# The words are of bounded length, so that a path of many of them is matched in linear time.
_IN_PATH = re.compile(r"((?:user|pass|pwd|token|auth|key)[a-z]{0,32})=[^_&/]*", re.IGNORECASE)


def redact_path(path: str) -> str:
    """Redact the credentials that many vendors put into the path and query of a camera's URL."""
    path, _, query = path.partition("?")
    path, _, fragment = path.partition("#")
    path, _, parameters = path.partition(";")
    return _IN_PATH.sub(r"\1=…", path) + ("?…" if query or fragment or parameters else "")


def redact_file_path(path: str) -> str:
    """Redact the path of a file that may be a URL by mistake: /etc/edge/rtsp:/user:password@camera."""
    path = _IN_PATH.sub(r"\1=…", path)
    before, at, after = path.rpartition("@")
    colon = before.find(":")
    return f"{before[: before.rfind('/', 0, colon) + 1]}…@{after}" if at and colon >= 0 else path


def redact_address(text: str, *, is_url: bool = False) -> str:
    """Redact a value that may be an address, however it is written: scheme, host and port remain of one.

    `mqtt:user:password@host`, `rtsp://host/token` and `user:password@host:554/main` are addresses, too; with `is_url`,
    so is any other text.
    """
    scheme = _SCHEME.match(text) or (None if "@" in text else _MISSPELT_SCHEME.match(text))
    prefix = scheme[0] if scheme else ""
    before, at, address = text[len(prefix) :].rpartition("@")
    is_local = scheme is not None and _LOCAL.match(prefix)
    if not at and (is_local or not (scheme or is_url)):
        return text
    shown = _END_OF_AUTHORITY.split(address, maxsplit=1)[0]
    rest = "/…" if address[len(shown) :].strip("/") else ""
    if not _ADDRESS.fullmatch(shown):  # a password whose host is missing
        shown = "…"
    return f"{prefix}{'…@' if before else at}{shown}{rest}"


def redact(value: Any) -> Any:
    """Return a value of a settings file or a command without secrets."""
    if isinstance(value, FromEnvironment):
        return value.reference
    if isinstance(value, str):
        return redact_address(value)
    if isinstance(value, dict):
        return {redact(key): "…" if _SECRET_KEY.search(str(key)) else redact(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [redact(each) for each in value]
    return value


def shown(value: Any) -> str:
    """Return a value for a sentence: in one line, without secrets, and of bounded length."""
    try:
        text = repr(redact(value))
    except ValueError:
        return "a number of thousands of digits"
    return cut(one_line(text))  # in this order, so that no half of credentials remains


def cut(text: str) -> str:
    """Return text of bounded length."""
    return text if len(text) <= MAX_SHOWN else text[:MAX_SHOWN] + "…"


def without_credentials(text: str) -> str:
    """Redact `user:password@` in every URL of `text`, in time proportional to its length."""
    return _UNQUOTED.sub(lambda found: _redacted(found[0]), text)


def _redacted(text: str) -> str:
    """Redact everything before the last @: a password that was not escaped may contain any character.

    A URL that was taken for a path by mistake counts as well: /etc/edge/rtsp:/user:password@camera
    """
    head, at, rest = text.rpartition("@")
    slash, slashes = head.find("/"), head.find("//")
    if slash != slashes and slash < head.rfind(":"):
        return f"{head[:slash]}/…{at}{rest}"
    return f"{head[:slashes]}//…{at}{rest}" if slashes >= 0 else text


def one_line(text: str) -> str:
    """Return text from a file in displayable form: one line, without credentials."""
    return without_credentials("".join(each if each.isprintable() else repr(each)[1:-1] for each in text))
