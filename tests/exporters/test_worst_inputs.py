"""What the parsers' worst inputs cost: work that grows with the input, and memory that does not."""

from __future__ import annotations

import time
import tracemalloc
import zlib
from dataclasses import replace
from typing import TYPE_CHECKING
from unittest.mock import Mock

import pytest
from h2_by_hand import (
    CONNECT,
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    GOAWAY,
    HEADERS,
    OK,
    PINGS,
    RST_STREAM,
    SETTINGS,
    fields,
    frame,
    talk,
)
from h2_by_hand import GET as H2_GET
from http_streams import Conversation, read

from capture.streams import Gap, Side, StreamItem
from exporters import tcp_reassembly
from exporters.dissection import Segment
from exporters.har import EntryMaker
from exporters.http import ExchangeReader, Limits
from exporters.http.held import Held, HeldItems
from exporters.segments import SYN

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

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


def answered(head: bytes, before: bytes = b"") -> Conversation:
    """A response with a head of fields."""
    return (
        Conversation().client(GET).server(before, b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n", head, b"\r\nx")
    )


def spaces_in_a_field(size: int) -> Conversation:
    """That do not end as a field line does."""
    return Conversation().client(b"GET / HTTP/1.1\r\nHost: a\r\nx:" + b" " * size + b"\rb\r\n\r\n")


def charsets(size: int) -> Conversation:
    """A media type that has the word again and again."""
    return answered(b"Content-Type: " + b"charset" * (size // 7) + b"\r\n")


def equal_fields(size: int) -> Conversation:
    """Fields of one name, which are one list."""
    return answered(b"a:\r\n" * (size // 4))


def interim_responses(size: int) -> Conversation:
    """Responses before the final one."""
    return answered(b"", b"HTTP/1.1 100 \r\n\r\n" * (size // 17))


def broken_status_lines(size: int) -> Conversation:
    """What a reader that has lost its place looks at."""
    talk = Conversation().client(GET).gap(Side.SERVER, 5).client(GET)
    return talk.server(b"HTTP/1.1 200 " * (size // 13) + b"\rx\n")


def h2_equal_fields(size: int) -> Conversation:
    """Of one byte each: references to one entry."""
    conversation = talk().client(frame(HEADERS, END_HEADERS | END_STREAM, 1, H2_GET))
    conversation.server(frame(HEADERS, END_STREAM, 1, OK + b"\x40\x01a\x00"))
    for start in range(0, size, 16_000):
        conversation.server(frame(CONTINUATION, 0, 1, b"\xbe" * min(size - start, 16_000)))
    return conversation.server(frame(CONTINUATION, END_HEADERS, 1))


def h2_malformed_blocks(size: int) -> Conversation:
    """Each of which the stream remembers."""
    conversation = talk().client(frame(HEADERS, END_HEADERS | END_STREAM, 1, H2_GET))
    return conversation.server(frame(HEADERS, END_HEADERS, 1, b"\xff" * 7) * (size // 16))


def h2_open(streams: int, head: bytes = H2_GET) -> Conversation:
    """A connection with that many requests that are not answered."""
    ids = range(1, 2 * streams, 2)
    return talk().client(b"".join(frame(HEADERS, END_HEADERS, stream, head) for stream in ids))


def h2_losses(size: int) -> Conversation:
    """Each of which may have hit any of the streams."""
    conversation = h2_open(size // 100)
    for _ in range(size // 100):
        conversation.gap(Side.CLIENT, 50).client(PINGS)
    return conversation


def h2_losses_in_tunnels(size: int) -> Conversation:
    """Of which it is not known yet whether they are any, and of those that are."""
    conversation = h2_open(size // 100, CONNECT)
    for stream in range(1, size // 100, 4):
        conversation.server(frame(HEADERS, END_HEADERS, stream, OK))
    for _ in range(size // 100):
        conversation.gap(Side.CLIENT, 50).client(PINGS)
    return conversation


def h2_resets_of_what_comes(size: int) -> Conversation:
    """The rest of each may still be to come."""
    conversation = h2_open(size // 100)
    head = fields((b":status", b"200"), (b"content-length", b"9"))
    for stream in range(1, size // 50, 2):
        conversation.client(frame(DATA, END_STREAM, stream))
        conversation.server(frame(HEADERS, END_HEADERS, stream, head))
    resets = b"".join(frame(RST_STREAM, 0, stream, b"\0\0\0\x08") for stream in range(1, size // 50, 2))
    return conversation.client(resets, frame(RST_STREAM, 0, 1, b"\0\0\0\x08") * (size // 10))


def h2_go_away(size: int) -> Conversation:
    """That the server says again and again, of streams that are answered."""
    conversation = h2_open(size // 100)
    for stream in range(1, size // 50, 2):
        conversation.server(frame(HEADERS, END_HEADERS, stream, OK))
    return conversation.server(frame(GOAWAY, 0, 0, bytes(8)) * (size // 20))


def h2_holes(size: int) -> Conversation:
    """In a body of small frames, as long as its head says."""
    head = fields((b":status", b"200"), (b"content-length", b"%d" % (2 * size)))
    conversation = talk().client(frame(HEADERS, END_HEADERS | END_STREAM, 1, H2_GET))
    conversation.server(frame(HEADERS, END_HEADERS, 1, head))
    for _ in range(size // 20):
        conversation.server(frame(DATA, 0, 1, b"ab")[:-1]).gap(Side.SERVER, 1)
    return conversation


def socket_frames(size: int) -> Conversation:
    """Empty messages, and last deflate blocks inside one."""
    conversation = socket(b"Sec-WebSocket-Extensions: permessage-deflate\r\n")
    conversation.server(b"\x89\x00" * (size // 4))
    return conversation.server(b"\xc1\x7f" + (size // 2).to_bytes(8, "big") + b"\x03\x00" * (size // 4))


def long_host(size: int) -> Conversation:
    """In an encoding that takes the square of its length to decode."""
    return Conversation().client(b"GET / HTTP/1.1\r\nHost: xn--", b"9" * size, b"\r\n\r\n")


LINEAR: list[tuple[Callable[[int], Conversation], int]] = [
    (unfinished_line, 1 << 17),
    (long_event, 1 << 17),
    (spaces_in_a_field, 1 << 17),
    (charsets, 1 << 17),
    (long_host, 1 << 17),
    (equal_fields, 1 << 17),
    (interim_responses, 1 << 19),
    (broken_status_lines, 1 << 15),
    (h2_equal_fields, 1 << 17),
    (h2_malformed_blocks, 1 << 19),
    (h2_losses, 1 << 17),
    (h2_losses_in_tunnels, 1 << 17),
    (h2_resets_of_what_comes, 1 << 17),
    (h2_go_away, 1 << 17),
    (h2_holes, 1 << 16),
    (socket_frames, 1 << 17),
]
"""Each parser's worst input known, and a size at which work that grows with the square shows."""


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


def test_what_a_tunnel_has_no_room_for_costs_no_look_at_what_it_holds() -> None:
    def cost_of(count: int) -> float:
        held, item = HeldItems(), Held(Side.CLIENT, 1, b"x")
        for _ in range(count):
            held.hold(item)
        start = time.process_time()
        for side in (Side.CLIENT, Side.SERVER) * (count // 2):
            held.lose(side, 2, 1, "limit")
        spent = time.process_time() - start
        for _ in range(count):
            held.take()
        assert [held.take().length, held.take().length] == [count // 2] * 2
        assert not held
        return spent

    assert cost_of(16_000) < TIMES * 3 * max(cost_of(2000), 0.001)


def test_connections_that_are_too_many_cost_what_others_do(monkeypatch: pytest.MonkeyPatch) -> None:
    many = 20_000
    monkeypatch.setattr(tcp_reassembly, "MAX_CONNECTIONS", many)
    reassembler = tcp_reassembly.TcpReassembler(lambda opening: Mock())

    def cost_of(first: int) -> float:
        start = time.process_time()
        for number in range(first, first + many):
            path = bytes(8) + number.to_bytes(4, "big")
            reassembler.feed(Segment(number, path, 1000, 0, SYN, b"", 0))
        return time.process_time() - start

    fill, *rest = map(cost_of, range(0, 4 * many, many))
    assert min(rest) < 2.5 * fill


def socket(*extensions: bytes) -> Conversation:
    """A WebSocket of which the handshake is over."""
    upgrade = b"Upgrade: websocket\r\n\r\n"
    return Conversation().client(GET[:-2] + upgrade).server(b"HTTP/1.1 101 S\r\n", *extensions, upgrade)


def again(opening: Conversation, times: int, *items: StreamItem) -> Iterator[StreamItem]:
    """A connection that goes on with the same items over and over."""
    yield from opening.items
    for _ in range(times):
        yield from items


def empty_messages(times: int) -> Iterator[StreamItem]:
    """Of two bytes on the wire."""
    return again(socket(), times, socket().server(b"\x89\x00" * 10).items[-1])


def small_bombs(times: int) -> Iterator[StreamItem]:
    """Messages of 80 KiB that 100 bytes make."""
    compressor = zlib.compressobj(9, wbits=-15)
    bomb = (compressor.compress(bytes(80_000)) + compressor.flush(zlib.Z_SYNC_FLUSH))[:-4]
    assert len(bomb) < 126
    options = b"Sec-WebSocket-Extensions: permessage-deflate; server_no_context_takeover\r\n"
    return again(socket(options), times, socket().server(bytes([0xC2, len(bomb)]), bomb).items[-1])


def responses_that_nobody_asked_for(times: int) -> Iterator[StreamItem]:
    """But for one in ten."""
    opening = Conversation().client(GET)
    more = Conversation().server(b"HTTP/1.1 200 OK\r\nContent-Length: 40\r\n\r\n" + bytes(40), *[b""] * 9)
    return again(opening, times, *[more.items[-1]] * 10, opening.client(GET).items.pop())


def bytes_that_wait(times: int) -> Iterator[StreamItem]:
    """One by one, for the answer to an upgrade."""
    return again(
        Conversation().client(GET[:-2] + b"Upgrade: x\r\n\r\n"), times, Conversation().client(b"x").items[-1]
    )


def losses_between_frames(times: int) -> Iterator[StreamItem]:
    """Each of which may have hit any of twenty streams, at the same place and at others."""
    opening = talk()
    for stream in range(1, 41, 2):
        opening.client(frame(HEADERS, END_HEADERS | END_STREAM, stream, H2_GET))
        opening.server(frame(HEADERS, END_HEADERS, stream, OK))
    lost = Gap(1, opening.now_ns, Side.SERVER, 50, "ring-full")
    found = talk().server(PINGS, *[frame(DATA, 0, stream, b"x") for stream in range(1, 41, 2)]).items[-1]
    return again(
        opening, times, lost, replace(lost, reason="fault"), talk().server(PINGS).items[-1], lost, found
    )


def like_http2(times: int) -> Iterator[StreamItem]:
    """A server that begins with a frame of settings, and a client that says nothing."""
    opening = Conversation().server(frame(SETTINGS, 0, 0))
    return again(opening, times, opening.server(bytes(1000)).items.pop())


def events_without_end(times: int) -> Iterator[StreamItem]:
    """Each at a time of its own."""
    opening = Conversation().client(GET)
    opening.server(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n")
    yield from opening.items
    for number in range(times):
        event = opening.server(b"data: x\n\n").items.pop()
        yield replace(event, time_ns=event.time_ns + number)


BOUNDED: list[tuple[Callable[[int], Iterator[StreamItem]], int]] = [
    (empty_messages, 2000),
    (small_bombs, 400),
    (responses_that_nobody_asked_for, 2000),
    (bytes_that_wait, 40_000),
    (losses_between_frames, 800),
    (like_http2, 4000),
    (events_without_end, 40_000),
]
"""Inputs that a reader must not collect, and how often they come: often enough to reach each limit in an eighth."""


def held_bytes(items: Iterator[StreamItem]) -> int:
    """What reading takes at its height."""
    reader = ExchangeReader(Limits(body_bytes=1 << 14, socket_bytes=1 << 20, waiting_bytes=1 << 15))
    tracemalloc.start()
    try:
        for item in items:
            reader.feed(item)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(("make", "times"), BOUNDED, ids=[make.__name__ for make, _ in BOUNDED])
def test_memory_does_not_grow_with_the_input(
    make: Callable[[int], Iterator[StreamItem]], times: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("exporters.http.websocket.MAX_MESSAGES", 2000)
    monkeypatch.setattr("exporters.http.held.MAX_HELD_ITEMS", 2000)
    few, many = held_bytes(make(times // TIMES)), held_bytes(make(times))
    assert many < 1.5 * few + 50_000


def test_an_export_remembers_nothing_of_long_fields() -> None:
    maker, size = EntryMaker(), 50_000
    tracemalloc.start()
    try:
        for number in range(40):
            long = b"%d" % number + b"x" * size
            talk = Conversation().client(
                b"GET / HTTP/1.1\r\nHost: ", long, b"\r\nCookie: ", long, b"\r\n", long, b": a\r\n\r\n"
            )
            talk.server(b"HTTP/1.1 200 OK\r\nContent-Type: ", long, b"\r\nContent-Length: 1\r\n\r\nx")
            for exchange in read(talk.items):
                assert maker.entry_of(exchange) is not None
            del talk, exchange
        assert tracemalloc.get_traced_memory()[0] < 20 * size
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("handshake_seen", [True, False])
def test_an_open_connection_holds_nothing_of_what_it_has_carried(handshake_seen: bool) -> None:
    connections = 20

    def items() -> Iterator[StreamItem]:
        for stream in range(connections):
            talk = Conversation(stream, handshake_seen=handshake_seen)
            talk.client(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 60000\r\n\r\n", bytes(60_000))
            yield from talk.server(b"HTTP/1.1 200 OK\r\nContent-Length: 60000\r\n\r\n", bytes(60_000)).items

    reader = ExchangeReader()
    tracemalloc.start()
    try:
        assert sum(len(reader.feed(item)) for item in items()) == connections
        assert tracemalloc.get_traced_memory()[0] < connections * 10_000
    finally:
        tracemalloc.stop()
