"""Two hosts, each a network namespace, and a link between them that loses and delays real packets, or is cut.

The kernel's TCP at both ends is what it is in the field; the link is two TUN devices with this process between them, as
not every kernel has netem. Nothing leaves the two namespaces.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import heapq
import os
import random
import select
import shutil
import struct
import subprocess
import threading
import time
from collections.abc import Iterator

import pytest

CLONE_NEWNET = 0x4000_0000  # <sched.h>
TUNSETIFF, IFF_TUN, IFF_NO_PI = 0x4004_54CA, 0x0001, 0x1000  # <linux/if_tun.h>
OWN_NETWORK = "/proc/thread-self/ns/net"
TUN = "/dev/net/tun"
MTU_BYTES = 1500
IDLE_S = 0.05
QUEUE_PACKETS = 1000  # as a router's: what is more is dropped
SEED = 7

_libc = ctypes.CDLL(None, use_errno=True)


def needs_namespaces() -> None:
    """Skip where no network namespace or TUN device can be made."""
    if os.geteuid() != 0 or not os.access(TUN, os.W_OK):
        pytest.skip(f"needs root and {TUN}, for a network of the test's own")
    if shutil.which("ip") is None:
        pytest.skip("ip is not installed: apt-get install iproute2")


def _check(result: int) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


class Host:
    """A network namespace with its loopback device and one end of a link; it ends when nothing uses it any more."""

    def __init__(self, address: str, peer: str) -> None:
        self.address = address
        maker = threading.Thread(target=self._make)  # a thread of its own, as the namespace stays with the thread
        maker.start()
        maker.join()
        with self.inside():
            self.tun_fd = os.open(TUN, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
            fcntl.ioctl(self.tun_fd, TUNSETIFF, struct.pack("16sH22x", b"wan", IFF_TUN | IFF_NO_PI))
            for command in ("link set lo up", f"addr add {address} peer {peer} dev wan", "link set wan up"):
                subprocess.run(["ip", *command.split()], check=True)

    def _make(self) -> None:
        _check(_libc.unshare(CLONE_NEWNET))
        self._fd = os.open(OWN_NETWORK, os.O_RDONLY | os.O_CLOEXEC)

    @contextlib.contextmanager
    def inside(self) -> Iterator[None]:
        """Have this thread, and the processes and threads that it starts, use this host's network."""
        outside_fd = os.open(OWN_NETWORK, os.O_RDONLY | os.O_CLOEXEC)
        _check(_libc.setns(self._fd, CLONE_NEWNET))
        try:
            yield
        finally:
            _check(_libc.setns(outside_fd, CLONE_NEWNET))
            os.close(outside_fd)

    def close(self) -> None:
        os.close(self.tun_fd)
        os.close(self._fd)


class BadLink:
    """Two hosts and what is between them; `loss` and `delay_s` hold for each direction."""

    def __init__(self) -> None:
        self.device, self.server = Host("10.213.7.1", "10.213.7.2"), Host("10.213.7.2", "10.213.7.1")
        self.loss, self.delay_s, self.is_cut = 0.0, 0.0, False
        self.lost_packets = 0
        self._random = random.Random(SEED)
        self._on_the_way: list[tuple[float, int, int, bytes]] = []
        self._count = 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._carry, daemon=True)
        self._thread.start()

    def _carry(self) -> None:
        to = {self.device.tun_fd: self.server.tun_fd, self.server.tun_fd: self.device.tun_fd}
        while not self._ended.is_set():
            wait_s = max(0.0, self._on_the_way[0][0] - time.monotonic()) if self._on_the_way else IDLE_S
            for fd in select.select(list(to), [], [], min(wait_s, IDLE_S))[0]:
                self._take(os.read(fd, MTU_BYTES), to[fd])
            while self._on_the_way and self._on_the_way[0][0] <= time.monotonic():
                _, _, fd, packet = heapq.heappop(self._on_the_way)
                os.write(fd, packet)

    def _take(self, packet: bytes, fd: int) -> None:
        if self.is_cut or self._random.random() < self.loss or len(self._on_the_way) >= QUEUE_PACKETS:
            self.lost_packets += 1
            return
        self._count += 1  # keeps packets of one moment in order
        heapq.heappush(self._on_the_way, (time.monotonic() + self.delay_s, self._count, fd, packet))

    def heal(self) -> None:
        self.loss, self.delay_s, self.is_cut = 0.0, 0.0, False

    def close(self) -> None:
        self._ended.set()
        self._thread.join()
        for host in (self.device, self.server):
            host.close()
