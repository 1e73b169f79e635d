"""Messages upon which the connection is lost: suspected, sent alone, and given up after a few losses.

A broker of MQTT 3.1.1 cannot say that it does not take a message, for instance one that is too long: it hangs up, and
would do so again each time that the message is sent.
"""

from __future__ import annotations

from collections.abc import Sequence

from edge.core.clock import now_ns
from edge.mqtt.outbox.entry import Entry

MOST_LOSSES = 4  # one among others, then three of the message alone
MOST_LOSSES_AGAIN = 2  # of a message on a topic where one was given up before
PROMPT_NS = 5 * 10**9  # a broker that objects hangs up within this; a dead link takes longer to be noticed
REFUSED_NS = 3600 * 10**9  # later, messages of that length are tried again
MOST_TOPICS = 1000


class LossSuspects:
    """Finds out upon which message a broker hangs up, and remembers by topic how long it was."""

    def __init__(self) -> None:
        self._given_up: dict[str, tuple[int, int]] = {}  # topic → bytes of the body, until when

    def note_loss(self, in_flight: Sequence[Entry], alone_since_ns: int | None) -> Entry | None:
        """Suspect of what was unacknowledged, in the order of sending, what the broker may have hung up on.

        `alone_since_ns` is when a suspect was sent alone. Returns the message that is to be given up, if any.
        """
        if not in_flight:
            return None
        if alone_since_ns is None:
            # Those before the one that it objects to are acknowledged, though the loss may swallow that.
            for entry in (in_flight[0], max(in_flight, key=lambda each: len(each.message.body))):
                entry.losses = max(entry.losses, 1)
            return None
        if now_ns() - alone_since_ns > PROMPT_NS:
            return None
        entry = in_flight[0]
        entry.losses += 1
        topic = entry.message.topic
        if entry.losses < (MOST_LOSSES_AGAIN if topic in self._given_up else MOST_LOSSES):
            return None
        entry.is_given_up = True
        if topic in self._given_up or len(self._given_up) < MOST_TOPICS:
            self._given_up[topic] = (len(entry.message.body), now_ns() + REFUSED_NS)
        return entry

    def refusal(self, entry: Entry) -> str | None:
        """Return why a message is not to be sent; None if it may be."""
        size, until_ns = self._given_up.get(entry.message.topic, (0, 0))
        if not size or len(entry.message.body) < size:
            return None
        if now_ns() > until_ns:
            del self._given_up[entry.message.topic]
            return None
        entry.is_given_up = True
        return f"it hung up on one of {size} bytes there"
