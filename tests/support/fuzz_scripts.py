"""Stream items as the bytes that a fuzzer changes, and back: any bytes are some items."""

from __future__ import annotations

from typing import TYPE_CHECKING

from http_streams import OPENED_NS, STEP_NS, Conversation

from capture.streams import Data, Gap, Side, StreamClosed, StreamItem, StreamOpened, Tls, TlsStarted

if TYPE_CHECKING:
    from collections.abc import Iterable

# Steps: what the three lowest bits of the first byte mean; then two bytes of length, then as many of data.
_CLIENT_DATA, _SERVER_DATA, _CLIENT_GAP, _SERVER_GAP, _CLIENT_CLOSE, _SERVER_CLOSE, _TLS, _WAIT = range(8)
# The first byte of a script.
JOINED, IN_TLS = 1, 2
_STEP_BYTES = 3
_MAX_STEP = 0xFFFF


def encode(items: Iterable[StreamItem], flags: int = 0) -> bytes:
    """The script of one connection."""
    script = bytearray([flags])

    def step(kind: int, length: int, data: bytes = b"") -> None:
        script.extend((kind, *length.to_bytes(2, "little")))
        script.extend(data)

    for item in items:
        match item:
            case Data(sender=sender, data=data):
                for at in range(0, len(data), _MAX_STEP):
                    piece = data[at : at + _MAX_STEP]
                    step(_CLIENT_DATA if sender is Side.CLIENT else _SERVER_DATA, len(piece), piece)
            case Gap(sender=sender, length=length):
                step(_CLIENT_GAP if sender is Side.CLIENT else _SERVER_GAP, min(length, _MAX_STEP))
            case StreamClosed(sender=sender, reset=reset):
                step(_CLIENT_CLOSE if sender is Side.CLIENT else _SERVER_CLOSE, int(reset))
            case TlsStarted():
                step(_TLS, 0)
    return bytes(script)


def decode(script: bytes, alpn: str | None = None) -> list[StreamItem]:
    """The connection that a script tells; ``alpn`` is that of TLS, where the script says that there is TLS."""
    flags = script[0] if script else 0
    tls = Tls(library="fuzz", server_name="a", alpn=alpn) if flags & IN_TLS else None
    opened = Conversation(tls=tls, handshake_seen=not flags & JOINED).items[0]
    assert isinstance(opened, StreamOpened)
    items: list[StreamItem] = [opened]
    at, now_ns = 1, OPENED_NS
    while at + _STEP_BYTES <= len(script):
        kind, length = script[at] & 7, int.from_bytes(script[at + 1 : at + _STEP_BYTES], "little")
        at += _STEP_BYTES
        now_ns += STEP_NS
        sender = Side(kind & 1)
        if kind in (_CLIENT_DATA, _SERVER_DATA):
            if length and at < len(script):
                items.append(Data(1, now_ns, sender, script[at : at + length]))
            at += length
        elif kind in (_CLIENT_GAP, _SERVER_GAP):
            items.append(Gap(1, now_ns, sender, length or 1, "ring-full"))
        elif kind in (_CLIENT_CLOSE, _SERVER_CLOSE):
            items.append(StreamClosed(1, now_ns, sender, bool(length & 1)))
        elif kind == _TLS:
            items.append(TlsStarted(1, now_ns, Tls(alpn=alpn)))
        else:
            now_ns += length * STEP_NS
    return items
