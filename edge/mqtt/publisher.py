"""Messages → MQTT: the window of unacknowledged messages, their age, and reconnection, on one thread.

An unreachable broker is no error: messages wait in the outbox while the connection is retried with a random, growing
pause. A message stays ours until the broker has acknowledged it; what a lost connection left unacknowledged is sent
again on the next one, in order. A message upon which the broker seems to hang up is sent alone, and given up after a
few losses. The backlog from disk takes at most half of the window, so that new results do not wait behind it.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Protocol

from edge.core.backoff import Backoff
from edge.core.clock import elapsed_ms, now_ns
from edge.core.config import MqttSettings
from edge.core.errors import EdgeError
from edge.core.records import CommandRequest, DropReason, Message, OutboxState
from edge.mqtt.broker_reasons import TAKEN_OVER
from edge.mqtt.connection import BrokerRefusedError, ConnectionEndedError, MqttConnection
from edge.mqtt.loss_suspects import LossSuspects
from edge.mqtt.outbox.entry import Entry
from edge.mqtt.tls import explain_failure

log = logging.getLogger(__name__)

MOST_REFUSED_LOGGED = 100  # topics per connection
FIRST_RETRY_S = 0.5
LONGEST_RETRY_S = 5.0  # results are live again within 10 s of the link's return
# Where another client takes our session over: two of one name that returned at once would evict each other without end.
FIRST_EVICTED_S = 2.0
LONGEST_EVICTED_S = 30.0
SETTLED_NS = 10 * 10**9  # a connection that ends before is short-lived: the pause after it grows
# So long it must last, or acknowledge something, before its loss is blamed on a message.
PROVEN_NS = 2 * 10**9
# So many short-lived connections in a row look like an eviction, of which not every broker gives the reason.
EVICTED_LIVES = 3
EVICTING_LIVES = 50  # so many are an eviction: the pause grows further, and their ends are not logged
MOST_REASONS_TOLD = 5  # until a connection is settled
EVICTED_TOLD = (
    "MQTT broker %s ends each connection after seconds, and gives no reason: another client may have connected with "
    "the same client id, %s; give each device a [device] name or [mqtt] client_id of its own, and see the broker's log"
)
IDLE_POLL_MS = 500
CLOSED_FD = -1


class Store(Protocol):
    """Store of the messages that wait: see `edge.mqtt.outbox`."""

    def put(self, message: Message) -> None: ...

    on_ready: Callable[[], None]  # called when something to send comes from elsewhere than `put`

    def pop(self, *, backlog: bool) -> Entry | None: ...

    def has_waiting(self, *, backlog: bool) -> bool: ...

    def put_back(self, entries: Iterable[Entry]) -> None: ...

    def settle(self, entry: Entry, refused: DropReason | None = None) -> None: ...

    def renew_retained(self) -> None: ...

    def set_connected(self, *, connected: bool) -> None: ...

    def state(self, in_flight: list[Entry]) -> OutboxState: ...


class Publisher:
    """Sends messages from a thread of its own; `on_sent` is called there for each acknowledged result."""

    def __init__(
        self,
        settings: MqttSettings,
        client_id: str,
        will: Message,
        store: Store,
        on_sent: Callable[[Message, int], None],
        subscriptions: Sequence[str] = (),
        on_request: Callable[[CommandRequest], None] | None = None,
    ) -> None:
        """Set up `on_sent(message, acknowledged_ns)` and the last `will`, which the broker publishes when we are lost.

        `on_request` gets, on the publisher's thread, what comes on the `subscriptions` (QoS 1); it must not wait.
        """
        self._settings = settings
        self._store = store
        self._on_sent = on_sent
        self._subscriptions = list(subscriptions)
        self._connection = MqttConnection(settings, client_id, will, self._acknowledge, on_request)
        self._in_flight: dict[int, Entry] = {}  # by packet id; in the order of sending
        self._backlog_in_flight = 0  # of these, those of the backlog
        self._refused_topics: set[str] = set()  # logged on this connection
        # Reset when a settled connection acknowledges a message: a broker that only accepts connections does not work.
        self._backoff = Backoff(FIRST_RETRY_S, LONGEST_RETRY_S)
        self._evicted_backoff = Backoff(FIRST_EVICTED_S, LONGEST_EVICTED_S)
        self._suspects = LossSuspects()
        self._held: Entry | None = None  # a suspect that waits to be sent alone
        self._alone_since_ns: int | None = None  # when a suspect was sent alone; None: none is on its way
        self._connected_ns = 0
        self._has_acknowledged = False  # on this connection
        # Connections in a row that worked, and ended without a reason before they were settled. A broker or a link that
        # fails also fails to connect for a while.
        self._short_lives = 0
        self._is_loss_told = False  # since a connection worked; for good while connections are short-lived
        self._last_reason = ""
        self._told_reasons: set[str] = set()  # since a connection was settled, as the limits of the broker
        self._logged_connected = False
        self._finish_by_ns: int | None = None
        self._finish_backlog = True
        self._is_asleep = True  # the thread waits, or is about to
        self._wake_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self.connected = False
        self._thread = threading.Thread(target=self._run, name="publish", daemon=True)
        store.on_ready = self._wake

    def start(self) -> None:
        self._thread.start()

    def put(self, message: Message) -> None:
        """Queue a message; never waits."""
        self._store.put(message)
        if self._is_asleep:  # a system call per message would hand the interpreter lock back and forth
            self._is_asleep = False
            self._wake()

    def outbox(self) -> OutboxState:
        return self._store.state(self._unsettled())

    def _unsettled(self) -> list[Entry]:
        """Return what was taken from the store and is not acknowledged, in the order of sending."""
        held = [] if (entry := self._held) is None else [entry]
        return [*self._in_flight.values(), *held]

    def finish(self, timeout_s: float, *, backlog: bool = True) -> None:
        """Send what is queued for at most `timeout_s`, then disconnect; do not wait for an unreachable broker.

        Without `backlog`, what is on disk stays there.
        """
        self._finish_backlog = backlog
        self._finish_by_ns = self._connection.deadline_ns = now_ns() + int(timeout_s * 1e9)
        self._wake()

    def join(self, timeout_s: float) -> bool:
        """Wait for the thread to end after `finish`; return whether it has. Nothing may be put after it."""
        self._thread.join(timeout_s)
        if self._thread.is_alive():
            return False
        if self._wake_fd != CLOSED_FD:
            os.close(self._wake_fd)
            self._wake_fd = CLOSED_FD
        return True

    def _run(self) -> None:
        while not self._finished():
            try:
                with self._connected():
                    self._serve()
            except (OSError, ValueError, EdgeError) as error:
                self._log_failure(error)
                if self._finish_by_ns is not None:
                    return
                self._pause(self._evicted_backoff.next_s() if self._short_lives >= EVICTING_LIVES else 0.0)
            except Exception:  # the top of a thread: whatever the client library raises, the next attempt starts afresh
                if not self._backoff.failures:
                    log.exception("the connection to %s failed unexpectedly", self._settings.shown)
                if self._finish_by_ns is not None:
                    return
                self._pause()

    def _finished(self) -> bool:
        if self._finish_by_ns is None:
            return False
        if now_ns() >= self._finish_by_ns:
            return True
        state = self.outbox()
        return state.messages <= (0 if self._finish_backlog else state.disk_messages)

    def _log_failure(self, error: Exception) -> None:
        """Log the first failure since a connection worked, and what the broker answers again and again."""
        is_first, self._is_loss_told = not self._is_loss_told, True
        is_answer = isinstance(error, BrokerRefusedError) or (
            isinstance(error, ConnectionEndedError) and error.code is not None
        )
        if not isinstance(error, ConnectionEndedError):
            self._short_lives = 0
            self._evicted_backoff.reset()
        elif self._short_lives == EVICTED_LIVES:
            log.warning(EVICTED_TOLD, self._settings.shown, self._connection.client_id)
        if not is_first and not is_answer:
            self._last_reason = ""
            return
        reason = explain_failure(self._settings, error) if is_first else str(error)
        is_lasting = reason == self._last_reason and len(self._told_reasons) < MOST_REASONS_TOLD
        self._last_reason = reason
        if is_first or (is_lasting and reason not in self._told_reasons):
            self._told_reasons.add(reason)
            self._logged_connected = False
            log.warning("MQTT broker %s is unreachable (%s); messages are queued", self._settings.shown, reason)

    def _pause(self, least_s: float = 0.0) -> None:
        """Pause before the next attempt to connect, or until `finish` is called."""
        until_ns = now_ns() + int(max(self._backoff.next_s(), least_s) * 1e9)
        poller = select.poll()
        poller.register(self._wake_fd, select.POLLIN)
        while self._finish_by_ns is None and (left_ns := until_ns - now_ns()) > 0:
            if poller.poll(left_ns / 1e6):
                self._clear_wake()

    def _wake(self) -> None:
        if self._wake_fd != CLOSED_FD:
            os.eventfd_write(self._wake_fd, 1)

    def _clear_wake(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._wake_fd)

    @contextlib.contextmanager
    def _connected(self) -> Iterator[None]:
        """Connect; on the way out, put back what was not acknowledged."""
        self._connection.open()
        try:
            if not self._logged_connected:
                log.info("connected to MQTT broker %s", self._settings.shown)
            self.connected = self._logged_connected = True
            self._connected_ns, self._has_acknowledged = now_ns(), False
            self._store.set_connected(connected=True)
            self._refused_topics.clear()
            self._store.renew_retained()
            self._connection.subscribe(self._subscriptions)
            yield
        except ConnectionEndedError as error:
            is_short = self._has_acknowledged and now_ns() - self._connected_ns < SETTLED_NS
            if error.code == TAKEN_OVER:
                self._short_lives = EVICTING_LIVES
            self._short_lives += error.code is None and is_short and self._alone_since_ns is None
            if error.may_be_over_a_message:
                self._note_loss()
            raise
        finally:
            self.connected = False
            self._store.set_connected(connected=False)
            self._store.put_back([entry for entry in self._unsettled() if not entry.message.retain])
            self._held = self._alone_since_ns = None
            self._in_flight.clear()
            self._backlog_in_flight = 0
            self._connection.close()

    def _tell_limits(self) -> None:
        limits, self._connection.limits = self._connection.limits, []
        for limit in limits:
            if limit not in self._told_reasons:
                self._told_reasons.add(limit)
                log.warning("MQTT broker %s: %s", self._settings.shown, limit)

    def _note_loss(self) -> None:
        """Note that the connection ended, perhaps over a message; give up the one that is to blame."""
        in_flight = list(self._in_flight.values())
        entry = self._suspects.note_loss(in_flight, self._alone_since_ns)
        if entry is None:
            return
        self._in_flight.clear()  # it was alone
        topic, size = entry.message.topic, len(entry.message.body)
        text = (
            "broker %s has hung up %d times on a message of %d bytes on %s, which is given up; for an hour, those "
            "there that are as long are only counted. Raise the broker's limit, or allow this topic there"
        )
        log.warning(text, self._settings.shown, entry.losses, size, topic)
        self._store.settle(entry, "refused")

    def _serve(self) -> None:
        """Send and read until everything is sent and we are to close; raise OSError when the connection is lost."""
        connection = self._connection
        poller = select.poll()
        poller.register(self._wake_fd, select.POLLIN)
        while not self._finished():
            self._clear_wake()
            if connection.limits and self._is_proven:
                self._tell_limits()
            self._fill_window()
            if connection.wants_write:
                connection.write()
            fd = connection.keep_alive()
            poller.register(fd, select.POLLIN | (select.POLLOUT if connection.wants_write else 0))
            state = dict(poller.poll(self._idle_ms())).get(fd, 0)
            self._is_asleep = False
            if state & select.POLLOUT:
                connection.write()
            if state & ~select.POLLOUT:
                connection.read()

    @property
    def _takes_backlog(self) -> bool:
        return self._backlog_in_flight < max(self._connection.window // 2, 1)

    def _idle_ms(self) -> int:
        """Return how long to wait; messages put from now on wake the thread, as does a link that accepts more."""
        self._is_asleep = True
        has_room = len(self._in_flight) < self._connection.window and not self._connection.wants_write
        has_room = has_room and self._held is None and self._alone_since_ns is None
        return 0 if has_room and self._store.has_waiting(backlog=self._takes_backlog) else IDLE_POLL_MS

    def _fill_window(self) -> None:
        """Send until the window of unacknowledged messages is full."""
        # A blocked link gets nothing: the library would queue all of QoS 0, which is never acknowledged.
        if self._connection.wants_write:
            return
        for _ in range(self._connection.window - len(self._in_flight)):
            if self._alone_since_ns is not None:
                return
            entry, self._held = self._held or self._store.pop(backlog=self._takes_backlog), None
            if entry is None:
                return
            if entry.losses and not entry.is_given_up:
                if self._in_flight or not self._is_proven:
                    self._held = entry
                    return
                self._alone_since_ns = now_ns()
            self._send(entry)

    @property
    def _is_proven(self) -> bool:
        """True once the connection has shown that it works."""
        return self._has_acknowledged or now_ns() - self._connected_ns >= PROVEN_NS

    def _send(self, entry: Entry) -> None:
        self._stamp_age(entry)
        entry.times_sent += 1
        if entry.is_given_up:  # a retained message, renewed and counted already
            self._store.settle(entry)
            return
        if (refusal := self._connection.refusal(entry.message) or self._suspects.refusal(entry)) is not None:
            self._alone_since_ns = None
            self._refuse(entry, refusal)
            return
        try:
            packet_id = self._connection.publish(entry.message)
        except ConnectionError:
            self._store.put_back([entry])
            raise
        if packet_id is not None:
            self._in_flight[packet_id] = entry
            self._backlog_in_flight += entry.is_backlog
        elif entry.message.qos:
            self._alone_since_ns = None
            self._store.settle(entry)  # this broker acknowledges nothing

    def _refuse(self, entry: Entry, reason: object) -> None:
        """Drop what the broker does not accept; log a topic once a connection, not with each message."""
        message = entry.message
        if message.topic not in self._refused_topics and len(self._refused_topics) < MOST_REFUSED_LOGGED:
            self._refused_topics.add(message.topic)
            text = "broker %s refused a message on %s (%s); further ones on this topic are only counted"
            log.warning(text, self._settings.shown, message.topic, reason)
        self._store.settle(entry, "refused")

    @staticmethod
    def _stamp_age(entry: Entry) -> None:
        message = entry.message
        if message.stream is not None and not entry.times_sent:
            age_ms = max(elapsed_ms(message.captured_ns, now_ns()), 0.0)  # the clock may have been set back meanwhile
            age = b"%.1f" % age_ms if entry.is_age_known else b"null"
            message.body = b'%b,"age_ms":%b}' % (message.body[:-1], age)

    def _acknowledge(self, packet_id: int, reason: Any) -> None:
        entry = self._in_flight.pop(packet_id, None)
        if entry is None:
            return
        self._note_working()
        self._alone_since_ns = None  # if it was a suspect, it was alone, and is none
        entry.losses = 0
        self._backlog_in_flight -= entry.is_backlog
        if reason.is_failure:
            self._refuse(entry, reason)
            return
        self._store.settle(entry)
        # Neither a replay nor the backlog says anything about latency.
        if entry.message.stream is not None and entry.times_sent == 1 and not entry.is_backlog:
            self._on_sent(entry.message, now_ns())

    def _note_working(self) -> None:
        self._has_acknowledged = True
        if self._short_lives < EVICTING_LIVES:
            self._is_loss_told = False
        if now_ns() - self._connected_ns >= SETTLED_NS and self._backoff.failures:
            self._short_lives = 0
            self._is_loss_told = False
            self._told_reasons.clear()
            self._backoff.reset()
            self._evicted_backoff.reset()
