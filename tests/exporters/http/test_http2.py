"""HTTP/2 without losses, as hyper-h2 speaks it; each connection is read in many splits."""

from __future__ import annotations

import pytest
from h2.config import H2Configuration
from h2_talk import H2Talk
from http_streams import Conversation, read, read_in_splits
from hyperframe.frame import ContinuationFrame, DataFrame, Frame, HeadersFrame, SettingsFrame

from capture.streams import Side, StreamItem, Tls
from exporters.http import ExchangeReader, Notes
from exporters.http.messages import Exchange, Outcome
from exporters.http.urls import exchange_url

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


def by_target(found: list[Exchange]) -> dict[bytes | None, Exchange]:
    """The exchanges by their request's path."""
    return {each.request.target: each for each in found if each.request is not None}


def test_a_request_and_its_response() -> None:
    talk = H2Talk()
    stream = talk.request([("user-agent", "curl"), ("accept", "*/*")])
    talk.respond(stream, b"hello", [("content-type", "text/plain"), ("x-a", "1"), ("x-a", "2")])
    (exchange,) = read_in_splits(talk.conversation.items)
    assert exchange.outcome is Outcome.COMPLETE
    request, response = exchange.request, exchange.response
    assert request is not None
    assert response is not None
    assert (request.method, request.target, request.authority, request.scheme) == (
        b"GET",
        b"/",
        b"a",
        b"https",
    )
    assert list(request.fields) == [
        (b":method", b"GET"),
        (b":scheme", b"https"),
        (b":authority", b"a"),
        (b":path", b"/"),
        (b"user-agent", b"curl"),
        (b"accept", b"*/*"),
    ]
    assert response.status == 200
    assert list(response.fields)[1:] == [(b"content-type", b"text/plain"), (b"x-a", b"1"), (b"x-a", b"2")]
    assert response.body.data == b"hello"
    assert response.body.complete
    assert exchange.stream_id == stream
    assert exchange_url(exchange) == "https://a/"
    assert request.version == "HTTP/2"


def test_the_sizes_are_those_of_the_frames() -> None:
    head = HeadersFrame(1, b"\x82\x87\x84", flags=["END_HEADERS", "END_STREAM"]).serialize()
    answer = HeadersFrame(1, b"\x88", flags=["END_HEADERS"]).serialize()
    body = DataFrame(1, b"abc", flags=["PADDED"], pad_length=5).serialize()
    trailers = HeadersFrame(1, b"\x00\x01x\x01y", flags=["END_HEADERS", "END_STREAM"]).serialize()
    talk = (
        Conversation()
        .client(PREFACE, SettingsFrame(0).serialize(), head)
        .server(SettingsFrame(0).serialize(), answer, body, trailers)
    )
    (exchange,) = read_in_splits(talk.items)
    assert exchange.request is not None
    assert exchange.response is not None
    assert exchange.request.head_bytes == len(head)
    assert exchange.response.head_bytes == len(answer)
    assert exchange.response.body.data == b"abc"
    assert exchange.response.trailers.pairs == ((b"x", b"y"),)
    assert exchange.response.body.wire_bytes == len(body) + len(trailers)


def test_a_hundred_interleaved_streams() -> None:
    talk = H2Talk()
    streams = {talk.request(path=f"/{number}", method="POST", body=None): number for number in range(100)}
    bodies = {stream: bytes([number]) * (number * 37) for stream, number in streams.items()}
    for stream, number in streams.items():
        talk.server.send_headers(stream, [(":status", "200"), ("x-number", str(number))])
    for start in range(0, 4000, 500):
        for stream, body in bodies.items():
            if body[start : start + 500]:
                talk.send(Side.SERVER, stream, body[start : start + 500])
    for stream in reversed(streams):
        talk.server.end_stream(stream)
    talk.pump()
    found = read_in_splits(talk.conversation.items)
    assert [each.stream_id for each in found] == list(reversed(streams))
    for exchange in found:
        assert exchange.response is not None
        assert exchange.stream_id is not None
        assert exchange.response.body.data == bodies[exchange.stream_id]
        assert exchange.request is not None
        assert exchange.request.target == b"/%d" % streams[exchange.stream_id]


def test_upload_padding_trailers_and_interim_responses() -> None:
    talk = H2Talk()
    stream = talk.client.get_next_available_stream_id()
    talk.client.send_headers(
        stream, [(":method", "PUT"), (":scheme", "https"), (":authority", "a"), (":path", "/up")]
    )
    talk.server.receive_data(sent := talk.client.data_to_send())
    talk.conversation.client(sent)
    talk.server.send_headers(stream, [(":status", "100")])
    talk.server.send_headers(stream, [(":status", "103"), ("link", "</a>")])
    talk.pump()
    talk.send(Side.CLIENT, stream, b"x" * 40_000, pad=100)
    talk.client.send_headers(stream, [("checksum", "1")], end_stream=True)
    talk.pump()
    talk.respond(stream, b"y" * 100_000, status=201, trailers=[("grpc-status", "0")])
    (exchange,) = read_in_splits(talk.conversation.items)
    assert [interim.status for interim in exchange.interim] == [100, 103]
    assert exchange.request is not None
    assert exchange.response is not None
    assert exchange.request.body.data == b"x" * 40_000
    assert list(exchange.request.trailers) == [(b"checksum", b"1")]
    assert exchange.response.status == 201
    assert exchange.response.body.data == b"y" * 100_000
    assert list(exchange.response.trailers) == [(b"grpc-status", b"0")]


def test_a_field_block_in_many_frames() -> None:
    fields = [(f"x-{number}", "v" * 1000) for number in range(60)]
    talk = H2Talk()
    talk.server.update_settings({6: 1 << 20})
    talk.client.update_settings({6: 1 << 20})
    talk.pump()
    stream = talk.request(fields)
    talk.respond(stream, b"", fields)
    (exchange,) = read_in_splits(talk.conversation.items)
    assert exchange.request is not None
    assert exchange.response is not None
    assert [name for name, _ in exchange.request.fields][4:] == [name.encode() for name, _ in fields]
    assert len(exchange.response.fields) == 61


def test_cleartext_by_prior_knowledge_and_by_upgrade() -> None:
    known = H2Talk(Conversation())
    known.respond(known.request(path="/known"), b"1")
    (exchange,) = read_in_splits(known.conversation.items)
    assert exchange.response is not None
    assert exchange.response.body.data == b"1"

    talk = Conversation()
    talk.client(
        b"GET /up HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n"
        b"HTTP2-Settings: AAMAAABk\r\n\r\n"
    )
    talk.server(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n")
    upgraded = H2Talk(talk, upgraded=True)
    upgraded.respond(1, b"on stream 1")
    upgraded.respond(upgraded.request(path="/next"), b"on stream 3")
    first, second = read_in_splits(talk.items)
    assert first.request is not None
    assert first.request.version == "HTTP/1.1"
    assert first.request.target == b"/up"
    assert [interim.status for interim in first.interim] == [101]
    assert first.response is not None
    assert first.response.version == "HTTP/2"
    assert first.response.body.data == b"on stream 1"
    assert second.response is not None
    assert second.response.body.data == b"on stream 3"


def test_resets() -> None:
    talk = H2Talk()
    cancelled, refused, enough = (talk.request(path=f"/{name}", method="POST", body=None) for name in "abc")
    talk.server.send_headers(cancelled, [(":status", "200")])
    talk.send(Side.SERVER, cancelled, b"some")
    talk.client.reset_stream(cancelled, error_code=8)
    talk.server.reset_stream(refused, error_code=7)
    talk.pump()
    talk.respond(enough, b"done")
    upload = talk.client.get_next_available_stream_id()
    talk.client.send_headers(
        upload, [(":method", "POST"), (":scheme", "https"), (":authority", "a"), (":path", "/d")]
    )
    talk.send(Side.CLIENT, upload, b"part")
    talk.respond(upload, b"no need")
    talk.server.reset_stream(upload, error_code=0)
    talk.pump()
    found = by_target(read_in_splits(talk.conversation.items))
    assert found[b"/a"].outcome is Outcome.CANCELLED
    assert found[b"/a"].response is not None
    assert found[b"/a"].response.body.data == b"some"
    assert found[b"/a"].notes == ("reset by the client, error 8",)
    assert found[b"/b"].outcome is Outcome.CANCELLED
    assert found[b"/b"].response is None
    assert found[b"/c"].outcome is Outcome.COMPLETE
    assert found[b"/d"].outcome is Outcome.COMPLETE
    uploaded = found[b"/d"].request
    assert uploaded is not None
    assert (uploaded.body.data, uploaded.body.complete) == (b"part", False), (
        "the rest was not wanted, and not sent"
    )


def test_what_the_client_had_received_when_it_reset() -> None:
    """curl resets as soon as it has all the content; the write that it answers is seen when that returns."""
    talk = H2Talk()
    streams = [talk.request(path=f"/{name}") for name in ("ended", "late", "short")]
    for stream in streams:
        talk.server.send_headers(stream, [(":status", "200"), ("content-length", "10")])
    ended, late, short = streams
    talk.server.send_data(ended, b"0123456789")
    talk.server.send_data(late, b"01234")
    talk.pump()
    talk.server.send_data(late, b"56789")
    talk.server.send_data(short, b"0")
    written = talk.server.data_to_send()
    for stream in streams:
        talk.client.reset_stream(stream, error_code=5)
    talk.conversation.client(talk.client.data_to_send())
    talk.conversation.server(written)
    found = by_target(read_in_splits(talk.conversation.items))
    for target in (b"/ended", b"/late"):
        assert found[target].outcome is Outcome.COMPLETE
        assert found[target].notes == ()
        assert found[target].response is not None
        assert found[target].response.body.data == b"0123456789"
        assert found[target].response.body.complete
    assert found[b"/short"].outcome is Outcome.CANCELLED
    assert found[b"/short"].notes == ("reset by the client, error 5",)
    assert found[b"/short"].response is not None
    assert found[b"/short"].response.body.data == b"0"


def test_goaway_and_the_end_of_the_connection() -> None:
    talk = H2Talk()
    answered, open_one, refused = (talk.request(path=f"/{name}") for name in "abc")
    talk.respond(answered, b"1")
    talk.server.send_headers(open_one, [(":status", "200")])
    talk.server.close_connection(last_stream_id=open_one)
    talk.conversation.server(talk.server.data_to_send())
    talk.conversation.closes(Side.SERVER).closes(Side.CLIENT)
    found = by_target(read_in_splits(talk.conversation.items))
    assert found[b"/a"].outcome is Outcome.COMPLETE
    assert found[b"/b"].outcome is Outcome.CLOSED
    assert found[b"/c"].outcome is Outcome.CANCELLED
    assert refused == 5


@pytest.mark.parametrize(
    ("ending", "reset", "failed"),
    [
        (None, False, Outcome.UNFINISHED),
        (Side.CLIENT, True, Outcome.RESET),
        (Side.SERVER, True, Outcome.RESET),
        (Side.CLIENT, False, Outcome.CLOSED),
        (Side.SERVER, False, Outcome.CLOSED),
    ],
)
def test_a_client_that_has_all_content_need_not_wait_for_the_end_of_the_stream(
    ending: Side | None, reset: bool, failed: Outcome
) -> None:
    """curl closes as soon as Content-Length is met; END_STREAM may come in a frame of its own."""
    talk = H2Talk()
    streams = {name: talk.request(path=f"/{name}") for name in ("whole", "part", "unknown", "empty")}
    for name, fields in (
        ("whole", [("content-length", "5")]),
        ("part", [("content-length", "6")]),
        ("unknown", []),
        ("empty", [("content-length", "0")]),
    ):
        talk.server.send_headers(streams[name], [(":status", "200"), *fields])
        if name != "empty":
            talk.send(Side.SERVER, streams[name], b"hello")
    talk.pump()
    if ending is not None:
        talk.conversation.closes(ending, reset=reset)
    found = by_target(read_in_splits(talk.conversation.items))
    outcomes = {target: exchange.outcome for target, exchange in found.items()}
    assert outcomes == {
        b"/whole": Outcome.COMPLETE,
        b"/part": failed,
        b"/unknown": failed,
        b"/empty": Outcome.COMPLETE,
    }
    whole = found[b"/whole"].response
    assert whole is not None
    assert whole.body.data == b"hello"
    assert whole.body.complete


def test_server_push() -> None:
    talk = H2Talk()
    stream = talk.request()
    talk.server.push_stream(
        stream, 2, [(":method", "GET"), (":scheme", "https"), (":authority", "a"), (":path", "/pushed")]
    )
    talk.respond(2, b"pushed body", [("x-kind", "push")])
    talk.respond(stream, b"asked")
    found = by_target(read_in_splits(talk.conversation.items))
    assert found[b"/pushed"].pushed
    assert not found[b"/"].pushed
    assert found[b"/pushed"].response is not None
    assert found[b"/pushed"].response.body.data == b"pushed body"


def test_a_tunnel_through_a_stream() -> None:
    talk = H2Talk()
    stream = talk.client.get_next_available_stream_id()
    talk.client.send_headers(stream, [(":method", "CONNECT"), (":authority", "b:80")])
    talk.send(Side.CLIENT, stream, b"GET /inner HTTP/1.1\r\nHost: b\r\n\r\n")
    talk.server.send_headers(stream, [(":status", "200")])
    talk.send(Side.SERVER, stream, b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
    talk.client.end_stream(stream)
    talk.server.end_stream(stream)
    talk.pump()
    outer, inner = read_in_splits(talk.conversation.items)
    assert outer.request is not None
    assert (outer.request.method, outer.request.target) == (b"CONNECT", b"b:80")
    assert inner.response is not None
    assert inner.response.body.data == b"ok"
    assert exchange_url(inner) == "http://b/inner"


def test_priorities() -> None:
    talk = H2Talk()
    for value in ("u=0", "u=3, i", "i", "u=7"):
        talk.respond(talk.request([("priority", value)], path=f"/{value[:3].strip(',')}"), b"")
    weighted = talk.client.get_next_available_stream_id()
    head = [(":method", "GET"), (":scheme", "https"), (":authority", "a"), (":path", "/w")]
    talk.client.send_headers(weighted, head, end_stream=True, priority_weight=256, priority_depends_on=0)
    talk.pump()
    talk.respond(weighted, b"")
    found = by_target(read_in_splits(talk.conversation.items))
    assert {target: each.priority for target, each in found.items()} == {
        b"/u=0": "VeryHigh",
        b"/u=3": "Low",
        b"/i": None,
        b"/u=7": "VeryLow",
        b"/w": "VeryHigh",
    }


def test_frames_of_unknown_types_are_ignored() -> None:
    grease = bytes.fromhex("000003 0b 0b 00000000 010203") + bytes.fromhex("000000 f7 00 00000005")
    talk = H2Talk()
    stream = talk.request()
    talk.conversation.server(grease).client(grease)
    talk.respond(stream, b"ok")
    (exchange,) = read_in_splits(talk.conversation.items)
    assert exchange.response is not None
    assert exchange.response.body.data == b"ok"


def test_the_directions_may_come_in_any_order() -> None:
    talk = H2Talk()
    for number in range(5):
        talk.respond(
            talk.request(path=f"/{number}", method="POST", body=b"up%d" % number), b"down%d" % number
        )
    opened, *rest = talk.conversation.items
    servers_first: list[StreamItem] = [opened]
    servers_first += sorted(rest, key=lambda item: item.sender is Side.CLIENT)  # type: ignore[union-attr]
    found = by_target(read_in_splits(servers_first))
    assert len(found) == 5
    for number in range(5):
        exchange = found[b"/%d" % number]
        assert exchange.request is not None
        assert exchange.response is not None
        assert exchange.request.body.data == b"up%d" % number
        assert exchange.response.body.data == b"down%d" % number


def test_an_exchange_comes_out_when_its_stream_ends() -> None:
    talk = H2Talk()
    first, second = talk.request(path="/1"), talk.request(path="/2")
    talk.respond(second, b"2")
    done = len(talk.conversation.items)
    talk.respond(first, b"1")
    reader = ExchangeReader()
    early = [each for item in talk.conversation.items[:done] for each in reader.feed(item)]
    assert [each.stream_id for each in early] == [second]


@pytest.mark.parametrize(
    "block",
    [
        b"\xff\xff\xff\xff\xff\x7f",  # an integer without end
        b"\x80",  # index 0
        b"\xbe",  # an entry that does not exist
        b"\x00\x85abc",  # a string longer than the block
        b"\x00\x84\xff\xff\xff\xff\x00",  # EOS inside a Huffman string
    ],
)
def test_a_malformed_field_block_costs_its_message(block: bytes) -> None:
    notes = Notes()
    talk = H2Talk()
    talk.conversation.client(HeadersFrame(1, block, flags=["END_HEADERS", "END_STREAM"]).serialize())
    talk.conversation.server(HeadersFrame(1, b"\x88", flags=["END_HEADERS", "END_STREAM"]).serialize())
    talk.conversation.client(
        HeadersFrame(3, b"\x82\x87\x84", flags=["END_HEADERS", "END_STREAM"]).serialize()
    )
    talk.conversation.server(HeadersFrame(3, b"\x88", flags=["END_HEADERS", "END_STREAM"]).serialize())
    broken, sound = read(talk.conversation.items, notes=notes)
    assert notes.malformed == 1
    assert broken.request is not None
    assert broken.request.method is None
    assert broken.notes == ("the header section of the request is malformed",)
    assert sound.request is not None
    assert sound.request.method == b"GET"


def test_a_field_block_bomb_is_refused() -> None:
    insert = b"\x40\x01a\x7f\x81\x1e" + b"x" * 4000
    bomb = insert + b"\xbe" * 15_000
    frames = [HeadersFrame(1, bomb[:16_000], flags=["END_STREAM"])]
    frames += [ContinuationFrame(1, bomb[16_000:], flags=["END_HEADERS"])]
    notes = Notes()
    talk = Conversation().client(
        PREFACE, SettingsFrame(0).serialize(), *(frame.serialize() for frame in frames)
    )
    (exchange,) = read(talk.items, notes=notes)
    assert notes.malformed == 1
    assert exchange.request is not None
    assert exchange.request.fields.pairs == ()


def test_garbage_after_the_preface() -> None:
    notes = Notes()
    talk = Conversation().client(PREFACE, bytes(range(256)) * 100).server(b"\xff" * 5000)
    assert read_in_splits(talk.items) == read(talk.items, notes=notes) == []
    assert notes.malformed


def test_a_body_without_a_head_is_kept() -> None:
    talk = Conversation().client(PREFACE, SettingsFrame(0).serialize())
    talk.client(DataFrame(1, b"up", flags=["END_STREAM"]).serialize()).server(SettingsFrame(0).serialize())
    talk.server(DataFrame(1, b"down", flags=["END_STREAM"]).serialize())
    (exchange,) = read_in_splits(talk.items)
    assert exchange.request is not None
    assert exchange.request.method is None
    assert exchange.request.body.data == b"up"
    assert exchange.response is not None
    assert exchange.response.status is None
    assert exchange.response.body.data == b"down"


def test_alpn_decides_before_the_first_byte() -> None:
    talk = H2Talk(Conversation(tls=Tls(alpn="h2"), port=443))
    assert isinstance(talk.client.config, H2Configuration)
    opened, *rest = talk.conversation.items
    servers = [item for item in rest if getattr(item, "sender", None) is Side.SERVER]
    assert read([opened, *servers]) == []
    assert Frame.parse_frame_header(memoryview(SettingsFrame(0).serialize()))[1] == 0


@pytest.mark.parametrize("status", ["2" * 5000, "99999999999999999999", "20", "abc", "-12"])
def test_a_status_that_is_none(status: str) -> None:
    talk = H2Talk()
    stream = talk.request()
    talk.server.send_headers(stream, [(":status", status)], end_stream=True)
    talk.conversation.server(talk.server.data_to_send())
    (exchange,) = read_in_splits(talk.conversation.items)
    assert exchange.response is not None
    assert exchange.response.status is None
