"""One direction of an HTTP/2 connection: where frames begin and end (RFC 9113 §4 to §6).

    PREFACE ─▶ HEADER ─▶ DATA     │ handed on as it comes in, so that a loss inside it is exact
                       ─▶ PAYLOAD │ collected: HEADERS, PUSH_PROMISE, CONTINUATION, RST_STREAM, GOAWAY
                       ─▶ IGNORE  │ all others, known or not (§5.5)
    anything ──loss over a frame's end, malformed──▶ RESYNC ──recognised frames──▶ HEADER

A loss inside a frame costs that frame. A loss over its end costs the boundaries: the next frame is looked for
by its header, of which about 40 bits are predictable, and believed if others follow it, or if it fills what has
come in since exactly.
"""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING, Protocol

from capture.streams import Side
from exporters.http.cursor import Cursor
from exporters.http.h2_sync import (
    FRAME_LENGTHS,
    HEADER,
    HEADER_BYTES,
    ON_CONNECTION,
    ON_STREAM,
    PADDED,
    FrameType,
    find_frames,
)
from exporters.http.messages import Lost
from exporters.http_starts import HTTP2_PREFACE as PREFACE

if TYPE_CHECKING:
    from exporters.http.layers import Notes

MAX_COLLECTED_BYTES = 1 << 20
"""Of one frame that is collected. The default limit of a frame is 16 KiB, and field blocks are smaller."""

_COLLECTED = frozenset(
    (
        FrameType.HEADERS,
        FrameType.PUSH_PROMISE,
        FrameType.CONTINUATION,
        FrameType.RST_STREAM,
        FrameType.GOAWAY,
    )
)


class State(IntEnum):
    """What the next byte is."""

    PREFACE = 0
    HEADER = 1
    DATA = 2
    PADDING = 3
    PAYLOAD = 4
    IGNORE = 5
    RESYNC = 6
    SKIP = 7


class FrameOwner(Protocol):
    """Who gives frames their meaning."""

    def frame(self, side: Side, frame: Frame, payload: bytes | None) -> None:
        """A collected frame; ``payload`` is None where bytes were lost (``frame.lost``), or there are too many."""

    def data_began(self, side: Side, frame: Frame, length: int) -> None:
        """A DATA frame's header has come in, which announces ``length`` bytes without the padding."""

    def data_came(self, side: Side, frame: Frame, piece: bytes, time_ns: int) -> None:
        """The next part of a DATA frame, without its padding."""

    def data_lost(self, side: Side, frame: Frame, length: int, reason: str) -> None:
        """The next ``length`` bytes of a DATA frame were lost."""

    def data_ended(self, side: Side, frame: Frame, time_ns: int) -> None:
        """All of a DATA frame has come in, or was lost."""

    def highest_stream(self) -> int:
        """The highest number that a stream may have by now, as far as that is known."""

    def sync_lost(self, side: Side, lost: Lost | None, most: int, time_ns: int) -> None:
        """Frames were lost, which ones is not known, with at most ``most`` bytes in them; or what came was no frame."""


class Frame:
    """A frame's header, the time of its first byte and, once it is whole, of its last."""

    __slots__ = ("ended_ns", "flags", "length", "lost", "promised", "started_ns", "stream", "type")

    def __init__(self, kind: int, flags: int, stream: int, length: int, started_ns: int) -> None:
        self.type = kind
        self.flags = flags
        self.stream = stream
        self.length = length
        self.started_ns = self.ended_ns = started_ns
        self.lost: Lost | None = None
        self.promised = 0  # the stream that a PUSH_PROMISE announces

    @property
    def wire_bytes(self) -> int:
        """The frame's size, its header included."""
        return self.length + HEADER_BYTES


class FieldBlock:
    """A field block that is coming in: HEADERS or PUSH_PROMISE, and the CONTINUATION frames after it."""

    __slots__ = ("data", "frame", "lost", "size", "too_big")

    def __init__(self, frame: Frame) -> None:
        self.frame = frame
        self.data = bytearray()
        self.lost: Lost | None = None
        self.size = frame.wire_bytes
        self.too_big = False

    def miss(self, lost: Lost | None) -> None:
        """A frame's payload is not there: it was ``lost``, or is over the limit."""
        self.lost = lost or self.lost
        self.too_big = self.too_big or lost is None


class FrameReader(Cursor):
    """Reads one direction."""

    def __init__(self, side: Side, owner: FrameOwner, notes: Notes, joined: bool) -> None:
        super().__init__()
        self.state = State.RESYNC if joined else State.PREFACE if side is Side.CLIENT else State.HEADER
        self._side = side
        self._owner = owner
        self._notes = notes
        self._started_ns: int | None = None  # of the frame whose header is in _rest
        self._frame = Frame(0, 0, 0, 0, 0)
        self._at_boundary = joined  # what comes next begins where something was lost
        self._remaining = 0  # of the frame's data or payload
        self._padding = 0
        self._payload: bytearray | None = bytearray()

    def data(self, time_ns: int, data: bytes) -> None:
        """The next bytes of the direction."""
        self._feed(time_ns, data)

    def gap(self, time_ns: int, length: int, reason: str, exact: bool) -> None:
        """The next ``length`` bytes of the direction were not captured; or up to so many."""
        while (
            length
            and exact
            and not self._rest
            and self.state in (State.DATA, State.PADDING, State.IGNORE, State.PAYLOAD)
        ):
            inside = min(length, self._remaining)
            if self.state is State.DATA:
                self._owner.data_lost(self._side, self._frame, inside, reason)
            elif self.state is State.PAYLOAD:
                self._lose_payload(inside, reason)
            self._remaining -= inside
            length -= inside
            if not self._remaining:
                self._end_part(time_ns)
        if length or not exact:
            # Where a frame was to begin, what is lost begins with its header, or the rest of it.
            header = HEADER_BYTES - len(self._rest) if self.state is State.HEADER else 0
            self._lose_sync(time_ns, Lost(0, length, reason), max(length - header, 0))

    def discard(self) -> None:
        """Nothing more comes of the direction."""
        self._notes.skipped_bytes += len(self._rest)
        self._rest.clear()
        self.state = State.SKIP

    # The states.

    def _consume(self, source: bytes | bytearray, time_ns: int) -> int:
        position, end = 0, len(source)
        while position < end:
            step = _STEPS[self.state](self, source, position, time_ns)
            if step < 0:
                break
            position = step
        return position

    def _preface(self, source: bytes | bytearray, position: int, time_ns: int) -> int:
        if len(source) - position < len(PREFACE):
            return -1
        if source[position : position + len(PREFACE)] != PREFACE:
            self._lose_sync(time_ns, None)
            return position
        self.state = State.HEADER
        return position + len(PREFACE)

    def _header(self, source: bytes | bytearray, position: int, time_ns: int) -> int:
        if self._started_ns is None:
            self._started_ns = time_ns
        if len(source) - position < HEADER_BYTES:
            return -1
        high, low, kind, flags, stream = HEADER.unpack_from(source, position)
        length = high << 8 | low
        stream &= 0x7FFFFFFF
        frame = self._frame = Frame(kind, flags, stream, length, self._started_ns)
        self._started_ns = None
        misplaced = (kind in ON_STREAM and not stream) or (kind in ON_CONNECTION and stream)
        if misplaced or length != FRAME_LENGTHS.get(kind, length):
            self._lose_sync(time_ns, None)
            return position + 1
        position += HEADER_BYTES
        self._remaining = length
        if kind == FrameType.DATA:
            return self._begin_data(frame, source, position)
        if kind in _COLLECTED:
            self.state, self._payload = State.PAYLOAD, None if length > MAX_COLLECTED_BYTES else bytearray()
        else:
            self.state = State.IGNORE
        if not length:
            self._end_part(time_ns)
        return position

    def _begin_data(self, frame: Frame, source: bytes | bytearray, position: int) -> int:
        if frame.flags & PADDED and frame.length:
            if position == len(source):  # the padding's length is still to come: read the header again then
                self._started_ns = frame.started_ns
                return -1
            self._padding = min(source[position], frame.length - 1)
            position += 1
            self._remaining = frame.length - 1 - self._padding
        else:
            self._padding = 0
        self._owner.data_began(self._side, frame, self._remaining)
        self.state = State.DATA
        if not self._remaining:
            self._end_part(frame.started_ns)
        return position

    def _data(self, source: bytes | bytearray, position: int, time_ns: int) -> int:
        end = min(len(source), position + self._remaining)
        self._owner.data_came(self._side, self._frame, bytes(source[position:end]), time_ns)
        return self._passed(position, end, time_ns)

    def _ignored(self, source: bytes | bytearray, position: int, time_ns: int) -> int:
        return self._passed(position, min(len(source), position + self._remaining), time_ns)

    def _collected(self, source: bytes | bytearray, position: int, time_ns: int) -> int:
        end = min(len(source), position + self._remaining)
        if self._payload is not None:
            self._payload += source[position:end]
        return self._passed(position, end, time_ns)

    def _passed(self, position: int, end: int, time_ns: int) -> int:
        self._remaining -= end - position
        if not self._remaining:
            self._end_part(time_ns)
        return end

    def _end_part(self, time_ns: int) -> None:
        """The data, the padding or the payload of the frame is over."""
        frame, state = self._frame, self.state
        if state is State.DATA and self._padding:
            self.state, self._remaining, self._padding = State.PADDING, self._padding, 0
            return
        self.state = State.HEADER
        frame.ended_ns = time_ns
        if state in (State.DATA, State.PADDING):
            self._owner.data_ended(self._side, frame, time_ns)
        elif state is State.PAYLOAD:
            payload = None if self._payload is None else bytes(self._payload)
            self._owner.frame(self._side, frame, payload)

    def _resync(self, source: bytes | bytearray, position: int, time_ns: int) -> int:
        # The connection is older, and what it says is not.
        if self._at_boundary and self._side is Side.CLIENT:
            start = bytes(source[position : position + len(PREFACE)])
            if start == PREFACE:
                self.state = State.HEADER
                return position + len(PREFACE)
            if PREFACE.startswith(start):
                return -1
        if self._started_ns is None:
            self._started_ns = time_ns
        place, believed = find_frames(source, position, self._at_boundary, self._owner.highest_stream())
        self._notes.skipped_bytes += place - position
        if place > position:
            self._started_ns = time_ns
            self._at_boundary = False
        if believed:
            self.state = State.HEADER
            self._notes.resynchronised += 1
            return place
        return place if place > position else -1

    def _skip(self, source: bytes | bytearray, position: int, time_ns: int) -> int:
        self._notes.skipped_bytes += len(source) - position
        return len(source)

    # Losses.

    def _lose_payload(self, length: int, reason: str) -> None:
        offset = len(self._payload or b"")
        self._payload = None
        before = self._frame.lost.length if self._frame.lost is not None else 0
        self._frame.lost = Lost(offset, before + length, reason)

    def _lose_sync(self, time_ns: int, lost: Lost | None, most: int = 0) -> None:
        if self.state is State.SKIP:
            return
        if lost is not None:
            self._notes.skipped_bytes += len(self._rest)
            self._rest.clear()
        self._started_ns = None
        self._at_boundary = lost is not None
        self.state = State.RESYNC
        self._owner.sync_lost(self._side, lost, most, time_ns)


_STEPS = (
    FrameReader._preface,
    FrameReader._header,
    FrameReader._data,
    FrameReader._ignored,
    FrameReader._collected,
    FrameReader._ignored,
    FrameReader._resync,
    FrameReader._skip,
)
"""Indexed by State."""
