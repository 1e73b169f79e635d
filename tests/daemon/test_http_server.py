"""The metrics page over real sockets: whoever reads it, and however badly, the others get their page."""

from __future__ import annotations

import contextlib
import http.client
import random
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edge.daemon.prometheus import http_server as endpoint_module
from edge.daemon.prometheus.http_server import LONGEST_HEAD, MOST_CONNECTIONS, HttpServer
from tests.support.waiting import eventually, free_port

TIMEOUT_S = 10.0
PAGE = b"page " * 200_000  # more than the socket's buffers hold


class Site:
    """An endpoint, and its readers."""

    def __init__(self) -> None:
        self.port = free_port()
        self.endpoint = HttpServer("127.0.0.1", self.port, lambda accept: (PAGE + accept.encode(), "text/told"))

    def get(self, method: str = "GET", path: str = "/metrics", **headers: str) -> tuple[int, bytes, str | None]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=TIMEOUT_S)
        try:
            connection.request(method, path, headers=headers)
            response = connection.getresponse()
            return response.status, response.read(), response.getheader("Content-Type")
        finally:
            connection.close()

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), TIMEOUT_S)

    def raw(self, request: bytes) -> bytes:
        """Send bytes and the end, and return all that comes."""
        with self.connect() as connection:
            connection.sendall(request)
            connection.shutdown(socket.SHUT_WR)
            return read_all(connection)


def read_all(connection: socket.socket) -> bytes:
    came = b""
    while piece := connection.recv(65536):
        came += piece
    return came


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.fixture
def site() -> Iterator[Site]:
    opened = Site()
    yield opened
    opened.endpoint.stop()


def test_the_page_comes_whole_with_its_type(site: Site) -> None:
    assert site.get(Accept="any") == (200, PAGE + b"any", "text/told")
    assert site.get(path="/metrics?name[]=edge_build_info")[0] == 200


def test_head_has_no_body(site: Site) -> None:
    assert site.get("HEAD") == (200, b"", "text/told")


@pytest.mark.parametrize(
    ("method", "path", "status"), [("POST", "/metrics", 405), ("DELETE", "/metrics", 405), ("GET", "/", 404)]
)
def test_what_is_not_there_is_told(site: Site, method: str, path: str, status: int) -> None:
    assert site.get(method, path)[0] == status


def test_a_body_that_nobody_asked_for_does_not_cut_off_the_answer(site: Site) -> None:
    with site.connect() as connection:
        connection.sendall(b"POST /metrics HTTP/1.1\r\nContent-Length: 100000\r\n\r\n" + b"x" * 100_000)
        assert connection.recv(65536).startswith(b"HTTP/1.1 405 ")


def test_a_head_without_end_is_refused(site: Site) -> None:
    with site.connect() as connection:
        connection.sendall(b"GET /metrics HTTP/1.1\r\nX: " + b"x" * LONGEST_HEAD)
        assert connection.recv(65536).startswith(b"HTTP/1.1 431 ")


@pytest.mark.parametrize(
    "request_", [b"\r\n\r\n", b"GET /metrics\r\n\r\n", b"\x16\x03\x01\x02\r\n\r\n", b"A B C\r\n\r\n"]
)
def test_what_is_no_http_is_told_so(site: Site, request_: bytes) -> None:
    assert site.raw(request_).startswith(b"HTTP/1.1 400 ")


def test_a_page_that_cannot_be_written_is_told_and_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    site = Site()

    def answer(_accept: str) -> tuple[bytes, str]:
        raise ValueError("no figures")

    site.endpoint._answer = answer
    try:
        assert [site.get()[0] for _ in range(3)] == [500] * 3
    finally:
        site.endpoint.stop()
    assert caplog.text.count("cannot be written") == 1


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rubbish=st.binary(max_size=300) | st.binary(max_size=100).map(lambda part: b"GET " + part + b"\r\n\r\n"))
def test_no_rubbish_ends_it(site: Site, rubbish: bytes) -> None:
    answer = site.raw(rubbish)
    assert answer == b"" or answer.startswith(b"HTTP/1.1 ")
    assert site.get("HEAD")[0] == 200


def test_requests_in_pieces_are_put_together(site: Site) -> None:
    with site.connect() as connection:
        for piece in (b"GET /met", b"rics HT", b"TP/1.1\r\nAccept: x\r", b"\n", b"\r\n"):
            connection.sendall(piece)
            time.sleep(0.01)
        assert read_all(connection).endswith(b"page x")


def test_slow_readers_hold_nobody_up_and_are_let_go(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    before, threads = open_files(), threading.active_count()
    slow = [site.connect() for _ in range(MOST_CONNECTIONS)]
    for number, connection in enumerate(slow):
        # Some never end their request, some never read their page.
        connection.sendall(b"GET /metrics HTTP/1.1\r\n" + (b"\r\n" if number % 2 else b"X: "))
    monkeypatch.setattr(endpoint_module, "LONGEST_S", 0.2)
    assert [site.get()[0] for _ in range(20)] == [200] * 20
    late = site.connect()
    eventually(lambda: late.recv(1) == b"", "the slow reader is let go")
    assert threading.active_count() <= threads
    for connection in (*slow, late):
        connection.close()
    eventually(lambda: open_files() <= before, "all descriptors are given back")
    assert site.endpoint.dropped > 0


def test_a_flood_of_connections_is_bounded(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoint_module, "LONGEST_S", 1000.0)
    before = open_files()
    flood = [site.connect() for _ in range(3 * MOST_CONNECTIONS)]
    eventually(lambda: site.endpoint.dropped >= 2 * MOST_CONNECTIONS, "the oldest give way")
    assert len(site.endpoint._connections) <= MOST_CONNECTIONS
    assert site.get()[0] == 200
    for connection in flood:
        connection.close()
    eventually(lambda: open_files() <= before, "all descriptors are given back")


def test_many_readers_at_once_all_get_the_page(site: Site) -> None:
    statuses: list[int] = []

    def read() -> None:
        time.sleep(random.uniform(0, 0.05))
        statuses.append(site.get()[0])

    readers = [threading.Thread(target=read) for _ in range(16)]
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.join(TIMEOUT_S)
    assert statuses == [200] * 16


def test_it_ends_while_a_reader_is_silent() -> None:
    site = Site()
    with site.connect() as silent:
        silent.sendall(b"GET")
        site.endpoint.stop()
        assert not site.endpoint._thread.is_alive()
        with contextlib.suppress(ConnectionResetError):
            assert silent.recv(1) == b""
    with pytest.raises(OSError, match="refused"):
        site.connect()


def test_a_port_that_is_taken_is_an_error_at_once(site: Site) -> None:
    with pytest.raises(OSError, match="in use"):
        HttpServer("127.0.0.1", site.port, lambda _: (b"", ""))


def test_it_listens_where_it_is_told_to_alone(site: Site) -> None:
    assert site.endpoint._listener.getsockname()[0] == "127.0.0.1"
