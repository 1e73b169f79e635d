"""Trial of the broker, as the daemon would connect to it, that disturbs no daemon which is online."""

from __future__ import annotations

import contextlib
import json
import select
from collections.abc import Callable, Iterator, Sequence

from edge.core.clock import now_ns
from edge.core.config import MqttSettings
from edge.core.errors import EdgeError, UnansweredError
from edge.core.records import CommandRequest, Message
from edge.mqtt.connection import CONNECT_TIMEOUT_S, BrokerRefusedError, MqttConnection

BESIDE = "-check"  # what a trial beside a daemon adds to the client id: with the same one, it would end its connection
STATUS_S = 0.3  # after the subscription's answer, for the retained status
POLL_MS = 50


def try_connection(settings: MqttSettings, client_id: str, will: Message, topics: Sequence[str]) -> str:
    """Connect with the daemon's client id and will, and subscribe to its topics; return what the broker offers.

    Where the device is online already, this is done without a will, and with another client id.
    Raises OSError or EdgeError on failure.
    """
    with contextlib.suppress(BrokerRefusedError, UnansweredError):  # the broker may want ids of another form
        if is_online(settings, client_id, will.topic):
            told = _try(settings, f"{client_id}{BESIDE}", None, topics)
            return f"{told}; {client_id} is online, so this was asked as {client_id}{BESIDE}"
    return _try(settings, client_id, will, topics)


def is_online(settings: MqttSettings, client_id: str, status_topic: str) -> bool:
    """Return whether the retained status of the device says that it is online; False where that is not known."""
    states: list[CommandRequest] = []
    with _opened(settings, f"{client_id}{BESIDE}", None, states.append) as connection:
        connection.subscribe([status_topic])
        _converse(connection, lambda: connection.is_subscription_answered, CONNECT_TIMEOUT_S)
        _converse(connection, lambda: bool(states), STATUS_S)
    return any(_says_online(state.body) for state in states)


def _says_online(body: bytes) -> bool:
    try:
        status = json.loads(body)
    except (ValueError, RecursionError):
        return False
    return isinstance(status, dict) and status.get("state") == "online"


def _try(settings: MqttSettings, client_id: str, will: Message | None, topics: Sequence[str]) -> str:
    with _opened(settings, client_id, will) as connection:
        connection.subscribe(topics)
        _converse(connection, lambda: not topics or connection.is_subscription_answered, CONNECT_TIMEOUT_S)
        if connection.refused_topics:
            raise EdgeError(f"broker {settings.shown}: {connection.limits[-1]}")
        return "; ".join((f"{settings.shown} accepts MQTT {connection.version}", *connection.limits))


@contextlib.contextmanager
def _opened(
    settings: MqttSettings,
    client_id: str,
    will: Message | None,
    on_request: Callable[[CommandRequest], None] | None = None,
) -> Iterator[MqttConnection]:
    connection = MqttConnection(settings, client_id, will, on_request=on_request)
    connection.open()
    try:
        yield connection
    finally:
        connection.close()


def _converse(connection: MqttConnection, is_done: Callable[[], bool], limit_s: float) -> None:
    """Write and read until something is so, or the time is over; raise ConnectionEndedError when it is lost."""
    until_ns = now_ns() + int(limit_s * 1e9)
    while not is_done() and now_ns() < until_ns:
        if connection.wants_write:
            connection.write()
        poller = select.poll()
        poller.register(connection.keep_alive(), select.POLLIN | (select.POLLOUT if connection.wants_write else 0))
        if poller.poll(POLL_MS):
            connection.read()
