"""HTTP/2 frames by their looks (RFC 9113 §4.1 and §6): what a header must be like, and where frames may begin.

About 40 bits of a header are predictable, so that a frame is found where it is not known that one begins; it is
believed if others follow it.
"""

from __future__ import annotations

import re
from enum import IntEnum
from struct import Struct

HEADER_BYTES = 9

MAX_SYNC_FRAME_BYTES = 16384
"""Synchronising believes in no longer frames: the default of SETTINGS_MAX_FRAME_SIZE, which few raise."""

MAX_SYNC_STREAM = 1 << 24
"""Nor in higher stream numbers: a connection of 8 million requests is rare, and 7 more bits tell."""


class FrameType(IntEnum):
    """RFC 9113 §6; other types are allowed, and ignored."""

    DATA = 0
    HEADERS = 1
    PRIORITY = 2
    RST_STREAM = 3
    SETTINGS = 4
    PUSH_PROMISE = 5
    PING = 6
    GOAWAY = 7
    WINDOW_UPDATE = 8
    CONTINUATION = 9


END_STREAM = 0x1
END_HEADERS = 0x4
PADDED = 0x8
PRIORITY = 0x20

_FLAGS = {
    FrameType.DATA: END_STREAM | PADDED,
    FrameType.HEADERS: END_STREAM | END_HEADERS | PADDED | PRIORITY,
    FrameType.PRIORITY: 0,
    FrameType.RST_STREAM: 0,
    FrameType.SETTINGS: 1,
    FrameType.PUSH_PROMISE: END_HEADERS | PADDED,
    FrameType.PING: 1,
    FrameType.GOAWAY: 0,
    FrameType.WINDOW_UPDATE: 0,
    FrameType.CONTINUATION: END_HEADERS,
}
FRAME_LENGTHS = {
    FrameType.PRIORITY: 5,
    FrameType.RST_STREAM: 4,
    FrameType.PING: 8,
    FrameType.WINDOW_UPDATE: 4,
}
ON_CONNECTION = frozenset((FrameType.SETTINGS, FrameType.PING, FrameType.GOAWAY))
ON_STREAM = frozenset(
    (
        FrameType.DATA, FrameType.HEADERS, FrameType.PRIORITY, FrameType.RST_STREAM, FrameType.PUSH_PROMISE,
        FrameType.CONTINUATION,
    )
)  # fmt: skip

_ON_ODD_STREAM = frozenset((FrameType.DATA, FrameType.HEADERS, FrameType.CONTINUATION))
"""Even streams are pushed, which is hardly seen any more: synchronising believes in none."""

SYNC_FRAMES = 3
"""How many frames in a row are believed. SETTINGS, of mostly zeros, can look like two of another kind."""

BUFFER_UNIT = 1024
"""Bodies come in frames that are alike, mostly of buffers' lengths."""

MAX_ALIKE_FRAMES = 8
"""After so many headers that tell nothing they are taken for rows."""

HEADER = Struct(">HBBBI")
_CANDIDATE = re.compile(rb"\x00[\x00-\x40].[\x00-\x09][\x00-\x2d][\x00-\x7f]", re.DOTALL)


def plausible(data: bytes | bytearray, position: int, max_stream: int = MAX_SYNC_STREAM) -> int:
    """The size of the frame whose header may be at ``position``; 0 where there is none."""
    high, low, kind, flags, stream = HEADER.unpack_from(data, position)
    length = high << 8 | low
    allowed = _FLAGS.get(kind)
    if length > MAX_SYNC_FRAME_BYTES or allowed is None or flags & ~allowed or stream > max_stream:
        return 0
    if (kind in ON_CONNECTION and stream) or (kind in ON_STREAM and not stream):
        return 0
    if kind in _ON_ODD_STREAM and not stream & 1:
        return 0
    if length != FRAME_LENGTHS.get(kind, length) or (kind == FrameType.SETTINGS and length % 6):
        return 0
    if not length and not flags and kind != FrameType.SETTINGS:  # allowed for some, and sense for none
        return 0
    return int(length) + HEADER_BYTES


def _tells(header: bytes, before: bytes) -> bool:
    """Whether a header is a sign of frames. In rows of one length, as databases send them, what looks like a header
    comes again where its frame would end.
    """
    length, kind = int.from_bytes(header[:3], "big"), header[3]
    return header != before or kind in FRAME_LENGTHS or length % BUFFER_UNIT == 0


def _believed(data: bytes | bytearray, position: int, boundary: bool, max_stream: int) -> bool | None:
    """Whether frames begin at ``position``; None where more bytes may tell.

    At a ``boundary`` two frames are enough, or one that fills what there is exactly; elsewhere it takes three that
    tell.
    """
    number, alike, header = 0, 0, b""
    while number < (2 if boundary else SYNC_FRAMES):
        if position + HEADER_BYTES > len(data):
            return True if boundary and number and position == len(data) else None
        size = plausible(data, position, max_stream)
        if not size or alike > MAX_ALIKE_FRAMES:
            return False
        before, header = header, bytes(data[position : position + HEADER_BYTES])
        if boundary or _tells(header, before):
            number += 1
        else:
            alike += 1
        position += size
    return True


def find_frames(
    data: bytes | bytearray, start: int, boundary: bool, max_stream: int = MAX_SYNC_STREAM
) -> tuple[int, bool]:
    """Where the first believable frame may begin, and whether one does.

    ``boundary`` says that ``start`` is the first byte after a loss, where writes and frames usually begin.
    Nothing before the place that is returned matters.
    """
    position = start
    while True:
        match = _CANDIDATE.search(data, position)
        if match is None:
            return max(len(data) - HEADER_BYTES + 1, start), False
        position = match.start()
        believed = _believed(data, position, boundary and position == start, max_stream)
        if believed is not False:
            return position, bool(believed)
        position += 1
