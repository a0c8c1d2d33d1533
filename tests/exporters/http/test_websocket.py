"""WebSockets, as wsproto speaks them: messages, control frames, deflate, losses; over HTTP/1 and HTTP/2."""

from __future__ import annotations

import struct
import zlib

import pytest
from h2_talk import H2Talk
from http_streams import Conversation, read, read_in_splits, split
from hypothesis import given
from hypothesis import strategies as st
from websocket_talk import SocketTalk, messages
from wsproto.events import BytesMessage, CloseConnection, Ping, Pong, TextMessage
from wsproto.extensions import PerMessageDeflate

from capture.streams import Side
from exporters.http import Limits, Notes
from exporters.http.messages import Exchange, Lost, Outcome, WebSocketMessage
from exporters.http.urls import exchange_url

TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10


EXTENSIONS = [
    (),
    (PerMessageDeflate(),),
    (PerMessageDeflate(client_no_context_takeover=True, server_no_context_takeover=True),),
]


@pytest.mark.parametrize("extensions", EXTENSIONS)
def test_messages_of_both_sides(extensions: tuple[PerMessageDeflate, ...]) -> None:
    talk = SocketTalk(*extensions)
    talk.send(Side.CLIENT, TextMessage("hello"), BytesMessage(b"\x00\x01"))
    talk.send(Side.SERVER, TextMessage("hello " * 50), Ping(b"p"))
    talk.send(Side.CLIENT, Pong(b"p"), TextMessage("é" * 200), TextMessage("é" * 200))
    talk.send(Side.SERVER, BytesMessage(b"x" * 70_000))
    talk.send(Side.CLIENT, TextMessage("one "), TextMessage(""))
    talk.send(Side.CLIENT, CloseConnection(1000, "bye"))
    talk.send(Side.SERVER, CloseConnection(1000, "bye"))
    talk.conversation.closes(Side.SERVER).closes(Side.CLIENT)
    (exchange,) = read_in_splits(talk.conversation.items)
    assert exchange.outcome is Outcome.COMPLETE
    assert exchange_url(exchange) == "ws://a/ws"
    assert messages(exchange) == [
        (True, TEXT, b"hello"),
        (True, BINARY, b"\x00\x01"),
        (False, TEXT, b"hello " * 50),
        (False, PING, b"p"),
        (True, PONG, b"p"),
        (True, TEXT, "é".encode() * 200),
        (True, TEXT, "é".encode() * 200),
        (False, BINARY, b"x" * 70_000),
        (True, TEXT, b"one "),
        (True, TEXT, b""),
        (True, CLOSE, b"\x03\xe8bye"),
        (False, CLOSE, b"\x03\xe8bye"),
    ]
    assert exchange.socket_messages is not None
    assert all(message.problem is None for message in exchange.socket_messages)
    assert exchange.response is not None
    assert exchange.response.body.wire_bytes > 0


@pytest.mark.parametrize(
    ("first", "extensions"),
    [(0xC1, b""), (0xA1, b"permessage-deflate"), (0xD1, b"permessage-deflate"), (0xC1, b"x-other")],
)
def test_a_reserved_bit_of_an_unknown_extension(first: int, extensions: bytes) -> None:
    upgrade = b"Upgrade: websocket\r\n"
    talk = Conversation().client(b"GET / HTTP/1.1\r\nHost: a\r\n", upgrade, b"\r\n")
    talk.server(b"HTTP/1.1 101 S\r\nSec-WebSocket-Extensions: ", extensions, b"\r\n", upgrade, b"\r\n")
    (exchange,) = read(talk.server(bytes([first]), b"\x02hi", b"\x81\x02ok").items)
    assert exchange.socket_messages is not None
    changed, plain = exchange.socket_messages
    assert changed.data == b"hi"
    assert changed.problem is not None
    assert "an extension that is not known" in changed.problem
    assert (plain.data, plain.problem) == (b"ok", None)


def test_fragments_with_control_frames_between_them() -> None:
    for extensions in EXTENSIONS:
        talk = SocketTalk(*extensions)
        talk.send(Side.SERVER, TextMessage("first ", message_finished=False))
        talk.send(Side.SERVER, Ping(b"still there?"))
        talk.send(Side.SERVER, TextMessage("second ", message_finished=False), TextMessage("third"))
        (exchange,) = read_in_splits(talk.conversation.items)
        assert messages(exchange) == [(False, PING, b"still there?"), (False, TEXT, b"first second third")]
        assert exchange.outcome is Outcome.UNFINISHED


CONNECT = [
    (":method", "CONNECT"),
    (":protocol", "websocket"),
    (":scheme", "https"),
    (":authority", "a"),
    (":path", "/ws"),
]
"""RFC 8441 §4."""


def socket_over_http2() -> tuple[H2Talk, int]:
    """A WebSocket that was answered, and its stream."""
    talk = H2Talk()
    talk.server.update_settings({8: 1})
    talk.pump()
    stream = talk.client.get_next_available_stream_id()
    talk.client.send_headers(stream, CONNECT)
    talk.pump()
    talk.server.send_headers(stream, [(":status", "200")])
    talk.pump()
    return talk, stream


def test_over_http2() -> None:
    talk, stream = socket_over_http2()
    talk.send(Side.CLIENT, stream, frame(TEXT, b"up", mask=b"abcd"))
    talk.send(Side.SERVER, stream, frame(TEXT, b"down"))
    talk.client.end_stream(stream)
    talk.server.end_stream(stream)
    talk.pump()
    (exchange,) = read_in_splits(talk.conversation.items)
    assert exchange.outcome is Outcome.COMPLETE
    assert exchange_url(exchange) == "wss://a/ws"
    assert messages(exchange) == [(True, TEXT, b"up"), (False, TEXT, b"down")]


def frame(opcode: int, payload: bytes, mask: bytes = b"", first: int = 0x80) -> bytes:
    """One frame (RFC 6455 §5.2)."""
    size, bit = len(payload), 0x80 if mask else 0
    if size < 126:
        length = bytes([bit | size])
    elif size < 1 << 16:
        length = bytes([bit | 126]) + struct.pack(">H", size)
    else:
        length = bytes([bit | 127]) + struct.pack(">Q", size)
    if mask:
        payload = bytes(byte ^ mask[index % 4] for index, byte in enumerate(payload))
    return bytes([first | opcode]) + length + mask + payload


UPGRADE = b"GET /ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
SWITCHED = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"


def socket(extensions: bytes = b"") -> Conversation:
    """A WebSocket of which the handshake is over."""
    line = b"Sec-WebSocket-Extensions: " + extensions + b"\r\n" if extensions else b""
    return Conversation().client(UPGRADE).server(SWITCHED + line + b"\r\n")


def only(talk: Conversation, limits: Limits | None = None) -> tuple[Exchange, list[WebSocketMessage]]:
    """The socket and its messages."""
    (exchange,) = read(talk.items, limits)
    return exchange, list(exchange.socket_messages or ())


def test_a_loss_inside_a_payload_costs_its_message() -> None:
    whole = frame(TEXT, b"0123456789", mask=b"wxyz")
    talk = (
        socket().client(whole[:10]).gap(Side.CLIENT, 3).client(whole[13:], frame(TEXT, b"next", mask=b"1234"))
    )
    exchange, (hit, following) = only(talk)
    assert (hit.data, hit.lost_bytes, hit.problem) == (b"0123789", 3, "3 bytes were lost")
    assert (following.data, following.problem) == (b"next", None)
    assert exchange.lost == (Lost(10, 3, "ring-full"),)
    assert exchange.lost_bytes == 3


def test_a_loss_over_a_header_costs_the_rest_of_the_direction() -> None:
    talk = socket().server(frame(TEXT, b"one")).gap(Side.SERVER, 50).server(frame(TEXT, b"two"))
    talk.client(frame(TEXT, b"up", mask=b"1234"))
    exchange, found = only(talk)
    assert [message.data for message in found] == [b"one", b"up"]
    assert exchange.notes == ("the messages after a loss of 50 bytes (ring-full) are not known",)
    assert (exchange.outcome, exchange.lost) == (Outcome.LOST, (Lost(5, 50, "ring-full"),))


def test_a_loss_of_a_closed_socket_is_its_outcome() -> None:
    talk = socket().server(frame(TEXT, b"one")).gap(Side.SERVER, 50).closes(Side.SERVER).closes(Side.CLIENT)
    exchange, _ = only(talk)
    assert (exchange.outcome, exchange.lost_bytes) == (Outcome.LOST, 50)


def test_losses_where_nothing_is_read_any_more_count() -> None:
    talk = (
        socket()
        .server(frame(5, b"?"))
        .gap(Side.SERVER, 7)
        .server(b"more")
        .gap(Side.SERVER, 8, "write-failed")
    )
    talk.client(frame(TEXT, b"up")[:3]).gap(Side.CLIENT, 9)
    exchange, _ = only(talk)
    assert exchange.lost == (Lost(3, 9, "ring-full"), Lost(3, 7, "ring-full"), Lost(7, 8, "write-failed"))
    assert exchange.outcome is Outcome.LOST


def test_losses_of_messages_that_are_not_shown_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("exporters.http.websocket.MAX_MESSAGES", 1)
    whole = frame(TEXT, b"0123456789")
    talk = socket().server(whole, whole[:5]).gap(Side.SERVER, 4).server(whole[9:])
    exchange, found = only(talk)
    assert [message.lost_bytes for message in found] == [0]
    assert exchange.lost_bytes == 4


def test_a_loss_that_may_have_been_elsewhere_is_told_as_such() -> None:
    """Over HTTP/2, where it is not known which stream lost frames."""
    talk, stream = socket_over_http2()
    talk.send(Side.SERVER, stream, frame(TEXT, b"one"))
    talk.conversation.gap(Side.SERVER, 70)
    talk.send(Side.SERVER, stream, frame(TEXT, b"two"))
    talk.server.ping(b"12345678")
    talk.pump()
    (exchange,) = read(talk.conversation.items)
    assert exchange.outcome is Outcome.LOST
    assert {(lost.exact, lost.reason) for lost in exchange.lost} == {(False, "ring-full")}
    assert exchange.lost_bytes == 0


def deflate(compressor: zlib._Compress, data: bytes) -> bytes:  # type: ignore[name-defined]
    """A compressed payload (RFC 7692 §7.2.1)."""
    packed: bytes = compressor.compress(data) + compressor.flush(zlib.Z_SYNC_FLUSH)
    return packed[:-4]


@pytest.mark.parametrize(
    ("extensions", "later"),
    [(b"permessage-deflate", None), (b"permessage-deflate; server_no_context_takeover", b"text")],
)
def test_a_loss_in_a_kept_deflate_context_is_told(extensions: bytes, later: bytes | None) -> None:
    kept = zlib.compressobj(wbits=-15)
    first = frame(TEXT, deflate(kept, b"some text"), first=0xC0)
    if later is not None:
        kept = zlib.compressobj(wbits=-15)
    second = frame(TEXT, deflate(kept, b"text"), first=0xC0)
    talk = socket(extensions).server(first[:4]).gap(Side.SERVER, 2).server(first[6:], second)
    _, (hit, following) = only(talk)
    assert hit.problem == "2 bytes were lost"
    if later is None:
        assert following.problem == "its deflate context was lost"
    else:
        assert (following.data, following.problem) == (later, None)


def test_an_inflation_bomb_is_stopped() -> None:
    bomb = frame(BINARY, deflate(zlib.compressobj(wbits=-15), bytes(50_000_000)), first=0xC0)
    _, (message,) = only(socket(b"permessage-deflate").server(bomb))
    assert len(message.data) == 16 * 1024 * 1024
    assert message.problem is not None
    assert message.problem.startswith("only the first")


def test_messages_that_end_with_a_last_block_keep_the_context() -> None:
    """RFC 7692 §7.2.3.4, whose example is the first message."""
    last = bytes.fromhex("f348cdc9c907000000")[:-1]
    kept = zlib.compressobj(wbits=-15, zdict=b"Hello")
    talk = socket(b"permessage-deflate").server(frame(TEXT, last, first=0xC0))
    talk.server(frame(TEXT, deflate(kept, b"Hello, Hello"), first=0xC0))
    talk.server(frame(TEXT, last, first=0xC0))
    _, found = only(talk)
    assert [(message.data, message.problem) for message in found] == [
        (b"Hello", None),
        (b"Hello, Hello", None),
        (b"Hello", None),
    ]


def test_last_blocks_without_end_are_a_problem() -> None:
    talk = socket(b"permessage-deflate").server(frame(TEXT, b"\x03\x00" * 1000, first=0xC0))
    _, (message,) = only(talk)
    assert message.problem == "more than 16 last blocks"


@pytest.mark.parametrize(
    ("sent", "shown"),
    [
        (frame(TEXT, b"first", first=0), b"first"),
        (frame(TEXT, b"first part of more")[:7], b"first"),
        (frame(TEXT, b"fi", first=0) + frame(0, b"rst part")[:5], b"first"),
        (frame(TEXT, b"first") + b"\x81", None),
    ],
)
def test_a_message_that_was_not_finished_is_shown_as_such(sent: bytes, shown: bytes | None) -> None:
    talk = socket().server(sent).closes(Side.SERVER).closes(Side.CLIENT)
    exchange, found = only(talk)
    assert exchange.outcome is Outcome.CLOSED
    if shown is None:
        assert [(message.data, message.problem) for message in found] == [(b"first", None)]
    else:
        problem = "it is not whole: the connection was closed"
        assert [(message.data, message.problem) for message in found] == [(shown, problem)]


def test_what_is_no_frame_ends_a_direction_and_not_the_socket() -> None:
    talk = socket().server(frame(TEXT, b"one"), frame(5, b"?"), frame(TEXT, b"two"))
    exchange, found = only(talk.closes(Side.SERVER).closes(Side.CLIENT))
    assert [(message.data, message.problem) for message in found] == [(b"one", None)]
    assert exchange.outcome is Outcome.COMPLETE
    assert exchange.notes == ("a frame of type 5, which does not exist",)


def test_a_message_inside_another_one() -> None:
    talk = socket().server(frame(TEXT, b"first", first=0), frame(TEXT, b"second"), frame(0, b"third"))
    _, found = only(talk)
    assert [(message.data, message.problem) for message in found] == [
        (b"first", "it was begun and never finished"),
        (b"second", None),
        (b"third", "its beginning is missing"),
    ]


def test_what_came_of_a_message_before_a_loss_over_its_end() -> None:
    talk = socket().server(frame(TEXT, b"0123456789")[:7]).gap(Side.SERVER, 50)
    exchange, (message,) = only(talk)
    assert (message.data, message.lost_bytes, message.problem) == (b"01234", 5, "5 bytes were lost")
    assert exchange.notes == ("the messages after a loss of 50 bytes (ring-full) are not known",)


def test_what_is_inflated_counts_for_the_limit() -> None:
    bomb = frame(BINARY, deflate(zlib.compressobj(wbits=-15), bytes(1_000_000)), first=0xC0)
    talk = socket(b"permessage-deflate; server_no_context_takeover").server(bomb, bomb, bomb, bomb)
    _, found = only(talk, Limits(socket_bytes=2_500_000))
    assert [len(message.data) for message in found[:2]] == [1_000_000, 1_000_000]
    assert sum(len(message.data) for message in found) <= 2_500_000
    assert all(message.problem is not None for message in found[2:])


def test_messages_beyond_their_number_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("exporters.http.websocket.MAX_MESSAGES", 3)
    exchange, found = only(socket().server(frame(PING, b"") * 5, frame(TEXT, b"x")))
    assert len(found) == 3
    assert exchange.notes == ("3 more messages are not shown",)


def test_messages_beyond_the_limit_are_counted() -> None:
    talk = socket().server(frame(TEXT, b"12345"), frame(TEXT, b"67890"))
    exchange, (first, second) = only(talk, Limits(socket_bytes=7))
    assert first.data == b"12345"
    assert (second.data, second.lost_bytes, second.omitted_bytes) == (b"67", 0, 3)
    assert second.problem == "cut: 3 bytes are over the limit and were left out"
    assert exchange.lost_bytes == 0


@pytest.mark.parametrize(
    ("following", "problem", "notes"),
    [
        (b"", "cut: 6 bytes are over the limit and were left out", ()),
        (
            frame(TEXT, b"more"),
            "bytes are over the limit and were left out",
            ("the messages after a cut of 12 bytes (body-limit) are not known",),
        ),
    ],
)
def test_what_waited_for_the_answer_beyond_the_limit_is_no_loss(
    following: bytes, problem: str, notes: tuple[str, ...]
) -> None:
    """Of HTTP/2: what is sent before the answer to CONNECT is held."""
    talk = H2Talk()
    talk.server.update_settings({8: 1})
    talk.pump()
    stream = talk.client.get_next_available_stream_id()
    talk.client.send_headers(stream, CONNECT)
    talk.pump()
    sent = frame(TEXT, b"0123456789")
    talk.send(Side.CLIENT, stream, sent[:6])
    talk.send(Side.CLIENT, stream, sent[6:] + following)
    talk.server.send_headers(stream, [(":status", "200")])
    talk.pump()
    (exchange,) = read(talk.conversation.items, Limits(waiting_bytes=8))
    (message,) = exchange.socket_messages or ()
    assert (message.data, message.lost_bytes, message.omitted_bytes) == (b"0123", 0, 6)
    assert (message.problem, exchange.notes) == (problem, notes)
    assert (exchange.lost, exchange.outcome) == ((), Outcome.UNFINISHED)


def test_a_reset_socket() -> None:
    exchange, found = only(socket().server(frame(TEXT, b"x")).closes(Side.SERVER, reset=True))
    assert exchange.outcome is Outcome.RESET
    assert len(found) == 1


@given(st.lists(st.tuples(st.booleans(), st.binary(max_size=40)), max_size=20), st.booleans())
def test_no_input_is_too_odd(script: list[tuple[bool, bytes]], deflated: bool) -> None:
    talk = socket(b"permessage-deflate" if deflated else b"")
    for client, data in script:
        (talk.client if client else talk.server)(data)
    only(talk)


@pytest.mark.parametrize("size", [1, 2, 1000])
def test_what_cannot_be_read_is_counted(size: int) -> None:
    """What comes after a frame that is none, and the beginning of a frame of which the rest was lost."""
    talk = socket().server(frame(TEXT, b"one"), frame(5, b"1234567"), frame(TEXT, b"two")).client(b"\x81")
    notes = Notes()
    read(split(talk.gap(Side.CLIENT, 50).items, size), notes=notes)
    assert notes.skipped_bytes == 7 + 5 + 1
