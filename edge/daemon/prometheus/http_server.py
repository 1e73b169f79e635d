"""HTTP server of one page, on one thread: many, slow or malformed requests delay no other reader."""

from __future__ import annotations

import contextlib
import errno
import logging
import select
import selectors
import socket
import threading
from collections.abc import Callable

from edge.core.clock import now_ns

log = logging.getLogger(__name__)

PATH = "/metrics"
MOST_CONNECTIONS = 32  # a new one displaces the oldest
LONGEST_S = 10.0  # that one connection may last
LONGEST_HEAD = 8192  # bytes
READ_AT_ONCE = 4096  # bytes
TICK_S = 1.0  # between checks for silent connections
STOP_S = 1.0
_END_OF_HEAD = b"\r\n\r\n"
_REQUEST_LINE_PARTS = 3
_REASONS = {
    200: "OK", 400: "Bad Request", 404: "Not Found", 405: "Method Not Allowed", 431: "Request Header Fields Too Large",
    500: "Internal Server Error",
}  # fmt: skip

Answer = Callable[[str], tuple[bytes, str]]


class HttpServer:
    """Answers GET and HEAD of one page until it is stopped."""

    def __init__(self, host: str, port: int, answer: Answer) -> None:
        """Listen; raise OSError on failure. `answer(accept)` returns the page and its content type."""
        self._answer = answer
        self._has_failed = False
        self.dropped = 0  # connections that were too slow, or displaced by newer ones
        self._connections: dict[socket.socket, _Connection] = {}  # the oldest first
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        self._listener = socket.create_server((host, port), family=family, backlog=MOST_CONNECTIONS)
        self._listener.setblocking(False)  # noqa: FBT003 -- the standard library's signature
        self._woken, self._wake = socket.socketpair()
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._selector.register(self._woken, selectors.EVENT_READ)
        self._thread = threading.Thread(target=self._run, name="metrics", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the thread, without waiting for readers."""
        self._wake.close()
        self._thread.join(STOP_S)

    def _run(self) -> None:
        try:
            while self._tick():
                pass
        except Exception:  # the top of a thread: this page ends, and the daemon continues
            log.exception("the metrics page failed unexpectedly and is unavailable until a restart")
        finally:
            for connection in [*self._connections.values()]:
                self._end(connection)
            for part in (self._selector, self._listener, self._woken):
                part.close()

    def _tick(self) -> bool:
        """Handle pending events; return False when it is time to stop."""
        for key, _ in self._selector.select(TICK_S):
            if key.fileobj is self._woken:
                return False
            if key.fileobj is self._listener:
                self._accept()
            elif isinstance(key.data, _Connection) and key.data.socket in self._connections:
                self._advance(key.data)
        for connection in [*self._connections.values()]:
            if now_ns() >= connection.until_ns:
                self._drop(connection)
        return True

    def _accept(self) -> None:
        try:
            accepted, _ = self._listener.accept()
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE):
                self._wait_for_descriptors()
            return  # otherwise the reader has gone already
        accepted.setblocking(False)  # noqa: FBT003 -- the standard library's signature
        if len(self._connections) >= MOST_CONNECTIONS:
            self._drop(next(iter(self._connections.values())))
        connection = _Connection(accepted, self._respond)
        self._connections[accepted] = connection
        self._selector.register(accepted, selectors.EVENT_READ, connection)

    def _wait_for_descriptors(self) -> None:
        """Drop the oldest connection; if there is none, wait, as the next one would be refused at once."""
        if self._connections:
            self._drop(next(iter(self._connections.values())))
        else:
            poller = select.poll()
            poller.register(self._woken, select.POLLIN)
            poller.poll(TICK_S * 1000)

    def _advance(self, connection: _Connection) -> None:
        try:
            events = connection.advance()
        except BlockingIOError:
            return
        except OSError:  # the reader has gone
            events = 0
        if events:
            self._selector.modify(connection.socket, events, connection)
        else:
            self._end(connection)

    def _drop(self, connection: _Connection) -> None:
        self.dropped += not connection.is_answered
        self._end(connection)

    def _end(self, connection: _Connection) -> None:
        del self._connections[connection.socket]
        self._selector.unregister(connection.socket)
        connection.socket.close()

    def _respond(self, head: bytes) -> bytes:
        """Return the whole response to a request's head."""
        method, target, accept = _parsed(head)
        if method is None:
            return _response(400, b"wanted an HTTP request\n")
        if target.split("?", 1)[0] != PATH:
            return _response(404, f"only {PATH} is served here\n".encode())
        if method not in ("GET", "HEAD"):
            return _response(405, b"wanted GET or HEAD\n", "Allow: GET, HEAD\r\n")
        try:
            body, content_type = self._answer(accept)
        except Exception:  # whatever fails, the reader is told, and the next period may succeed
            if not self._has_failed:
                log.exception("the metrics page cannot be written")
            self._has_failed = True
            return _response(500, b"the page cannot be written; see the log\n")
        return _response(200, body, content_type=content_type, with_body=method == "GET")


class _Connection:
    """One reader: its request, the response, the end."""

    def __init__(self, accepted: socket.socket, respond: Callable[[bytes], bytes]) -> None:
        self.socket = accepted
        self.until_ns = now_ns() + int(LONGEST_S * 1e9)
        self.is_answered = False
        self._respond = respond
        self._received = b""
        self._to_send = memoryview(b"")

    def advance(self) -> int:
        """Read or write without waiting; return the events to wait for next, 0 for none."""
        if self.is_answered:
            return self._drain()
        if not self._to_send:
            received = self.socket.recv(READ_AT_ONCE)
            self._received += received
            if not received:
                return 0
            if _END_OF_HEAD in self._received:
                self._to_send = memoryview(self._respond(self._received))
            elif len(self._received) > LONGEST_HEAD:
                self._to_send = memoryview(_response(431, b"wanted a shorter request\n"))
            else:
                return selectors.EVENT_READ
        with contextlib.suppress(BlockingIOError):
            self._to_send = self._to_send[self.socket.send(self._to_send) :]
        if self._to_send:
            return selectors.EVENT_WRITE
        self.is_answered = True
        self.socket.shutdown(socket.SHUT_WR)
        return selectors.EVENT_READ

    def _drain(self) -> int:
        """Read to the end of the request: closing with unread data would cut off the response."""
        return selectors.EVENT_READ if self.socket.recv(READ_AT_ONCE) else 0


def _parsed(head: bytes) -> tuple[str | None, str, str]:
    """Return method, target and Accept header; no method if this is not HTTP."""
    lines = head.split(_END_OF_HEAD, 1)[0].decode("latin-1").split("\r\n")
    parts = lines[0].split(" ")
    if len(parts) != _REQUEST_LINE_PARTS or not parts[2].startswith("HTTP/1."):
        return None, "", ""
    accept = (line.partition(":")[2].strip() for line in lines[1:] if line.lower().startswith("accept:"))
    return parts[0], parts[1], ",".join(accept)


def _response(
    status: int, body: bytes, more: str = "", *, content_type: str = "text/plain; charset=utf-8", with_body: bool = True
) -> bytes:
    head = (
        f"HTTP/1.1 {status} {_REASONS[status]}\r\nContent-Type: {content_type}\r\nContent-Length: {len(body)}\r\n"
        f"{more}Connection: close\r\n\r\n"
    )
    return head.encode("latin-1") + (body if with_body else b"")
