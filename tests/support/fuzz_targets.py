"""The parsers, each as a function of any bytes: a row per parser in TARGETS.

What a target raises is a finding; so is one that takes seconds for an input, or memory out of proportion to it
(``run.py`` limits both). Whatever a parser makes of the bytes goes all the way into an archive: what it may
contain, such as half a surrogate or a number of a thousand digits, must not break what comes after.
"""

from __future__ import annotations

import io
from dataclasses import replace
from typing import TYPE_CHECKING

import fuzz_capture
import fuzz_scripts
import fuzz_text
from fuzz_text import exchange_of
from http_streams import OPENED_NS

from capture.errors import CaptureFormatError
from capture.tls_hello import HelloReader
from exporters import entry_writers, packet_comments, summary
from exporters.dissection import Dissector
from exporters.har import EntryMaker, HarWriter
from exporters.har_redaction import Redaction
from exporters.http import Exchange, ExchangeReader, Limits
from exporters.http.content import decode_content
from exporters.http.hpack import MAX_BLOCK_BYTES, Decoder, HpackError
from exporters.http.messages import Body, Fields, Lost, Request, Response
from exporters.pcap import Packet
from exporters.reassembly import read_streams
from exporters.tls_records import RecordReader, server_cipher_suite, starts_tls

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from capture.streams import StreamItem

LIMITS = Limits(body_bytes=1 << 18, decoded_bytes=1 << 18, waiting_bytes=1 << 18, socket_bytes=1 << 18)
_LINK_TYPES = (1, 0, 101, 113, 276, 12, 228)


def _archive(exchanges: Iterable[Exchange]) -> None:
    """Everything that is made of exchanges."""
    maker = EntryMaker(LIMITS, Redaction.of(names=("token",)))
    writer = HarWriter(io.BytesIO(), maker)
    for exchange in exchanges:
        writer.write(exchange)
        summary.exchange_line(exchange, 120)
        entry = maker.entry_of(exchange)
        assert entry is not None
        entry_writers.curl_command(entry)
        entry_writers.transcript(entry)
    writer.close()


def _read(items: Iterable[StreamItem]) -> None:
    reader = ExchangeReader(LIMITS)
    for item in items:
        _archive(reader.feed(item))
    _archive(reader.close())


def http1(data: bytes) -> None:
    """A connection of which TLS, if there is any, told HTTP/1."""
    _read(fuzz_scripts.decode(data, "http/1.1"))


def http2(data: bytes) -> None:
    """The same of HTTP/2."""
    _read(fuzz_scripts.decode(data, "h2"))


def any_http(data: bytes) -> None:
    """A connection whose bytes must show what it is; WebSockets begin so."""
    _read(fuzz_scripts.decode(data))


def hpack(data: bytes) -> None:
    """Field blocks of a decoder, each after two bytes of length; the first byte says whether it joined late."""
    decoder = Decoder(bool(data[:1] > b"\x7f"))
    at = 1
    while at < len(data):
        size = int.from_bytes(data[at : at + 2], "little")
        try:
            fields, _ = decoder.decode(data[at + 2 : at + 2 + size])
        except HpackError:
            decoder.forget()
        else:
            assert sum(len(name) + len(value) for name, value in fields) <= MAX_BLOCK_BYTES
        at += 2 + size


def _body(data: bytes) -> tuple[Body, bytes]:
    """A body with marks and holes, as the first bytes say."""
    marks, lost, rest = data[:4], data[4:6], data[6:]
    offsets = sorted({mark * len(rest) // 256 for mark in marks})
    holes = sorted({hole * len(rest) // 256 for hole in lost if hole})
    return Body(
        rest,
        len(rest),
        tuple(Lost(hole, 3, "ring-full") for hole in holes),
        marks=tuple((offset, OPENED_NS + offset) for offset in offsets),
    ), rest


_CODINGS = (
    b"gzip",
    b"deflate",
    b"br",
    b"zstd",
    b"gzip, br",
    b"zstd, gzip",
    b"deflate, deflate",
    b"x-gzip",
    b"aws-chunked",
    b"gzip, aws-chunked",
)
_KINDS = (b"text/html", b"application/json; charset=utf-16", b"text/xml", b"image/png", b"text/plain")


def content(data: bytes) -> None:
    """A body with content codings, and the text that it is."""
    if len(data) < 8:
        return
    body, _ = _body(data[2:])
    fields = Fields(
        (
            (b"Content-Encoding", _CODINGS[data[0] % len(_CODINGS)]),
            (b"Content-Type", _KINDS[data[1] % len(_KINDS)]),
        )
    )
    assert len(decode_content(body, fields, LIMITS.decoded_bytes).data) <= max(
        LIMITS.decoded_bytes, len(body.data)
    )
    _archive([exchange_of(Response(200, b"", "HTTP/1.1", fields, OPENED_NS, OPENED_NS, 1, body))])


def charsets(data: bytes) -> None:
    """A document in a charset that its type, its mark or itself tells."""
    label = fuzz_text.charsets(data)
    if label is not None:
        _archive([fuzz_text.document(label, data[1:])])


def sse(data: bytes) -> None:
    """A stream of events, maybe compressed."""
    if not data:
        return
    body, _ = _body(data[1:])
    coding = ((b"Content-Encoding", _CODINGS[data[0] % 4]),) if data[0] > 127 else ()
    fields = Fields(((b"Content-Type", b"text/event-stream"), *coding))
    _archive([exchange_of(Response(200, b"", "HTTP/1.1", fields, OPENED_NS, OPENED_NS, 1, body))])


_GRPC = (b"application/grpc", b"application/grpc-web+proto", b"application/grpc-web-text")


def grpc(data: bytes) -> None:
    """A gRPC call: messages both ways, a path, and trailers."""
    if not data:
        return
    body, rest = _body(data[1:])
    kind = Fields(((b"Content-Type", _GRPC[data[0] % len(_GRPC)]),))
    trailers = Fields(((b"grpc-status", rest[:5000]), (b"grpc-message", rest[:100])))
    request = Request(
        b"POST", b"/" + rest[:20], "HTTP/2", kind, OPENED_NS, OPENED_NS, 1, body, scheme=b"https"
    )
    response = Response(200, b"", "HTTP/2", kind, OPENED_NS, OPENED_NS, 1, body, trailers)
    _archive([replace(exchange_of(response), request=request)])


def pcapng_file(data: bytes) -> None:
    """A capture file of any kind, to its end."""
    try:
        _read(read_streams(io.BytesIO(data)))
    except CaptureFormatError:
        return


def packets(data: bytes) -> None:
    """Packets of the link types that are met, by hand and by scapy."""
    dissector = Dissector()
    at = 1
    while data and at + 2 <= len(data):
        size = int.from_bytes(data[at : at + 2], "little")
        packet = Packet(
            OPENED_NS, _LINK_TYPES[data[0] % len(_LINK_TYPES)], data[at + 2 : at + 2 + size], size
        )
        dissector.segment(packet)
        at += 2 + max(size, 1)


def tls(data: bytes) -> None:
    """Hellos and records, in pieces and with gaps."""
    readers = RecordReader(16), HelloReader()
    for item in fuzz_scripts.decode(data):
        piece = getattr(item, "data", None)
        if piece is None:
            if (length := getattr(item, "length", None)) is not None:
                assert 0 <= readers[0].gap(length) <= length + 5
            continue
        starts_tls(piece)
        server_cipher_suite(piece)
        readers[1].feed(piece)
        whole = readers[0].whole_record(piece)
        if whole is None:
            fragments, unknown = readers[0].feed(piece)
            assert sum(len(fragment.data) for fragment in fragments) + unknown <= len(piece)


def comments(data: bytes) -> None:
    """What packets' comments say."""
    text = data.decode("utf-8", "replace")
    words = packet_comments.parse_words(text)
    if words is not None:
        opened = fuzz_scripts.decode(b"")[0]
        packet_comments.read_stream(words, 1, (1, 2), opened.client, opened.server)  # type: ignore[union-attr]
        packet_comments.read_tls(words)
        packet_comments.read_gap(words)
        again = packet_comments.parse_words(packet_comments.format_words(words))
        assert again is not None or not words
    packet_comments.parse_ledger([packet_comments.LEDGER_PREFIX + text])


TARGETS: Mapping[str, Callable[[bytes], None]] = {
    "http1": http1,
    "http2": http2,
    "websocket": any_http,
    "hpack": hpack,
    "content": content,
    "sse": sse,
    "grpc": grpc,
    "captures": pcapng_file,
    "packets": packets,
    "tls": tls,
    "comments": comments,
    "redaction": fuzz_text.redaction,
    "charsets": charsets,
    "elf": fuzz_capture.elf,
    "code": fuzz_capture.code,
    "sockets": fuzz_capture.sockets,
}
