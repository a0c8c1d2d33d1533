"""Pieces of a few bytes become packets as a sniffer would have seen them, and nothing else changes."""

from __future__ import annotations

from capture.streams import Data, Gap, Side, StreamClosed, StreamItem
from exporters.small_pieces import JOIN_NS, MAX_BYTES, SMALL_BYTES, SmallPieces

CLIENT, SERVER = Side.CLIENT, Side.SERVER


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


def test_large_pieces_pass_as_they_are() -> None:
    large = bytes(SMALL_BYTES + 1)
    items = [Data(1, 10, CLIENT, large), Data(1, 20, CLIENT, large)]
    assert passed(*items, flush=False) == items


def test_nothing_of_a_stream_passes_what_waits() -> None:
    small = Data(1, 10, CLIENT, b"a")
    for other in (
        Data(1, 11, SERVER, b"b"),
        Data(1, 11, CLIENT, bytes(1000)),
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
        Data(2, 11, CLIENT, bytes(99)),
        Data(2, 2 * JOIN_NS, CLIENT, bytes(99)),
    )
    assert passed(first, other, late, flush=False) == [other, first, late]


def test_a_carriage_return_waits_for_its_line_feed() -> None:
    late = Data(2, 2 * JOIN_NS, CLIENT, bytes(99))
    found = passed(Data(1, 10, CLIENT, b"\r"), late, Data(1, 2 * JOIN_NS + 5, CLIENT, b"\n"))
    assert found == [late, Data(1, 10, CLIENT, b"\r\n")]


def test_what_waits_is_bounded() -> None:
    found = passed(*(Data(1, 10, CLIENT, bytes(SMALL_BYTES)) for _ in range(1000)))
    assert sum(len(item.data) for item in found if isinstance(item, Data)) == 1000 * SMALL_BYTES
    assert max(len(item.data) for item in found if isinstance(item, Data)) < MAX_BYTES + SMALL_BYTES
