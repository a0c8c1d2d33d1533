"""HTTP/2 that no library sends: field blocks without end, losses in tunnels, orders that a race makes."""

from __future__ import annotations

import pytest
from h2_by_hand import (
    CONNECT,
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    GET,
    HEADERS,
    OK,
    PINGS,
    WEBSOCKET,
    field,
    fields,
    frame,
    talk,
)
from hpack import Encoder, NeverIndexedHeaderTuple
from http_streams import read, read_in_splits

from capture.streams import Side
from exporters.har import EntryMaker
from exporters.http import Limits, Notes
from exporters.http.messages import Exchange, Lost, Outcome

WHOLE = END_STREAM | END_HEADERS
INNER = b"GET /in HTTP/1.1\r\nX-A: 1\r\nHost: b\r\n\r\n"
NO_CONTENT = b"HTTP/1.1 204 N\r\n\r\n"


def text(payload: bytes) -> bytes:
    """A WebSocket message."""
    return bytes([0x81, len(payload)]) + payload


def messages(exchange: Exchange) -> list[tuple[bytes, str | None]]:
    """What a WebSocket said."""
    return [(message.data, message.problem) for message in exchange.socket_messages or ()]


@pytest.mark.parametrize(
    ("asked", "status", "length", "note"),
    [
        (b"GET", b"200", b"9", "the response's Content-Length is 9, and its content has 4 bytes"),
        (b"GET", b"200", b"0", "the response's Content-Length is 0, and its content has 4 bytes"),
        (b"GET", b"200", b"4", None),
        (b"HEAD", b"200", b"9", None),
        (b"GET", b"304", b"9", None),
    ],
)
def test_a_length_that_is_not_the_content_s_is_told(
    asked: bytes, status: bytes, length: bytes, note: str | None
) -> None:
    conversation = talk().client(
        frame(HEADERS, WHOLE, 1, GET.replace(field(b":method", b"GET"), field(b":method", asked)))
    )
    head = fields((b":status", status), (b"content-length", length))
    body = b"" if asked == b"HEAD" or status == b"304" else b"body"
    conversation.server(frame(HEADERS, END_HEADERS, 1, head), frame(DATA, END_STREAM, 1, body))
    (exchange,) = read_in_splits(conversation.items)
    assert (exchange.outcome, exchange.notes) == (Outcome.COMPLETE, (note,) if note else ())


def test_a_loss_over_frames_reaches_the_socket_inside() -> None:
    conversation = talk().client(frame(HEADERS, END_HEADERS, 1, WEBSOCKET))
    conversation.server(frame(HEADERS, END_HEADERS, 1, OK))
    conversation.server(frame(DATA, 0, 1, text(b"." * 100))[:60]).gap(Side.SERVER, 70)
    for number in range(4):
        conversation.server(frame(DATA, 0, 1, text(b"message %d" % number)))
    (exchange,) = read_in_splits(conversation.items)
    assert messages(exchange) == [(b"." * 49, "51 bytes were lost")]
    assert exchange.notes == ("the messages after a loss of up to 10 bytes (ring-full) are not known",)


def test_a_loss_over_frames_reaches_the_tunnel_inside() -> None:
    conversation = talk().client(frame(HEADERS, END_HEADERS, 1, CONNECT))
    conversation.server(frame(HEADERS, END_HEADERS, 1, OK))
    conversation.client(frame(DATA, 0, 1, INNER))
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 2000\r\n\r\n"
    conversation.server(frame(DATA, 0, 1, head)).gap(Side.SERVER, 200)
    conversation.server(*[frame(DATA, 0, 1, b"x" * 100)] * 4)
    (_, inner) = read_in_splits(conversation.items)
    assert inner.outcome is Outcome.LOST
    assert inner.response is not None
    assert inner.response.body.data == b""


def test_a_loss_that_may_be_any_tunnel_s_is_told_as_that() -> None:
    conversation = talk()
    for stream in (1, 3):
        conversation.client(frame(HEADERS, END_HEADERS, stream, CONNECT))
        conversation.server(frame(HEADERS, END_HEADERS, stream, OK))
        conversation.client(frame(DATA, 0, stream, INNER))
        head = b"HTTP/1.1 200 OK\r\nContent-Length: 2000\r\n\r\n"
        conversation.server(frame(DATA, 0, stream, head))
    conversation.gap(Side.SERVER, 200)
    for stream in (1, 3):
        conversation.server(*[frame(DATA, 0, stream, b"x" * 100)] * 4)
    entries = [EntryMaker().entry_of(exchange) for exchange in read_in_splits(conversation.items)[2:]]
    for entry in entries:
        assert entry is not None
        assert "_lostBytes" not in entry
        assert entry["_doubtfulRanges"] == [{"offset": 0, "atMost": 191, "reason": "ring-full"}]
        assert "up to 191 bytes of its messages may be missing (ring-full)" in entry["comment"]
    assert len(entries) == 2


@pytest.mark.parametrize("inside", [True, False])
def test_a_loss_before_the_answer_to_connect(inside: bool) -> None:
    conversation = talk().client(frame(HEADERS, END_HEADERS, 1, CONNECT))
    whole = frame(DATA, 0, 1, INNER)
    if inside:
        conversation.client(whole[:27]).gap(Side.CLIENT, 7).client(whole[34:])
    else:
        conversation.client(frame(DATA, 0, 1, INNER[:18])).gap(Side.CLIENT, 16)
        conversation.client(frame(DATA, 0, 1, INNER[25:]), PINGS)
    conversation.server(frame(HEADERS, END_HEADERS, 1, OK), frame(DATA, 0, 1, NO_CONTENT))
    _, *rest = read_in_splits(conversation.items)
    for exchange in rest:
        assert exchange.request is None or exchange.request.target is None


def test_what_waits_for_the_answer_to_connect_is_limited() -> None:
    conversation = talk().client(frame(HEADERS, END_HEADERS, 1, CONNECT))
    conversation.client(
        frame(DATA, 0, 1, b"a" * 60), frame(DATA, 0, 1, b"b" * 60), frame(DATA, 0, 1, b"c" * 30)
    )
    conversation.server(frame(HEADERS, END_HEADERS, 1, fields((b":status", b"404"))))
    (exchange,) = read(conversation.items, Limits(waiting_bytes=100))
    assert exchange.request is not None
    assert exchange.request.body.data == b"a" * 60
    assert exchange.request.body.lost == (Lost(60, 90, "body-limit"),)


def test_the_answer_to_connect_may_be_read_before_it() -> None:
    conversation = talk().server(frame(HEADERS, END_HEADERS, 1, OK), frame(DATA, 0, 1, NO_CONTENT))
    conversation.client(frame(HEADERS, END_HEADERS, 1, CONNECT), frame(DATA, 0, 1, INNER))
    outer, inner = read_in_splits(conversation.items)
    assert outer.request is not None
    assert outer.request.target == b"b:80"
    assert outer.response is not None
    assert outer.response.body.data == b""
    assert inner.request is not None
    assert inner.request.target == b"/in"
    assert inner.response is not None
    assert inner.response.status == 204


def test_a_server_that_ends_the_connection_may_be_read_before_the_client() -> None:
    answer = frame(HEADERS, END_HEADERS, 1, OK) + frame(DATA, END_STREAM, 1, b"ok")
    late = talk().client(frame(HEADERS, END_HEADERS, 1, GET)).server(answer).closes(Side.SERVER)
    late.client(frame(DATA, END_STREAM, 1, b"up")).closes(Side.CLIENT)
    first = talk().server(answer).closes(Side.SERVER)
    first.client(frame(HEADERS, END_HEADERS, 1, GET), frame(DATA, END_STREAM, 1, b"up")).closes(Side.CLIENT)
    for conversation in (late, first):
        (exchange,) = read_in_splits(conversation.items)
        assert exchange.outcome is Outcome.COMPLETE
        assert exchange.request is not None
        assert exchange.request.body.data == b"up"
    cut = talk().client(frame(HEADERS, WHOLE, 1, GET)).server(frame(HEADERS, END_HEADERS, 1, OK))
    (exchange,) = read_in_splits(cut.closes(Side.SERVER).items)
    assert exchange.outcome is Outcome.CLOSED


def test_a_loss_is_counted_once_however_many_streams_and_tunnels_it_may_have_hit() -> None:
    conversation = talk()
    for stream in (1, 3, 5):
        conversation.client(frame(HEADERS, END_HEADERS, stream, CONNECT))
        conversation.server(frame(HEADERS, END_HEADERS, stream, OK))
        conversation.client(frame(DATA, 0, stream, INNER))
    inside = frame(DATA, 0, 1, b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc")
    conversation.server(inside[:2], inside[2:-3]).gap(Side.SERVER, 3).gap(Side.SERVER, 50).server(PINGS)
    notes = Notes()
    found = read(conversation.items, notes=notes)
    assert notes.lost_bytes == 53
    assert [each.request.method for each in found if each.request] == [b"CONNECT"] * 3 + [b"GET"] * 3


INSERTS = b"\x82\x84\x87\x41\x01a\x40\x01x\x05value"
REFERS = b"\x82\x84\x87\x41\x01b\xbf"
"""To the last but one entry: what it is depends on what the block before has inserted."""


@pytest.mark.parametrize("between", [b"\x00\x00\x01\x00\x00\x00\x00\x00\x00" + PINGS, PINGS, b""])
def test_a_field_block_without_end_is_not_decoded(between: bytes) -> None:
    conversation = talk().client(frame(HEADERS, END_STREAM, 1, INSERTS), between)
    conversation.client(frame(HEADERS, WHOLE, 3, REFERS))
    conversation.server(frame(HEADERS, WHOLE, 1, OK), frame(HEADERS, WHOLE, 3, OK))
    first, second = read_in_splits(conversation.items)
    assert first.request is not None
    assert first.request.fields.pairs == ()
    assert first.notes == ("the header section of the request is malformed",)
    assert second.request is not None
    assert (b"x", b"value") not in second.request.fields.pairs
    assert second.request.fields.pairs[-1] == (b"(not recorded)", b"(not recorded)")


def test_a_field_block_over_the_limit_is_not_decoded_without_its_middle() -> None:
    conversation = talk().client(frame(HEADERS, END_STREAM, 1, GET))
    for number in range(70):
        conversation.client(frame(CONTINUATION, 0, 1, field(b"x-%d" % number, b"v" * 16_000)))
    conversation.client(frame(CONTINUATION, END_HEADERS, 1, field(b"last", b"1")))
    conversation.server(frame(HEADERS, WHOLE, 1, OK))
    notes = Notes()
    (exchange,) = read(conversation.items, notes=notes)
    assert exchange.request is not None
    assert exchange.request.fields.pairs == ()
    assert exchange.notes == ("the header section of the request is malformed",)
    assert notes.malformed == 1


def test_what_a_frame_over_the_limit_entered_into_the_table_is_not_known() -> None:
    encoder = Encoder()
    heads = [
        encoder.encode(
            [(b":method", b"GET"), (b":path", b"/"), (b":scheme", b"https"), *pairs], huffman=False
        )
        for pairs in (
            [(b"user", b"alice")],
            [NeverIndexedHeaderTuple(b"x", b"v" * (1 << 20)), (b"user", b"bob")],
            [(b"user", b"bob")],
        )
    ]
    conversation = talk()
    for number, head in enumerate(heads):
        conversation.client(frame(HEADERS, WHOLE, 2 * number + 1, head))
        conversation.server(frame(HEADERS, WHOLE, 2 * number + 1, OK))
    alice, long, bob = read(conversation.items)
    assert alice.request is not None
    assert alice.request.fields.pairs[-1] == (b"user", b"alice")
    assert long.request is None or (b"user", b"bob") not in long.request.fields.pairs
    assert long.notes
    assert bob.request is not None
    assert bob.request.fields.pairs[-1] == (b"(not recorded)", b"(not recorded)")


def test_what_the_limit_leaves_out_of_a_body_was_not_lost() -> None:
    head = fields((b":status", b"200"), (b"content-length", b"3000"))
    conversation = talk().client(frame(HEADERS, WHOLE, 1, GET))
    conversation.server(frame(HEADERS, END_HEADERS, 1, head), frame(DATA, 0, 1, b"a" * 2000))
    conversation.gap(Side.SERVER, 50).server(PINGS, frame(DATA, END_STREAM, 1, b"b" * 1000))
    (exchange,) = read(conversation.items, Limits(body_bytes=1500))
    assert exchange.lost_bytes == 0
    assert exchange.response is not None
    assert exchange.response.body.omitted_bytes == 1500


def test_losses_of_one_place_are_one_doubt() -> None:
    conversation = talk().client(frame(HEADERS, WHOLE, 1, GET)).server(frame(HEADERS, END_HEADERS, 1, OK))
    for _ in range(300):
        conversation.gap(Side.SERVER, 29).server(PINGS)
    for _ in range(300):
        conversation.server(frame(DATA, 0, 1, b"x")).gap(Side.SERVER, 29).server(PINGS)
    (exchange,) = read(conversation.server(frame(DATA, END_STREAM, 1, b"y")).items)
    assert exchange.response is not None
    doubts = exchange.response.body.doubts
    assert doubts[0] == Lost(0, 300 * 20, "ring-full")
    assert len(doubts) == 100
    assert sum(doubt.length for doubt in doubts) == 600 * 20


def test_interim_responses_and_bad_blocks_without_number() -> None:
    early = frame(HEADERS, END_HEADERS, 1, fields((b":status", b"103")))
    conversation = talk().client(frame(HEADERS, WHOLE, 1, GET)).server(early * 1500)
    conversation.server(frame(HEADERS, END_HEADERS, 1, b"\xff" * 7) * 500, frame(HEADERS, WHOLE, 1, OK))
    (exchange,) = read(conversation.items)
    assert len(exchange.interim) == 1000
    assert "500 more interim responses are not shown" in exchange.notes
    assert len(exchange.notes) == 2
