"""Streams of Unix sockets as programs use them: HTTP and HTTPS, from other namespaces, older ones, and their ends."""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import signal
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from conformance_runs import Peer, compile_program, listen, run, streams_by_ports
from judges import expert_problems, requests
from processes import PYTHON, running, wait_until
from recording import Recording, entries, path_of, plaintap, record, response_sha256, settle

from capture.streams import Endpoint, Side, StreamClosed, StreamOpened
from exporters.reassembly import read_streams

if TYPE_CHECKING:
    from collections.abc import Iterator

    from servers import Servers

pytestmark = pytest.mark.kernel

BODY = b"".join(b"%d " % number for number in range(20_011))
# An HTTP server on a path, or with a certificate an HTTPS server; each connection has a thread.
SERVER = """
import ctypes, http.server, os, socketserver, ssl, sys
ctypes.CDLL(None).prctl(15, b"unix-engine")  # PR_SET_NAME
body = b"".join(b"%d " % number for number in range(20_011))
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def address_string(self):
        return ""
    def log_message(self, *_):
        pass
server = socketserver.ThreadingUnixStreamServer(sys.argv[1], Handler)
if len(sys.argv) > 2:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(sys.argv[2], sys.argv[3])
    server.socket = context.wrap_socket(server.socket, server_side=True)
print("up", flush=True)
server.serve_forever()
"""
# A connection that stays open; each line of input is a request.
CLIENT = """
import socket, sys
client = socket.socket(socket.AF_UNIX)
client.connect(sys.argv[1])
answers = client.makefile("rb")
def ask(path):
    client.sendall(b"GET %s HTTP/1.1\\r\\nHost: engine\\r\\n\\r\\n" % path)
    length = 0
    while (line := answers.readline()).strip():
        if line.lower().startswith(b"content-length:"):
            length = int(line.split(b":")[1])
    answers.read(length)
ask(b"/before")
print("up", flush=True)
for number, _ in enumerate(iter(sys.stdin.readline, "")):
    ask(b"/%d" % number)
    print("done", flush=True)
"""


@contextlib.contextmanager
def serving(path: Path, *certificate: Path) -> Iterator[Path]:
    """A server on the path."""
    with running([PYTHON, "-c", SERVER, path, *certificate], stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        assert server.stdout.readline() == "up\n"
        yield path


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Path]:
    """An HTTP server's path."""
    with serving(tmp_path / "engine.sock") as path:
        yield path


def curl(path: Path, url: str, *options: object, before: tuple[str, ...] = ()) -> None:
    """Ask, and get all of the body."""
    command = [*before, "curl", "--silent", "--show-error", "--fail", "--unix-socket", path, url, *options]
    done = subprocess.run(list(map(str, command)), capture_output=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout == BODY


def streams(capture: Path, path: Path) -> list[StreamOpened]:
    """Those of the path."""
    found = [item for item in read_streams(str(capture)) if isinstance(item, StreamOpened)]
    return [item for item in found if item.unix_path == str(path)]


def exchanges(capture: Path, path: Path) -> list[dict[str, Any]]:
    """Those of the path; others may have a curl too."""
    return [entry for entry in entries(capture) if entry.get("_unixSocket") == str(path)]


def test_both_ends_are_one_stream_that_wireshark_and_devtools_read(tmp_path: Path, engine: Path) -> None:
    with record(tmp_path / "both.pcapng", "--unix", "-c", "curl", "-c", "unix-engine") as recording:
        for number in range(6):
            curl(engine, f"http://engine/v1/{number}")
        # The path is the same file, the network is not.
        curl(engine, "http://engine/v1/6", before=("unshare", "--net", "--mount"))
        settle()
        done = recording.stop()
    assert "off by" not in done.stderr
    found = exchanges(recording.path, engine)
    urls = [f"http://engine/v1/{number}" for number in range(7)]
    assert [entry["request"]["url"] for entry in found] == urls
    assert {response_sha256(entry) for entry in found} == {hashlib.sha256(BODY).hexdigest()}
    assert {entry["_comm"] for entry in found} == {"curl"}
    # On a busy machine the server may read after the client's word was waited for.
    assert {entry["_peerComm"] for entry in found if "_peerComm" in entry} == {"unix-engine"}
    assert [uri for uri in requests(recording.path) if uri.startswith("http://engine/")] == urls
    assert expert_problems(recording.path, "ip.addr == 127.84.0.0/15") == []
    opened = streams(recording.path, engine)
    assert len(opened) == 7
    closed = {item.stream for item in read_streams(str(recording.path)) if isinstance(item, StreamClosed)}
    assert {item.stream for item in opened} <= closed
    shown = plaintap("show", recording.path).stdout
    assert shown.count(f"(unix socket {engine})") == 7


@pytest.mark.parametrize("options", [(), ("--unix", "--port", "80")])
def test_they_are_left_out_unless_they_are_asked_for(
    tmp_path: Path, engine: Path, options: tuple[str, ...]
) -> None:
    with record(tmp_path / "without.pcapng", *options, "-c", "unix-engine") as recording:
        curl(engine, "http://engine/out")
        settle()
        done = recording.stop()
    assert "0 streams written" in done.stderr
    assert streams(recording.path, engine) == []


@pytest.mark.parametrize("who", ["client", "unix-engine"])
def test_a_connection_that_is_older_than_the_recording(tmp_path: Path, engine: Path, who: str) -> None:
    named = "import ctypes; ctypes.CDLL(None).prctl(15, b'client')\n"
    command = [PYTHON, "-c", named + CLIENT, engine]
    with running(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as client:
        assert client.stdin is not None
        assert client.stdout is not None
        assert client.stdout.readline() == "up\n"
        with record(tmp_path / "older.pcapng", "--unix", "-c", who) as recording:
            for _ in range(5):
                print(file=client.stdin, flush=True)
                assert client.stdout.readline() == "done\n"
            done = recording.stop()
    found_streams = streams(recording.path, engine)
    assert len(found_streams) == 1, done.stderr
    (opened,) = found_streams
    assert not opened.handshake_seen
    assert opened.side is (Side.CLIENT if who == "client" else Side.SERVER)
    assert opened.server == Endpoint(bytes([127, 0, 0, 1]), 80)
    # The server was in its call already.
    found = [path_of(entry) for entry in exchanges(recording.path, engine)]
    assert found == [f"/{number}" for number in range(5)]


def test_tls_on_a_unix_socket(servers: Servers, tmp_path: Path) -> None:
    certificate = servers.certificate
    with (
        serving(tmp_path / "tls.sock", certificate, certificate.with_name("key.pem")) as path,
        record(tmp_path / "tls.pcapng", "--unix", "-c", "curl", "-c", "unix-engine") as recording,
    ):
        curl(path, "https://localhost/secret", "--cacert", certificate)
        settle()
    (entry,) = exchanges(recording.path, path)
    assert entry["request"]["url"] == "https://localhost/secret"
    assert response_sha256(entry) == hashlib.sha256(BODY).hexdigest()
    (opened,) = streams(recording.path, path)
    assert opened.server.port == 443


def entries_of_table(recording: Recording, name: str) -> int:
    """How many a table of the recorder's has now."""
    numbers = set()
    for info in Path(f"/proc/{recording.process.pid}/fdinfo").iterdir():
        numbers |= set(re.findall(r"^map_id:\s*(\d+)", info.read_text(), re.MULTILINE))
    for number in numbers:
        done = subprocess.run(
            ["bpftool", "--json", "map", "show", "id", number], capture_output=True, check=True
        )
        if json.loads(done.stdout)["name"] == name:
            dump = ["bpftool", "--json", "map", "dump", "id", number]
            return len(json.loads(subprocess.run(dump, capture_output=True, check=True).stdout))
    raise AssertionError(f"no table {name}")


def is_empty(recording: Recording) -> bool:
    """Whether the recorder's tables know no connection."""
    return not any(entries_of_table(recording, name) for name in ("untold_ends", "connections"))


# Opens thirteen connections at a line of input, and holds them. Its arguments: @name 0, or an address and a port.
HOLDER = """
import socket, sys, time
input()
name, port = sys.argv[1:]
held = []
for _ in range(13):
    if port == "0":
        client = socket.socket(socket.AF_UNIX)
        client.connect(name.replace("@", chr(0)))
    else:
        client = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_MPTCP)
        client.connect((name, int(port)))
    client.sendall(b"GET / HTTP/1.1\\r\\nHost: engine\\r\\n\\r\\n")
    held.append(client)
print("up", flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize("kind", ["unix_abstract", "mptcp"])
def test_a_client_that_is_killed_leaves_nothing_in_the_tables(tmp_path: Path, kind: str) -> None:
    with listen(kind, tmp_path) as listener:
        listener.listen(32)
        name = listener.getsockname()
        where = name if kind == "mptcp" else (name.decode().replace("\0", "@"), 0)
        command = [PYTHON, "-c", HOLDER, *where]
        with running(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as client:
            assert client.stdin is not None
            assert client.stdout is not None
            with record(tmp_path / "killed.pcapng", "--unix", "-p", client.pid) as recording:
                print(file=client.stdin, flush=True)
                assert client.stdout.readline() == "up\n"
                assert entries_of_table(recording, "untold_ends") == 13
                client.send_signal(signal.SIGKILL)
                wait_until(lambda: is_empty(recording), "the tables to be empty")
    items = list(read_streams(str(recording.path)))
    opened = {item.stream for item in items if isinstance(item, StreamOpened)}
    assert len(opened) == 13
    assert {item.stream for item in items if isinstance(item, StreamClosed)} == opened


@pytest.mark.parametrize("unix", [False, True])
def test_http_that_would_be_recorded_with_the_option_is_told_of(tmp_path: Path, unix: bool) -> None:
    """Where a process was asked for: Docker's command shows nothing else."""
    path, ledger = tmp_path / "socket", tmp_path / "ledger.json"
    options = ["--unix"] if unix else []
    command = ["curl", "-sS", "--unix-socket", path, "http://localhost/page", "-o", tmp_path / "page"]
    with running([PYTHON, "-c", SERVER, path], stdout=subprocess.PIPE) as server:
        assert server.stdout is not None
        server.stdout.readline()
        done = plaintap("record", *options, "-w", tmp_path / "c.pcapng", "--ledger", ledger, "--", *command)
    assert (tmp_path / "page").read_bytes() == BODY
    told = json.loads(ledger.read_text())["unix_http"]
    assert [user["comm"] for user in told] == ([] if unix else ["curl"])
    assert ("--unix records it" in done.stderr) is not unix


# A server that takes what a client, under another name, sent and has closed.
LATE_SERVER = """
import ctypes, os, socket, sys, time
listener = socket.socket(socket.AF_UNIX)
listener.bind(sys.argv[1])
listener.listen()
client = os.fork()
if not client:
    ctypes.CDLL(None).prctl(15, b"unix-gone")
    s = socket.socket(socket.AF_UNIX)
    s.connect(sys.argv[1])
    s.sendall(b"GET /left HTTP/1.1\\r\\nHost: engine\\r\\n\\r\\n")
    os._exit(0)
ctypes.CDLL(None).prctl(15, b"unix-late")
os.waitpid(client, 0)
accepted, _ = listener.accept()
accepted.recv(1000)
"""


def test_a_server_is_one_also_of_a_client_that_is_gone(tmp_path: Path) -> None:
    with record(tmp_path / "late.pcapng", "--unix", "-c", "unix-late") as recording:
        subprocess.run([PYTHON, "-c", LATE_SERVER, tmp_path / "late.sock"], check=True, timeout=60)
        settle()
        assert recording.stop().returncode == 0
    (opened,) = streams(recording.path, tmp_path / "late.sock")
    assert (opened.side, opened.server.port) == (Side.SERVER, 80)


def test_what_the_peer_takes_at_once_is_a_gap_of_its_length(tmp_path: Path) -> None:
    """No hooked call sends these bytes: the peer may have each before it is looked at, its packet is another's then."""
    program, account = compile_program(tmp_path, "moves.c", "unix-narrow", "-m32"), tmp_path / "ledger.json"
    sent = []
    with record(tmp_path / "narrow.pcapng", "-c", program.name, "--unix", "--ledger", account) as recording:
        for _ in range(100):
            peer = Peer(listener=listen("unix_abstract", tmp_path))
            (truth,) = run([program, "send_bytes", peer.where], peer)
            sent.append((truth, bytes(peer.bytes)))
        settle()
        assert recording.stop().returncode == 0
    streams = streams_by_ports(recording.path)
    for truth, whole in sent:
        (stream,) = streams[truth.ports]
        assert stream.sent.is_of(whole)
    sockets = json.loads(account.read_text())["sockets"]
    assert sockets["reported"] == sum(len(whole) for _, whole in sent)
    assert (sockets["filtered"], sockets["residue"]) == (0, 0)
