"""HTTP/2 over TLS between real programs: everything that they logged themselves is in the archive, exactly."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from judges import tshark
from processes import PYTHON, running, wait_until
from recording import decoded, entries, path_of, record, request_sha256, response_sha256
from two_programs import ENDS, record_end

if TYPE_CHECKING:
    from collections.abc import Iterator

    from servers import Servers

pytestmark = pytest.mark.kernel

SUPPORT = Path(__file__).parents[1] / "support" / "http2"
SECONDS = 120
Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Server:
    """A server in Node, and the file that it logs to."""

    port: int
    log: Path
    certificate: Path

    @property
    def url(self) -> str:
        """Its origin; the certificate is for localhost."""
        return f"https://localhost:{self.port}"

    def rows(self, count: int) -> list[Row]:
        """What it has logged of ``count`` requests."""

        def logged() -> list[str] | None:
            lines = self.log.read_text().splitlines(keepends=True)[1:]
            return lines if len(lines) >= count and all(line.endswith("\n") for line in lines) else None

        return [json.loads(line) for line in wait_until(logged, f"{count} requests in the server's log")]


@pytest.fixture
def server(servers: Servers, tmp_path: Path) -> Iterator[Server]:
    """A server of its own for each test."""
    log = tmp_path / "server.log"
    certificate = servers.certificate
    with log.open("w") as out:
        command = ["node", SUPPORT / "server.js", certificate, certificate.with_name("key.pem")]
        with running(command, stdout=out):
            first = wait_until(lambda: "\n" in (text := log.read_text()) and text, "the server's port")
            yield Server(json.loads(first)["port"], log, certificate)


def run(*command: object, **environment: str) -> str:
    """What a program prints."""
    words = list(map(str, command))
    done = subprocess.run(
        words, capture_output=True, text=True, timeout=SECONDS, check=False, env={**os.environ, **environment}
    )
    assert done.returncode == 0, f"{words}: {done.stderr}"
    return done.stdout


def pairs(fields: list[dict[str, str]]) -> list[list[str]]:
    """Names and values in order."""
    return [[field["name"], field["value"]] for field in fields]


def answered(row: Row) -> list[list[str]]:
    """The response's fields, of which the status is not one of a HAR's."""
    return [pair for pair in row["response"] if pair[0] != ":status"]


def check(found: list[Row], rows: list[Row]) -> None:
    """Each request that the server logged, with bodies, fields in their order and trailers, is there once."""
    by_stream = {(int(entry["_clientPort"]), entry["_streamId"]): entry for entry in found}
    assert len(by_stream) == len(found) == len(rows)
    for row in rows:
        entry = by_stream[row["port"], row["stream"]]
        request, response = entry["request"], entry["response"]
        assert "_outcome" not in entry
        assert (request["method"], path_of(entry), request["httpVersion"]) == (
            row["method"],
            row["path"],
            "HTTP/2.0",
        )
        assert pairs(request["headers"]) == row["request"]
        assert pairs(request.get("_trailers", [])) == row["requestTrailers"]
        assert request_sha256(entry) == row["received"]
        assert request["bodySize"] == len(decoded(request.get("postData", {})))
        assert pairs(response["headers"]) == answered(row)
        assert pairs(response.get("_trailers", [])) == row["responseTrailers"]
        assert response["content"]["size"] == row["size"]
        assert response_sha256(entry) == row["sent"]


def connections(found: list[Row]) -> int:
    return len({entry["_connectionId"] for entry in found})


def test_node_with_a_hundred_streams_at_once(server: Server, tmp_path: Path) -> None:
    path = tmp_path / "a.pcapng"
    with record(path, "--port", server.port), node_client(server) as client:
        ask(client, 100)
        rows = server.rows(100)
    found = entries(path)
    check(found, rows)
    assert connections(found) == 1
    assert sum(bool(row["requestTrailers"]) for row in rows) == 50
    assert sum(bool(row["responseTrailers"]) for row in rows) == 100


def test_go_with_a_hundred_streams_at_once(server: Server, tmp_path: Path) -> None:
    program = tmp_path / "client"
    cache = str(tmp_path / "go-cache")
    run(
        "go",
        "build",
        "-o",
        program,
        SUPPORT / "main.go",
        GOCACHE=os.environ.get("GOCACHE", cache),
        GO111MODULE="off",
    )
    path = tmp_path / "a.pcapng"
    with record(path, "--hold", "--port", server.port):
        printed = run(program, server.url, server.certificate)
        rows = server.rows(100)
    found = entries(path)
    check(found, rows)
    assert connections(found) == 1
    by_number = {row["number"]: row for row in rows}
    for line in printed.splitlines():
        number, version, sent, received, trailer = line.split()
        row = by_number[number]
        assert (version, sent, received) == ("HTTP/2.0", row["received"], row["sent"])
        assert trailer == row["sent"], "the program's own sum"


def test_curl_in_parallel(server: Server, tmp_path: Path) -> None:
    upload = tmp_path / "upload"
    upload.write_bytes(bytes(range(256)) * 800)
    urls = [word for n in range(40) for word in ("-o", os.devnull, f"{server.url}/bytes?n={n * 999}")]
    common = ["curl", "-sS", "--http2", "--cacert", server.certificate]
    path = tmp_path / "a.pcapng"
    with record(path, "--port", server.port):
        run(*common, "--parallel", "--parallel-max", 40, *urls)
        run(*common, "--data-binary", f"@{upload}", "-o", os.devnull, f"{server.url}/echo?trailers")
        rows = server.rows(41)
    check(entries(path), rows)


@pytest.mark.skipif(shutil.which("nghttp") is None, reason="NGHTTP IS NOT INSTALLED")
def test_nghttp_and_h2load(server: Server, tmp_path: Path) -> None:
    path = tmp_path / "a.pcapng"
    with record(path, "--port", server.port):
        run("nghttp", "-n", "--data", __file__, "--trailer", "x-last: one", f"{server.url}/echo?trailers")
        run("h2load", "-n", 300, "-c", 3, "-m", 100, f"{server.url}/bytes?n=3000")
        rows = server.rows(301)
    found = entries(path)
    check(found, rows)
    assert connections(found) == 4
    (upload,) = [row for row in rows if row["method"] == "POST"]
    assert upload["requestTrailers"] == [["x-last", "one"]]


@pytest.mark.skipif(shutil.which("chromium") is None, reason="CHROMIUM IS NOT INSTALLED")
def test_chromium(server: Server, tmp_path: Path) -> None:
    browser = ["chromium", "--headless=new", "--no-sandbox", "--disable-gpu", "--ignore-certificate-errors"]
    browser += [f"--user-data-dir={tmp_path / 'profile'}", "--virtual-time-budget=20000", "--dump-dom"]
    path = tmp_path / "a.pcapng"
    with record(path, "--hold", "--port", server.port):
        page = run(*browser, f"{server.url}/")
        rows = server.rows(23)
    assert "all of 0,3500," in page
    found = entries(path)
    check(found, rows)
    assert {entry["_comm"] for entry in found} == {"chromium"}
    assert len([row for row in rows if row["method"] == "POST"]) == 20


@contextlib.contextmanager
def node_client(server: Server) -> Iterator[subprocess.Popen[str]]:
    """A client that asks when it is told to."""
    command = ["node", SUPPORT / "client.js", f"https://localhost:{server.port}", server.certificate]
    with running(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        yield process


def ask(client: subprocess.Popen[str], count: int) -> None:
    """Let it make ``count`` requests at once, and wait for the answers."""
    assert client.stdin is not None
    assert client.stdout is not None
    client.stdin.write(f"{count}\n")
    client.stdin.flush()
    assert client.stdout.readline() == "answered\n"


def test_joined_in_the_middle(server: Server, tmp_path: Path) -> None:
    path = tmp_path / "a.pcapng"
    with node_client(server) as client:
        ask(client, 30)
        with record(path, "--port", server.port):
            ask(client, 30)
            rows = server.rows(60)[30:]
    found = entries(path)
    by_stream = {entry["_streamId"]: entry for entry in found}
    assert len(by_stream) == len(found) == 30
    placeholders = 0
    for row in rows:
        entry = by_stream[row["stream"]]
        request, response = entry["request"], entry["response"]
        assert "_outcome" not in entry
        assert (request["method"], response["status"]) == ("POST", 200)
        assert response_sha256(entry) == row["sent"]
        assert request_sha256(entry) == row["received"]
        for shown, sent in ((request["headers"], row["request"]), (response["headers"], answered(row))):
            assert len(shown) == len(sent)
            for (name, value), real in zip(pairs(shown), sent, strict=True):
                assert name in (real[0], "(not recorded)")
                # Of a name that was not recorded it is not known whether it is a credential's.
                known = real[1] if name == real[0] else "(redacted)"
                assert value in (known, "(not recorded)")
                placeholders += value == "(not recorded)"
        if "url" in request.get("_unknown", ()):
            assert path_of(entry) == "/(not-recorded)"
        else:
            assert path_of(entry) == row["path"]
    assert placeholders > 0, "what was in the tables before is not known"


# A server that begins, as gRPC's do, before it has read anything; its client waits for that.
BEGINNING_SERVER = """
import socket
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import RequestReceived
listener = socket.create_server(("127.0.0.1", 0))
print(listener.getsockname()[1], flush=True)
connection, _ = listener.accept()
talk = H2Connection(H2Configuration(client_side=False))
talk.initiate_connection()
connection.sendall(talk.data_to_send())
while received := connection.recv(1 << 16):
    for event in talk.receive_data(received):
        if isinstance(event, RequestReceived):
            talk.send_headers(event.stream_id, [(":status", "200")])
            talk.send_data(event.stream_id, b"as it was asked", end_stream=True)
    connection.sendall(talk.data_to_send())
"""
WAITING_CLIENT = """
import socket, sys
from h2.connection import H2Connection
from h2.events import StreamEnded
port, joined = map(int, sys.argv[1:])
if not joined:
    sys.stdin.readline()
with socket.create_connection(("127.0.0.1", port)) as connection:
    begun = connection.recv(1 << 16)
    talk = H2Connection()
    talk.initiate_connection()
    talk.receive_data(begun)
    for number in (1, 3, 5):
        if number == joined:
            sys.stdin.readline()
        asked = [(":method", "POST"), (":scheme", "http"), (":authority", "a"), (":path", f"/{number}")]
        talk.send_headers(number, asked)
        talk.send_data(number, b"asked for", end_stream=True)
        connection.sendall(talk.data_to_send())
        while not any(isinstance(e, StreamEnded) for e in talk.receive_data(connection.recv(1 << 16))):
            pass
"""


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("joined", [0, 3], ids=["from its beginning", "joined at its second request"])
def test_cleartext_that_the_server_begins(tmp_path: Path, joined: int, end: str) -> None:
    path = tmp_path / "begun.pcapng"
    client = [PYTHON, "-c", WAITING_CLIENT]
    done, port = record_end(path, end, [PYTHON, "-c", BEGINNING_SERVER], lambda port: [*client, port, joined])
    found = entries(path)
    asked = ["/1", "/3", "/5"] if not joined else ["/3", "/5"]
    assert [path_of(entry) for entry in found] == asked, done.stderr
    assert {response_sha256(entry) for entry in found} == {hashlib.sha256(b"as it was asked").hexdigest()}
    assert {request_sha256(entry) for entry in found} == {hashlib.sha256(b"asked for").hexdigest()}
    as_http2 = ("-d", f"tcp.port=={port},http2", "-Y", "http2.type == 0")
    shown = tshark(path, *as_http2, "-T", "fields", "-e", "http2.streamid", "-E", "occurrence=l")
    assert shown.split() == [number for number in ("1", "3", "5") if int(number) >= joined for _ in ENDS]
