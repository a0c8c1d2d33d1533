"""WebSockets that were joined in their middle, and what must not be taken for them."""

from __future__ import annotations

import struct

import pytest
from http_streams import Conversation, read, split
from hypothesis import given
from hypothesis import strategies as st
from websocket_talk import SocketTalk, messages
from wsproto.events import BytesMessage, CloseConnection, Ping, Pong, TextMessage
from wsproto.extensions import PerMessageDeflate

from capture.streams import Side, StreamItem, Tls
from exporters.har_entry import entry_of
from exporters.http import Limits, Notes
from exporters.http.messages import Outcome

TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10
TLS = Tls(server_name="push.example")


def joined(talk: SocketTalk, tls: Tls | None = TLS) -> list[StreamItem]:
    """The conversation after the handshake, as a recording that began there has it."""
    opening = Conversation(tls=tls, port=443, handshake_seen=False).items
    return [*opening, *talk.conversation.items[3:]]


@pytest.mark.parametrize("size", [1, 3, 1000])
def test_messages_of_both_sides(size: int) -> None:
    talk = SocketTalk()
    talk.send(Side.CLIENT, TextMessage('{"op": "subscribe"}'))
    talk.send(Side.SERVER, TextMessage("grün" * 50), BytesMessage(b"\x00\x01"))
    talk.send(Side.CLIENT, TextMessage("next"))
    talk.send(Side.SERVER, TextMessage("x" * 70_000))
    talk.send(Side.SERVER, CloseConnection(1000))
    (exchange,) = read(split(joined(talk), size))
    assert messages(exchange) == [
        (True, TEXT, b'{"op": "subscribe"}'),
        (False, TEXT, "grün".encode() * 50),
        (False, BINARY, b"\x00\x01"),
        (True, TEXT, b"next"),
        (False, TEXT, b"x" * 70_000),
        (False, CLOSE, b"\x03\xe8"),
    ]


def test_its_entry_is_a_websocket_of_which_the_request_is_not_known() -> None:
    talk = SocketTalk()
    for _ in range(2):
        talk.send(Side.SERVER, TextMessage("tick"))
    (exchange,) = read(joined(talk))
    entry = entry_of(exchange, Limits().decoded_bytes)
    assert entry["_resourceType"] == "websocket"
    assert entry["request"]["url"] == "wss://push.example/(not-recorded)"
    assert entry["request"]["_unknown"] == ["method", "url"]
    assert entry["response"]["_unknown"] == ["status"]
    assert [message["data"] for message in entry["_webSocketMessages"]] == ["tick", "tick"]
    assert exchange.outcome is Outcome.UNFINISHED


def test_nothing_but_pings_is_enough() -> None:
    talk = SocketTalk()
    for _ in range(4):
        talk.send(Side.SERVER, Ping(b""))
        talk.send(Side.CLIENT, Pong(b""))
    (exchange,) = read(joined(talk))
    assert [kind for _, kind, _ in messages(exchange)] == [PING, PONG] * 4


def test_a_message_that_was_under_way_is_skipped() -> None:
    talk = SocketTalk()
    rest = [Conversation(tls=TLS, handshake_seen=False).server(b"the rest of one\n" * 9).items[1]]
    talk.send(Side.SERVER, TextMessage("one"))
    talk.send(Side.SERVER, TextMessage("two"))
    opening, *items = joined(talk)
    notes = Notes()
    (exchange,) = read([opening, *rest, *items], notes=notes)
    assert [data for _, _, data in messages(exchange)] == [b"one", b"two"]
    assert notes.skipped_bytes == len(b"the rest of one\n" * 9)


def test_header_and_payload_may_be_sent_by_themselves() -> None:
    talk = Conversation(tls=TLS, handshake_seen=False)
    for number in range(3):
        talk.server(b"\x81\x05").server(b"word%d" % number)
    (exchange,) = read(talk.items)
    assert [data for _, _, data in messages(exchange)] == [b"word0", b"word1", b"word2"]


@pytest.mark.parametrize(
    ("keeps_context", "begins", "is_known"), [(True, 0, True), (True, 1, False), (False, 1, True)]
)
def test_what_is_deflated_is_inflated_if_its_context_is_known(
    keeps_context: bool, begins: int, is_known: bool
) -> None:
    words = "the same words again and again"
    talk = SocketTalk(PerMessageDeflate(server_no_context_takeover=not keeps_context))
    for _ in range(5):
        talk.send(Side.SERVER, TextMessage(words))
    opening, *items = joined(talk)
    (exchange,) = read([opening, *items[begins:]])
    assert exchange.socket_messages is not None
    assert len(exchange.socket_messages) == 5 - begins
    for message in exchange.socket_messages:
        assert (message.problem is None) == is_known
        assert (message.data == words.encode()) == is_known


def mqtt(kind: int, payload: bytes) -> bytes:
    """A control packet (MQTT 3.1.1 §2.2)."""
    return bytes((kind, len(payload))) + payload


@pytest.mark.parametrize("side", list(Side))
def test_mqtt_is_none(side: Side) -> None:
    talk = Conversation(tls=TLS, handshake_seen=False)
    for number in range(20):
        packets = mqtt(0x82, struct.pack(">HH", number, 3) + b"a/b\0"), mqtt(0x30, b"\0\3a/bword")
        for packet in packets if side is Side.CLIENT else (mqtt(0x90, b"\0\1\0"), packets[1]):
            (talk.client if side is Side.CLIENT else talk.server)(packet)
    assert read(talk.items) == []


@given(st.lists(st.binary(min_size=1, max_size=40), max_size=30), st.sampled_from(list(Side)))
def test_any_bytes_are_read(pieces: list[bytes], side: Side) -> None:
    talk = Conversation(tls=TLS, handshake_seen=False)
    for piece in pieces:
        (talk.client if side is Side.CLIENT else talk.server)(piece)
    read(talk.items)
