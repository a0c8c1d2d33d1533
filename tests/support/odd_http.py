"""Exchanges that no well-behaved program has: what an archive may contain all the same, for whoever imports it."""

from __future__ import annotations

import gzip
from typing import TYPE_CHECKING

from h2_talk import H2Talk
from http_streams import Conversation, read

from capture.streams import Side, Tls

if TYPE_CHECKING:
    from collections.abc import Iterator

    from exporters.http import Exchange

HOSTS = (
    b"a:99999",
    b"a:",
    b"a:b",
    b":80",
    b"[::1",
    b"[::1]:8080",
    b"::1",
    b"%",
    b"%zz.a",
    b"a b",
    b"a/b?c#d",
    b"a@b@c:80",
    b"user:pass@a",
    b"a\\b",
    b"b\xc3\xbccher.example",
    b"\xff\xfe",
    b"999.999.999.999",
    b"1.2.3.4.5",
    b"0x7f.1",
    b"xn--a",
    b"a..b",
    b"-",
    b"a,b",
    b"[1.2.3.4]",
    b"a^b",
    b"a|b",
    b"x" * 300,
)
TARGETS = (
    b"*",
    b"//double",
    b"/%",
    b"/%zz?%&%u1234=%",
    b"?only",
    b"#only",
    b"http://",
    b"http:///x",
    b"http://a:99999/",
    b"http://[::1/",
    b"foo://bar",
    b"urn:isbn:1",
    b"javascript:alert(1)",
    b"http://u:p@a/?x=y",
    b"/" + b"\xff\x01\x7f" * 3,
    b"/" + b"y" * 9000,
    b"/\\..\\?",
)
TUNNELS = (
    b"a:443",
    b"a",
    b":443",
    b"[::1]:443",
    b"[::1",
    b"a:99999",
    b"/x",
    b"http://a:443",
    b"%",
    b"a:443:443",
)
ANSWERS = (
    b"HTTP/1.1 200 \r\nContent-Length: 0\r\n\r\n",
    b"HTTP/1.0 999 \xff\xfe\r\nContent-Length: 0\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nX-Empty:\r\nX-Bytes: \xff\x80\r\nX-Utf: \xc3\xa9\r\nContent-Type:\r\n"
    b"Content-Length: 1\r\n\r\n\x00",
    b"HTTP/1.1 200 OK\r\nX-A: 1\r\n folded\r\nnot a field\r\nX-A: 1\r\nContent-Length: 0\r\n\r\n",
    b"HTTP/1.1 302 Found\r\nLocation: http://[::1\r\nContent-Length: 0\r\n\r\n",
    b"HTTP/1.1 302 Found\r\nLocation: \xff\r\nContent-Length: 0\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Type: %%%;;charset=;\xff\r\nContent-Length: 3\r\n\r\n\xff\xfe\xfd",
    b"HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=utf-7\r\nContent-Length: 3\r\n\r\n+AD",
    b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 7\r\n\r\n\xed\xa0\x80\xf0\x9f\x98\x80",
    b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 4\r\n\r\n\x1f\x8b\x08\x00",
    b"HTTP/1.1 206 Partial Content\r\nContent-Range: nonsense\r\nContent-Length: 2\r\n\r\nab",
    b"HTTP/1.1 200 OK\r\nSet-Cookie: =\r\nSet-Cookie: ;;;\r\nSet-Cookie: a=b; Expires=never; Max-Age=9999999999\r\n"
    b"Set-Cookie: \xff=\xfe; Expires=Mon, 99 Foo 99999 99:99:99 GMT; SameSite\r\nContent-Length: 0\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\nzzz\r\n",
    b"HTTP/1.1 204 No Content\r\n\r\n",
    b"HTTP/1.1 304 Not Modified\r\nContent-Length: 100\r\n\r\n",
    b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Length: 30\r\n\r\n"
    b"id: \x00\ndata: \xff\xfe\n\ndata\n\nevent:",
)
POSTED = (
    (b"application/x-www-form-urlencoded", b"=&&%=%&a=\xff&" + b"&b" * 50),
    (b"application/x-www-form-urlencoded", bytes(range(256))),
    (b"multipart/form-data", b"--x\r\n"),
    (b"multipart/form-data; boundary=x", b"--x\r\n\r\n\r\n--x\r\nContent-Disposition: form-data\r\n\r\n1\r\n--x--"),
    (b"multipart/form-data; boundary=x", b"--x\r\nContent-Disposition: form-data; name=\"\xff\"\r\n\r\n\xff\r\n--x--"),
    (b"", b"\x00\xff"),
    (b"application/json; charset=utf-16", '{"a": "é"}'.encode("utf-16")),
)  # fmt: skip
BIG_BYTES = 12_000_000


def odd_exchanges(big: int = BIG_BYTES) -> list[Exchange]:
    """All of them; two have ``big`` bytes of body, one as text."""
    return [exchange for talk in _conversations(big) for exchange in read(talk.items)]


def _conversations(big: int) -> Iterator[Conversation]:
    stream = 0

    def talk(tls: Tls | None = None) -> Conversation:
        nonlocal stream
        stream += 1
        return Conversation(stream, tls=tls, port=443 if tls else 80)

    ok = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
    for tls in (None, Tls(server_name="a..b\\c d", alpn="http/1.1")):
        for host in HOSTS:
            yield talk(tls).client(b"GET / HTTP/1.1\r\nHost: ", host, b"\r\n\r\n").server(ok)
    for target in TARGETS:
        yield talk().client(b"GET ", target, b" HTTP/1.1\r\nHost: a\r\n\r\n").server(ok)
    for target in TUNNELS:
        opened = talk().client(b"CONNECT ", target, b" HTTP/1.1\r\n\r\n").server(b"HTTP/1.1 200 OK\r\n\r\n")
        yield opened.client(b"GET / HTTP/1.0\r\n\r\n").server(ok)
    for answer in ANSWERS:
        yield talk().client(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").server(answer)
    for kind, body in POSTED:
        head = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Type: %s\r\nContent-Length: %d\r\n\r\n" % (
            kind,
            len(body),
        )
        yield talk().client(head, body).server(ok)
    yield talk().client(b"M#$%&'*+-.^_`|~ / HTTP/1.1\r\nHost: a\r\n\r\n").server(ok)
    yield from _big(talk(), big)
    yield _frames(talk())
    yield from _over_http2(talk, big)
    late = talk()
    late.items = Conversation(late.stream, handshake_seen=False, process=None).server(ok).items
    yield late
    yield talk().client(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").gap(Side.SERVER, 5_000_000_000)


def _big(talk: Conversation, big: int) -> Iterator[Conversation]:
    head = b"HTTP/1.1 200 OK\r\nContent-Type: %s\r\nContent-Length: %d\r\n\r\n"
    for kind, body in ((b"text/plain", b"line \xc3\xa9\n" * (big // 8)), (b"image/png", bytes(big))):
        talk.client(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").server(head % (kind, len(body)), body)
    packed = gzip.compress(bytes(big), 1)
    head = b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(packed)
    yield talk.client(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").server(head, packed)


def _frames(talk: Conversation) -> Conversation:
    """A WebSocket with text that is none, an empty message, a close frame of one byte, and no end."""
    talk.client(b"GET /ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
    talk.server(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
    return talk.server(b"\x81\x02\xff\xfe\x82\x00\x89\x01p\x88\x01\x00\x81\x7f", bytes(7), b"\x09abc")


def _over_http2(talk: object, big: int) -> Iterator[Conversation]:
    for scheme, authority, path in (
        ("ht tp", "a", "/"),
        ("", "", ""),
        ("file", "a", "/x"),
        ("https", "[::1", "\\"),
        ("https", "a:99999", "x y"),
    ):
        assert callable(talk)
        spoken = H2Talk(talk(Tls(alpn="h2", server_name="a")))
        stream = spoken.client.get_next_available_stream_id()
        head = [(":method", "GET"), (":scheme", scheme), (":authority", authority), (":path", path)]
        spoken.client.config.validate_outbound_headers = False
        spoken.client.send_headers(stream, [*head, ("priority", "u=999, \xff")], end_stream=True)
        spoken.pump()
        kind = ("content-type", "application/grpc")
        spoken.respond(
            stream, b"\x00\xff\xff\xff\xffshort", [kind, ("x-empty", "")], trailers=[("grpc-status", "x")]
        )
        yield spoken.conversation
