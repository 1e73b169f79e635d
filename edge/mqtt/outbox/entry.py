"""Entry of the outbox: a message with its place in order, memory, journal and spool."""

from __future__ import annotations

from dataclasses import dataclass

from edge.core.records import Message
from edge.mqtt.outbox.destination import Destination

NO_COPY = -1


@dataclass(slots=True)
class Entry:
    """A message while the outbox holds it or the publisher sends it."""

    message: Message
    number: int  # the order of arrival, across restarts; once spooled, the key on disk
    copy_at: int = NO_COPY  # the place of its copy in the journal
    times_sent: int = 0
    is_spooled: bool = False  # it is on disk
    is_backlog: bool = False  # it comes from the disk or from an earlier process
    destination: Destination | None = None  # None: the configured one; with any other it is held
    is_age_known: bool = True  # else its times are an estimate, by a wall clock that was or is not synchronised
    losses: int = 0  # connections that ended while it was suspected of being the cause
    is_given_up: bool = False  # the broker hangs up on it
