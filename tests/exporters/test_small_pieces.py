"""Pieces of a few bytes become packets as a sniffer would have seen them, and nothing else changes."""

from __future__ import annotations

from capture.streams import Data, Gap, Side, StreamClosed, StreamItem
from exporters.small_pieces import JOIN_NS, LINE_BYTES, MAX_BYTES, SMALL_BYTES, SmallPieces

CLIENT, SERVER = Side.CLIENT, Side.SERVER
LARGE = bytes(LINE_BYTES + 1)


def passed(*items: StreamItem, flush: bool = True) -> list[StreamItem]:
    """What comes out of these items."""
    out: list[StreamItem] = []
    pieces = SmallPieces(out.append)
    for item in items:
        pieces.write(item)
    if flush:
        pieces.flush()
    return out


def test_what_follows_at_once_is_joined_and_has_the_time_of_the_first() -> None:
    assert passed(Data(1, 10, CLIENT, b"a"), Data(1, 20, CLIENT, memoryview(b"bc"))) == [
        Data(1, 10, CLIENT, b"abc")
    ]


def test_blocks_of_one_call_are_one_packet() -> None:
    """httperf's; the first may be larger than a small piece."""
    for line in (b"GET /json", b"GET /a/path/that/is/longer"):
        blocks = (line, b" HTTP/1.1\r\nUser-Agent: httperf/0.9.0\r\nHost: a", b"\r\n\r\n")
        items = [Data(1, 10, CLIENT, block) for block in blocks]
        assert passed(*items) == [Data(1, 10, CLIENT, b"".join(blocks))]


def test_a_message_of_which_the_first_bytes_were_read_alone_is_one_packet() -> None:
    """As programs do that ask which protocol a client speaks, or read a length first."""
    for first in (b"G", b"GET /", b"GET /a/path/that/is/long"):
        rest = b" HTTP/1.1\r\nHost: a\r\n\r\n"
        items = [Data(1, 10, CLIENT, first), Data(1, 10 + JOIN_NS, CLIENT, rest)]
        assert passed(*items) == [Data(1, 10, CLIENT, first + rest)]
        late = [items[0], Data(1, 11 + JOIN_NS, CLIENT, rest)]
        assert passed(*late) == late
        following = Data(1, 12, CLIENT, b"a")
        assert passed(items[0], Data(1, 11, CLIENT, LARGE), following) == [
            Data(1, 10, CLIENT, first + LARGE),
            following,
        ]


def test_a_line_without_its_end_waits_for_its_call_alone() -> None:
    line = Data(1, 10, CLIENT, bytes(SMALL_BYTES + 1))
    for other in (
        Data(1, 11, CLIENT, b"a"),
        Data(1, 11, CLIENT, LARGE),
        Data(1, 10, SERVER, b"a"),
        StreamClosed(1, 10, CLIENT, reset=False),
    ):
        assert passed(line, other) == [line, other]


def test_large_pieces_pass_as_they_are() -> None:
    for large in (bytes(SMALL_BYTES) + b"\n", LARGE):
        items = [Data(1, 10, CLIENT, large), Data(1, 20, CLIENT, large)]
        assert passed(*items, flush=False) == items


def test_nothing_of_a_stream_passes_what_waits() -> None:
    small = Data(1, 10, CLIENT, b"a")
    for other in (
        Data(1, 11, SERVER, b"b"),
        Data(1, 11, SERVER, bytes(1000)),
        Data(1, 11, CLIENT, b"b", as_of_call=True),
        Gap(1, 11, SERVER, 5, "ring-full"),
        StreamClosed(1, 11, CLIENT, reset=False),
    ):
        assert passed(small, other) == [small, other]


def test_what_comes_later_is_not_joined() -> None:
    items = [Data(1, 10, CLIENT, b"a"), Data(1, 11 + JOIN_NS, CLIENT, b"b")]
    assert passed(*items) == items
    assert passed(*items, flush=False) == items[:1]


def test_another_stream_goes_on_and_lets_go_of_what_is_old() -> None:
    first, other, late = (
        Data(1, 10, CLIENT, b"a"),
        Data(2, 11, CLIENT, LARGE),
        Data(2, 2 * JOIN_NS, CLIENT, LARGE),
    )
    assert passed(first, other, late, flush=False) == [other, first, late]


def test_a_carriage_return_waits_for_its_line_feed() -> None:
    late = Data(2, 2 * JOIN_NS, CLIENT, LARGE)
    found = passed(Data(1, 10, CLIENT, b"\r"), late, Data(1, 2 * JOIN_NS + 5, CLIENT, b"\n"))
    assert found == [late, Data(1, 10, CLIENT, b"\r\n")]


def test_empty_lines_are_not_put_before_a_message() -> None:
    """SIP's keep-alives (RFC 5626 §4.4.1), and what a client sends behind a body: a message does not begin so."""
    request = Data(1, 30, CLIENT, b"OPTIONS sip:a@b SIP/2.0\r\n\r\n")
    for lines in ((b"\r\n\r\n",), (b"\r\n",), (b"\r", b"\n"), (b"\n",)):
        pieces = [Data(1, 10, CLIENT, line) for line in lines]
        assert passed(*pieces, request) == [Data(1, 10, CLIENT, b"".join(lines)), request]
    last = [Data(1, 10, CLIENT, piece) for piece in (b"a\r", b"\n", b"\r\n", b"b")]
    assert passed(*last) == [Data(1, 10, CLIENT, b"a\r\n\r\nb")]


def test_what_waits_is_bounded() -> None:
    found = passed(*(Data(1, 10, CLIENT, bytes(SMALL_BYTES)) for _ in range(1000)))
    assert sum(len(item.data) for item in found if isinstance(item, Data)) == 1000 * SMALL_BYTES
    assert max(len(item.data) for item in found if isinstance(item, Data)) < MAX_BYTES + SMALL_BYTES
