"""The journal's end of its socket."""

from __future__ import annotations

import array
import fcntl
import socket
from pathlib import Path

from tests.support.waiting import PATIENCE_S


def parse(data: bytes) -> dict[str, str]:
    """Read an entry as journald does."""
    fields = {}
    while data:
        line, _, rest = data.partition(b"\n")
        if b"=" in line:
            name, _, value = line.partition(b"=")
        else:
            name, length = line, int.from_bytes(rest[:8], "little")
            value, rest = rest[8 : 8 + length], rest[8 + length :]
            assert rest.startswith(b"\n"), f"{name!r} does not end where its length says"
            rest = rest[1:]
        fields[name.decode()] = value.decode()
        data = rest
    return fields


class Listener:
    """Where the journal listens."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.settimeout(PATIENCE_S)
        self._socket.bind(self.path)

    def next(self) -> dict[str, str]:
        """Return the next entry, whichever way it comes."""
        data, rights, _, _ = self._socket.recvmsg(1 << 20, socket.CMSG_SPACE(4))
        if not rights:
            return parse(data)
        assert data == b"", "an entry comes as a datagram or as a file, not as both"
        fd = array.array("i", rights[0][2])[0]
        with open(fd, "rb") as file:  # noqa: PTH123 -- there is no path
            seals = fcntl.fcntl(fd, fcntl.F_GET_SEALS)
            assert seals == fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
            file.seek(0)
            return parse(file.read())

    def close(self) -> None:
        self._socket.close()
