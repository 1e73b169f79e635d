"""Encoding of outbox entries: what comes back, and ages across a restart of the kernel or a change of the clock."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.core.records import MESSAGE_KINDS, Message
from edge.mqtt.outbox import codec
from edge.mqtt.outbox.codec import pack, unpack
from edge.mqtt.outbox.entry import Entry

TEXTS = st.text(st.characters(codec="utf-8"), max_size=20)
MESSAGES = st.builds(
    Message,
    topic=TEXTS,
    body=st.binary(max_size=300),
    qos=st.sampled_from((0, 1)),
    kind=st.sampled_from(MESSAGE_KINDS),
    content_type=TEXTS,
    expiry_s=st.none() | st.integers(0, 2**31 - 1),
    correlation=st.none() | st.binary(max_size=40),
    stream=st.none() | TEXTS,
    captured_ns=st.integers(0, 2**62),
    decoded_ns=st.integers(0, 2**62),
    made_ns=st.integers(0, 2**62),
)
ENTRIES = st.builds(Entry, MESSAGES, number=st.just(5), times_sent=st.integers(0, 1))
CLOCKS = st.sampled_from((True, False, None))  # whether it is synchronised; None: not known


@given(ENTRIES)
def test_a_message_comes_back_as_it_was(entry: Entry) -> None:
    assert unpack(pack(entry), 5) == replace(entry, is_backlog=True)


@given(entry=ENTRIES, before=CLOCKS, between=CLOCKS, after=CLOCKS, first=st.booleans(), second=st.booleans())
def test_its_age_is_known_within_one_start_of_the_kernel_or_by_a_clock_synchronised_each_time(
    *, entry: Entry, before: bool | None, between: bool | None, after: bool | None, first: bool, second: bool
) -> None:
    """Packed, read, packed again and read again: `first` and `second` are whether the kernel starts in between."""
    with pytest.MonkeyPatch.context() as patch:
        clocks = [(1, before), (1 + first, between), (1 + first + second, after)]

        def at(moment: int) -> None:
            patch.setattr(codec, "kernel_start", lambda: clocks[moment][0])
            patch.setattr(codec, "clock_synchronised", lambda: clocks[moment][1])

        at(0)
        packed = pack(entry)
        at(1)
        once = unpack(packed, 5)
        packed = pack(once)
        at(2)
        twice = unpack(packed, 5)
    once_known = not first or (before is True and between is True)
    twice_known = once_known and (not second or (between is True and after is True))
    assert timeless(once) == replace(timeless(entry), is_backlog=True, is_age_known=once_known)
    assert timeless(twice) == replace(timeless(entry), is_backlog=True, is_age_known=twice_known)
    if not first:
        assert once.message == entry.message


def timeless(entry: Entry) -> Entry:
    return replace(entry, message=replace(entry.message, captured_ns=0, decoded_ns=0, made_ns=0))


@given(st.binary(max_size=200))
def test_bytes_that_are_no_message_are_refused_with_a_value_error(data: bytes) -> None:
    try:
        unpack(data, 1)
    except ValueError:
        return


@given(st.integers(1, 10**15), st.integers(0, 10**12))
def test_ages_go_by_the_monotonic_clock_within_one_start_of_the_kernel(made_ns: int, further_ns: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(codec, "wall_ns", lambda: 1_800_000_000 * 10**9)
        packed = pack(Entry(Message("t", b"", made_ns=made_ns, captured_ns=made_ns - 5), 1))
        patch.setattr(codec, "wall_ns", lambda: 1_800_000_000 * 10**9 + further_ns)  # set forward meanwhile
        again = unpack(packed, 1).message
    assert (again.made_ns, again.captured_ns) == (made_ns, made_ns - 5)


def test_after_a_restart_of_the_kernel_ages_go_by_the_wall_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    wall, kernel = 1_800_000_000 * 10**9, codec.kernel_start()
    monkeypatch.setattr(codec, "wall_ns", lambda: wall)
    monkeypatch.setattr(codec, "now_ns", lambda: 900 * 10**9)
    message = Message("t", b"", made_ns=890 * 10**9, captured_ns=889 * 10**9, decoded_ns=889 * 10**9)
    packed = pack(Entry(message, 1))
    monkeypatch.setattr(codec, "kernel_start", lambda: kernel ^ 1)
    monkeypatch.setattr(codec, "wall_ns", lambda: wall + 60 * 10**9)
    monkeypatch.setattr(codec, "now_ns", lambda: 5 * 10**9)  # 5 s up, and 60 s later
    again = unpack(packed, 1).message
    assert (5 * 10**9 - again.made_ns, 5 * 10**9 - again.captured_ns) == (70 * 10**9, 71 * 10**9)
    # The clock was set back by an hour: made in the future it was not.
    monkeypatch.setattr(codec, "wall_ns", lambda: wall - 3600 * 10**9)
    assert unpack(packed, 1).message.made_ns == 5 * 10**9
