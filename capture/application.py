"""Which application protocol plaintext speaks, by its first bytes: RFC 9112 §3 and §4, RFC 9113 §3.4 and §4.1.

A description for the file's ALPN and for telling client from server; it decides nothing about capturing.
"""

from __future__ import annotations

import re
from enum import Enum

HTTP2_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_REQUEST = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]{2,24} [^ \r\n]+ HTTP/1\.[01]\r?\n")
_REQUEST_BEGINNING = re.compile(
    rb"(?:GET|HEAD|POST|PUT|DELETE|OPTIONS|PATCH|CONNECT|TRACE|PROPFIND|REPORT) [/*h\w]"
)

# Frame type → the payload lengths it may have (None: any), and whether it belongs to a stream (None: either).
_FRAMES: dict[int, tuple[int | None, bool | None]] = {
    0: (None, True),  # DATA
    1: (None, True),  # HEADERS
    2: (5, True),  # PRIORITY
    3: (4, True),  # RST_STREAM
    4: (None, False),  # SETTINGS
    5: (None, True),  # PUSH_PROMISE
    6: (8, False),  # PING
    7: (None, False),  # GOAWAY
    8: (4, None),  # WINDOW_UPDATE
    9: (None, True),  # CONTINUATION
}
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
        stream = int.from_bytes(data[at + 5 : at + 9])
        wanted, on_stream = _FRAMES.get(data[at + 3], (-1, None))
        if (wanted is not None and length != wanted) or length > _MAX_FRAME_BYTES or stream >> 31:
            return False
        if on_stream is not None and on_stream != bool(stream):
            return False
        at += 9 + length
    return at >= 9 and (at >= len(data) or len(data) - at < 9)
