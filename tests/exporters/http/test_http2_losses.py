"""HTTP/2 joined in the middle, and with holes: placeholders for what is not known, and no byte invented."""

from __future__ import annotations

import gzip
from typing import TYPE_CHECKING

import pytest
from h2_talk import H2Talk
from http_streams import Conversation, read, read_in_splits
from hypothesis import given
from hypothesis import strategies as st

from capture.streams import Data, Gap, Side, StreamItem, Tls
from exporters.har_entry import entry_of
from exporters.http import Notes
from exporters.http.content import decode_content
from exporters.http.hpack import UNKNOWN
from exporters.http.messages import Exchange, Lost, Outcome
from exporters.http.urls import exchange_url

if TYPE_CHECKING:
    from collections.abc import Callable


def joined(talk: H2Talk, start: int, tls: Tls | None = None) -> list[StreamItem]:
    """The conversation from an item on, as a recording that began there has it."""
    opening = Conversation(tls=tls, port=443, handshake_seen=False).items
    return [*opening, *talk.conversation.items[start:]]


@pytest.mark.parametrize("alpn", [None, "h2"])
def test_a_session_whose_probes_may_have_come_late_loses_nothing_by_that(alpn: str | None) -> None:
    talk = H2Talk(Conversation(tls=Tls(alpn=alpn)))
    for number in range(5):
        talk.respond(talk.request([("cookie", "a=b")], path=f"/{number}"), b"1", [("x-served-by", "a")])
    opening = Conversation(tls=Tls(alpn=alpn, joined=True)).items
    late = read_in_splits([*opening, *talk.conversation.items[len(opening) :]])
    whole = read(talk.conversation.items)
    assert [(e.request, e.response, e.outcome) for e in late] == [
        (e.request, e.response, e.outcome) for e in whole
    ]


@pytest.mark.parametrize("tls", [None, Tls(), Tls(alpn="h2")])
def test_joined_in_the_middle_unknown_fields_are_placeholders_and_heal(tls: Tls | None) -> None:
    talk = H2Talk()
    fields = [("user-agent", "curl"), ("cookie", "session=1")]
    talk.respond(talk.request(fields, path="/first"), b"1", [("x-served-by", "a")])
    start = len(talk.conversation.items)
    talk.respond(talk.request(fields, path="/first"), b"2", [("x-served-by", "a")])
    talk.respond(talk.request(fields, path="/new"), b"3", [("x-served-by", "b")])
    talk.respond(talk.request(fields, path="/new"), b"4", [("x-served-by", "b")])
    second, third, fourth = read_in_splits(joined(talk, start, tls))
    for exchange in (second, third, fourth):
        assert exchange.outcome is Outcome.COMPLETE
        assert exchange.request is not None
        assert exchange.response is not None
        assert exchange.request.method == b"GET"
        assert exchange.request.scheme == b"https"
        assert exchange.request.authority is None
        assert exchange.response.status == 200
        assert all(name != b"user-agent" for name, _ in exchange.request.fields)
    assert second.request is not None
    assert third.request is not None
    assert fourth.request is not None
    assert second.request.target is None
    assert exchange_url(second).endswith("/(not-recorded)")
    assert (UNKNOWN, UNKNOWN) in second.request.fields.pairs
    assert third.request.target == fourth.request.target == b"/new"
    assert [bytes(each.response.body.data) for each in (second, third, fourth) if each.response] == [
        b"2",
        b"3",
        b"4",
    ]
    assert fourth.response is not None
    assert fourth.response.fields.pairs[1:] == (
        (UNKNOWN, b"b"),
    )  # the name was in the table, the value is new


def test_a_gap_in_the_place_of_the_client_s_preface_takes_nothing_from_the_server() -> None:
    talk = H2Talk(Conversation())
    talk.respond(talk.request(path="/first"), b"ok", [("x-b", "2")])
    opened, *items = talk.conversation.items
    early = [item for item in items if isinstance(item, Data) and item.sender is Side.SERVER]
    missing = sum(len(item.data) for item in items if isinstance(item, Data) and item.sender is Side.CLIENT)
    for place in (0, 1):
        gap = Gap(1, opened.time_ns + 1, Side.CLIENT, missing, "ring-full")
        (exchange,) = read([opened, *early[:place], gap, *early[place:]])
        assert exchange.response is not None
        assert bytes(exchange.response.body.data) == b"ok"


def test_a_connection_whose_tcp_handshake_alone_was_missed_is_whole() -> None:
    talk = H2Talk()
    talk.respond(talk.request([("x-a", "1")], path="/first"), b"1", [("x-b", "2")])
    for tls in (None, Tls(alpn="h2")):
        (exchange,) = read_in_splits(joined(talk, 1, tls))
        assert exchange.request is not None
        assert exchange.request.target == b"/first"
        assert (b"x-a", b"1") in exchange.request.fields.pairs
        assert exchange.response is not None
        assert (b"x-b", b"2") in exchange.response.fields.pairs


@pytest.mark.parametrize("kind", ["application/json", "image/png"])
def test_a_body_whose_coding_was_indexed_before_is_decoded_by_its_looks(kind: str) -> None:
    talk = H2Talk()
    encoded = gzip.compress(b'{"a": 1}')
    for number in range(2):
        talk.respond(talk.request(), encoded, [("content-encoding", "gzip"), ("x-number", str(number))])
    start = len(talk.conversation.items)
    talk.respond(talk.request(), encoded, [("content-encoding", "gzip"), ("content-type", kind)])
    (exchange,) = read_in_splits(joined(talk, start))
    assert exchange.response is not None
    content = decode_content(exchange.response.body, exchange.response.fields, 1000)
    assert content.data == (b'{"a": 1}' if kind == "application/json" else encoded)
    assert ("its first bytes are those of gzip" in (content.problem or "")) == (kind == "application/json")


@pytest.mark.parametrize("first", [1, 2, 3])
def test_tls_whose_probes_came_after_its_first_bytes(first: int) -> None:
    talk = H2Talk()
    for number in range(6):
        talk.respond(talk.request([("x-a", "1")], path=f"/{number}"), b"%d" % number, [("x-b", "2")])
    opening = Conversation(tls=Tls(server_name="a"), port=443).items
    found = read_in_splits([*opening, *talk.conversation.items[1 + 4 * first :]])
    for exchange in found:
        assert exchange.response is not None
        assert exchange.stream_id is not None
        assert exchange.response.body.data in (b"", b"%d" % (exchange.stream_id // 2))
    assert targets(found)[b"/5"].outcome is Outcome.COMPLETE


def test_tls_that_is_nothing_of_http_is_none() -> None:
    talk = Conversation(tls=Tls(), port=6379).client(b"*1\r\n$4\r\nPING\r\n").server(b"+PONG\r\n")
    for _ in range(100):
        talk.client(bytes(range(256)) * 20).server(bytes(range(255, -1, -1)) * 20)
    notes = Notes()
    assert read(talk.items, notes=notes) == []
    assert notes.streams_not_http == 1


def test_rows_of_one_length_are_no_frames() -> None:
    """As PostgreSQL sends them: whatever is like a header comes again in each row, where a frame of its length ends."""
    talk = (
        Conversation(tls=Tls(), port=5432)
        .client(b"Q\x00\x00\x00\x09SELE")
        .server(b"T\x00\x00\x00\x06\x00\x00")
    )
    for _ in range(40):
        row = b"D" + bytes.fromhex("00017e000000023131") + b"some text of a row ".ljust(381, b".")
        talk.server(row * 4).server(b"C" * 17)
    notes = Notes()
    assert read(talk.items, notes=notes) == []
    assert notes.streams_not_http == 1


@pytest.mark.parametrize("chunk", [1000, 1024, 8192, 16384])
def test_a_download_is_joined_in_its_middle(chunk: int) -> None:
    """Its frames' headers are alike, too: of buffers' lengths they are believed at once, others where it ends."""
    frame = chunk.to_bytes(3, "big") + bytes.fromhex("000000000003")
    last = (5).to_bytes(3, "big") + bytes.fromhex("000100000003")
    ping = (8).to_bytes(3, "big") + bytes.fromhex("060000000000") + bytes(8)
    conversation = Conversation(tls=Tls(), port=443).server(b"!" * 50)
    for _ in range(40):
        conversation.server(frame + b"x" * chunk)
    conversation.server(last + b"xxxxx").server(ping)
    (exchange,) = read(conversation.items)
    assert exchange.stream_id == 3
    assert exchange.response is not None
    assert bytes(exchange.response.body.data).endswith(b"x" * chunk + b"xxxxx")


def test_joined_inside_a_frame() -> None:
    talk = H2Talk()
    stream = talk.request()
    talk.respond(stream, bytes(range(256)) * 400)
    start = len(talk.conversation.items)
    talk.respond(talk.request(path="/next"), b"next")
    items = joined(talk, start - 6)
    cut = next(index for index, item in enumerate(items) if isinstance(item, Data) and len(item.data) > 2000)
    item = items[cut]
    assert isinstance(item, Data)
    items[cut] = Data(item.stream, item.time_ns, item.sender, item.data[1000:])
    notes = Notes()
    found = read(items, notes=notes)
    assert read_in_splits(items) == found
    assert notes.resynchronised >= 1
    last = found[-1]
    assert last.request is not None
    assert last.request.target == b"/next"
    assert last.response is not None
    assert last.response.body.data == b"next"
    for exchange in found[:-1]:
        assert exchange.response is not None
        assert bytes(exchange.response.body.data) in bytes(range(256)) * 400


def big_answer(body: bytes, fields: list[tuple[str, str]]) -> tuple[H2Talk, int]:
    """A response in one item among others, and that item's index."""
    talk = H2Talk()
    first = talk.request(path="/big")
    second = talk.request(path="/small")
    talk.server.send_headers(first, [(":status", "200"), *fields])
    talk.pump()
    talk.server.send_data(first, body[:1000])
    talk.pump()
    index = len(talk.conversation.items)
    talk.server.send_data(first, body[1000:2000])
    talk.pump()
    talk.server.send_data(first, body[2000:], end_stream=True)
    talk.pump()
    talk.respond(second, b"small")
    return talk, index


def damaged(items: list[StreamItem], index: int, start: int, length: int) -> list[StreamItem]:
    """``length`` bytes of an item, from ``start`` on, replaced by a gap."""
    item = items[index]
    assert isinstance(item, Data)
    before, after = item.data[:start], item.data[start + length :]
    pieces: list[StreamItem] = []
    if before:
        pieces.append(Data(item.stream, item.time_ns, item.sender, before))
    lost = len(item.data) - len(before) - len(after)
    pieces.append(Gap(item.stream, item.time_ns, item.sender, lost, "ring-full"))
    if after:
        pieces.append(Data(item.stream, item.time_ns, item.sender, after))
    return [*items[:index], *pieces, *items[index + 1 :]]


def targets(found: list[Exchange]) -> dict[bytes | None, Exchange]:
    """The exchanges by their path."""
    return {each.request.target: each for each in found if each.request is not None}


BODY = bytes(range(250)) * 12


def test_a_loss_inside_a_data_frame_is_exact() -> None:
    talk, index = big_answer(BODY, [])
    found = targets(read_in_splits(damaged(talk.conversation.items, index, 100, 200)))
    body = found[b"/big"].response.body  # type: ignore[union-attr]
    assert body.data == BODY[:1091] + BODY[1291:]
    assert [(lost.offset, lost.length) for lost in body.lost] == [(1091, 200)]
    assert found[b"/big"].outcome is found[b"/small"].outcome is Outcome.COMPLETE
    assert found[b"/small"].lost_bytes == 0


def test_a_lost_frame_is_a_hole_where_the_length_tells() -> None:
    talk, index = big_answer(BODY, [("content-length", str(len(BODY)))])
    found = targets(read_in_splits(damaged(talk.conversation.items, index, 0, 5000)))
    body = found[b"/big"].response.body  # type: ignore[union-attr]
    assert body.data == BODY[:1000] + BODY[2000:]
    assert [(lost.offset, lost.length, lost.reason) for lost in body.lost] == [(1000, 1000, "ring-full")]
    assert found[b"/small"].response is not None
    assert found[b"/small"].response.body.data == b"small"
    assert found[b"/big"].notes == ()


def test_a_lost_frame_is_a_doubt_where_nothing_tells() -> None:
    talk, index = big_answer(BODY, [])
    found = targets(read_in_splits(damaged(talk.conversation.items, index, 0, 5000)))
    assert found[b"/big"].notes == ("up to 1000 bytes of this stream may be missing (ring-full)",)
    assert found[b"/big"].response is not None
    body = found[b"/big"].response.body
    assert body.data == BODY[:1000] + BODY[2000:]
    assert body.doubts == (Lost(1000, 1000, "ring-full"),), (
        "where, and how much at most: the header is none of it"
    )
    marked = entry_of(found[b"/big"], 1 << 20)["response"]["_doubtfulRanges"]
    assert marked == [{"offset": 1000, "atMost": 1000, "reason": "ring-full"}]


@pytest.mark.parametrize(("start", "most"), [(0, 1000), (4, 1000), (8, 1000), (9, 0), (700, 0)])
def test_what_is_certain_of_a_loss_and_what_is_in_doubt(start: int, most: int) -> None:
    talk, index = big_answer(BODY, [])
    items = damaged(talk.conversation.items, index, start, 5000)
    found = targets(read_in_splits(items))
    assert found[b"/big"].response is not None
    body = found[b"/big"].response.body
    assert body.data == BODY[: 1000 + max(start - 9, 0)] + BODY[2000:]
    certain = sum(hole.length for hole in body.lost)
    assert sum(doubt.length for doubt in body.doubts) == most
    assert certain + most == 1000 - max(start - 9, 0), "nothing more is claimed than was lost"


def test_a_loss_inside_a_field_block_costs_that_head_and_what_was_in_the_table() -> None:
    talk = H2Talk()
    talk.respond(talk.request([("x-a", "1")], path="/1"), b"1")
    index = len(talk.conversation.items)
    talk.respond(talk.request([("x-b", "2")], path="/2"), b"2")
    talk.respond(talk.request([("x-a", "1")], path="/3"), b"3")
    notes = Notes()
    items = damaged(talk.conversation.items, index, 12, 3)
    first, second, third = read_in_splits(items)
    read(items, notes=notes)
    assert notes.lost_bytes == 3
    assert second.request is not None
    assert second.request.method is None
    assert second.request.target is None
    assert second.lost_bytes == 3
    assert second.notes == ("the header section of the request was lost",)
    assert second.response is not None
    assert second.response.body.data == b"2"
    assert third.request is not None
    assert third.request.target == b"/3"
    assert (UNKNOWN, UNKNOWN) in third.request.fields.pairs
    assert first.outcome is third.outcome is Outcome.COMPLETE


def test_requests_lost_as_a_whole_leave_their_responses() -> None:
    talk = H2Talk()
    talk.respond(talk.request(path="/1"), b"1")
    index = len(talk.conversation.items)
    talk.respond(talk.request(path="/2"), b"2")
    talk.respond(talk.request(path="/3"), b"3")
    _, second, third = read_in_splits(damaged(talk.conversation.items, index, 0, 10_000))
    assert second.request is None
    assert second.response is not None
    assert second.response.body.data == b"2"
    assert third.request is not None
    assert third.request.target == b"/3"


def test_the_end_of_a_stream_that_was_lost_is_told_by_its_length() -> None:
    talk = H2Talk()
    stream = talk.request(path="/1")
    talk.server.send_headers(stream, [(":status", "200"), ("content-length", "2")])
    talk.pump()
    talk.server.send_data(stream, b"ok")
    talk.pump()
    talk.server.send_data(stream, b"", end_stream=True)
    index = len(talk.conversation.items)
    talk.pump()
    talk.respond(talk.request(path="/2"), b"2")
    found = targets(read_in_splits(damaged(talk.conversation.items, index, 0, 10_000)))
    assert found[b"/1"].response is not None
    assert found[b"/1"].response.body.data == b"ok"
    assert found[b"/1"].lost_bytes == 0
    assert found[b"/2"].outcome is Outcome.COMPLETE


def is_part(captured: bytes, sent: bytes) -> bool:
    """``captured`` is ``sent`` with pieces cut out, in order."""
    rest = iter(sent)
    return all(byte in rest for byte in captured)


def busy_connection() -> tuple[list[StreamItem], dict[bytes, tuple[bytes, bytes]]]:
    """Interleaved streams; and by path what was sent up and down."""
    talk = H2Talk()
    sent: dict[bytes, tuple[bytes, bytes]] = {}
    streams = []
    for number in range(8):
        up, down = b"up%d " % number * 50, b"down%d " % number * 300
        path = f"/{number}"
        fields = [("x-number", str(number)), ("user-agent", "one and the same")]
        stream = talk.request(fields, path=path, method="POST", body=up)
        talk.server.send_headers(stream, [(":status", "200"), ("server", "s"), ("x-n", str(number % 3))])
        talk.pump()
        streams.append((stream, down))
        sent[path.encode()] = (up, down)
    for start in range(0, 3000, 700):
        for stream, down in streams:
            if down[start:]:
                talk.send(Side.SERVER, stream, down[start : start + 700], end=not down[start + 700 :])
    return talk.conversation.items, sent


BUSY, SENT = busy_connection()


def check_nothing_is_invented(found: list[Exchange]) -> None:
    """Every byte and every known field was sent, on the right stream."""
    for exchange in found:
        assert exchange.stream_id is not None
        path = b"/%d" % ((exchange.stream_id - 1) // 2)
        up, down = SENT[path]
        if exchange.request is not None:
            assert exchange.request.target in (None, path)
            assert exchange.request.method in (None, b"POST")
            assert is_part(bytes(exchange.request.body.data), up)
            for name, value in exchange.request.fields:
                if name == b"x-number":
                    assert value in (b"%s" % path[1:], UNKNOWN)
        if exchange.response is not None:
            assert exchange.response.status in (None, 200)
            assert is_part(bytes(exchange.response.body.data), down)
            for name, value in exchange.response.fields:
                if name == b"x-n":
                    assert value in (b"%d" % (int(path[1:]) % 3), UNKNOWN)


Damage = tuple[int, float, float]


@given(
    st.lists(st.tuples(st.integers(1, len(BUSY) - 1), st.floats(0, 1), st.floats(0, 1)), max_size=4),
    st.integers(0, 10_000),
)
def test_losses_anywhere_never_invent_a_byte(damages: list[Damage], join: int) -> None:
    items = list(BUSY)
    for index, start, length in sorted(damages, reverse=True):
        item = items[index]
        if isinstance(item, Data):
            size = len(item.data)
            first = min(int(start * size), size - 1)
            items = damaged(items, index, first, max(1, int(length * (size - first))))
    if join > 5000:
        opening = Conversation(handshake_seen=False, port=443).items
        items = [*opening, *items[join % len(BUSY) :]]
    notes = Notes()
    found = read(items, notes=notes)
    check_nothing_is_invented(found)
    assert notes.lost_bytes == sum(item.length for item in items if isinstance(item, Gap))
    assert len({each.stream_id for each in found}) == len(found)


def test_without_losses_the_busy_connection_is_whole() -> None:
    found = targets(read_in_splits(BUSY))
    assert {
        path: (bytes(each.request.body.data), bytes(each.response.body.data))
        for path, each in found.items()
        if each.request and each.response
    } == SENT


ODD: list[Callable[[bytes], bytes]] = [
    lambda data: data,
    lambda data: b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + data,
    lambda data: b"\x00\x00\x04\x08\x00\x00\x00\x00\x00" + data,
]


@given(
    st.lists(st.tuples(st.sampled_from(Side), st.binary(max_size=80), st.sampled_from(ODD)), max_size=12),
    st.booleans(),
    st.sampled_from([None, Tls(alpn="h2")]),
)
def test_no_input_is_too_odd(
    script: list[tuple[Side, bytes, Callable[[bytes], bytes]]], seen: bool, tls: Tls | None
) -> None:
    talk = Conversation(handshake_seen=seen, tls=tls)
    for side, data, dress in script:
        (talk.client if side is Side.CLIENT else talk.server)(dress(data))
    read(talk.items)
