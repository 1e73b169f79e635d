"""Reasons that a broker gives in CONNACK, SUBACK and DISCONNECT, and the next step after each."""

from __future__ import annotations

from typing import Any

PROTOCOL_REFUSED = 0x84
TAKEN_OVER = 0x8E
RETAIN_NOT_SUPPORTED = 0x9A
QOS_NOT_SUPPORTED = 0x9B
MOST_SHOWN = 200  # characters of a broker's own words

# Reasons of DISCONNECT that have nothing to do with any message: the broker's, the network's or another client's.
NOT_OVER_A_MESSAGE = frozenset((0x00, 0x04, 0x88, 0x89, 0x8B, 0x8D, TAKEN_OVER, 0x96, 0x98, 0x9C, 0x9D, 0x9F, 0xA0))

_CREDENTIALS = "check user name, password and the broker's log"
_REFUSED_STEPS = {
    0x85: "wanted [mqtt] client_id to be one that it accepts, found {client_id}",
    0x86: _CREDENTIALS,
    0x87: f"{_CREDENTIALS}, and whether it admits the client id {{client_id}}",
    0x88: "it is retried",
    0x89: "it is retried",
    0x97: "it admits no more clients of this kind; raise its quota",
    0x9C: "set [mqtt] url to another broker",
    0x9D: "set [mqtt] url to the broker's new address",
    0x9F: "it is retried more slowly",
}
_ENDED_STEPS = {
    0x87: "check what the broker's access list allows the client id {client_id}",
    TAKEN_OVER: (
        "another client connected with the same client id, {client_id}, as two devices of one name do; give each "
        "device a [device] name or [mqtt] client_id of its own"
    ),
    0x95: "a message was longer than it takes; raise its limit",
    0x97: "a quota is used up; raise it at the broker",
    0x98: "its administrator ended it",
    0x9C: "set [mqtt] url to another broker",
    0x9D: "set [mqtt] url to the broker's new address",
}


def explain_refusal(reason: Any, properties: Any, client_id: str) -> str:
    """Return why the broker refused the connection, from the reason code of its CONNACK, and what to do."""
    step = _REFUSED_STEPS.get(reason.value, "see the broker's log")
    return f"it refused the connection: {_words(reason, properties)}; {step.format(client_id=client_id)}"


def explain_end(reason: Any, properties: Any, client_id: str) -> str:
    """Return why the broker ended the connection, from the reason code of its DISCONNECT, and what to do."""
    step = _ENDED_STEPS.get(reason.value, "see the broker's log")
    return f"{_words(reason, properties)}; {step.format(client_id=client_id)}"


def _words(reason: Any, properties: Any) -> str:
    """Return the reason's name with what the broker adds in words, which is not to be believed to be printable."""
    own = [getattr(properties, name, None) for name in ("ReasonString", "ServerReference")]
    added = ", ".join(repr(text[:MOST_SHOWN]) for text in own if isinstance(text, str) and text)
    return f"{reason} ({added})" if added else str(reason)
