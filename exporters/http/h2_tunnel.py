"""What a stream is after CONNECT (RFC 9113 §8.5) or extended CONNECT (RFC 8441): the answer says it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from capture.streams import Side
from exporters.http.held import Held, HeldItems
from exporters.http.messages import LOST_TO_LIMIT, Connection
from exporters.http.websocket import WebSocketLayer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from exporters.http.h2_stream import DirectionLosses, Half, StreamExchange
    from exporters.http.layers import Context, Layer
    from exporters.http.messages import Body, Exchange


def hold(context: Context, stream: StreamExchange, item: Held) -> None:
    """``item`` came before the answer. Beyond the limit it is a loss, and so is all that follows."""
    if stream.held is None:
        stream.held = HeldItems()
    size = len(item.data or b"")
    if stream.held_enough or stream.held.has_no_room(size, context.limits.waiting_bytes):
        stream.held_enough = True
        context.notes.skipped_bytes += size
        stream.held.lose(item.side, item.time_ns, size or item.length, LOST_TO_LIMIT)
    else:
        stream.held.hold(item)


def tell_losses(context: Context, stream: StreamExchange, losses: tuple[DirectionLosses, ...]) -> None:
    """Any of ``losses`` may have hit ``stream`` since it was told of them last."""
    for side in Side:
        direction = losses[side]
        if (told := stream.told[side]) is direction.totals:
            continue
        stream.told[side] = direction.totals
        half = stream.half(side)
        if half.ended:
            continue
        for most, reason in direction.since(told):
            if stream.inner is not None:
                stream.inner.gap(side, direction.time_ns, most, reason, exact=False)
            elif stream.tunnels:
                hold(context, stream, Held(side, direction.time_ns, None, most, reason, exact=False))
            else:
                half.doubt(most, reason)


def is_open(stream: StreamExchange) -> bool:
    """Whether the answer makes the stream carry another protocol."""
    status, protocol = stream.response.status or 0, stream.request.pseudo.get(b":protocol")
    return status // 100 == 2 and protocol in (None, b"websocket")


def open_inner(context: Context, connection: Connection, exchange: Exchange) -> Layer:
    """What reads the stream of ``exchange``, a CONNECT and its answer, from here on."""
    request = exchange.request
    if request is not None and request.protocol is not None:
        return WebSocketLayer(context, exchange)
    target = request.target if request is not None else None
    return context.open_layer(context, Connection(connection.opened, None, target), False)


def release(context: Context, stream: StreamExchange, early: Body | None) -> None:
    """Hands on what was held, after ``early``: what of the server's bytes was read before the request."""
    held, stream.held = stream.held or HeldItems(), None
    inner = stream.inner
    if inner is None:
        while held:
            item = held.take()
            _add(context, stream.half(item.side), item)
        return
    if early is not None:
        for item in _pieces(early, stream.response.ended_ns):
            _feed(inner, item)
    while held:
        _feed(inner, held.take())
    for side in Side:
        if stream.half(side).ended:
            inner.closed(side, stream.half(side).ended_ns)


def _feed(inner: Layer, item: Held) -> None:
    if item.data is None:
        inner.gap(item.side, item.time_ns, item.length, item.reason, exact=item.exact)
    else:
        inner.data(item.side, item.time_ns, item.data)


def _add(context: Context, half: Half, item: Held) -> None:
    body = half.body_to_fill(context.limits.body_bytes)
    if item.data is not None:
        body.add(item.data, item.time_ns)
    elif item.exact:
        body.lose(item.length, item.reason)
    else:
        half.doubt(item.length, item.reason)


def _pieces(body: Body, time_ns: int) -> Iterator[Held]:
    """A server's body that turns out to be none."""
    position = 0
    for hole in body.lost:
        if hole.offset > position:
            yield Held(Side.SERVER, time_ns, bytes(body.data[position : hole.offset]))
        yield Held(Side.SERVER, time_ns, None, hole.length, hole.reason)
        position = hole.offset
    if position < len(body.data):
        yield Held(Side.SERVER, time_ns, bytes(body.data[position:]))
