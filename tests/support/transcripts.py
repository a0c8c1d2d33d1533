"""Streams as transcripts for the pcapng writer and the capture reader, and items made comparable."""

from __future__ import annotations

import io
import struct
from dataclasses import replace
from typing import TYPE_CHECKING

from capture.streams import (
    Data,
    Endpoint,
    Gap,
    Process,
    Side,
    StreamClosed,
    StreamItem,
    StreamOpened,
    Tls,
    TlsEnded,
    TlsStarted,
)
from exporters.packets import Framing, PcapngExporter
from exporters.pcapng import SectionMetadata
from exporters.reassembly import read_streams

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

START_NS = 1_700_000_000_123_456_789
METADATA = SectionMetadata("plaintap test", hardware="x86_64", operating_system="Linux")
CURL = Process(4242, "curl", "/usr/bin/curl", 'curl -s "https://example.com/"')
NGINX = Process(77, "nginx", "/usr/sbin/nginx", "nginx: worker process")

REQUEST = b"GET /index.html HTTP/1.1\r\nHost: example.com\r\nUser-Agent: curl\r\n\r\n"
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


def response(body: bytes = b"<html></html>", length: int | None = None) -> bytes:
    """An HTTP/1.1 response, whose Content-Length may promise more than ``body``."""
    size = len(body) if length is None else length
    return b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: %d\r\n\r\n%b" % (size, body)


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """An HTTP/2 frame (RFC 9113 §4.1)."""
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


# Static table entries and one literal (RFC 7541): GET / of https://example.com, and status 200.
HTTP2_REQUEST = bytes([0x82, 0x84, 0x87, 0x41, 11]) + b"example.com"
HTTP2_START = PREFACE + frame(4, 0, 0)


def http2_request(stream: int) -> bytes:
    """A HEADERS frame that ends headers and stream."""
    return frame(1, 5, stream, HTTP2_REQUEST)


def http2_response(stream: int, body: bytes) -> bytes:
    """HEADERS and the last DATA frame."""
    return frame(1, 4, stream, b"\x88") + frame(0, 1, stream, body)


def tls(alpn: str | None = "http/1.1", **fields: object) -> Tls:
    """A TLS session whose handshake was seen, unless ``fields`` say otherwise."""
    values: dict[str, object] = {
        "library": "libssl.so.3",
        "server_name": "example.com",
        "started_ns": START_NS + 2_000,
        "established_ns": START_NS + 3_000,
    }
    return Tls(alpn=alpn, **{**values, **fields})  # type: ignore[arg-type]  # fields of Tls by name


class Transcript:
    """One stream's items; every step is a microsecond after the one before."""

    def __init__(self, number: int = 1, port: int = 443, start_ns: int = START_NS, **opened: object) -> None:
        values: dict[str, object] = {
            "client": Endpoint(bytes([10, 0, number >> 8 & 255, number & 255]), 40_000 + number % 20_000),
            "server": Endpoint(b"\x0a\x01\x00\x02", port),
            "side": Side.CLIENT,
            "handshake_seen": True,
            "process": CURL,
            "fd": 5,
        }
        self.number = number
        self.now_ns = start_ns + 10_000
        values.update(opened)
        self.items: list[StreamItem] = [
            StreamOpened(number, start_ns, start_ns + 1_000, **values)  # type: ignore[arg-type]  # by name
        ]

    def _step(self) -> int:
        self.now_ns += 1_000
        return self.now_ns

    def client(self, *pieces: bytes) -> Transcript:
        """The client sends."""
        self.items += [Data(self.number, self._step(), Side.CLIENT, piece) for piece in pieces]
        return self

    def server(self, *pieces: bytes) -> Transcript:
        """The server sends."""
        self.items += [Data(self.number, self._step(), Side.SERVER, piece) for piece in pieces]
        return self

    def exchange(self, count: int = 1) -> Transcript:
        """HTTP/1 requests with their responses."""
        for _ in range(count):
            self.client(REQUEST).server(response())
        return self

    def lose(self, sender: Side, length: int, reason: str = "ring_full") -> Transcript:
        """Bytes that were not captured."""
        self.items.append(Gap(self.number, self._step(), sender, length, reason))
        return self

    def start_tls(self, session: Tls) -> Transcript:
        """TLS inside the connection."""
        self.items.append(TlsStarted(self.number, self._step(), session))
        return self

    def end_tls(self) -> Transcript:
        """Cleartext after TLS."""
        self.items.append(TlsEnded(self.number, self._step()))
        return self

    def close(self, *senders: Side, reset: bool = False, final: bool = False) -> Transcript:
        """FINs, by default of both sides, or a RST; after a ``final`` FIN there is none."""
        for sender in senders or (Side.CLIENT, Side.SERVER):
            self.items.append(StreamClosed(self.number, self._step(), sender, reset, final))
        return self


def interleave(transcripts: Iterable[Transcript]) -> list[StreamItem]:
    """All items, one of each transcript after the other."""
    queues = [list(transcript.items) for transcript in transcripts]
    items: list[StreamItem] = []
    while queues:
        for queue in queues:
            items.append(queue.pop(0))
        queues = [queue for queue in queues if queue]
    return items


def write(path: Path, items: Iterable[StreamItem], framing: Framing = Framing.TLS) -> Path:
    """The capture of these items."""
    path.write_bytes(capture(items, framing))
    return path


def capture(
    items: Iterable[StreamItem], framing: Framing = Framing.TLS, ledger: dict[str, object] | None = None
) -> bytes:
    """The bytes of the capture of these items."""
    pieces: list[bytes] = []
    exporter = PcapngExporter(pieces.append, METADATA, framing)
    for item in items:
        exporter.write(item)
    exporter.finish(ledger=ledger)
    return b"".join(pieces)


def read(data: bytes) -> list[StreamItem]:
    """The items in a capture's bytes."""
    return list(read_streams(io.BytesIO(data)))


def merged(items: Iterable[StreamItem]) -> list[StreamItem]:
    """Items as they are compared: Data and Gaps of a stream that follow one another are joined, empty ones go."""
    joined: list[StreamItem] = []
    last: dict[int, int] = {}
    for item in items:
        at = last.get(item.stream)
        before = joined[at] if at is not None else None
        if isinstance(item, Data) and not item.data:
            continue
        if isinstance(item, Data) and isinstance(before, Data) and before.sender is item.sender:
            joined[last[item.stream]] = replace(before, data=before.data + item.data)
        elif (
            isinstance(item, Gap)
            and isinstance(before, Gap)
            and (before.sender, before.reason) == (item.sender, item.reason)
        ):
            joined[last[item.stream]] = replace(before, length=before.length + item.length)
        else:
            last[item.stream] = len(joined)
            joined.append(item)
    return joined


def timeless(items: Iterable[StreamItem]) -> list[StreamItem]:
    """Merged items without their times."""
    return [
        replace(item, time_ns=0, established_ns=0)
        if isinstance(item, StreamOpened)
        else replace(item, time_ns=0)
        for item in merged(items)
    ]
