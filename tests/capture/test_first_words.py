"""First words are kept for who asks for them, and no more than there is room for."""

from __future__ import annotations

import ssl
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest
from kernel_events import REQUEST, SECOND_NS, Recording, announced, distant, ended, moved, plaintext

from capture.events import BytesMoved, Direction, Event, Protocol, Role
from capture.first_words import PIECE_BYTES, FirstWords
from capture.streams import Data, Gap, TlsEnded, TlsStarted
from capture.tally import Tally

if TYPE_CHECKING:
    from collections.abc import Iterable

SENT, RECEIVED = Direction.SENT, Direction.RECEIVED


def client_hello() -> bytes:
    """A real one, as it crosses the socket."""
    outgoing = ssl.MemoryBIO()
    tls = ssl.create_default_context().wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname="example.com")
    with pytest.raises(ssl.SSLWantReadError):
        tls.do_handshake()
    return outgoing.read()


HELLO = client_hello()
SERVER_HELLO = bytes.fromhex("160303002e0200002a0303") + bytes(40)
STARTTLS = (
    (RECEIVED, b"220 mx\r\n"),
    (SENT, b"EHLO a\r\n"),
    (RECEIVED, b"250 b\r\n"),
    (SENT, b"STARTTLS\r\n"),
)


def piece(connection: int, payload: bytes, protocol: Protocol = Protocol.OTHER) -> BytesMoved:
    """Its place matters to nobody here."""
    return moved(connection, SENT, 0, payload, protocol=protocol)


def conversation(
    *turns: tuple[Direction, bytes], lost: Iterable[int] = (), role: Role = Role.CLIENT
) -> list[Event]:
    """Turns, some of which are not told of; a turn that begins with a whole record is TLS from there on."""
    at, events = [0, 0], list[Event]()
    events.append(distant(1, role, protocol=Protocol.OTHER))
    for number, (direction, payload) in enumerate(turns):
        hello = payload in (HELLO, SERVER_HELLO)
        protocol = Protocol.TLS if hello else Protocol.OTHER
        event = moved(
            1, direction, at[direction], payload, protocol=protocol, hello=hello, opposite=at[1 - direction]
        )
        at[direction] += len(payload)
        if number not in lost:
            events.append(event)
    return events


def test_those_that_came_first_are_forgotten_where_there_is_no_room() -> None:
    tally = Tally()
    words = FirstWords(tally, limit=2 * (PIECE_BYTES + 4))
    found = [len(words.keep(piece(connection, b"four"))) for connection in (1, 2, 1, 3, 1)]
    assert found == [0, 0, 2, 0, 1], "of what is forgotten no more is kept"
    assert tally.never_decided_arrived == 12
    assert [len(words.take(connection)) for connection in (1, 2, 3, 3)] == [0, 1, 1, 0]
    assert not words
    assert words.keep(piece(1, b"four")) == [], "another of that number may come"


def test_of_all_protocols_a_record_s_header_alone_waits() -> None:
    for payload, protocol, waits in (
        (b"\x16", Protocol.UNDECIDED, True),
        (b"G", Protocol.UNDECIDED, False),
        (b"\x16", Protocol.OTHER, False),
    ):
        words = FirstWords(Tally(), all_protocols=True)
        assert words.waits(piece(1, payload, protocol)) is waits
        assert FirstWords(Tally()).waits(piece(1, payload, protocol))
    assert not FirstWords(Tally()).waits(piece(1, b"G", Protocol.HTTP))


def test_what_is_said_before_tls_is_shown_if_tls_follows() -> None:
    recording = Recording().feed(*conversation(*STARTTLS))
    assert recording.streams == []
    recording = Recording().feed(*conversation(*STARTTLS, (SENT, HELLO)))
    assert recording.stream.both == (b"EHLO a\r\nSTARTTLS\r\n", b"220 mx\r\n250 b\r\n")
    assert recording.tally.never_decided_arrived == 0
    filtered = Recording().feed(*conversation(*STARTTLS), ended(1, 18, 15, protocol=Protocol.OTHER))
    assert filtered.tick(SECOND_NS).items == []
    assert filtered.tally.never_decided_arrived == 33


@pytest.mark.parametrize("lost", [0, 1, 2, 3])
def test_words_that_lack_something_are_not_shown(lost: int) -> None:
    """Their TLS is then bare where Wireshark would take it for more of them."""
    events = conversation(*STARTTLS, (SENT, HELLO), (RECEIVED, SERVER_HELLO), lost=[lost])
    recording = Recording().feed(*events, plaintext(7, SENT, 0, REQUEST, 1)).tick(SECOND_NS).finish()
    assert recording.stream.both == (REQUEST, b"")
    assert recording.stream.opened.tls is not None
    assert not [item for item in recording.items if isinstance(item, Gap | TlsEnded)]
    assert recording.tally.never_decided_arrived == 33 - len(STARTTLS[lost][1])


def test_a_name_s_length_that_is_read_alone_is_no_record() -> None:
    words = [
        (RECEIVED, b"\5\1\0"),
        (SENT, b"\5\0"),
        (RECEIVED, b"\5\1\0\3"),
        (RECEIVED, b"\x14"),
        (RECEIVED, b"www.some-example.com\1\xbb"),
        (SENT, b"\5\0\0\1" + bytes(6)),
    ]
    recording = Recording().feed(
        *conversation(*words, (RECEIVED, HELLO), role=Role.SERVER), plaintext(7, RECEIVED, 0, REQUEST, 1)
    )
    stream = recording.tick(SECOND_NS).stream
    assert stream.both[0] == b"\5\1\0\5\1\0\3\x14www.some-example.com\1\xbb" + REQUEST
    assert stream.both[1] == b"\5\0\5\0\0\1" + bytes(6)
    assert stream.tls_started[0].tls.server_name == "example.com"
    assert recording.tally.never_decided_arrived == 0


@pytest.mark.parametrize("cuts", [(5,), (1, 5), (1, 2, 3, 4, 5), (5, 9)])
def test_a_record_s_header_that_is_read_alone_is_none_of_the_words(cuts: tuple[int, ...]) -> None:
    """By a program without probes: what answers it is the first that is known for TLS."""
    edges = (0, *cuts, len(HELLO))
    pieces = [(RECEIVED, HELLO[begin:end]) for begin, end in pairwise(edges)]
    words = [(SENT, b"220 mx\r\n"), (RECEIVED, b"STARTTLS\r\n"), (SENT, b"220 go\r\n")]
    recording = Recording().feed(*conversation(*words, *pieces, (SENT, SERVER_HELLO), role=Role.SERVER))
    recording.tick(SECOND_NS).finish()
    assert recording.stream.both == (b"STARTTLS\r\n", b"220 mx\r\n220 go\r\n")
    assert recording.stream.tls_started[0].tls.server_name == "example.com"
    assert recording.tally.never_decided_arrived == len(HELLO)


def test_a_handshake_behind_words_that_comes_to_nothing_is_told() -> None:
    words = conversation(*STARTTLS, (SENT, HELLO))
    for events in (words, [announced(1, protocol=Protocol.OTHER), *words[1:]]):
        recording = Recording().feed(*events, ended(1, 18 + len(HELLO), 15, protocol=Protocol.TLS))
        recording.tick(SECOND_NS).finish()
        (started,) = recording.stream.tls_started
        assert (started.tls.server_name, recording.stream.opened.tls) == ("example.com", None)
        assert len(recording.stream.closed) == 2


def test_what_a_flow_holds_comes_before_tls() -> None:
    recording = Recording(all_protocols=True).feed(*conversation(*STARTTLS, (SENT, HELLO), lost=[0]))
    recording.feed(plaintext(7, SENT, 0, REQUEST, 1)).tick(SECOND_NS).finish()
    assert [type(item) for item in recording.items[-4:]] == [Gap, Data, TlsStarted, Data]


def test_words_that_were_forgotten_are_no_gap_of_http() -> None:
    recording = Recording()
    recording.connections._first_words = FirstWords(recording.tally, limit=PIECE_BYTES + 10)
    recording.feed(
        distant(1, protocol=Protocol.UNDECIDED),
        moved(1, SENT, 0, b"\5\1\0", protocol=Protocol.UNDECIDED),
        moved(1, RECEIVED, 0, b"\5\0", protocol=Protocol.UNDECIDED),
        moved(1, SENT, 3, b"\5\1\0\1" + bytes(6), protocol=Protocol.UNDECIDED),
        moved(1, SENT, 13, REQUEST),
        ended(1, 13 + len(REQUEST), 2),
    )
    assert recording.stream.both == (REQUEST, b"")
    assert recording.tally.gaps == 0
    assert recording.tally.never_decided_arrived == 15


@pytest.mark.parametrize("all_protocols", [False, True])
def test_words_whose_hello_was_not_told_are_filtered(all_protocols: bool) -> None:
    """Nothing says whether they are all."""
    recording = Recording(all_protocols=all_protocols).feed(
        distant(1, protocol=Protocol.UNDECIDED),
        moved(1, SENT, 0, b"\x16", protocol=Protocol.UNDECIDED),
        plaintext(7, SENT, 0, REQUEST, 1),
        ended(1, 900, 900, session=7, session_moved=(len(REQUEST), 0), protocol=Protocol.TLS),
    )
    recording.tick(SECOND_NS).finish()
    assert recording.stream.both == (REQUEST, b"")
    assert recording.tally.never_decided_arrived == 1
    assert not [item for item in recording.items if isinstance(item, TlsEnded)]
