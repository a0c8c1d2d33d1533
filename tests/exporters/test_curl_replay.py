"""Commands of ``export --format curl``, run: what arrives is what was sent, to the byte."""

from __future__ import annotations

import contextlib
import gzip
import io
import re
import shutil
import socket
import subprocess
import threading
import time
from typing import TYPE_CHECKING

import pytest
from h2_by_hand import END_HEADERS, END_STREAM, HEADERS, OK, fields, frame, talk
from h2_talk import H2Talk
from http_streams import Conversation, read

from capture.streams import Side
from exporters.entry_writers import EXPORTERS
from exporters.har import EntryMaker
from exporters.har_redaction import Redaction

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

pytestmark = pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")

Message = tuple[str, list[tuple[str, str]], bytes]
EVERY_BYTE = bytes(range(256))
PLAIN = "User-Agent: a\r\nAccept: b\r\n"


class Listener:
    """Says what it is sent, one request a connection."""

    def __init__(self) -> None:
        self._socket = socket.create_server(("127.0.0.1", 0))
        self._socket.settimeout(20)
        self.port = self._socket.getsockname()[1]
        self.heard: Message | None = None

    def close(self) -> None:
        """No more is taken."""
        self._socket.close()

    def replay(self, command: str) -> Message:
        """What a shell sends that runs the command."""
        thread = threading.Thread(target=self._listen)
        thread.start()
        done = subprocess.run(["sh"], input=command.encode(), capture_output=True, timeout=20, check=False)
        thread.join()
        assert done.returncode == 0, done.stderr
        assert self.heard is not None
        return self.heard

    def _listen(self) -> None:
        connection, _ = self._socket.accept()
        with connection, connection.makefile("rwb") as stream:
            self.heard = parsed(stream)
            stream.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")


def parsed(stream: io.BufferedIOBase | io.BufferedRWPair) -> Message:
    """A request: its first line, its fields but for how the body is framed, and its body."""
    line = stream.readline().decode("latin-1").rstrip("\r\n")
    fields = []
    while row := stream.readline().decode("latin-1").rstrip("\r\n"):
        name, _, value = row.partition(":")
        fields.append((name, value.strip()))
    by_name = {name.lower(): value for name, value in fields}
    body = b""
    if "chunked" in by_name.get("transfer-encoding", ""):
        while size := int(stream.readline(), 16):
            body += stream.read(size)
            stream.readline()
        stream.readline()
    elif "content-length" in by_name:
        body = stream.read(int(by_name["content-length"]))
    return line, sorted(fields), body


@pytest.fixture
def listener() -> Iterator[Listener]:
    """A server that hears one request at a time."""
    server = Listener()
    yield server
    server.close()


def command_of(sent: bytes, port: int) -> str:
    """The command that an export gives of a request."""
    return commands_of(
        Conversation(port=port).client(sent).server(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
    )


def commands_of(talk: Conversation) -> str:
    """The commands that an export gives of a connection."""
    output = io.BytesIO()
    writer = EXPORTERS["curl"](output, EntryMaker(redaction=Redaction.of(sensitive=True)))
    for exchange in read(talk.items):
        writer.write(exchange)
    writer.close()
    return output.getvalue().decode()


def posted(body: bytes, fields: str = "", kind: str = "text/plain") -> str:
    """A POST; latin-1 text stands for its bytes."""
    head = f"POST /x HTTP/1.1\r\nHost: HOST\r\n{PLAIN}{fields}"
    if kind:
        head += f"Content-Type: {kind}\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n{body.decode('latin-1')}"


def got(fields: str = PLAIN, target: str = "/", method: str = "GET", version: str = "1.1") -> str:
    """A request without a body."""
    return f"{method} {target} HTTP/{version}\r\nHost: HOST\r\n{fields}\r\n"


MULTIPART = (
    b'--B\r\nContent-Disposition: form-data; name="f"; filename="a\'b.bin"\r\n'
    b"Content-Type: application/octet-stream\r\n\r\n" + EVERY_BYTE + b"\r\n--B--\r\n"
)


@pytest.mark.parametrize(
    "sent",
    [
        got(""),
        got(PLAIN, "/a/../b/./c?x=1&y='q'&z=%22$HOME`id`;[1-3]{a,b}"),
        got(f'{PLAIN}X-Quote: it\'s "$HOME" `id` \\ !! %s\r\nX-Empty:\r\nX-Twice: 1\r\nX-Twice: 2\r\n'),
        got(f'{PLAIN}Cookie: a=1; b="2"\r\nAuthorization: Basic dTpw\r\nReferer: http://x/?a#b\r\n'),
        got(f'{PLAIN}Range: bytes=0-1\r\nIf-None-Match: "e"\r\nAccept-Encoding: br;q=1, gzip\r\n'),
        got(f"{PLAIN}Connection: close\r\n"),
        got(f"{PLAIN}Connection: keep-alive\r\n", version="1.0"),
        got(PLAIN, method="DELETE"),
        got(PLAIN, method="HEAD"),
        got(PLAIN, method="OPTIONS", target="*"),
        got(f"{PLAIN}Content-Length: 0\r\n", method="POST"),
        got(f"{PLAIN}Content-Length: 0\r\n", method="PUT"),
        got(PLAIN, method="M-SEARCH"),
        got("x-a: @/etc/hostname\r\n"),
        got(f"{PLAIN}Upgrade: tcp\r\nConnection: Upgrade\r\n"),
        got().replace("Host: HOST\r\n", "").replace("HTTP/1.1", "HTTP/1.0"),
        posted(b"@/etc/hostname"),
        posted(b"a=1&b=%41+c&d", kind="application/x-www-form-urlencoded"),
        posted(b'{"a": "it\'s \\u0041 \\n $HOME `id` !"}\n', kind="application/json"),
        posted(b"x", kind=""),
        posted(b"line\r\nline\n\n"),
        posted(b"\x1b]0;title\x07 \x7f"),
        posted("café ☃".encode(), kind="text/plain; charset=utf-8"),
        posted("café".encode("latin-1"), kind="text/plain; charset=latin1"),
        posted(EVERY_BYTE, kind="application/octet-stream"),
        posted(MULTIPART, kind="multipart/form-data; boundary=B"),
        posted(b"x" * 2_000_000),
        posted(b"-o /tmp/x"),
        posted(b"up", "Transfer-Encoding: chunked\r\n").replace(
            "Content-Length: 2\r\n\r\nup", "\r\n2\r\nup\r\n0\r\n\r\n"
        ),
        posted(b"body of a get").replace("POST", "GET", 1),
        posted(b"put").replace("POST", "PUT", 1),
        posted(b"expects", "Expect: 100-continue\r\n"),
    ],
    ids=lambda sent: " ".join(sent.split()[:2]),
)
def test_what_arrives_is_what_was_sent(listener: Listener, sent: str) -> None:
    data = sent.replace("HOST", f"127.0.0.1:{listener.port}").encode("latin-1")
    assert listener.replay(command_of(data, listener.port)) == parsed(io.BytesIO(data))


def test_a_command_that_is_shown_on_a_terminal_does_not_write_to_it() -> None:
    commands = command_of(posted(b"\x1b]0;title\x07 \xc2\x9b2J").encode("latin-1"), 80)
    method = fields((b":method", b"\x1b[2J"), (b":path", b"/"), (b":scheme", b"http"), (b":authority", b"a"))
    conversation = talk().client(frame(HEADERS, END_HEADERS | END_STREAM, 1, method))
    commands += commands_of(conversation.server(frame(HEADERS, END_HEADERS | END_STREAM, 1, OK)))
    assert len(commands.splitlines()) == 2
    assert all(line.isprintable() for line in commands.splitlines())


def test_a_body_with_a_coding_is_sent_without_it(listener: Listener) -> None:
    body = gzip.compress(b"what was meant")
    data = posted(body, "Content-Encoding: gzip\r\n").replace("HOST", f"127.0.0.1:{listener.port}")
    _, fields, heard = listener.replay(command_of(data.encode("latin-1"), listener.port))
    assert heard == b"what was meant"
    assert "content-encoding" not in {name.lower() for name, _ in fields}


@pytest.fixture
def nghttpd(tmp_path: Path) -> Iterator[tuple[int, Callable[[], str]]]:
    """A server that only speaks HTTP/2, in cleartext: its port, and how it is ended and says what it was sent."""
    if shutil.which("nghttpd") is None:
        pytest.skip("nghttpd is not installed")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    (tmp_path / "x").write_bytes(b"found")
    server = subprocess.Popen(
        ["nghttpd", "--no-tls", "-v", "-a", "127.0.0.1", "-d", str(tmp_path), str(port)],
        stdout=subprocess.PIPE,
        text=True,
    )

    def heard() -> str:
        server.terminate()
        return re.sub(r"\x1b\[[0-9;]*m", "", server.communicate(timeout=20)[0])

    try:
        for _ in range(200):
            with contextlib.suppress(ConnectionRefusedError), socket.create_connection(("127.0.0.1", port)):
                break
            time.sleep(0.05)
        yield port, heard
    finally:
        server.kill()
        server.communicate()


def test_http2_in_cleartext_is_sent_again_as_it_was(nghttpd: tuple[int, Callable[[], str]]) -> None:
    port, heard = nghttpd
    talk = H2Talk(Conversation(port=port))
    fields = [(":scheme", "http"), (":authority", f"127.0.0.1:{port}"), (":path", "/x"), ("x-a", "b")]
    talk.client.send_headers(1, [(":method", "POST"), *fields, ("content-length", "6")])
    talk.send(Side.CLIENT, 1, b"posted", end=True)
    talk.respond(1, b"found")
    command = commands_of(talk.conversation)
    done = subprocess.run(["sh"], input=command.encode(), capture_output=True, timeout=20, check=False)
    assert (done.returncode, done.stdout) == (0, b"found"), done.stderr
    said = heard()
    for line in (":method: POST", ":path: /x", ":scheme: http", "x-a: b", "content-length: 6"):
        assert f") {line}\n" in said


def test_a_request_that_asks_for_http2_asks_again(listener: Listener) -> None:
    upgrade = "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n"
    data = got(PLAIN + upgrade).replace("HOST", f"127.0.0.1:{listener.port}").encode()
    line, fields, _ = listener.replay(command_of(data, listener.port))
    assert line == "GET / HTTP/1.1"
    assert {("Connection", "Upgrade, HTTP2-Settings"), ("Upgrade", "h2c")} <= set(fields)
    assert [name for name, _ in fields].count("HTTP2-Settings") == 1
