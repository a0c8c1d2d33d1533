"""HTTP/2 frames byte by byte, for what no library sends."""

from __future__ import annotations

from http_streams import Conversation

from capture.streams import Tls

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, CONTINUATION = 0, 1, 3, 4, 6, 7, 9
END_STREAM, END_HEADERS = 0x1, 0x4


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """RFC 9113 §4.1."""
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload


def _length(size: int) -> bytes:
    """RFC 7541 §5.1, with a prefix of seven bits."""
    if size < 127:
        return bytes([size])
    encoded, size = [127], size - 127
    while size >= 128:
        encoded.append(size & 127 | 128)
        size >>= 7
    return bytes([*encoded, size])


def field(name: bytes, value: bytes) -> bytes:
    """A literal that goes into no table (RFC 7541 §6.2.2)."""
    return b"\0" + _length(len(name)) + name + _length(len(value)) + value


def fields(*pairs: tuple[bytes, bytes]) -> bytes:
    """A field block."""
    return b"".join(field(*pair) for pair in pairs)


GET = fields((b":method", b"GET"), (b":path", b"/"), (b":scheme", b"https"), (b":authority", b"a"))
CONNECT = fields((b":method", b"CONNECT"), (b":authority", b"b:80"))
OK = fields((b":status", b"200"))
WEBSOCKET = fields(
    (b":method", b"CONNECT"),
    (b":protocol", b"websocket"),
    (b":path", b"/"),
    (b":scheme", b"https"),
    (b":authority", b"a"),
)
PINGS = frame(PING, 0, 0, b"12345678") * 3
"""By which a reader that has lost its place finds it again."""


def talk() -> Conversation:
    """A connection on which settings have been sent."""
    conversation = Conversation(tls=Tls(alpn="h2"), port=443)
    return conversation.client(PREFACE, frame(SETTINGS, 0, 0)).server(frame(SETTINGS, 0, 0))
