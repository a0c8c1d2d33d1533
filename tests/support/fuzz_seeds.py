"""What fuzzing begins with: well-formed input of each target, of which small changes reach deep."""

from __future__ import annotations

import gzip
import io
import zlib
from pathlib import Path
from typing import TYPE_CHECKING

import brotli
import fuzz_capture
import fuzz_scripts
import zstandard
from h2_talk import H2Talk
from http_streams import Conversation

from capture.streams import Side, Tls
from exporters import tls_framing
from exporters.packets import PcapngExporter
from exporters.pcapng import SectionMetadata

if TYPE_CHECKING:
    from collections.abc import Iterator

_SAMPLES = Path(__file__).parents[2] / "samples"
_HELLO = b"GET /a?b=c HTTP/1.1\r\nHost: a\r\nCookie: x=y; z\r\n\r\n"
_UPLOAD = (
    b"POST /u HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nTransfer-Encoding: chunked\r\n"
    b"Content-Type: multipart/form-data; boundary=xx\r\n\r\n"
)
_PARTS = b"--xx\r\nContent-Disposition: form-data; name=\"f\"; filename*=utf-8''a\r\n\r\nv\r\n--xx--\r\n"


def _http1() -> Iterator[bytes]:
    two = (
        Conversation()
        .client(_HELLO)
        .server(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nSet-Cookie: a=b; Max-Age=5\r\n\r\nhello")
        .client(_UPLOAD)
        .server(b"HTTP/1.1 100 Continue\r\n\r\n")
        .client(b"%x\r\n" % len(_PARTS) + _PARTS + b"\r\n0\r\nT: 1\r\n\r\n")
        .server(
            b"HTTP/1.1 303 See\r\nLocation: /\r\nTransfer-Encoding: gzip, chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
        )
        .gap(Side.SERVER, 20)
        .client(_HELLO)
        .server(b"HTTP/1.0 200 OK\r\nContent-Type: text/html\r\n\r\n<html>")
        .closes(Side.SERVER)
    )
    yield fuzz_scripts.encode(two.items)
    tunnel = (
        Conversation()
        .client(b"CONNECT b:443 HTTP/1.1\r\nHost: b:443\r\n\r\n")
        .server(b"HTTP/1.1 200 OK\r\n\r\n")
        .starts_tls(Tls())
        .client(_HELLO)
        .gap(Side.CLIENT, 7)
        .server(b"HTTP/1.1 204 No\r\n\r\n")
        .closes(Side.CLIENT, reset=True)
    )
    yield fuzz_scripts.encode(tunnel.items, fuzz_scripts.IN_TLS)
    yield fuzz_scripts.encode(tunnel.items, fuzz_scripts.JOINED)


def _http2() -> Iterator[bytes]:
    talk = H2Talk()
    first = talk.request((("content-type", "application/grpc"),), b"\0\0\0\0\3abc", method="POST")
    second = talk.request((("priority", "u=1"),), path="/b?c")
    talk.pump()
    talk.server.send_headers(first, [(":status", "200"), ("content-type", "application/grpc")])
    talk.server.send_headers(second, [(":status", "103"), ("link", "</x>")])
    talk.server.send_headers(second, [(":status", "200"), ("content-length", "6")])
    talk.pump()
    talk.server.send_data(first, b"\0\0\0\0\2de", pad_length=5)
    talk.server.send_data(second, b"abcdef", end_stream=True)
    talk.server.send_headers(first, [("grpc-status", "0")], end_stream=True)
    talk.pump()
    third = talk.client.get_next_available_stream_id()
    talk.client.send_headers(third, [(":method", "CONNECT"), (":authority", "a:443")])
    talk.pump()
    talk.server.send_headers(third, [(":status", "200")])
    talk.pump()
    talk.client.send_data(third, _HELLO)
    talk.pump()
    talk.client.reset_stream(third)
    talk.pump()
    talk.server.close_connection()
    talk.pump()
    items = talk.conversation.items
    yield fuzz_scripts.encode(items, fuzz_scripts.IN_TLS)
    yield fuzz_scripts.encode(items[5:], fuzz_scripts.IN_TLS | fuzz_scripts.JOINED)
    yield fuzz_scripts.encode(items)


def _websocket() -> Iterator[bytes]:
    deflated = zlib.compressobj(wbits=-15)
    packed = (deflated.compress(b"hello") + deflated.flush(zlib.Z_SYNC_FLUSH))[:-4]
    talk = (
        Conversation()
        .client(b"GET /w HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n")
        .server(
            b"HTTP/1.1 101 S\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Extensions: permessage-deflate\r\n\r\n"
        )
        .server(b"\xc1" + bytes([len(packed)]) + packed)
        .client(b"\x01\x82abcd\x09\x0b\x80\x81abcd\x00\x89\x80abcd\x88\x82abcd\x62\x8a")
        .gap(Side.SERVER, 3)
        .server(b"\x82\x7e\x01\x00" + bytes(256) + b"\x88\x00")
    )
    yield fuzz_scripts.encode(talk.items)
    h2c = Conversation().client(
        b"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings\r\n"
        b"HTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n"
    )
    h2c.server(b"HTTP/1.1 101 S\r\nUpgrade: h2c\r\nConnection: Upgrade\r\n\r\n\0\0\0\4\0\0\0\0\0")
    h2c.client(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0")
    h2c.server(b"\0\0\1\1\5\0\0\0\1\x88")
    yield fuzz_scripts.encode(h2c.items)


def _hpack() -> Iterator[bytes]:
    block = bytes.fromhex(
        "828684418cf1e3c2e5f23a6ba0ab90f4ff828684be5886a8eb10649cbf400a637573746f6d2d6b6579"
    )
    for first in (b"\0", b"\xff"):
        yield first + len(block).to_bytes(2, "little") + block + b"\x04\0\x82\x3f\xe1\x1f"


def _content() -> Iterator[bytes]:
    text = b"<html><meta charset=utf-8>hello hello hello</html>" * 20
    packed = (gzip.compress(text), zlib.compress(text), brotli.compress(text), zstandard.compress(text))
    for number, data in enumerate(packed):
        yield bytes([number, 0]) + bytes(6) + data
    yield bytes([4, 1]) + bytes(6) + brotli.compress(packed[0])
    chunk = b"%x;chunk-signature=0\r\n%s\r\n" % (len(packed[0]), packed[0])
    for number in (8, 9):
        yield bytes([number, 0]) + bytes(6) + chunk + b"0;chunk-signature=1\r\nx-amz-checksum-crc32:a\r\n\r\n"


def _sse() -> Iterator[bytes]:
    events = b"\xef\xbb\xbfevent: a\r\nid: 1\r\ndata: x\rdata: y\n\n: comment\n\ndata\n\n"
    yield b"\0" + bytes(6) + events
    yield b"\x80" + bytes([0, 50, 100, 200, 0, 0]) + gzip.compress(events)


def _grpc() -> Iterator[bytes]:
    yield b"\0" + bytes(6) + b"\0\0\0\0\3abc\1\0\0\0\2de"
    yield b"\1" + bytes(6) + b"\0\0\0\0\3abc\x80\0\0\0\x0dgrpc-status:0"
    yield b"\2" + bytes(6) + b"AAAAAANhYmM=gAAAAA1ncnBjLXN0YXR1czow"


def _captures() -> Iterator[bytes]:
    for tls, flags in ((None, 0), (Tls("OpenSSL", "a", "http/1.1", 1, 2), 1)):
        talk = Conversation(tls=tls, handshake_seen=not flags).client(_HELLO)
        talk.server(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n").gap(Side.SERVER, 5).client(_HELLO)
        talk.closes(Side.SERVER).closes(Side.CLIENT)
        file = io.BytesIO()
        exporter = PcapngExporter(file.write, SectionMetadata(application="plaintap"))
        for item in talk.items:
            exporter.write(item)
        exporter.finish(ledger={"a": 1})
        yield file.getvalue()
    yield (_SAMPLES / "foreign.pcap").read_bytes()[:3000]


def _packets() -> Iterator[bytes]:
    ethernet = bytes.fromhex("020000000001020000000002")
    ipv4 = bytes.fromhex("4500002c0000400040060000 7f000001 7f000001".replace(" ", ""))
    tcp = bytes.fromhex("c3500050000000010000000050180000 00000000".replace(" ", "")) + b"GET "
    for number, packet in enumerate(
        (
            ethernet + b"\x08\x00" + ipv4 + tcp,
            b"\2\0\0\0" + ipv4 + tcp,
            ipv4 + tcp,
            bytes(14) + b"\x08\x00" + ipv4 + tcp,
            b"\x08\x00" + bytes(18) + ipv4 + tcp,
        )
    ):
        yield bytes([number]) + len(packet).to_bytes(2, "little") + packet
    vlan = ethernet + b"\x81\x00\x00\x01\x08\x00" + ipv4 + tcp
    yield b"\0" + len(vlan).to_bytes(2, "little") + vlan


def _tls() -> Iterator[bytes]:
    talk = (
        Conversation()
        .client(tls_framing.client_hello("example.com", "h2"))
        .server(tls_framing.server_hello("h2"))
        .client(tls_framing.application_data(b"hello" * 20))
        .gap(Side.CLIENT, 30)
        .client(tls_framing.application_data(b"hello"))
    )
    yield fuzz_scripts.encode(talk.items)


def _comments() -> Iterator[bytes]:
    yield b'pid=1 comm=a exe=/a cmd="a \\"b\\"" fd=3 side=client handshake=seen tls=framed lib=x host=a alpn=h2'
    yield b"lost=5 reason=ring-full"
    yield b'{"a":1}'


def _redaction() -> Iterator[bytes]:
    texts = (
        b'{"token": "a\\"b", "x": [{"token": [1, {"y": null}]}], "\\u0074oken": 5}',
        b"https://a:b@c/d?token=e&x=%7B%22token%22%3A%22f%22%7D#token=g",
        b'data: {"token":\ndata: "h"}\n\n{"inner": "{\\"token\\": \\"{\\\\\\"token\\\\\\": 1}\\"}"}',
        b"token=a;x=y; pass%20word=1&a%2Fb=\xc3\xa9&\xc3\xa9=1",
        b"curl -u a:b -H 'Authorization: Bearer c' --token=d https://e:f@g/?token=h mysql -psecret",
        b"<a><token b='c'>d</token><input name=token value='e'><n:token><![CDATA[f]]></n:token></a>",
        b'const q = {token: \'a\', \'token\' : `b`}; """token"""',
    )
    for number, text in enumerate(texts):
        yield bytes([number, 0]) + text
    yield b"\0\1" + texts[0][:40]


def _charsets() -> Iterator[bytes]:
    text = "<html><meta charset=utf-8>héllo 日本語</html>"
    for number, charset in enumerate(("utf-8", "utf-16", "utf-16be", "utf-32", "utf-7")):
        yield bytes([number]) + text.encode(charset)
    for number, charset in ((7, "shift_jis"), (8, "euc-jp"), (9, "iso-2022-jp"), (10, "gb18030"), (15, "hz")):
        yield bytes([number]) + text.replace("é", "e").encode(charset, "replace")
    yield b'\0<?xml version="1.0" encoding="iso-8859-1"?><a>\xe9</a>'


SEEDS = {
    "http1": _http1,
    "http2": _http2,
    "websocket": _websocket,
    "hpack": _hpack,
    "content": _content,
    "sse": _sse,
    "grpc": _grpc,
    "captures": _captures,
    "packets": _packets,
    "tls": _tls,
    "comments": _comments,
    "redaction": _redaction,
    "charsets": _charsets,
    "elf": fuzz_capture.executables,
    "code": fuzz_capture.machine_code,
    "sockets": fuzz_capture.socket_dumps,
}
