"""Which application protocol plaintext speaks, by its first bytes: RFC 9112 §3 and §4, RFC 9113 §3.4 and §4.1.

A description for the file's ALPN and for telling client from server; it decides nothing about capturing.
"""

from __future__ import annotations

import re
from enum import Enum

HTTP2_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_REQUEST = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]{2,24} [^ \r\n]+ HTTP/1\.[01]\r?\n")
# Of a line that has its end the version decides: SIP's and RTSP's OPTIONS, and NNTP's HEAD, begin alike.
_REQUEST_BEGINNING = re.compile(
    rb"(?:GET|HEAD|POST|PUT|DELETE|OPTIONS|PATCH|CONNECT|TRACE|PROPFIND|REPORT) [/*h\w]"
    rb"[^\n]*(?: HTTP/1\.[01]\r?\n|\Z)"
)

# Frame type → the payload lengths it may have (None: any), whether it belongs to a stream (None: either), and the
# flags it may have (RFC 9113 §6). That much is looked at, for the first bytes of other protocols are numbers, too.
_FRAMES: dict[int, tuple[int | None, bool | None, int]] = {
    0: (None, True, 0x09),  # DATA
    1: (None, True, 0x2D),  # HEADERS
    2: (5, True, 0),  # PRIORITY
    3: (4, True, 0),  # RST_STREAM
    4: (None, False, 0x01),  # SETTINGS
    5: (None, True, 0x0C),  # PUSH_PROMISE
    6: (8, False, 0x01),  # PING
    7: (None, False, 0),  # GOAWAY
    8: (4, None, 0),  # WINDOW_UPDATE
    9: (None, True, 0x04),  # CONTINUATION
}
_SETTINGS = 4
_SETTING_BYTES = 6
_ON_ODD_STREAMS = (0, 1, 9)  # Those of even numbers are pushed, which is hardly seen any more.
# RFC 9113 §4.2: the initial SETTINGS_MAX_FRAME_SIZE, which hardly anyone raises.
_MAX_FRAME_BYTES = 16384


class Speech(Enum):
    """What some bytes are: the protocol's ALPN identifier, and what it begins with."""

    HTTP1_REQUEST = ("http/1.1", "request")
    HTTP1_RESPONSE = ("http/1.1", "response")
    HTTP2_PREFACE = ("h2", "preface")
    HTTP2_FRAMES = ("h2", "frames")

    @property
    def alpn(self) -> str:
        """As registered with IANA."""
        return self.value[0]


def recognise(data: bytes) -> Speech | None:
    """What these bytes, the first that are known of a direction, speak; None if it is nothing known."""
    if data.startswith(HTTP2_PREFACE[: max(3, len(data))]):
        return Speech.HTTP2_PREFACE
    if data.startswith((b"HTTP/1.0 ", b"HTTP/1.1 ")):
        return Speech.HTTP1_RESPONSE
    if _REQUEST_BEGINNING.match(data) or _REQUEST.match(data):
        return Speech.HTTP1_REQUEST
    if _is_frames(data):
        return Speech.HTTP2_FRAMES
    return None


def _is_frames(data: bytes) -> bool:
    """Whether the bytes are a run of HTTP/2 frames, of which the last may be cut."""
    at = 0
    while at + 9 <= len(data):
        length = int.from_bytes(data[at : at + 3])
        if length > _MAX_FRAME_BYTES or not _is_header(data[at + 3 : at + 9], length):
            return False
        at += 9 + length
    return at >= 9 and (at >= len(data) or len(data) - at < 9)


def _is_header(header: bytes, length: int) -> bool:
    """Whether a frame of this payload's length may have this type, flags and stream."""
    kind, flags, stream = header[0], header[1], int.from_bytes(header[2:])
    wanted, on_stream, allowed = _FRAMES.get(kind, (-1, None, 0))
    return not (
        (wanted is not None and length != wanted)
        or (kind == _SETTINGS and length % _SETTING_BYTES)
        or (on_stream is not None and on_stream != bool(stream))
        or (kind in _ON_ODD_STREAMS and stream % 2 == 0)
        or stream >> 31
        or flags & ~allowed
        or (not length and not flags and kind != _SETTINGS)  # allowed for some, and sense for none
    )
