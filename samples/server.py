#!/usr/bin/env python3
"""The sample server: HTTPS and HTTP on loopback, an endpoint for each thing that HTTP/1.1 can do.

Prints one line of JSON when it accepts connections::

    {"pid": 4711, "http": 40001, "https": 40002, "certificate": "/tmp/plaintap-sample-x/cert.pem"}

and serves until SIGINT, SIGTERM or, with ``--until-stdin-closes``, the end of its standard input, which
also comes when whoever started it dies. It needs Python and the ``openssl`` command; ``/encoded/br`` and
``/encoded/zstd`` also need the packages brotli and zstandard.

Bodies of ``/bytes`` and ``/chunked`` are a function of their length alone (``sample_blocks``), so that a
judge can compute what must have been sent. Every response names the client's port in ``X-Client-Port``.
"""

from __future__ import annotations

import argparse
import contextlib
import gzip
import hashlib
import http.server
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
import time
import urllib.parse
import zlib
from dataclasses import dataclass, field
from enum import Enum
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

BLOCK_BYTES = 1 << 20
# A request body that is not echoed is only hashed, so this bounds what one `read` holds in memory.
READ_BYTES = 1 << 16
# How long a closing TLS connection waits for the peer's close_notify (RFC 8446 §6.1 lets it not come).
CLOSE_NOTIFY_SECONDS = 0.5
# Connections that wait to be accepted: more than any test opens at once.
BACKLOG = 1024

TEXT = "Plaintap sees what the program saw: grüße, 世界, and a line that compresses well.\n" * 40
# A 1×1 PNG, so that a capture also holds a body that is no text.
PIXEL = bytes.fromhex(
    "89504e470d0a1a0a0000000d49484452000000010000000108060000001f15c489"
    "0000000d49444154789c6360f8cf500f0003860180e0cc8d3f0000000049454e44ae426082"
)
PAGE = """<!doctype html>
<title>plaintap</title>
<h1>It works</h1>
<p>This page was recorded without keys, proxies or restarts.</p>
"""


class Framing(Enum):
    """How a response body ends (RFC 9112 §6.3)."""

    LENGTH = "content-length"
    CHUNKED = "chunked"
    CLOSE = "close"


@dataclass(frozen=True, slots=True)
class Request:
    """What a route needs to know; ``read`` yields the body's bytes once."""

    method: str
    path: str
    argument: str
    query: dict[str, str]
    headers: dict[str, str]
    read: Callable[[], Iterator[bytes]]


@dataclass(frozen=True, slots=True)
class Reply:
    """A response: ``length`` must be given where ``body`` is no bytes and the framing is LENGTH."""

    body: bytes | Iterable[bytes] = b""
    content_type: str | None = "text/plain; charset=utf-8"
    status: int = 200
    headers: tuple[tuple[str, str], ...] = ()
    framing: Framing = Framing.LENGTH
    length: int | None = None
    trailers: Callable[[], dict[str, str]] = field(default=dict)


def sample_blocks(length: int) -> Iterator[bytes]:
    """The body of ``/bytes/<length>``: pseudo-random, so that no byte of it can be guessed or repeated."""
    for start in range(0, length, BLOCK_BYTES):
        block = hashlib.shake_128(f"plaintap sample {length} {start}".encode())
        yield block.digest(min(BLOCK_BYTES, length - start))


@cache
def sample_sha256(length: int) -> str:
    """The hexadecimal SHA-256 of ``sample_blocks(length)``."""
    digest = hashlib.sha256()
    for block in sample_blocks(length):
        digest.update(block)
    return digest.hexdigest()


# --- routes: each takes a Request and returns a Reply -------------------------------------------------


def page(_request: Request) -> Reply:
    """A page of HTML."""
    return Reply(PAGE.encode(), "text/html; charset=utf-8")


def text(_request: Request) -> Reply:
    """A text that is not ASCII."""
    return Reply(TEXT.encode())


def as_json(request: Request) -> Reply:
    """What was asked for, as JSON."""
    told = {"method": request.method, "path": request.path, "query": request.query}
    return Reply(json.dumps(told).encode(), "application/json")


def pixel(_request: Request) -> Reply:
    """A picture."""
    return Reply(PIXEL, "image/png")


def sample_bytes(request: Request) -> Reply:
    """``/bytes/N``: N pseudo-random bytes with a Content-Length."""
    length = int(request.argument)
    headers = (("X-SHA256", sample_sha256(length)),)
    return Reply(sample_blocks(length), "application/octet-stream", headers=headers, length=length)


def chunked(request: Request) -> Reply:
    """``/chunked/N?size=K``: N bytes in chunks of K (8,000), their SHA-256 in a trailer field."""
    length, size = int(request.argument), int(request.query.get("size", "8000"))
    body = b"".join(sample_blocks(length))
    return Reply(
        (body[at : at + size] for at in range(0, length, size)),
        "application/octet-stream",
        headers=(("Trailer", "X-SHA256"),),
        framing=Framing.CHUNKED,
        trailers=lambda: {"X-SHA256": hashlib.sha256(body).hexdigest()},
    )


def close_delimited(request: Request) -> Reply:
    """``/close/N``: N bytes that only the end of the connection delimits."""
    length = int(request.argument)
    headers = (("X-SHA256", sample_sha256(length)),)
    return Reply(sample_blocks(length), "application/octet-stream", headers=headers, framing=Framing.CLOSE)


def raw_deflate(data: bytes) -> bytes:
    """Deflate without the zlib wrapper, as some servers send it against RFC 9110 §8.4.1.2."""
    compressor = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return compressor.compress(data) + compressor.flush()


def brotli(data: bytes) -> bytes:
    """Brotli (RFC 7932)."""
    import brotli as coder  # noqa: PLC0415  # only this endpoint needs the package

    return bytes(coder.compress(data))


def zstd(data: bytes) -> bytes:
    """Zstandard (RFC 8878)."""
    import zstandard as coder  # noqa: PLC0415  # only this endpoint needs the package

    return bytes(coder.compress(data))


CODINGS: dict[str, tuple[str, Callable[[bytes], bytes]]] = {
    "gzip": ("gzip", gzip.compress),
    "deflate": ("deflate", zlib.compress),
    "raw-deflate": ("deflate", raw_deflate),
    "br": ("br", brotli),
    "zstd": ("zstd", zstd),
}


def encoded(request: Request) -> Reply:
    """``/encoded/CODING``: the text of ``/text`` in a content coding."""
    name, encode = CODINGS[request.argument]
    return Reply(encode(TEXT.encode()), headers=(("Content-Encoding", name),))


def echo(request: Request) -> Reply:
    """``/echo``: the length and SHA-256 of the request's body."""
    digest, length = hashlib.sha256(), 0
    for piece in request.read():
        digest.update(piece)
        length += len(piece)
    told = {"length": length, "sha256": digest.hexdigest()}
    return Reply(json.dumps(told).encode(), "application/json")


def form(request: Request) -> Reply:
    """``/form``: the fields of a posted form."""
    fields = urllib.parse.parse_qsl(b"".join(request.read()).decode())
    return Reply(json.dumps(fields).encode(), "application/json")


def status(request: Request) -> Reply:
    """``/status/CODE``: a response of that status; 204 and 304 have no body (RFC 9110 §15)."""
    code = int(request.argument)
    if code in {204, 304}:
        return Reply(content_type=None, status=code, headers=(("ETag", '"plaintap"'),))
    return Reply(f"status {code}\n".encode(), status=code)


def redirect(_request: Request) -> Reply:
    """``/redirect``: a 302 to ``/text``."""
    return Reply(b"see /text\n", status=302, headers=(("Location", "/text"),))


def cookies(request: Request) -> Reply:
    """``/cookies``: sets two cookies and repeats the ones that came."""
    given = (
        ("Set-Cookie", "session=opaque; Path=/; HttpOnly; SameSite=Lax"),
        ("Set-Cookie", "theme=dark; Max-Age=3600"),
    )
    return Reply(request.headers.get("cookie", "").encode(), headers=given)


def slow(request: Request) -> Reply:
    """``/slow?ms=N``: answers after N milliseconds (300)."""
    time.sleep(int(request.query.get("ms", "300")) / 1000)
    return Reply(b"at last\n")


def events(request: Request) -> Reply:
    """``/events?count=N``: N server-sent events (3), 20 ms apart."""

    def stream() -> Iterator[bytes]:
        for number in range(int(request.query.get("count", "3"))):
            yield f"id: {number}\nevent: tick\ndata: {json.dumps({'number': number})}\n\n".encode()
            time.sleep(0.02)

    return Reply(stream(), "text/event-stream", framing=Framing.CHUNKED)


ROUTES: dict[str, Callable[[Request], Reply]] = {
    "": page,
    "text": text,
    "json": as_json,
    "pixel.png": pixel,
    "bytes": sample_bytes,
    "chunked": chunked,
    "close": close_delimited,
    "encoded": encoded,
    "echo": echo,
    "form": form,
    "status": status,
    "redirect": redirect,
    "cookies": cookies,
    "slow": slow,
    "events": events,
}


# --- the server ---------------------------------------------------------------------------------------


class Handler(http.server.BaseHTTPRequestHandler):
    """Reads requests, looks their first path segment up in ROUTES, and writes the replies."""

    protocol_version = "HTTP/1.1"
    server_version = "plaintap-sample"
    sys_version = ""
    disable_nagle_algorithm = True
    raw_requestline = b""  # the base class's; empty when the client closed instead of asking

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # the base class's name
        """Say nothing: standard output carries one line, and a test's standard error is read by people."""

    def body(self) -> Iterator[bytes]:
        """The request's body (RFC 9112 §6.3), decoded from chunks where it came so."""
        if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
            while size := int(self.rfile.readline().split(b";")[0], 16):
                yield self.rfile.read(size)
                self.rfile.readline()
            while self.rfile.readline().strip():
                pass
            return
        left = int(self.headers.get("Content-Length", "0"))
        while left and (piece := self.rfile.read(min(left, READ_BYTES))):
            left -= len(piece)
            yield piece

    def answer(self) -> None:
        """Answer one request; whatever its route left unread of the body is read here."""
        url = urllib.parse.urlsplit(self.path)
        name, _, argument = url.path.removeprefix("/").partition("/")
        unread = self.body()
        request = Request(
            method=self.command,
            path=url.path,
            argument=argument,
            query=dict(urllib.parse.parse_qsl(url.query)),
            headers={key.lower(): value for key, value in self.headers.items()},
            read=lambda: unread,
        )
        route = ROUTES.get(name)
        try:
            reply = route(request) if route else Reply(b"no such page\n", status=404)
        except (KeyError, ValueError) as error:
            reply = Reply(f"bad argument: {error}\n".encode(), status=400)
        except ImportError as error:
            reply = Reply(f"{error}\n".encode(), status=501)
        for _ in unread:
            pass
        self.write(reply)

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = do_OPTIONS = answer  # noqa: N815  # the base's names

    def write(self, reply: Reply) -> None:
        """Write a reply in its framing; to HEAD, 204 and 304 only its header (RFC 9110 §9.3.2, §15.3.5)."""
        self.send_response(reply.status)
        if reply.content_type is not None:
            self.send_header("Content-Type", reply.content_type)
        for name, value in reply.headers:
            self.send_header(name, value)
        self.send_header("X-Client-Port", str(self.client_address[1]))
        self.send_framing(reply)
        self.end_headers()
        if self.command != "HEAD" and reply.status not in {204, 304}:
            self.write_body(reply)

    def send_framing(self, reply: Reply) -> None:
        """The field that tells how the body ends."""
        if reply.framing is Framing.CHUNKED:
            self.send_header("Transfer-Encoding", "chunked")
        elif reply.framing is Framing.CLOSE:
            self.send_header("Connection", "close")
        elif reply.status not in {204, 304}:
            length = len(reply.body) if isinstance(reply.body, bytes) else reply.length
            self.send_header("Content-Length", str(length))

    def write_body(self, reply: Reply) -> None:
        """The body, a piece per write."""
        pieces = (reply.body,) if isinstance(reply.body, bytes) else reply.body
        if reply.framing is not Framing.CHUNKED:
            for piece in pieces:
                self.wfile.write(piece)
            return
        for piece in pieces:
            self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
        fields = "".join(f"{name}: {value}\r\n" for name, value in reply.trailers().items())
        self.wfile.write(f"0\r\n{fields}\r\n".encode())


class Server(http.server.ThreadingHTTPServer):
    """A thread per connection; TLS if given a context, its handshake in the thread: accept() never waits."""

    daemon_threads = True
    request_queue_size = BACKLOG

    def __init__(self, address: str, port: int, context: ssl.SSLContext | None = None) -> None:
        self.address_family = socket.AF_INET6 if ":" in address else socket.AF_INET
        self.context = context
        super().__init__((address, port), Handler)

    def finish_request(
        self, request: socket.socket | tuple[bytes, socket.socket], client_address: object
    ) -> None:
        """Serve one connection until it ends; a client that leaves early is no error here."""
        assert isinstance(request, socket.socket)
        with contextlib.suppress(OSError):
            if self.context is None:
                super().finish_request(request, client_address)
                return
            with self.context.wrap_socket(request, server_side=True) as wrapped:
                handler = Handler(wrapped, client_address, self)
                # To a client that has closed already, a close_notify would only be answered by a reset.
                if handler.raw_requestline:
                    wrapped.settimeout(CLOSE_NOTIFY_SECONDS)
                    wrapped.unwrap().close()


def make_certificate(folder: Path) -> tuple[Path, Path]:
    """A self-signed certificate for localhost and the loopback addresses, and its key."""
    certificate, key = folder / "cert.pem", folder / "key.pem"
    names = "subjectAltName=DNS:localhost,IP:127.0.0.1,IP:::1"
    curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]
    command = ["openssl", "req", "-x509", *curve, "-nodes", "-days", "30", "-subj", "/CN=localhost"]
    outputs = ["-addext", names, "-keyout", str(key), "-out", str(certificate)]
    subprocess.run([*command, *outputs], check=True, capture_output=True)
    return certificate, key


def arguments() -> argparse.Namespace:
    """The command line; port 0 means any free port."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--bind", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    parser.add_argument("--http-port", type=int, default=0)
    parser.add_argument("--https-port", type=int, default=0)
    parser.add_argument(
        "--until-stdin-closes", action="store_true", help="also stop at the end of standard input"
    )
    return parser.parse_args()


def stop_at_end_of_input() -> None:
    """Send ourselves SIGTERM when standard input ends."""
    while os.read(sys.stdin.fileno(), READ_BYTES):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


def main() -> None:
    """Serve until told to stop."""
    options = arguments()
    stops = {signal.SIGINT, signal.SIGTERM}
    with tempfile.TemporaryDirectory(prefix="plaintap-sample-") as folder:
        certificate, key = make_certificate(Path(folder))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
        context.set_alpn_protocols(["http/1.1"])
        # Blocked before the threads begin, so that only sigwait below takes them.
        signal.pthread_sigmask(signal.SIG_BLOCK, stops)
        http_server = Server(options.bind, options.http_port)
        https_server = Server(options.bind, options.https_port, context)
        for server in (http_server, https_server):
            threading.Thread(target=server.serve_forever, daemon=True).start()
        if options.until_stdin_closes:
            threading.Thread(target=stop_at_end_of_input, daemon=True).start()
        ready = {
            "pid": os.getpid(),
            "http": http_server.server_address[1],
            "https": https_server.server_address[1],
            "certificate": str(certificate),
        }
        print(json.dumps(ready), flush=True)
        signal.sigwait(stops)


if __name__ == "__main__":
    main()
