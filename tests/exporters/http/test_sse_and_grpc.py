"""Bodies that are sequences of messages: server-sent events with their times, gRPC calls."""

from __future__ import annotations

import base64
import zlib
from typing import TYPE_CHECKING

import pytest
from h2_talk import H2Talk
from http_streams import OPENED_NS, STEP_NS, Conversation, read, read_in_splits
from hypothesis import given
from hypothesis import strategies as st

from capture.streams import Side
from exporters.http.grpc import GrpcCall, GrpcMessage, call_of
from exporters.http.sse import ServerSentEvent, events_of

if TYPE_CHECKING:
    from exporters.http.messages import Exchange

GET = b"GET /events HTTP/1.1\r\nHost: a\r\n\r\n"
EVENTS = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n"
STREAM = EVENTS + CHUNKED


def chunk(data: bytes) -> bytes:
    """``data`` as a chunk."""
    return b"%x\r\n%s\r\n" % (len(data), data)


def events(talk: Conversation) -> list[ServerSentEvent]:
    """The events of the only response."""
    (exchange,) = read_in_splits(talk.items)
    assert exchange.response is not None
    return events_of(exchange.response, 1 << 20)


def at(step: int) -> int:
    """The time of a conversation's n-th item."""
    return OPENED_NS + (step + 1) * STEP_NS


def test_events_with_their_times() -> None:
    talk = Conversation().client(GET).server(STREAM + b"\r\n")
    talk.server(chunk(b": comment\nevent: ping\nid: 7\ndata: one\n\nda"))
    talk.server(chunk(b"ta: two\r\ndata:  lines\r\nignored\r\n\r\n")).server(chunk(b"data: cut off"))
    assert events(talk) == [
        ServerSentEvent(at(3), "ping", "7", "one"),
        ServerSentEvent(at(4), "message", "7", "two\n lines"),
    ]


@pytest.mark.parametrize(
    "fields", [CHUNKED + b"Content-Encoding: gzip\r\n", b"Transfer-Encoding: gzip, chunked\r\n"]
)
def test_a_coded_stream_of_events_keeps_its_times(fields: bytes) -> None:
    compressor = zlib.compressobj(wbits=31)
    first = compressor.compress(b"data: 1\n\n") + compressor.flush(zlib.Z_SYNC_FLUSH)
    second = compressor.compress(b"data: 2\n\n") + compressor.flush(zlib.Z_SYNC_FLUSH)
    talk = Conversation().client(GET).server(EVENTS + fields + b"\r\n")
    talk.server(chunk(first)).server(chunk(second))
    assert [(event.time_ns, event.data) for event in events(talk)] == [(at(3), "1"), (at(4), "2")]


def test_an_event_with_a_hole_is_none() -> None:
    head = STREAM.replace(b"Transfer-Encoding: chunked", b"Content-Length: 60")
    talk = Conversation().client(GET).server(head + b"\r\n", b"data: one\n\ndata: tw")
    talk.gap(Side.SERVER, 10).server(b"data: half\n\ndata: three\n\n")
    assert [event.data for event in events(talk)] == ["one", "three"]


@pytest.mark.parametrize("end", [b"\r\r", b"\n\r", b"\r\r\n", b"\r\n\r"])
def test_a_cr_ends_a_line_whatever_follows(end: bytes) -> None:
    talk = Conversation().client(GET).server(STREAM + b"\r\n", chunk(b"data: a" + end))
    assert [event.data for event in events(talk)] == ["a"]
    talk.server(chunk(b"\ndata: b\n\n"))
    assert [(event.time_ns, event.data) for event in events(talk)] == [(at(2), "a"), (at(3), "b")]


@given(st.binary(max_size=100), st.integers(1, 20))
def test_events_do_not_depend_on_the_split(data: bytes, size: int) -> None:
    text = (
        b"\xef\xbb\xbfdata: a\n\n"
        + data.replace(b"x", b"\ndata:").replace(b"y", b"\r\n\r\n")
        + b"\n\ndata: z\n\n"
    )
    found = []
    for pieces in ([text], [text[start : start + size] for start in range(0, len(text), size)]):
        talk = Conversation().client(GET).server(STREAM + b"\r\n")
        for piece in pieces:
            talk.server(chunk(piece))
        (exchange,) = read(talk.items)
        assert exchange.response is not None
        found.append(
            [(event.name, event.event_id, event.data) for event in events_of(exchange.response, 1 << 20)]
        )
    assert found[0] == found[1]
    assert found[0][0] == ("message", "", "a")


# gRPC.


def message(payload: bytes, flags: int = 0) -> bytes:
    """A message with its prefix."""
    return bytes([flags]) + len(payload).to_bytes(4, "big") + payload


def call(exchange: Exchange) -> GrpcCall:
    """The call that the exchange is."""
    found = call_of(exchange)
    assert found is not None
    return found


def test_a_call_over_http2() -> None:
    talk = H2Talk()
    stream = talk.request(
        [("content-type", "application/grpc"), ("te", "trailers")],
        message(b"ask") + message(b"again", 1),
        "/helloworld.Greeter/SayHello",
        "POST",
    )
    trailers = [("grpc-status", "5"), ("grpc-message", "no%20such%20thing")]
    talk.respond(stream, message(b"answer"), [("content-type", "application/grpc+proto")], trailers=trailers)
    (exchange,) = read_in_splits(talk.conversation.items)
    found = call(exchange)
    assert (found.service, found.method) == ("helloworld.Greeter", "SayHello")
    assert (found.status, found.status_name, found.message) == (5, "NOT_FOUND", "no such thing")
    assert found.request_messages == (GrpcMessage(3, False), GrpcMessage(5, True))
    assert found.response_messages == (GrpcMessage(6, False),)
    assert found.complete


def test_a_refusal_without_messages() -> None:
    talk = H2Talk()
    stream = talk.request([("content-type", "application/grpc")], b"", "/s/m", "POST")
    talk.respond(stream, None, [("content-type", "application/grpc"), ("grpc-status", "12")])
    (exchange,) = read_in_splits(talk.conversation.items)
    assert call(exchange).status_name == "UNIMPLEMENTED"


def test_a_status_of_many_digits_is_none() -> None:
    talk = H2Talk()
    stream = talk.request([("content-type", "application/grpc")], b"", "/s/m", "POST")
    talk.respond(stream, None, [("content-type", "application/grpc"), ("grpc-status", "1" * 5000)])
    (exchange,) = read_in_splits(talk.conversation.items)
    assert call(exchange).status is None


def web(kind: bytes, body: bytes) -> Exchange:
    """A gRPC-Web answer over HTTP/1."""
    post = (
        b"POST /s/m HTTP/1.1\r\nHost: a\r\nContent-Type: "
        + kind
        + b"\r\nContent-Length: 8\r\n\r\n"
        + message(b"ask")
    )
    head = b"HTTP/1.1 200 OK\r\nContent-Type: " + kind + b"\r\nContent-Length: %d\r\n\r\n" % len(body)
    (exchange,) = read_in_splits(Conversation().client(post).server(head, body).items)
    return exchange


@pytest.mark.parametrize("joined", [True, False])
def test_grpc_web(joined: bool) -> None:
    trailers = message(b"grpc-status: 0\r\ngrpc-message: fine\r\n", 0x80)
    found = call(web(b"application/grpc-web+proto", message(b"answer") + trailers))
    assert (found.status, found.message, found.response_messages) == (0, "fine", (GrpcMessage(6, False),))
    pieces = [message(b"answer") + trailers] if joined else [message(b"answer"), trailers]
    text = b"".join(base64.b64encode(piece) for piece in pieces)
    found = call(web(b"application/grpc-web-text", text))
    assert (found.status, found.response_messages, found.complete) == (0, (GrpcMessage(6, False),), False)


def test_a_truncated_call_says_so() -> None:
    exchange = web(b"application/grpc-web", message(b"answer")[:-1])
    assert not call(exchange).complete


def test_what_is_no_call() -> None:
    (exchange,) = read(
        Conversation().client(GET).server(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").items
    )
    assert call_of(exchange) is None
