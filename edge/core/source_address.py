"""Source addresses: a URL or path, with its credentials apart from the part that may be shown."""

from __future__ import annotations

import os
import re
import stat
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import parse_qsl, unquote

from edge.core.network_url import parse_network_url, with_credentials
from edge.core.redaction import redact_address, redact_file_path, redact_path, shown

SCHEMES = ("file", "rtsp", "rtsps", "v4l2", "synthetic")
NETWORK_SCHEMES = ("rtsp", "rtsps")
LIVE_SCHEMES = ("rtsp", "rtsps", "v4l2")  # frames arrive at the source's own pace; the others wait for a read

_VIDEO_DEVICE = re.compile(r"/dev/(?:video[0-9]+|v4l/.+)")
_SCHEME = re.compile(r"[a-z][a-z0-9+.-]{0,15}")
# A URL without its slashes would otherwise be a file of that name.
_WITHOUT_SLASHES = re.compile(
    r"((?:rtsps?|rtmps?|https?|mqtts?|udp|tcp|srt|v4l2|csi|synthetic)):/?(?!/)", re.IGNORECASE
)


@dataclass(frozen=True)
class SourceAddress:
    """A parsed source address."""

    scheme: str
    location: str  # a path (file, v4l2), a name (synthetic), or a URL without credentials (rtsp)
    options: dict[str, str] = field(default_factory=dict)
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    show_path: bool = False  # whether the path of a camera's URL may be shown; many vendors put secrets there
    ca: str | None = None  # rtsps only: file of the authority, or of the camera's own certificate

    @property
    def shown(self) -> str:
        """The address without secrets, for logs, topics and errors: of a network camera's, scheme, host and port."""
        if self.scheme == "synthetic":
            query = "&".join(f"{key}={value}" for key, value in self.options.items())
            return f"synthetic://{self.location}" + (f"?{query}" if query else "")
        if self.scheme == "v4l2":
            return redact_address(f"v4l2://{self.location}")
        if self.scheme == "file":
            return redact_file_path(self.location)
        url = parse_network_url(self.location)
        return url.shown + (redact_path(url.target) if self.show_path else "")

    @property
    def is_live(self) -> bool:
        """Liveness: its frames arrive at their own pace."""
        return self.scheme in LIVE_SCHEMES

    @property
    def secret_url(self) -> str:
        """The location for the library that opens it, a network camera's with its credentials; never shown."""
        if self.scheme not in NETWORK_SCHEMES:
            return self.location
        return with_credentials(self.location, self.username, self.password)


def parse_address(text: str, folder: Path) -> SourceAddress:
    """Parse a `source` value; relative paths start at `folder`.

    Raises ValueError, whose sentence never contains the credentials.
    """
    text = f"v4l2://{text}" if text.isdecimal() else text  # as OpenCV and its users number cameras
    scheme, separator, rest = text.partition("://")
    if not separator:
        if found := _WITHOUT_SLASHES.match(text):
            raise ValueError(f"found {found[1]}: without //, wanted {found[1].lower()}://… or a path")
        scheme, rest = "file", text.removeprefix("file:")
    scheme = scheme.lower()
    if not _SCHEME.fullmatch(scheme):
        raise ValueError(f"the text before :// is no scheme; wanted a path or one of {', '.join(SCHEMES)}")
    if scheme not in SCHEMES:
        raise ValueError(f"scheme {scheme!r} is not known; wanted a path or one of {', '.join(SCHEMES)}")
    if not rest:
        raise ValueError(f"nothing follows {scheme}://; wanted a path, a host or a name")
    if "\0" in rest:
        raise ValueError("contains a NUL byte; wanted a path or a URL")
    if scheme == "file":
        return _file_or_device(str(folder / expand_home(_path_of_url(rest) if separator else rest)))
    if scheme == "v4l2":
        name = f"video{rest}" if rest.isdecimal() else rest.removeprefix("dev/")
        return SourceAddress(scheme, os.path.join("/dev", name))  # noqa: PTH118 -- nothing of a path is normalised
    if scheme == "synthetic":
        name, _, query = rest.partition("?")
        return SourceAddress(scheme, name, dict(parse_qsl(query, keep_blank_values=True)))
    url = parse_network_url(text)
    return SourceAddress(scheme, url.location, {}, url.username, url.password)


def _path_of_url(rest: str) -> str:
    """Return the path in what follows file://; the host may only be this one."""
    return unquote(rest.removeprefix("localhost") if rest.startswith("localhost/") else rest)


def _file_or_device(path: str) -> SourceAddress:
    """Return the address of a file, or of a camera where the path is that of a device, which need not be there."""
    return SourceAddress("v4l2" if _VIDEO_DEVICE.fullmatch(path) or _is_device(path) else "file", path)


def _is_device(path: str) -> bool:
    try:
        return stat.S_ISCHR(os.stat(path).st_mode)  # noqa: PTH116 -- Path's raises for a name that is too long
    except (OSError, ValueError):
        return False


def expand_home(path: str) -> Path:
    """Expand `~` in a path; raise ValueError if the home folder is unknown."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise ValueError(f"found {shown(path)}, whose home folder is unknown; wanted a path") from None
