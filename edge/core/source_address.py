"""Source addresses: a URL or path, with its credentials apart from the part that may be shown."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import parse_qsl, quote, unquote, urlsplit, urlunsplit

SCHEMES = ("file", "rtsp", "rtsps", "v4l2", "synthetic")
LIVE_SCHEMES = ("rtsp", "rtsps", "v4l2")  # frames arrive at the source's own pace; the others wait for a read

# Some vendors' cameras take user name and password in the path: /user=admin_password=secret_channel=1
# The words are of bounded length, so that a path of many of them is matched in linear time.
_IN_PATH = re.compile(r"((?:user|pass|pwd)[a-z]{0,32})=[^_&/]*", re.IGNORECASE)


@dataclass(frozen=True)
class SourceAddress:
    """A parsed source address."""

    scheme: str
    location: str  # a path (file, v4l2), a name (synthetic), or a URL without credentials (rtsp)
    options: dict[str, str] = field(default_factory=dict)
    username: str | None = None
    password: str | None = field(default=None, repr=False)

    @property
    def shown(self) -> str:
        """The address without credentials, for logs, topics and errors."""
        if self.scheme == "synthetic":
            query = "&".join(f"{key}={value}" for key, value in self.options.items())
            return f"synthetic://{self.location}" + (f"?{query}" if query else "")
        if self.scheme == "v4l2":
            return f"v4l2://{self.location}"
        if self.scheme == "file":
            return self.location
        return without_secrets(self.location)

    @property
    def is_live(self) -> bool:
        """Liveness: its frames arrive at their own pace."""
        return self.scheme in LIVE_SCHEMES

    @property
    def secret_url(self) -> str:
        """The URL with its credentials, for the library that connects; never shown."""
        if self.username is None and self.password is None:
            return self.location
        parts = urlsplit(self.location)
        secret = quote(self.username or "", safe="") + (f":{quote(self.password, safe='')}" if self.password else "")
        return urlunsplit(parts._replace(netloc=f"{secret}@{parts.netloc}"))


def parse_address(text: str, folder: Path) -> SourceAddress:
    """Parse a `source` value; relative paths start at `folder`.

    Raises ValueError, whose sentence never contains the credentials.
    """
    scheme, separator, rest = text.partition("://")
    if not separator:
        scheme, rest = "file", text
    scheme = scheme.lower()
    if scheme not in SCHEMES:
        raise ValueError(f"scheme {scheme!r} is not known; wanted a path or one of {', '.join(SCHEMES)}")
    if not rest:
        raise ValueError(f"nothing follows {scheme}://; wanted a path, a host or a name")
    if "\0" in rest:
        raise ValueError("contains a NUL byte; wanted a path or a URL")
    if scheme == "file":
        return SourceAddress(scheme, str(folder / expand_home(unquote(rest) if separator else rest)))
    if scheme == "v4l2":
        return SourceAddress(scheme, rest)
    if scheme == "synthetic":
        name, _, query = rest.partition("?")
        return SourceAddress(scheme, name, dict(parse_qsl(query, keep_blank_values=True)))
    return _parse_network_address(scheme, rest)


def without_secrets(url: str) -> str:
    """Redact the path and query of a camera's URL: many vendors put user name and password there."""
    path, _, query = url.partition("?")
    return _IN_PATH.sub(r"\1=…", path) + ("?…" if query else "")


def expand_home(path: str) -> Path:
    """Expand `~` in a path; raise ValueError if the home folder is unknown."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise ValueError(f"found {path!r}, whose home folder is unknown; wanted a path") from None


def _parse_network_address(scheme: str, rest: str) -> SourceAddress:
    """Parse a URL, and separate user name and password from it."""
    try:
        parts = urlsplit(f"{scheme}://{rest}")
        host, _ = parts.hostname, parts.port  # reading the port validates it
    except ValueError:
        raise ValueError(f"no valid host and port in this address; wanted {scheme}://HOST[:PORT]/PATH") from None
    # Text before a later @ may be the end of a password, so none of it may be shown.
    if "@" in urlunsplit(("", "", parts.path, parts.query, parts.fragment)):
        raise ValueError(
            "an @ follows the host; in user name, password and path write @ as %40, / as %2F, # as %23, ? as %3F, "
            "or use username and password_file"
        )
    if not host:
        raise ValueError(f"{scheme}:// address names no host; wanted {scheme}://HOST[:PORT]/PATH")
    netloc = parts.netloc.rpartition("@")[2]
    username = unquote(parts.username) if parts.username else None
    password = unquote(parts.password) if parts.password else None
    return SourceAddress(scheme, urlunsplit(parts._replace(netloc=netloc)), {}, username, password)
