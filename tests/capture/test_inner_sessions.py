"""Sessions inside others' plaintext: found by the lengths of their records, and shown as connections of their own."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kernel_events import (
    CLIENT_PORT,
    REQUEST,
    RESPONSE,
    SECOND_NS,
    START_NS,
    STEP_NS,
    Recording,
    announced,
    ended,
    moved,
    plaintext,
)

from capture.events import Direction, Protocol, SessionEstablished, SessionFreed
from capture.inner_sessions import MAX_SESSIONS, MAX_WRITES, InnerSessions
from capture.streams import Data, Side, StreamClosed, StreamOpened

SENT, RECEIVED = Direction.SENT, Direction.RECEIVED
PID = 1001  # of connection 1's process
HELLO = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(502)
CONNECT = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n and CONNECT in frames"


def record(written: int, overhead: int = 17) -> bytes:
    """A record of application data that protects so many bytes."""
    length = written + overhead
    return b"\x17\x03\x03" + length.to_bytes(2) + bytes([7]) * length


def in_frame(data: bytes, stream: int = 1) -> bytes:
    """A DATA frame of HTTP/2 around it."""
    return len(data).to_bytes(3) + b"\x00\x00" + stream.to_bytes(4) + data


def found(inner: InnerSessions, payload: bytes, **fields: object) -> list[int]:
    """The sessions that are carried by what session 7 of connection 1 wrote."""
    return list(inner.carried_by(plaintext(7, SENT, 0, payload, 1, **fields)))


def written(*lengths: int, session: int = 8, pid: int = PID) -> InnerSessions:
    """A session that wrote so many bytes at a time."""
    inner = InnerSessions()
    for length in lengths:
        inner.wrote(plaintext(session, SENT, 0, bytes(length), pid=pid))
    return inner


@given(
    st.integers(1, 40_000).filter(lambda size: size % 16384),
    st.sampled_from([16, 17, 24]),
    st.binary(max_size=50),
    st.binary(max_size=50),
)
def test_a_record_of_that_length_wherever_it_is(
    size: int, overhead: int, before: bytes, after: bytes
) -> None:
    before = before.replace(b"\x17\x03\x03", b"")
    payload = before + in_frame(record(size % 16384, overhead)) + after
    assert 8 in found(written(size), payload)


@pytest.mark.parametrize(
    "payload",
    [b"", b"\x17\x03\x03", in_frame(record(90)), in_frame(record(100, 15)), HELLO, in_frame(bytes(117))],
)
def test_what_is_no_record_of_that_length(payload: bytes) -> None:
    assert found(written(100), payload) == []


@pytest.mark.parametrize("size", [16384, 40_000])
def test_full_records_are_anyone_s(size: int) -> None:
    assert found(written(size), in_frame(record(16384)) + in_frame(record(0))) == []


def test_only_of_the_same_process_and_of_what_is_sent() -> None:
    payload = in_frame(record(100))
    assert found(written(100), payload) == [8]
    assert found(written(100, pid=5), payload) == []
    assert list(written(100).carried_by(plaintext(7, RECEIVED, 0, payload, 1))) == []
    read = InnerSessions()
    read.wrote(plaintext(8, RECEIVED, 0, bytes(100), pid=PID))
    assert found(read, payload) == []


def test_each_session_once_and_those_that_are_known_no_more() -> None:
    inner = written(100, 200)
    inner.wrote(plaintext(9, SENT, 0, bytes(300), pid=PID))
    assert found(inner, in_frame(record(300)) + in_frame(record(100), 3)) == [9, 8]
    inner.forget(8)
    assert found(inner, in_frame(record(100))) == []
    inner.forget(9)
    assert inner.writers == {}


def test_what_is_remembered_is_bounded() -> None:
    inner = InnerSessions()
    for session in range(2, MAX_SESSIONS + 20):
        for length in range(50):
            inner.wrote(plaintext(session, SENT, 0, bytes(1000 + length), pid=PID))
    (sessions,) = inner.writers.values()
    assert len(sessions) == MAX_SESSIONS
    assert {len(writes) for writes in sessions.values()} == {MAX_WRITES}


def tunnelled() -> Recording:
    """Two sessions inside another's, with requests of different lengths."""
    events = [announced(1, protocol=Protocol.TLS), plaintext(7, SENT, 0, CONNECT, 1)]
    at = len(CONNECT)
    for session, body in ((8, REQUEST), (9, REQUEST + b"more")):
        events.append(SessionEstablished(session, 0, START_NS + 9, START_NS + 2, PID, 1))
        events.append(plaintext(session, SENT, 0, body, pid=PID))
        framed = in_frame(record(len(body)), session)
        events += [plaintext(7, SENT, at, framed, 1), plaintext(session, RECEIVED, 0, RESPONSE, pid=PID)]
        at += len(framed)
    return Recording().feed(*events)


def test_they_are_streams_of_their_own() -> None:
    recording = tunnelled().feed(SessionFreed(8, START_NS + 8 * STEP_NS), ended(1)).tick(10**9).finish()
    opened = {item.stream: item for item in recording.items if isinstance(item, StreamOpened)}
    assert sorted(opened) == [1, 8, 9]
    assert [opened[stream].inside_tls for stream in (1, 8, 9)] == [False, True, True]
    for stream, body in ((8, REQUEST), (9, REQUEST + b"more")):
        inner = opened[stream]
        assert (inner.side, inner.client.port, inner.handshake_seen) == (Side.CLIENT, CLIENT_PORT, True)
        assert inner.tls is not None
        assert (inner.tls.started_ns, inner.tls.established_ns) == (START_NS + 2, START_NS + 9)
        data = [item for item in recording.items if isinstance(item, Data) and item.stream == stream]
        assert [(item.sender, item.data) for item in data] == [(Side.CLIENT, body), (Side.SERVER, RESPONSE)]
    closed = [item for item in recording.items if isinstance(item, StreamClosed)]
    assert [(item.stream, item.final) for item in closed if item.stream != 1] == [(8, True), (9, True)]
    assert recording.tally.unknown_association == 0
    assert recording.connections._views == {}


def test_without_a_record_they_are_not_known() -> None:
    recording = Recording().feed(announced(1, protocol=Protocol.TLS), plaintext(8, SENT, 0, REQUEST, pid=PID))
    recording.feed(plaintext(7, SENT, 0, CONNECT, 1), moved(1, SENT, 0, HELLO, hello=True)).finish()
    assert recording.tally.unknown_association == len(REQUEST)


def test_what_is_in_the_clear_carries_none() -> None:
    framed = in_frame(record(len(REQUEST)))
    recording = Recording().feed(announced(1), moved(1, SENT, 0, CONNECT)).tick(60 * SECOND_NS)
    recording.feed(plaintext(8, SENT, 0, REQUEST, pid=PID), moved(1, SENT, len(CONNECT), framed)).finish()
    assert recording.stream.both == (CONNECT + framed, b"")
    assert recording.tally.unknown_association == len(REQUEST)
