"""HTTP/2 over one connection (RFC 9113): frames to streams, streams to exchanges.

Theory of operation. Each direction has a FrameReader and an HPACK decoder; frames meet in a StreamExchange by
their stream's number, so that it does not matter which direction comes first. An exchange ends when both sides
have ended the stream (END_STREAM), or one has reset it; what a client's reset answers has IN_FLIGHT_NS to come.

A loss inside a DATA frame is a hole in that stream's body. A loss inside a field block leaves that message
without its head, and makes the entries of the direction's HPACK table unknown. A loss over the end of a frame
may have hit any stream that was open: those whose Content-Length is met were not hit; those where it is not
have the hole where the loss was; the others are marked.
"""

from __future__ import annotations

import contextlib
from collections import OrderedDict, deque
from typing import TYPE_CHECKING

from capture.streams import Side
from exporters.http.h2_frames import FieldBlock, FrameReader
from exporters.http.h2_stream import DirectionLosses, StreamExchange
from exporters.http.h2_sync import END_HEADERS, END_STREAM, MAX_SYNC_STREAM, PADDED, PRIORITY, FrameType
from exporters.http.h2_tunnel import hold, is_open, open_inner, release, tell_losses
from exporters.http.held import Held
from exporters.http.hpack import MAX_BLOCK_BYTES, Decoder, HpackError
from exporters.http.messages import Lost, Outcome

if TYPE_CHECKING:
    from capture.streams import Tls
    from exporters.http.h2_frames import Frame
    from exporters.http.layers import Context
    from exporters.http.messages import Connection, Exchange, FieldPair

MAX_OPEN_STREAMS = 10_000
"""Streams of one connection that are collected: more than any server allows at a time (100 to 1000). The end of
a stream may have been lost."""

MAX_LOST_STREAMS = 2000
"""How many numbers are passed in one loss: a thousand requests in a row of which nothing was captured."""

MAX_CLOSED_STREAMS = 4096
"""Streams that have ended, and whose late frames are known for what they are."""

MAX_TIMES_GONE_AWAY = 100
"""GOAWAY that are heeded, each with a look at all streams. Servers send one or two."""

IN_FLIGHT_NS = 1_000_000_000
"""How late a write may be seen, when it returns, on a busy machine."""

_NO_ERROR = 0


class Http2Layer:
    """One HTTP/2 connection: a Layer, and the FrameOwner of its two readers."""

    def __init__(self, context: Context, connection: Connection, joined: bool) -> None:
        self._context = context
        self._connection = connection
        self._readers = tuple(
            FrameReader(side, self, context.notes, joined) for side in (Side.CLIENT, Side.SERVER)
        )
        self._decoders = (Decoder(joined), Decoder(joined))
        self._joined = joined
        self._highest = 0
        self._incomplete = joined  # requests may have been sent that were not seen
        self._blocks: list[FieldBlock | None] = [None, None]
        self._losses = (DirectionLosses(), DirectionLosses())
        self._times_gone_away = 0
        self._streams: OrderedDict[int, StreamExchange] = OrderedDict()
        self._cancelled: dict[int, tuple[int, str]] = {}  # until when the rest may come, and what to note
        self._closed: set[int] = set()
        self._closed_order: deque[int] = deque()
        self._count = 0

    def adopt(self, exchange: Exchange) -> None:
        """The request of ``exchange`` asked to go on in HTTP/2, and is its stream 1 (RFC 7540 §3.2)."""
        stream = self._begin(1)
        stream.adopted = request = exchange.request
        if request is not None:
            stream.interim = [*exchange.interim, *([exchange.response] if exchange.response else [])]
            stream.request.touch(request.started_ns)
            stream.request.touch(request.ended_ns)
        stream.request.ended = True
        stream.number = exchange.number
        self._count = exchange.number + 1

    # The Layer.

    def data(self, sender: Side, time_ns: int, data: bytes) -> None:
        """See Layer."""
        self._readers[sender].data(time_ns, data)

    def gap(self, sender: Side, time_ns: int, length: int, reason: str, *, exact: bool = True) -> None:
        """See Layer."""
        self._readers[sender].gap(time_ns, length, reason, exact)

    def tls_started(self, time_ns: int, tls: Tls) -> None:
        """See Layer: not in HTTP/2, but perhaps in a tunnel through it; in which one is not known."""

    def closed(self, sender: Side, time_ns: int) -> None:
        """See Layer."""
        if sender is Side.SERVER:  # what the client sent before it may still be to come
            for stream in [stream for stream in self._streams.values() if not stream.response.ended]:
                self._cut_off(stream, Outcome.CLOSED, time_ns)

    def finish(self, time_ns: int, outcome: Outcome) -> None:
        """See Layer."""
        self._fail_all(outcome, time_ns)
        for reader in self._readers:
            reader.discard()

    # The FrameOwner.

    def frame(self, side: Side, frame: Frame, payload: bytes | None) -> None:
        """See FrameOwner."""
        self._forget_cancelled(frame.started_ns)
        block = self._blocks[side]
        if frame.type == FrameType.CONTINUATION:
            if block is None or block.frame.stream != frame.stream:
                self._decoders[side].forget()  # the beginning of its block was lost
            else:
                self._extend_block(side, block, frame, payload)
            return
        if block is not None:  # RFC 9113 §6.2: nothing may come between; the rest of the block was lost
            self._end_block(side, block, frame.started_ns, whole=False)
        if frame.type in (FrameType.HEADERS, FrameType.PUSH_PROMISE):
            self._begin_block(side, frame, payload)
        elif frame.type == FrameType.RST_STREAM:
            self._reset(side, frame, payload)
        elif frame.type == FrameType.GOAWAY and side is Side.SERVER and payload is not None:
            self._go_away(int.from_bytes(payload[:4], "big") & 0x7FFFFFFF, frame.ended_ns)

    def data_began(self, side: Side, frame: Frame, length: int) -> None:
        """See FrameOwner."""
        stream = self._stream(frame.stream)
        if stream is not None:
            half = stream.half(side)
            half.touch(frame.started_ns)
            if stream.inner is None and not stream.tunnels:
                body = half.body_to_fill(self._context.limits.body_bytes)
                body.wire_bytes += frame.wire_bytes - length

    def data_came(self, side: Side, frame: Frame, piece: bytes, time_ns: int) -> None:
        """See FrameOwner."""
        stream = self._open_stream(frame.stream)
        if stream is None:
            self._context.notes.skipped_bytes += len(piece)
            return
        half = stream.half(side)
        half.touch(time_ns)
        if stream.inner is not None:
            stream.inner.data(side, time_ns, piece)
        elif stream.tunnels:
            hold(self._context, stream, Held(side, time_ns, piece))
        else:
            half.body_to_fill(self._context.limits.body_bytes).add(piece, time_ns)

    def data_lost(self, side: Side, frame: Frame, length: int, reason: str) -> None:
        """See FrameOwner."""
        stream = self._open_stream(frame.stream)
        if stream is None:
            return
        if stream.inner is not None:
            stream.inner.gap(side, frame.started_ns, length, reason)
        elif stream.tunnels:
            hold(self._context, stream, Held(side, frame.started_ns, None, length, reason))
        else:
            stream.half(side).body_to_fill(self._context.limits.body_bytes).lose(length, reason)

    def data_ended(self, side: Side, frame: Frame, time_ns: int) -> None:
        """See FrameOwner."""
        stream = self._open_stream(frame.stream)
        if stream is not None:
            half = stream.half(side)
            half.touch(time_ns)
            if frame.flags & END_STREAM:
                self._end_half(stream, side, time_ns)
            elif half.missing == 0 and (half.doubts or frame.stream in self._cancelled):
                self._end_half(stream, side, time_ns)  # the end was lost, and all the content is there

    def highest_stream(self) -> int:
        """See FrameOwner."""
        return MAX_SYNC_STREAM if self._joined else self._highest + MAX_LOST_STREAMS

    def sync_lost(self, side: Side, lost: Lost | None, most: int, time_ns: int) -> None:
        """See FrameOwner."""
        self._incomplete = self._incomplete or side is Side.CLIENT
        block, self._blocks[side] = self._blocks[side], None
        if block is not None:
            block.lost = lost
            self._end_block(side, block, time_ns, whole=False)
        self._decoders[side].forget()
        self._context.notes.malformed += lost is None
        self._losses[side].add(time_ns, most, "malformed" if lost is None else lost.reason)

    # Field blocks.

    def _begin_block(self, side: Side, frame: Frame, payload: bytes | None) -> None:
        block = self._blocks[side] = FieldBlock(frame)
        if payload is None:
            block.miss(frame.lost)
        else:
            block.data += self._fragment(side, frame, payload)
        if frame.flags & END_HEADERS:
            self._end_block(side, block, frame.ended_ns, whole=True)

    def _fragment(self, side: Side, frame: Frame, payload: bytes) -> bytes:
        """The field block fragment inside a HEADERS or PUSH_PROMISE frame (RFC 9113 §6.2 and §6.6)."""
        start, end = 0, len(payload)
        if frame.flags & PADDED and payload:
            start, end = 1, max(end - payload[0], 1)
        if frame.type == FrameType.PUSH_PROMISE:
            self._promise(int.from_bytes(payload[start : start + 4], "big") & 0x7FFFFFFF, frame)
            start += 4
        elif frame.flags & PRIORITY:
            if len(payload) >= start + 5 and (stream := self._stream(frame.stream)) is not None:
                stream.take_weight(payload[start + 4] + 1)
            start += 5
        return payload[start:end]

    def _promise(self, promised: int, frame: Frame) -> None:
        stream = self._stream(promised) if promised else None
        if stream is not None:
            stream.pushed = True
            frame.promised = promised

    def _extend_block(self, side: Side, block: FieldBlock, frame: Frame, payload: bytes | None) -> None:
        block.size += frame.wire_bytes
        if payload is None:
            block.miss(frame.lost)
        elif len(block.data) + len(payload) <= MAX_BLOCK_BYTES:
            block.data += payload
        else:
            block.too_big = True
        if frame.flags & END_HEADERS:
            self._end_block(side, block, frame.ended_ns, whole=True)

    def _end_block(self, side: Side, block: FieldBlock, time_ns: int, *, whole: bool) -> None:
        """Nothing more comes of the block. What is not ``whole`` is not decoded: what it says is not known."""
        self._blocks[side] = None
        frame, lost = block.frame, block.lost
        pairs: list[FieldPair] | None = None
        unknown = 0
        if whole and lost is None and not block.too_big:
            with contextlib.suppress(HpackError):
                pairs, unknown = self._decoders[side].decode(bytes(block.data))
        if pairs is None:
            self._context.notes.malformed += lost is None
            self._decoders[side].forget()
        announced = frame.promised if frame.type == FrameType.PUSH_PROMISE else frame.stream
        stream = self._stream(announced) if announced else None
        if stream is None:
            return
        sender = Side.CLIENT if frame.promised else side  # what is promised is a request
        if pairs is not None:
            stream.take_fields(sender, frame, pairs, unknown, block.size)
        else:
            stream.lose_fields(sender, frame, lost)
        self._decide_tunnel(stream, time_ns)
        if frame.flags & END_STREAM or frame.promised:
            self._end_half(stream, sender, time_ns)

    def _decide_tunnel(self, stream: StreamExchange, time_ns: int) -> None:
        """What a CONNECT becomes, once both its request and its answer have come."""
        status = stream.response.status
        if not stream.tunnels or status is None or status < 200:
            return
        stream.tunnels = False
        early = None
        if is_open(stream):
            body, stream.response.body = stream.response.body, None
            early = body.build() if body is not None else None
            exchange = stream.build(self._connection, time_ns)
            stream.inner = open_inner(self._context, self._connection, exchange)
            if exchange.request is not None and exchange.request.protocol is None:
                self._emit(exchange)
        release(self._context, stream, early)

    # Streams.

    def _stream(self, stream_id: int) -> StreamExchange | None:
        """The stream of that number, which may begin now; None where it has ended."""
        stream = self._open_stream(stream_id)
        if stream is None and stream_id not in self._closed:
            stream = self._begin(stream_id)
        return stream

    def _open_stream(self, stream_id: int) -> StreamExchange | None:
        stream = self._streams.get(stream_id)
        if stream is not None:
            tell_losses(self._context, stream, self._losses)
        return stream

    def _begin(self, stream_id: int) -> StreamExchange:
        stream = self._streams[stream_id] = StreamExchange(stream_id, self._count, self._losses)
        self._count += 1
        self._highest = max(self._highest, stream_id)
        if len(self._streams) > MAX_OPEN_STREAMS:
            oldest = next(iter(self._streams.values()))
            self._fail(oldest, Outcome.LOST, oldest.last_ns)
        return stream

    def _end_half(self, stream: StreamExchange, side: Side, time_ns: int) -> None:
        half = stream.half(side)
        half.touch(time_ns)
        half.ended = True
        if stream.inner is not None:
            stream.inner.closed(side, time_ns)
        unseen = self._incomplete and not stream.request.seen
        if stream.response.ended and (stream.request.doubts or unseen):
            stream.request.ended = True  # its end, or all of it, was lost or before the recording
        if stream.ended:
            self._end(stream, time_ns)

    def _reset(self, side: Side, frame: Frame, payload: bytes | None) -> None:
        stream = self._open_stream(frame.stream)
        if stream is None:
            return
        code = int.from_bytes(payload[:4], "big") if payload is not None else None
        if side is Side.SERVER and code == _NO_ERROR and stream.response.ended:
            self._end(stream, frame.ended_ns)  # RFC 9113 §8.1: the rest of the upload is not needed
            return
        by = "client" if side is Side.CLIENT else "server"
        note = f"reset by the {by}, error {'not recorded' if code is None else code}"
        missing = stream.response.missing if side is Side.CLIENT and stream.request.ended else None
        if missing == 0:
            self._cut_off(stream, Outcome.CANCELLED, frame.ended_ns)
            return
        self._cancelled.pop(frame.stream, None)  # in the order in which they are forgotten
        self._cancelled[frame.stream] = (frame.ended_ns + IN_FLIGHT_NS, note)
        if not missing:
            self._fail(stream, Outcome.CANCELLED, frame.ended_ns)

    def _forget_cancelled(self, time_ns: int) -> None:
        while self._cancelled:
            stream_id, (until_ns, _) = next(iter(self._cancelled.items()))
            if time_ns <= until_ns:
                return
            self._fail(self._streams[stream_id], Outcome.CANCELLED, until_ns - IN_FLIGHT_NS)

    def _go_away(self, last_stream: int, time_ns: int) -> None:
        """RFC 9113 §6.8: the server will not answer the client's streams after ``last_stream``."""
        self._times_gone_away += 1
        if self._times_gone_away > MAX_TIMES_GONE_AWAY:
            return
        for stream_id, stream in list(self._streams.items()):
            if stream_id > last_stream and stream_id % 2 and not stream.response.seen:
                stream.note("not answered: the server had sent GOAWAY")
                self._fail(stream, Outcome.CANCELLED, time_ns)

    def _fail_all(self, outcome: Outcome, time_ns: int) -> None:
        """The connection is over."""
        while self._streams:
            self._cut_off(next(iter(self._streams.values())), outcome, time_ns)

    def _cut_off(self, stream: StreamExchange, outcome: Outcome, time_ns: int) -> None:
        """No more comes. A client that has all of a response need not wait for the end of its stream."""
        if stream.request.ended and stream.response.missing == 0:
            stream.response.ended = True
            self._end(stream, stream.last_ns)
        else:
            self._fail(stream, outcome, time_ns)

    def _fail(self, stream: StreamExchange, outcome: Outcome, time_ns: int) -> None:
        _, note = self._cancelled.get(stream.stream_id, (0, ""))
        if note:
            stream.note(note)
        stream.outcome = Outcome.CANCELLED if note else outcome
        self._end(stream, time_ns)

    def _end(self, stream: StreamExchange, time_ns: int) -> None:
        tell_losses(self._context, stream, self._losses)
        del self._streams[stream.stream_id]
        self._cancelled.pop(stream.stream_id, None)
        self._closed.add(stream.stream_id)
        self._closed_order.append(stream.stream_id)
        if len(self._closed_order) > MAX_CLOSED_STREAMS:
            self._closed.discard(self._closed_order.popleft())
        if stream.inner is not None:
            stream.inner.finish(time_ns, stream.outcome)
            return
        if stream.request.seen or stream.response.seen:
            self._emit(stream.build(self._connection, time_ns))

    def _emit(self, exchange: Exchange) -> None:
        notes = self._context.notes
        notes.exchanges += 1
        notes.unfinished += exchange.outcome is not Outcome.COMPLETE
        notes.requests_not_seen += exchange.request is None
        self._context.emit(exchange)
