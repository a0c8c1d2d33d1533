"""WebSockets that were joined in their middle: found by the looks of their frames (RFC 6455 §5.2).

Nothing in a frame says that it is one. But most calls begin with a frame and end with one, a client masks and a server
does not, and text is UTF-8: so what is made of whole frames again and again is believed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from capture.streams import Side
from exporters.http.content import has_controls
from exporters.http.messages import NO_FIELDS, Exchange, Outcome, Response
from exporters.http.websocket import Opcode, WebSocketLayer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from capture.streams import Tls
    from exporters.http.layers import Context
    from exporters.http.messages import Connection

_FIN, _RSV1, _NOT_IN_USE, _MASKED = 0x80, 0x40, 0x30, 0x80
_OPCODES = frozenset(Opcode)

BELIEVED_POINTS = 4
"""Two texts are believed, or four other frames: each tells some 13 bits by its first byte and its length."""

MAX_FRAMES = 16
"""No more are looked at: if so many tell enough, it does not matter where the last one ends. They are looked at anew
with each piece that comes."""

MAX_SHOWN_TEXT_BYTES = 256
"""How much of a message is looked at: text that is none shows it soon."""

MAX_CONTROL_BYTES = 125
MAX_FRAME_BYTES = 1 << 32
"""No longer frames are believed in."""


@dataclass(frozen=True, slots=True)
class _Walk:
    """Frames in a row: how much they tell, where messages of text are, and whether the last frame ends with the bytes
    or goes beyond them."""

    points: int
    texts: Sequence[tuple[int, int]]
    whole: bool


def _may_begin(side: Side, first: int, second: int) -> bool:
    """Whether a frame may begin with these two bytes."""
    opcode, short = first & 0x0F, second & 0x7F
    if opcode not in _OPCODES or first & _NOT_IN_USE or bool(second & _MASKED) != (side is Side.CLIENT):
        return False
    if opcode >= Opcode.CLOSE:
        return first & (_FIN | _RSV1) == _FIN and short <= MAX_CONTROL_BYTES
    return short > 0 or first & _FIN != 0 or first & _RSV1 != 0  # else it is allowed, and sense for none


def _header(side: Side, data: bytes | bytearray, position: int) -> tuple[int, int] | None:
    """The sizes of a frame's header and payload; (0, 0) where more bytes may tell, None where there is no frame."""
    if len(data) - position < 2:
        return 0, 0
    first, second = data[position], data[position + 1]
    if not _may_begin(side, first, second):
        return None
    short = second & 0x7F
    extended = {126: 2, 127: 8}.get(short, 0)
    size = 2 + extended + (4 if side is Side.CLIENT else 0)
    if len(data) - position < size:
        return 0, 0
    if not extended:
        return size, short
    length = int.from_bytes(data[position + 2 : position + 2 + extended], "big")
    # RFC 6455 §5.2: the shortest form is used.
    return (size, length) if (126 if extended == 2 else 1 << 16) <= length <= MAX_FRAME_BYTES else None


def _is_text(side: Side, data: bytes | bytearray, start: int, length: int) -> bool:
    shown = bytes(data[start : start + min(length, MAX_SHOWN_TEXT_BYTES)])
    if side is Side.CLIENT:
        key = data[start - 4 : start]
        shown = bytes(byte ^ key[i & 3] for i, byte in enumerate(shown))
    # The last character may go on.
    return not has_controls(shown) and "\ufffd" not in shown.decode("utf-8", "replace").rstrip("\ufffd")


def _walk(side: Side, data: bytes | bytearray, position: int) -> _Walk | None:
    """Follow the headers from ``position`` on; None where there are none."""
    points, texts = 0, []
    for _ in range(MAX_FRAMES):
        if position == len(data):
            break
        header = _header(side, data, position)
        if header is None:
            return None
        size, length = header
        first = data[position]
        is_text = first == _FIN | Opcode.TEXT  # a message in one frame, and not compressed
        if size and is_text:
            texts.append((position + size, length))
        position += size + length
        if not size or position > len(data):
            return _Walk(points, texts, whole=False)
        if first & 0x0F != Opcode.CONTINUATION:
            points += 2 if is_text and length > 1 else 1
    return _Walk(points, texts, whole=True)


def find_frames(side: Side, data: bytearray, place: int, seen: int) -> tuple[int, bool]:
    """Where frames may begin, and whether that is believed. ``place`` is what was returned the last time, when there
    were ``seen`` bytes: what is new may begin with a frame.
    """
    for start in dict.fromkeys((place, seen)):
        walked = _walk(side, data, start)
        if walked is None:
            continue
        if not walked.whole or walked.points < BELIEVED_POINTS:
            return start, False
        if all(_is_text(side, data, *text) for text in walked.texts):
            return start, True
    return len(data), False


class JoinedWebSocketLayer:
    """A WebSocket whose request was not recorded; a Layer. Each side is read from where a call begins with a frame."""

    def __init__(self, context: Context, connection: Connection, joined: bool) -> None:
        self._context = context
        self._connection = connection
        self._reads = [False, False]
        self._socket: WebSocketLayer | None = None

    def data(self, sender: Side, time_ns: int, data: bytes) -> None:
        """See Layer."""
        if not self._reads[sender] and not self._begins(sender, data):
            self._context.notes.skipped_bytes += len(data)
            return
        self._reads[sender] = True
        self._opened(time_ns).data(sender, time_ns, data)

    def gap(self, sender: Side, time_ns: int, length: int, reason: str, *, exact: bool = True) -> None:
        """See Layer."""
        if self._reads[sender]:
            self._opened(time_ns).gap(sender, time_ns, length, reason, exact=exact)

    def tls_started(self, time_ns: int, tls: Tls) -> None:
        """See Layer: there is no TLS inside a WebSocket."""

    def closed(self, sender: Side, time_ns: int) -> None:
        """See Layer."""

    def finish(self, time_ns: int, outcome: Outcome) -> None:
        """See Layer."""
        if self._socket is not None:
            # What was found first was held until then, one side after the other.
            self._socket.messages.sort(key=lambda message: message.time_ns)
            self._socket.finish(time_ns, outcome)

    def _begins(self, side: Side, data: bytes) -> bool:
        walked = _walk(side, data, 0)
        if walked is None or not all(_is_text(side, data, *text) for text in walked.texts):
            return False
        # What does not come at once may be a header by itself, or a text so far.
        header = _header(side, data, 0)
        begins_text = data[0] == _FIN | Opcode.TEXT
        return walked.whole or begins_text or (header is not None and header[0] == len(data))

    def _opened(self, time_ns: int) -> WebSocketLayer:
        if self._socket is None:
            response = Response(None, b"", "", NO_FIELDS, time_ns, time_ns)
            exchange = Exchange(
                self._connection, 0, None, response, Outcome.UNFINISHED, time_ns, socket_messages=()
            )
            self._socket = WebSocketLayer(self._context, exchange, joined=True)
        return self._socket
