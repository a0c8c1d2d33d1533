"""Of which end a connection within the machine is shown, where the client's lacks what it said first."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kernel_events import REQUEST, RESPONSE, START_NS, Recording, announced, moved, plaintext

from capture.application import HTTP2_PREFACE
from capture.events import Direction, Protocol, Role, SessionEstablished
from capture.streams import Side
from capture.two_ends import CLIENT_WINDOW_NS

SENT, RECEIVED = Direction.SENT, Direction.RECEIVED
SETTINGS = bytes.fromhex("000000040000000000")
FRAMES = bytes.fromhex("000000040100000000") + bytes.fromhex("00000401040000000182848687")


def established(session, connection):
    """A probe saw the handshake."""
    return SessionEstablished(session, connection, START_NS + 10, START_NS, 1000 + connection, 1)


def ends():
    """Two ends of a new TLS connection: 1 is the client's, with session 7, 2 the server's, with session 8."""
    return [announced(1, protocol=Protocol.TLS), announced(2, Role.SERVER, protocol=Protocol.TLS)]


def asked(data, position=0):
    """What the server's end has of the client's words."""
    return plaintext(8, RECEIVED, position, data, 2)


def answered(data):
    """What the server's end has of its own."""
    return plaintext(8, SENT, 0, data, 2)


def test_a_preface_that_no_probe_of_the_client_s_saw_is_shown_from_the_server_s_end():
    """grpc-go writes it by itself, and probes of a program that has just been started may come after it."""
    recording = Recording().feed(*ends(), established(8, 2))
    recording.feed(plaintext(7, RECEIVED, 0, SETTINGS, 1), answered(SETTINGS))
    recording.feed(plaintext(7, SENT, 0, FRAMES, 1))
    assert recording.streams == [], "the server's end may have more"
    recording.feed(asked(HTTP2_PREFACE + SETTINGS), asked(FRAMES, len(HTTP2_PREFACE + SETTINGS)))
    assert recording.stream.opened.side is Side.SERVER
    assert recording.stream.both == (HTTP2_PREFACE + SETTINGS + FRAMES, SETTINGS)
    assert recording.mirrored == [(1, True)]
    recording.finish()
    tally = recording.tally
    assert tally.mirrored_plaintext == len(SETTINGS + FRAMES)
    assert tally.plaintext == tally.mirrored_plaintext + sum(map(len, recording.stream.both))


def test_a_request_that_no_probe_of_the_client_s_saw_is_shown_from_the_server_s_end():
    recording = Recording().feed(*ends(), established(8, 2), asked(REQUEST), answered(RESPONSE))
    recording.feed(plaintext(7, RECEIVED, 0, RESPONSE, 1))
    assert recording.stream.opened.side is Side.SERVER
    assert recording.stream.both == (REQUEST, RESPONSE)


def test_of_two_ends_without_a_handshake_the_one_that_begins_with_a_request_is_shown():
    """Some libraries' handshakes are not seen by any probe, such as those that reading makes."""
    recording = Recording().feed(*ends(), plaintext(7, SENT, 0, FRAMES, 1), asked(HTTP2_PREFACE + FRAMES))
    assert recording.stream.opened.side is Side.SERVER


@given(first=st.integers(1, len(REQUEST) - 1), second=st.integers(1, len(REQUEST) - 1))
def test_a_client_whose_beginning_is_there_is_shown_however_it_is_cut(first, second):
    recording = Recording().feed(*ends(), established(8, 2))
    recording.feed(plaintext(7, SENT, 0, REQUEST[:first], 1), asked(REQUEST[:second]))
    recording.feed(plaintext(7, SENT, first, REQUEST[first:], 1), asked(REQUEST[second:], second))
    assert recording.stream.opened.side is Side.CLIENT
    assert recording.stream.both == (REQUEST, b"")


def pieces(connection, session, direction, data, cuts, start=0):
    """One direction's plaintext from ``start`` on, as one end tells of it: its own positions begin with 0."""
    edges = sorted({start, len(data), *(cut for cut in cuts if start < cut < len(data))})
    return [
        plaintext(session, direction, low - start, data[low:high], connection)
        for low, high in pairwise(edges)
    ]


@given(
    data=st.data(),
    cuts=st.lists(st.integers(1, len(REQUEST)), max_size=3),
    client_saw=st.booleans(),
    server_saw=st.booleans(),
    missed=st.sampled_from([0, 0, 7, len(REQUEST)]),
)
def test_both_ends_in_any_interleaving_give_one_stream_and_all_that_either_has(
    data, cuts, client_saw, server_saw, missed
):
    """A client whose handshake was seen misses nothing."""
    missed = 0 if client_saw else missed
    client = [
        *([established(7, 1)] if client_saw else []),
        *pieces(1, 7, SENT, REQUEST, cuts, missed),
        *pieces(1, 7, RECEIVED, RESPONSE, cuts),
    ]
    server = [
        *([established(8, 2)] if server_saw else []),
        *pieces(2, 8, RECEIVED, REQUEST, cuts),
        *pieces(2, 8, SENT, RESPONSE, cuts),
    ]
    recording = Recording().feed(*ends())
    while client or server:
        queue = data.draw(st.sampled_from([queue for queue in (client, server) if queue]))
        recording.feed(queue.pop(0))
    recording.tick(2 * CLIENT_WINDOW_NS).finish()
    assert recording.stream.both == (REQUEST, RESPONSE)
    assert not any(recording.stream.holes.values())
    tally = recording.tally
    assert tally.plaintext - tally.mirrored_plaintext == len(REQUEST) + len(RESPONSE)
    assert (tally.late_plaintext, tally.gaps) == (0, 0)


@pytest.mark.parametrize("handshake", [True, False])
def test_a_server_that_has_not_said_anything_is_waited_for_unless_the_client_has_all(handshake):
    recording = Recording().feed(*ends(), *([established(7, 1)] if handshake else []))
    recording.feed(plaintext(7, SENT, 0, FRAMES, 1))
    assert len(recording.streams) == handshake
    recording.tick(2 * CLIENT_WINDOW_NS)
    assert recording.stream.opened.side is Side.CLIENT


def test_a_connection_of_before_the_recording_began_in_its_middle_at_either_end():
    older = {"protocol": Protocol.TLS, "opened": None, "established": None}
    recording = Recording().feed(announced(1, **older), announced(2, Role.SERVER, **older))
    recording.feed(asked(REQUEST), plaintext(7, RECEIVED, 0, RESPONSE, 1))
    assert recording.stream.opened.side is Side.CLIENT


def test_cleartext_is_seen_from_its_beginning():
    recording = Recording().feed(announced(1), announced(2, Role.SERVER))
    recording.feed(moved(1, SENT, 0, REQUEST))
    assert recording.stream.opened.side is Side.CLIENT
