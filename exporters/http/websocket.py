"""WebSocket messages over an upgraded connection or an HTTP/2 stream (RFC 6455, 7692, 8441).

Messages are put together from their fragments, unmasked and inflated. A loss inside a payload costs its message
(and, where the deflate context is kept from message to message, the content of those after it); a loss over a
frame's header costs the rest of that direction, because nothing in it tells where the next frame begins. Every loss
is one of the exchange, wherever it was; a message says besides what it lacks itself.
"""

from __future__ import annotations

import zlib
from dataclasses import replace
from enum import IntEnum
from typing import TYPE_CHECKING

from capture.streams import Side
from exporters.http.losses import add_loss
from exporters.http.messages import LOST_TO_LIMIT, NO_FIELDS, Body, Lost, Outcome, WebSocketMessage

if TYPE_CHECKING:
    from capture.streams import Tls
    from exporters.http.layers import Context
    from exporters.http.messages import Exchange

_FIN, _RESERVED, _RSV1, _MASKED = 0x80, 0x70, 0x40, 0x80
_DEFLATE_TAIL = b"\x00\x00\xff\xff"  # RFC 7692 §7.2.2

MAX_INFLATED_BYTES = 16 * 1024 * 1024
"""Of one message: what deflate can make of a frame has to end somewhere, and no user reads more."""

MAX_MESSAGES = 100_000
"""Of one WebSocket: one a second for a day. An empty one is two bytes on the wire, and some hundred in memory."""

MAX_FINAL_BLOCKS = 16
"""Of one message. A sender that makes any makes one, and the context is set up again after each."""

_WINDOW_BYTES = 32 * 1024
"""How far back deflate refers (RFC 1951 §2)."""

_UNFINISHED = "it was begun and never finished"
_UNKNOWN_EXTENSION = "it is as it was sent: an extension that is not known has changed it"
_OLDER_CONTEXT = "its deflate context is older than the recording"
_LOST = "bytes were lost"
_OMITTED = "bytes are over the limit and were left out"


class Opcode(IntEnum):
    """RFC 6455 §5.2."""

    CONTINUATION = 0
    TEXT = 1
    BINARY = 2
    CLOSE = 8
    PING = 9
    PONG = 10


class _Message:
    """A message while it comes in."""

    __slots__ = ("compressed", "data", "lost", "omitted", "opcode", "problem")

    def __init__(self, opcode: int, compressed: bool, problem: str | None = None) -> None:
        self.opcode = opcode
        self.compressed = compressed
        self.problem = problem
        self.data = bytearray()
        self.lost = 0
        self.omitted = 0

    def lose(self, length: int, omitted: bool) -> None:
        """The next ``length`` bytes were not captured, or were, and are ``omitted`` because of a limit."""
        if omitted:
            self.omitted += length
        else:
            self.lost += length

    def shortfall(self) -> str | None:
        """Why it is not all there."""
        reasons = []
        if self.problem is not None and not (self.lost and self.problem == _LOST):
            reasons.append(self.problem)
        if self.lost:
            reasons.append(f"{self.lost} {_LOST}")
        if self.omitted and self.problem != _OMITTED:
            reasons.append(f"cut: {self.omitted} {_OMITTED}")
        return "; ".join(reasons) or None


class _Inflater:
    """Undoes permessage-deflate, a message at a time (RFC 7692 §7.2.2)."""

    def __init__(self, keeps_context: bool) -> None:
        self._keeps_context = keeps_context
        self._window = b""
        self._stream = zlib.decompressobj(-zlib.MAX_WBITS)

    def inflate(self, data: bytes, limit: int) -> tuple[bytes, bool]:
        """What a message says, and whether ``limit`` bytes were enough for it; zlib.error where it is malformed."""
        if not self._keeps_context:
            self._window, self._stream = b"", zlib.decompressobj(-zlib.MAX_WBITS)
        rest, inflated = data + _DEFLATE_TAIL, bytearray()
        for _ in range(MAX_FINAL_BLOCKS):
            inflated += self._stream.decompress(rest, limit + 1 - len(inflated))
            if len(inflated) > limit:
                return bytes(inflated[:limit]), False
            ended, rest = self._stream.eof, self._stream.unused_data
            if ended or self._keeps_context:
                self._window = (self._window + inflated)[-_WINDOW_BYTES:]
            if not ended:
                return bytes(inflated), True
            # RFC 7692 §7.2.3.4: a block that says it is the last one ends the message, and not the context.
            self._stream = zlib.decompressobj(-zlib.MAX_WBITS, zdict=self._window)
        raise zlib.error(f"more than {MAX_FINAL_BLOCKS} last blocks")


class _Direction:
    """One side's frames."""

    def __init__(self, owner: WebSocketLayer, side: Side, deflated: bool, keeps_context: bool) -> None:
        self.wire_bytes = 0
        self.broken: str | None = None
        self.closed = False
        self.losses: tuple[list[Lost], list[Lost]] = ([], [])  # of up to so many bytes, and exact ones
        self.lost_messages = False  # of which nothing is shown, and how many is not known
        self._owner = owner
        self._from_client = side is Side.CLIENT
        self._deflated = deflated
        self._keeps_context = keeps_context
        self._inflater = _Inflater(keeps_context) if deflated else None
        self._rest = bytearray()
        self._captured_bytes = 0
        self._last_ns = 0
        self._message: _Message | None = None  # a data message that is not complete
        self._current: _Message | None = None  # whose frame's payload is coming in
        self._final = False
        self._mask = b""
        self._offset = 0
        self._remaining = 0

    @property
    def inside(self) -> bool:
        """Something has begun that is not over."""
        begun = bool(self._rest) or self._message is not None or self._current is not None
        return begun and self.broken is None

    def data(self, time_ns: int, data: bytes) -> None:
        self.wire_bytes += len(data)
        self._captured_bytes += len(data)
        self._last_ns = time_ns
        if self.broken is not None:
            self._owner.skipped(len(data))
            return
        self._rest += data
        position = 0
        while True:
            if self._current is None:
                size = self._header(position)
                if not size:
                    break
                position += size
                if self.broken is not None:
                    break
            taken = min(self._remaining, len(self._rest) - position)
            if taken:
                self._payload(bytes(self._rest[position : position + taken]))
                position += taken
            if self._remaining:
                break
            self._end_frame(time_ns)
        del self._rest[:position]
        if self.broken is not None:
            self._skip_rest()

    def gap(self, time_ns: int, length: int, reason: str, exact: bool) -> None:
        if exact:
            self.wire_bytes += length
        self._last_ns = time_ns
        omitted = reason == LOST_TO_LIMIT
        if not omitted:
            add_loss(self.losses[exact], Lost(self._captured_bytes, length, reason, exact))
        current = self._current if exact else None
        if current is not None:
            current.lose(min(length, self._remaining), omitted)
        if current is None or length > self._remaining:
            self.lost_messages = self.lost_messages or not omitted
            self._lose_track(f"{'' if exact else 'up to '}{length} bytes ({reason})", omitted)
            return
        self._remaining -= length
        self._offset += length
        if not self._remaining:
            self._end_frame(time_ns)

    def _lose_track(self, what: str, omitted: bool) -> None:
        """Where the next frame begins is not known any more."""
        if self.broken is None:
            self._skip_rest()
            self.end(_OMITTED if omitted else _LOST)
            self.broken = f"the messages after a {'cut' if omitted else 'loss'} of {what} are not known"

    def _skip_rest(self) -> None:
        self._owner.skipped(len(self._rest))
        self._rest.clear()

    def end(self, problem: str) -> None:
        """No more can be read: what has begun is shown as far as it came, and ``problem`` is why."""
        begun = self._message, self._current
        self._message = self._current = None
        for message in dict.fromkeys(begun):
            if message is not None:
                message.problem = message.problem or problem
                self._emit(message, self._last_ns)

    def _header(self, position: int) -> int:
        """Read the frame header at ``position`` (RFC 6455 §5.2); its size, 0 where more bytes are needed."""
        head = self._rest[position : position + 14]
        if len(head) < 2:
            return 0
        short = head[1] & 0x7F
        extended = {126: 2, 127: 8}.get(short, 0)
        masked = bool(head[1] & _MASKED)
        size = 2 + extended + (4 if masked else 0)
        if len(head) < size:
            return 0
        self._remaining = int.from_bytes(head[2 : 2 + extended], "big") if extended else short
        self._mask = bytes(head[size - 4 : size]) if masked else b""
        self._offset = 0
        self._begin_frame(head[0])
        return size

    def _begin_frame(self, first: int) -> None:
        opcode = first & 0x0F
        self._final = bool(first & _FIN)
        if opcode not in tuple(Opcode):
            self.end(_UNFINISHED)
            self.broken = f"a frame of type {opcode}, which does not exist"
            return
        if opcode == Opcode.CONTINUATION:
            self._current = self._message or _Message(Opcode.BINARY, False, "its beginning is missing")
        else:
            if opcode < Opcode.CLOSE:
                self.end(_UNFINISHED)  # RFC 6455 §5.4: the fragments of messages are not mixed
            # RFC 6455 §5.2: who sets a reserved bit has agreed on what it means.
            unknown = first & _RESERVED & ~(_RSV1 if self._deflated else 0)
            deflated = self._deflated and bool(first & _RSV1)
            self._current = _Message(opcode, deflated, _UNKNOWN_EXTENSION if unknown else None)
        if opcode < Opcode.CLOSE and not self._final:
            self._message = self._current

    def _payload(self, piece: bytes) -> None:
        if self._mask:
            size, start = len(piece), self._offset & 3
            key = (self._mask * (size // 4 + 2))[start : start + size]
            mixed = int.from_bytes(piece, "big") ^ int.from_bytes(key, "big")
            piece = mixed.to_bytes(size, "big")
        self._offset += len(piece)
        self._remaining -= len(piece)
        if self._current is not None:
            room = self._owner.room(len(piece))
            self._current.data += piece[:room]
            self._current.omitted += len(piece) - room

    def _end_frame(self, time_ns: int) -> None:
        message, self._current = self._current, None
        if message is None or not (self._final or message.opcode >= Opcode.CLOSE):
            return
        if message is self._message:
            self._message = None
        if message.opcode == Opcode.CLOSE:
            self.closed = True
        self._emit(message, time_ns)

    def _emit(self, message: _Message, time_ns: int) -> None:
        data, problem = bytes(message.data), message.shortfall()
        if message.compressed:
            data, problem = self._inflate(data, problem)
        self._owner.add(
            WebSocketMessage(
                time_ns, self._from_client, message.opcode, data, message.lost, problem, message.omitted
            )
        )

    def _inflate(self, data: bytes, problem: str | None) -> tuple[bytes, str | None]:
        if self._inflater is None:
            return data, problem or "its deflate context was lost"
        if problem is None:
            try:
                data, whole = self._owner.inflate(self._inflater, data)
            except zlib.error as error:
                problem = _OLDER_CONTEXT if self._owner.joined else str(error)
            else:
                if not whole:
                    problem = f"only the first {len(data)} inflated bytes are kept"
        if problem is not None and self._keeps_context:
            self._inflater = None
        return data, problem


class WebSocketLayer:
    """Both sides of a WebSocket; a Layer, which emits ``exchange`` with its messages when it is over."""

    def __init__(self, context: Context, exchange: Exchange, *, joined: bool = False) -> None:
        """``joined`` is one whose handshake was not recorded: what is marked in it is taken for deflated."""
        self.joined = joined
        self.messages: list[WebSocketMessage] = []
        self._context = context
        self._exchange = exchange
        self._kept_bytes = 0
        self._not_kept = 0
        self._finished = False
        fields = exchange.response.fields if exchange.response is not None else NO_FIELDS
        extensions = (fields.get(b"sec-websocket-extensions") or b"").lower()
        deflated = joined or b"permessage-deflate" in extensions
        self._directions = (
            _Direction(self, Side.CLIENT, deflated, b"client_no_context_takeover" not in extensions),
            _Direction(self, Side.SERVER, deflated, b"server_no_context_takeover" not in extensions),
        )

    def data(self, sender: Side, time_ns: int, data: bytes) -> None:
        """See Layer."""
        self._directions[sender].data(time_ns, data)

    def gap(self, sender: Side, time_ns: int, length: int, reason: str, *, exact: bool = True) -> None:
        """See Layer."""
        self._directions[sender].gap(time_ns, length, reason, exact)

    def tls_started(self, time_ns: int, tls: Tls) -> None:
        """See Layer: there is no TLS inside a WebSocket."""

    def closed(self, sender: Side, time_ns: int) -> None:
        """See Layer."""

    def finish(self, time_ns: int, outcome: Outcome) -> None:
        """See Layer."""
        if self._finished:
            return
        self._finished = True
        client, server = self._directions
        inside = client.inside or server.inside
        for side in self._directions:
            side.end(f"it is not whole: {outcome.value}")
        if (outcome is Outcome.CLOSED and not inside) or (client.closed and server.closed):
            outcome = Outcome.COMPLETE
        if client.lost_messages or server.lost_messages:
            outcome = Outcome.LOST
        lost = tuple(each for side in self._directions for kind in reversed(side.losses) for each in kind)
        exchange = self._exchange
        request, response = exchange.request, exchange.response
        notes = tuple(side.broken for side in self._directions if side.broken is not None)
        if self._not_kept:
            notes += (f"{self._not_kept} more messages are not shown",)
        self._context.notes.exchanges += 1
        self._context.notes.unfinished += outcome is not Outcome.COMPLETE
        self._context.emit(
            replace(
                exchange,
                request=request and replace(request, body=Body(wire_bytes=client.wire_bytes)),
                response=response and replace(response, body=Body(wire_bytes=server.wire_bytes)),
                outcome=outcome,
                ended_ns=time_ns,
                lost=exchange.lost + lost,
                socket_messages=tuple(self.messages),
                notes=exchange.notes + notes,
            )
        )

    def add(self, message: WebSocketMessage) -> None:
        """``message`` is over."""
        if len(self.messages) < MAX_MESSAGES:
            self.messages.append(message)
        else:
            self._not_kept += 1

    def room(self, size: int) -> int:
        """How much of ``size`` more bytes may be kept."""
        if len(self.messages) >= MAX_MESSAGES:
            return 0
        room = min(size, self._context.limits.socket_bytes - self._kept_bytes)
        self._kept_bytes += room
        return room

    def inflate(self, inflater: _Inflater, data: bytes) -> tuple[bytes, bool]:
        """What ``data``, which was kept and is no longer, says, as far as there is room for it."""
        self._kept_bytes -= len(data)
        room = self._context.limits.socket_bytes - self._kept_bytes
        inflated, whole = inflater.inflate(data, min(MAX_INFLATED_BYTES, room))
        self._kept_bytes += len(inflated)
        return inflated, whole

    def skipped(self, size: int) -> None:
        """``size`` bytes could not be read."""
        self._context.notes.skipped_bytes += size
