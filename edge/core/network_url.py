"""Network URLs: scheme, host and port apart from the credentials and the path, which may be secret."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from urllib.parse import quote, unquote, urlsplit

HOW_TO_WRITE = (
    "in user name, password and path write '@' as %40, '/' as %2F, '#' as %23, '?' as %3F and '%' as %25, "
    "or use username and password_file"
)
_END_OF_AUTHORITY = re.compile(r"[/?#]")

_OF_PLACEHOLDERS = "${}<>"  # $NAME, {{name}}, <name>: never in the name of a host


@dataclass(frozen=True)
class NetworkUrl:
    """A parsed URL."""

    scheme: str
    address: str  # host[:port] as written
    host: str  # without the brackets of IPv6
    port: int | None
    target: str = field(default="", repr=False)  # path, query and fragment: some vendors put secrets there
    username: str | None = None
    password: str | None = field(default=None, repr=False)

    @property
    def shown(self) -> str:
        """The URL without anything secret."""
        return f"{self.scheme}://{self.address}"

    @property
    def location(self) -> str:
        """The URL without credentials, but with its path."""
        return self.shown + self.target


def parse_network_url(text: str) -> NetworkUrl:
    """Parse `scheme://[user[:password]@]host[:port][target]`.

    Raises ValueError, whose sentence contains nothing of the user name, password and path.
    """
    scheme, _, rest = text.partition("://")
    scheme = scheme.lower()
    wanted = f"wanted {scheme}://HOST[:PORT]"
    authority = _END_OF_AUTHORITY.split(rest, maxsplit=1)[0]
    target = rest[len(authority) :]
    # Text before a later @ may be the end of a password, so none of it may be shown.
    if "@" in target:
        raise ValueError(f"found {target[0]!r} before an '@'; {HOW_TO_WRITE}")
    credentials, _, address = authority.rpartition("@")
    if not (address + target).isprintable():
        raise ValueError(f"contains a control character; {wanted}")
    if sign := next((each for each in address if each in _OF_PLACEHOLDERS), None):
        raise ValueError(
            f"found {sign!r} in the host; {wanted}, or for a value of the environment ${{NAME}} in the configuration"
        )
    try:
        parts = urlsplit(f"{scheme}://{address}")
        host, port = parts.hostname, parts.port
    except ValueError:
        raise ValueError(f"no valid host and port in this address; {HOW_TO_WRITE}; {wanted}") from None
    if not host:
        raise ValueError(f"{scheme}:// address names no host; {wanted}")
    if port == 0:
        raise ValueError(f"found port 0 in this address; {wanted}")
    username, _, password = credentials.partition(":")
    return NetworkUrl(scheme, address, host, port, target, unquote(username) or None, unquote(password) or None)


def with_credentials(location: str, username: str | None, password: str | None) -> str:
    """Return a URL with credentials in it, for the library that connects; never to be shown."""
    if username is None and password is None:
        return location
    scheme, _, rest = location.partition("://")
    secret = quote(username or "", safe="") + (f":{quote(password, safe='')}" if password else "")
    return f"{scheme}://{secret}@{rest}"
