"""First words are kept for who asks for them, and no more than there is room for."""

from __future__ import annotations

from kernel_events import moved

from capture.events import BytesMoved, Direction, Protocol
from capture.first_words import FirstWords


def piece(connection: int, payload: bytes, protocol: Protocol = Protocol.OTHER) -> BytesMoved:
    """Its place matters to nobody here."""
    return moved(connection, Direction.SENT, 0, payload, protocol=protocol)


def test_those_that_came_first_are_forgotten_where_there_is_no_room() -> None:
    words = FirstWords(limit=10)
    assert [words.keep(piece(connection, b"four")) for connection in (1, 2, 1, 3)] == [0, 0, 8, 0]
    assert [len(words.take(connection)) for connection in (1, 2, 3, 3)] == [0, 1, 1, 0]
    assert not words


def test_what_begins_a_record_is_told_from_what_was_said_before() -> None:
    words = FirstWords()
    said, begun = piece(1, b"STARTTLS"), piece(1, b"\x16\x03")
    for each in (said, begun):
        words.keep(each)
    assert words.take_before_hello(1) == ([said], [begun])
    assert words.take_before_hello(1) == ([], [])


def test_of_all_protocols_a_record_s_header_alone_waits() -> None:
    for payload, protocol, waits in (
        (b"\x16", Protocol.UNDECIDED, True),
        (b"G", Protocol.UNDECIDED, False),
        (b"\x16", Protocol.OTHER, False),
    ):
        assert FirstWords(all_protocols=True).waits(piece(1, payload, protocol)) is waits
        assert FirstWords().waits(piece(1, payload, protocol))
    assert not FirstWords().waits(piece(1, b"G", Protocol.HTTP))
