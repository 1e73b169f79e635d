"""Binary encoding of outbox entries, for journal and spool."""

from __future__ import annotations

import re
import struct
import zlib
from functools import cache
from pathlib import Path

from edge.core.clock import clock_synchronised, now_ns, wall_ns
from edge.core.records import MESSAGE_KINDS, Message
from edge.mqtt.outbox.entry import Entry

# kind, qos, flags; lengths of topic, content type, stream and correlation (-1: none); expiry (-1: none);
# captured, decoded and made (monotonic); wall time minus monotonic time; the kernel start that this time counts from.
_HEAD = struct.Struct("<BBBHHhiiqqqqQ")
# On disk, a checksum replaces the time of decoding, which nothing reads any more. Version 0.1.0 can read the rest.
_DECODED_AT, _MADE_AT = 25, 33
_CHECKSUM = struct.Struct("<q")
_SENT = 1  # sent before
# The wall time is that of a synchronised clock. Earlier versions did not write this flag: for them, it is unknown.
_SYNCHRONISED = 2
_UNKNOWN_START = 0
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
# A clock before this (January 2024) was never set: boards without a battery start in 1970.
_CLOCK_SET_NS = 1_704_067_200 * 10**9
HIGHEST_QOS = 2
LONGEST_BYTES = 65_535
# Brokers end the connection over control characters and non-characters in a text.
_NO_TEXT = re.compile("[\x00-\x1f\x7f-\x9f\ufdd0-\ufdef\ufffe\uffff]")
_NO_TOPIC = re.compile("[+#]|" + _NO_TEXT.pattern)


@cache
def kernel_start() -> int:
    """Return a number for this start of the kernel, within which monotonic times are comparable."""
    try:
        return int(_BOOT_ID.read_text(encoding="ascii").replace("-", "")[:16], 16)
    except (OSError, ValueError):
        return _UNKNOWN_START


def pack(entry: Entry) -> bytes:
    message = entry.message
    topic, content_type = message.topic.encode(), message.content_type.encode()
    stream = b"" if message.stream is None else message.stream.encode()
    correlation = message.correlation or b""
    is_synchronised = entry.is_age_known and clock_synchronised() is True
    head = _HEAD.pack(
        MESSAGE_KINDS.index(message.kind),
        message.qos,
        _SENT * (entry.times_sent > 0) | _SYNCHRONISED * is_synchronised,
        len(topic),
        len(content_type),
        -1 if message.stream is None else len(stream),
        -1 if message.correlation is None else len(correlation),
        -1 if message.expiry_s is None else message.expiry_s,
        message.captured_ns,
        message.decoded_ns,
        message.made_ns,
        wall_ns() - now_ns(),
        kernel_start() if entry.is_age_known else _UNKNOWN_START,
    )
    return b"".join((head, topic, content_type, stream, correlation, message.body))


def seal(packed: bytes, seed: int) -> bytes:
    """Return a packed entry with a checksum, of its bytes and of what else gives `seed`."""
    checksum = _CHECKSUM.pack(_checksum(packed, seed))
    return b"".join((packed[:_DECODED_AT], checksum, packed[_MADE_AT:]))


def is_sealed(packed: bytes, seed: int) -> bool:
    """Return whether the checksum of a packed entry is right."""
    return packed[_DECODED_AT:_MADE_AT] == _CHECKSUM.pack(_checksum(packed, seed))


def _checksum(packed: bytes, seed: int) -> int:
    view = memoryview(packed)
    return zlib.crc32(view[_MADE_AT:], zlib.crc32(view[:_DECODED_AT], seed))


def unpack(packed: bytes, number: int) -> Entry:
    """Restore an entry of the backlog, its times converted to this kernel's as precisely as the wall clock allows.

    Its age is known if it was made during this start of the kernel, whose monotonic clock has counted it, or if the
    wall clock was synchronised when it was packed and is so now.

    Raises ValueError where the bytes are no message.
    """
    try:
        kind, qos, flags, *lengths, expiry_s, captured_ns, decoded_ns, made_ns, offset_ns, start = _HEAD.unpack_from(
            packed
        )
        parts, at = list[bytes](), _HEAD.size
        for length in lengths:
            parts.append(packed[at : at + max(length, 0)])
            at += max(length, 0)
        topic, content_type, stream, correlation = parts
        is_of_this_start = start == kernel_start() != _UNKNOWN_START
        shift_ns = 0 if is_of_this_start else _shift_ns(made_ns, offset_ns)
        message = Message(
            topic.decode(),
            packed[at:],
            qos,
            kind=MESSAGE_KINDS[kind],
            content_type=content_type.decode(),
            expiry_s=None if expiry_s < 0 else expiry_s,
            correlation=None if lengths[3] < 0 else correlation,
            stream=None if lengths[2] < 0 else stream.decode(),
            captured_ns=captured_ns + shift_ns,
            decoded_ns=decoded_ns + shift_ns,
            made_ns=made_ns + shift_ns,
        )
        is_age_known = is_of_this_start or bool(flags & _SYNCHRONISED and clock_synchronised())
        return Entry(message, number, times_sent=flags & _SENT, is_backlog=True, is_age_known=is_age_known)
    except (struct.error, IndexError, UnicodeDecodeError) as error:
        raise ValueError(f"no message: {error}") from None


def _shift_ns(made_ns: int, offset_ns: int) -> int:
    """Return the offset from times of another start of the kernel to times of this one."""
    now, wall = now_ns(), wall_ns()
    if min(made_ns + offset_ns, wall) < _CLOCK_SET_NS:
        return now - made_ns  # its age is unknown: as if it were made now
    return min(offset_ns - (wall - now), now - made_ns)


def check_sendable(message: Message) -> None:
    """Raise ValueError for a message that no broker accepts: sent, it would end each connection."""
    if not message.topic or _NO_TOPIC.search(message.topic) or _NO_TEXT.search(message.content_type):
        raise ValueError(f"no topic and content type that MQTT allows: {message.topic!r}, {message.content_type!r}")
    longest = len(message.correlation or b"")
    if message.qos > HIGHEST_QOS or longest > LONGEST_BYTES:
        raise ValueError(f"found QoS {message.qos} and correlation data of {longest} bytes, wanted at most 2 and 65535")
