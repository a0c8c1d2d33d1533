"""Any messages, in any split and any interleaving of the directions, are read as what they are."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass

from http_streams import Conversation, read
from hypothesis import given
from hypothesis import strategies as st

from capture.streams import Data, Gap, Side, StreamItem
from exporters.http import Limits, Notes
from exporters.http.messages import Exchange, Outcome

TOKENS = st.text("abcdefghijklmnopqrstuvwxyzABCDEFXYZ-_.!~0123456789", min_size=1, max_size=12).map(
    str.encode
)
VALUES = (
    st.binary(max_size=30)
    .map(lambda value: bytes(byte for byte in value if byte not in b"\r\n\0"))
    .map(bytes.strip)
)
BODIES = st.binary(max_size=200)


@dataclass(frozen=True)
class Turn:
    """A request and its response, and the bytes that carry them."""

    method: bytes
    target: bytes
    fields: tuple[tuple[bytes, bytes], ...]
    upload: bytes
    status: int
    download: bytes
    chunks: tuple[int, ...] | None
    interim: bool

    def request(self) -> bytes:
        """The request as it is sent."""
        fields = b"".join(b"X-" + name + b": " + value + b"\r\n" for name, value in self.fields)
        length = b"Content-Length: %d\r\n" % len(self.upload) if self.upload else b""
        return (
            self.method
            + b" "
            + self.target
            + b" HTTP/1.1\r\nHost: a\r\n"
            + fields
            + length
            + b"\r\n"
            + self.upload
        )

    def response(self) -> bytes:
        """The response as it is sent, in chunks where ``chunks`` says so."""
        interim = b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n" if self.interim else b""
        start = b"HTTP/1.1 %d Some Reason\r\n" % self.status
        if self.chunks is None:
            body = b"" if self.method == b"HEAD" else self.download
            return interim + start + b"Content-Length: %d\r\n\r\n" % len(self.download) + body
        head = interim + start + b"Transfer-Encoding: chunked\r\n\r\n"
        if self.method == b"HEAD":
            return head
        pieces, rest = [], self.download
        for size in self.chunks:
            piece, rest = rest[:size], rest[size:]
            if piece:
                pieces.append(b"%x\r\n%s\r\n" % (len(piece), piece))
        if rest:
            pieces.append(b"%X;ext=1\r\n%s\r\n" % (len(rest), rest))
        return head + b"".join(pieces) + b"0\r\nT: 1\r\n\r\n"


TURNS = st.builds(
    Turn,
    st.sampled_from((b"GET", b"POST", b"HEAD", b"PUT", b"FROB")),
    TOKENS.map(lambda token: b"/" + token),
    st.lists(st.tuples(TOKENS, VALUES), max_size=4).map(tuple),
    BODIES,
    st.integers(200, 599).filter(lambda status: status not in (204, 304)),
    BODIES,
    st.none() | st.lists(st.integers(1, 50), max_size=5).map(tuple),
    st.booleans(),
)


def pieces(draw: st.DrawFn, data: bytes) -> list[bytes]:
    """``data`` cut anywhere."""
    cuts = sorted(draw(st.lists(st.integers(0, len(data)), max_size=12)))
    return [data[start:end] for start, end in zip([0, *cuts], [*cuts, len(data)], strict=True) if start < end]


@st.composite
def conversations(draw: st.DrawFn, causal: bool = False) -> tuple[list[Turn], list[StreamItem]]:
    """Turns, and items that carry them, cut anywhere: the directions interleaved anyhow, or (``causal``) such
    that no byte of a response comes before its request is whole."""
    turns = draw(st.lists(TURNS, min_size=1, max_size=4))
    talk = Conversation()
    if causal:
        for turn in turns:
            for piece in pieces(draw, turn.request()):
                talk.client(piece)
            for piece in pieces(draw, turn.response()):
                talk.server(piece)
        return turns, talk.items
    sent = [(Side.CLIENT, piece) for piece in pieces(draw, b"".join(turn.request() for turn in turns))]
    received = [(Side.SERVER, piece) for piece in pieces(draw, b"".join(turn.response() for turn in turns))]
    while sent or received:
        source = sent if sent and (not received or draw(st.booleans())) else received
        side, piece = source.pop(0)
        (talk.client if side is Side.CLIENT else talk.server)(piece)
    return turns, talk.items


def check(turn: Turn, exchange: Exchange) -> None:
    """``exchange`` is what ``turn`` says."""
    assert exchange.outcome is Outcome.COMPLETE
    request, response = exchange.request, exchange.response
    assert request is not None
    assert response is not None
    assert (request.method, request.target) == (turn.method, turn.target)
    sent = [(b"X-" + name, value) for name, value in turn.fields]
    assert list(request.fields)[1 : len(sent) + 1] == sent
    assert request.body.data == turn.upload
    assert response.status == turn.status
    assert response.body.data == (b"" if turn.method == b"HEAD" else turn.download)
    assert len(exchange.interim) == turn.interim
    assert request.head_bytes is not None
    assert request.head_bytes + request.body.wire_bytes == len(turn.request())


@given(conversations())
def test_any_split_and_any_interleaving(case: tuple[list[Turn], list[StreamItem]]) -> None:
    turns, items = case
    notes = Notes()
    found = sorted(read(items, notes=notes), key=lambda exchange: exchange.number)
    assert len(found) == len(turns)
    for turn, exchange in zip(turns, found, strict=True):
        check(turn, exchange)
    assert notes.skipped_bytes == notes.malformed == notes.lost_bytes == 0


@given(conversations(causal=True), st.data())
def test_a_loss_never_invents_a_byte(case: tuple[list[Turn], list[StreamItem]], data: st.DataObject) -> None:
    turns, items = case
    chosen = data.draw(st.sets(st.integers(1, len(items) - 1), max_size=3))
    damaged: list[StreamItem] = []
    lost = 0
    for index, item in enumerate(items):
        if index in chosen and isinstance(item, Data):
            damaged.append(Gap(item.stream, item.time_ns, item.sender, len(item.data), "ring-full"))
            lost += len(item.data)
        else:
            damaged.append(item)
    notes = Notes()
    found = read(damaged, notes=notes)
    assert notes.lost_bytes == lost
    by_target = {turn.target: turn for turn in turns}
    ambiguous = len(by_target) < len(turns)
    for exchange in found:
        request, response = exchange.request, exchange.response
        if request is not None and not ambiguous:
            assert request.target in by_target
            turn = by_target[request.target]
            assert is_part(bytes(request.body.data), turn.upload)
            if response is not None:
                assert response.status == turn.status
                assert is_part(bytes(response.body.data), turn.download)
        elif response is not None and not ambiguous:
            assert any(is_part(bytes(response.body.data), turn.download) for turn in turns)


def is_part(captured: bytes, sent: bytes) -> bool:
    """``captured`` is ``sent`` with pieces cut out, in order."""
    rest = iter(sent)
    return all(byte in rest for byte in captured)


@given(st.lists(st.tuples(st.sampled_from(Side), st.binary(max_size=60)), max_size=30), st.booleans())
def test_no_input_is_too_odd(script: list[tuple[Side, bytes]], seen: bool) -> None:
    talk = Conversation(handshake_seen=seen)
    for side, data in script:
        (talk.client if side is Side.CLIENT else talk.server)(data)
    read(talk.items)


HTTP_LIKE = st.sampled_from(
    [
        b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
        b"CONNECT a:1 HTTP/1.1\r\n\r\n",
        b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"POST / HTTP/1.1\r\nContent-Length: 5\r\n\r\n",
        b"GET / HTTP/1.1\r\nUpgrade: websocket\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n",
        b"HTTP/1.1 101 Switching\r\nUpgrade: websocket\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"3\r\nabc\r\n",
        b"0\r\n\r\n",
        b"\r\n",
        b"12345",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ]
)
STEPS = st.one_of(
    st.tuples(st.just("data"), st.sampled_from(Side), HTTP_LIKE),
    st.tuples(st.just("gap"), st.sampled_from(Side), st.integers(1, 30)),
    st.tuples(st.just("close"), st.sampled_from(Side), st.booleans()),
)


@given(st.lists(STEPS, max_size=25), st.booleans())
def test_messages_in_any_disorder_and_losses_anywhere(
    script: list[tuple[str, Side, bytes | int | bool]], seen: bool
) -> None:
    talk = Conversation(handshake_seen=seen)
    requests = 0
    for kind, side, what in script:
        if isinstance(what, bytes):
            (talk.client if side is Side.CLIENT else talk.server)(what)
            requests += side is Side.CLIENT
        elif kind == "gap":
            talk.gap(side, int(what))
        else:
            talk.closes(side, bool(what))
    notes = Notes()
    found = read(talk.items, Limits(waiting_bytes=200, outstanding=5), notes)
    assert len(found) == notes.exchanges
    assert sum(exchange.request is not None for exchange in found) <= requests
    with contextlib.suppress(IndexError):
        assert found[-1].ended_ns <= talk.items[-1].time_ns
