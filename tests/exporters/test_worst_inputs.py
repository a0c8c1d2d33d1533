"""What the parsers' worst inputs cost: work that grows with the input, and memory that does not."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest
from http_streams import Conversation, read

from exporters.har import EntryMaker

if TYPE_CHECKING:
    from collections.abc import Callable

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
TIMES = 8


def export(talk: Conversation) -> None:
    """All that an export does with a connection."""
    maker = EntryMaker()
    for exchange in read(talk.items):
        assert maker.entry_of(exchange) is not None


def event_stream(body: bytes, piece: int) -> Conversation:
    """A response that is a stream of events, in pieces."""
    talk = Conversation().client(GET)
    talk.server(
        b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Length: %d\r\n\r\n" % len(body)
    )
    for start in range(0, len(body), piece):
        talk.server(body[start : start + piece])
    return talk


def unfinished_line(size: int) -> Conversation:
    """A stream of events that ends inside a line."""
    return event_stream(b"data: " + bytes(size), size + 6)


def long_event(size: int) -> Conversation:
    """One event in pieces as TCP has them."""
    return event_stream(b"data: " + b"x" * size + b"\n\n", 1400)


LINEAR: list[tuple[Callable[[int], Conversation], int]] = [
    (unfinished_line, 1 << 17),
    (long_event, 1 << 17),
]


def cost(make: Callable[[int], Conversation], size: int) -> float:
    """Seconds of processor time, the least of three runs."""
    talk = make(size)
    spent = []
    for _ in range(3):
        start = time.process_time()
        export(talk)
        spent.append(time.process_time() - start)
    return min(spent)


@pytest.mark.parametrize(("make", "size"), LINEAR, ids=[make.__name__ for make, _ in LINEAR])
def test_work_grows_with_the_input(make: Callable[[int], Conversation], size: int) -> None:
    small, large = cost(make, size // TIMES), cost(make, size)
    # Work that grows with the square costs 64 times as much; what a run costs besides its input is 1 ms.
    assert large < TIMES * 3 * max(small, 0.001)
