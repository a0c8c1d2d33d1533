"""Calls that were waiting when the recording began: the first thing that comes is received by one of them, and nobody
sees it entered. Threads of servers and clients wait in them for as long as a connection is idle.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from conformance_runs import streams_by_ports
from judges import expert_problems
from processes import PYTHON, running
from recording import decoded, entries, path_of, record, settle

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from servers import Servers

pytestmark = pytest.mark.kernel

SUPPORT = Path(__file__).parents[1] / "support" / "waiting"
SECONDS = 120
# Pids of a server and of a client that has asked it once, and the client.
Pair = tuple[int, int, "subprocess.Popen[str]"]
PATHS = [f"/{number}" for number in range(1, 6)]


# Requests and answers of a line each, as HTTP; each connection of the server has a thread, which waits in one of
# several ways. Arguments: serve, how, and for TLS certificate, key, cipher; ask, a port, and for TLS a certificate.
TALK = """
import os, socket, ssl, sys, threading
def receive(connection, how, n):
    if how == "read":
        return os.read(connection.fileno(), n)
    if how == "readv":
        blocks = [bytearray(7), bytearray(n)]
        n = os.readv(connection.fileno(), blocks)
        return b"".join(blocks)[:n]
    if how == "recvmsg":
        return connection.recvmsg(n)[0]
    if how == "waitall":
        return connection.recv(64, socket.MSG_WAITALL)
    return connection.recv(n)
def serve(connection, how, context):
    if context:
        connection = context.wrap_socket(connection, server_side=True)
    while request := receive(connection, how, 4096):
        body = b"answer to " + request.split()[1]
        connection.sendall(b"HTTP/1.1 200 OK\\r\\nContent-Length: %d\\r\\n\\r\\n%s" % (len(body), body))
if sys.argv[1] == "serve":
    context = None
    if len(sys.argv) > 3:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*sys.argv[3:5])
        if sys.argv[5] != "TLSv1.3":
            context.maximum_version = ssl.TLSVersion.TLSv1_2
            context.set_ciphers(sys.argv[5])
    listener = socket.create_server(("127.0.0.1", 0))
    print(listener.getsockname()[1], flush=True)
    while True:
        connection, _ = listener.accept()
        threading.Thread(target=serve, args=(connection, sys.argv[2], context), daemon=True).start()
client = socket.create_connection(("127.0.0.1", int(sys.argv[2])))
if len(sys.argv) > 3:
    context = ssl.create_default_context(cafile=sys.argv[3])
    client = context.wrap_socket(client, server_hostname="localhost")
for line in sys.stdin:
    head = b"GET %s HTTP/1.1\\r\\nHost: localhost\\r\\nX: " % line.strip().encode()
    client.sendall(head.ljust(60, b"x") + b"\\r\\n\\r\\n")
    print(client.recv(4096).split(b"\\r\\n\\r\\n")[1].decode(), flush=True)
"""


# A server of TLS that answers the one request it is asked with what it is told. Arguments: certificate, key.
ANSWERS_LATER = """
import socket, ssl, sys
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(*sys.argv[1:])
listener = socket.create_server(("127.0.0.1", 0))
print(listener.getsockname()[1], flush=True)
connection = context.wrap_socket(listener.accept()[0], server_side=True)
connection.recv(4096)
body = sys.stdin.readline().strip().encode()
connection.sendall(b"HTTP/1.1 200 OK\\r\\nContent-Length: %d\\r\\n\\r\\n%s" % (len(body), body))
"""


def say(program: subprocess.Popen[str], line: str) -> str:
    """A line of input, and the line that answers it."""
    assert program.stdin is not None
    assert program.stdout is not None
    print(line, file=program.stdin, flush=True)
    return program.stdout.readline().rstrip("\n")


@pytest.fixture(scope="module")
def go_program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """tests/support/waiting/main.go."""
    folder = tmp_path_factory.mktemp("go")
    environment = {"GOCACHE": str(folder / "cache"), **os.environ, "GO111MODULE": "off"}
    program = folder / "gone-waiting"
    subprocess.run(
        ["go", "build", "-o", program, SUPPORT / "main.go"], env=environment, check=True, timeout=SECONDS
    )
    return program


@pytest.fixture
def go_pair(go_program: Path, servers: Servers) -> Iterator[Pair]:
    """Both in Go."""
    certificate = servers.certificate
    serve = [go_program, "serve", certificate, certificate.with_name("key.pem")]
    with running(serve, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        url = f"https://localhost:{server.stdout.readline().strip()}"
        ask = [go_program, "ask", url, certificate]
        with running(ask, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as client:
            assert say(client, "/before") == "answer to /before"
            yield server.pid, client.pid, client


@contextlib.contextmanager
def talking(how: str, servers: Servers | None = None, cipher: str = "") -> Iterator[Pair]:
    """Both of TALK, of TLS where there are servers, whose certificate it is."""
    certificate = servers.certificate if servers else None
    serve = [PYTHON, "-c", TALK, "serve", how]
    serve += [certificate, certificate.with_name("key.pem"), cipher] if certificate else []
    with running(serve, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        ask = [PYTHON, "-c", TALK, "ask", server.stdout.readline().strip()]
        ask += [certificate] if certificate else []
        with running(ask, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as client:
            assert say(client, "/before") == "answer to /before"
            yield server.pid, client.pid, client


def check(pair: Pair, folder: Path, who: str) -> dict[str, Any]:
    """All that is asked from now on is there, and nothing else; the ledger."""
    server, pid, client = pair
    account = folder / "ledger.json"
    options = ["-p", server if who == "server" else pid, "--ledger", account]
    with record(folder / "waiting.pcapng", *options) as recording:
        for path in PATHS:
            assert say(client, path) == f"answer to {path}"
        settle()
        done = recording.stop()
    assert answers(entries(recording.path)) == [(path, f"answer to {path}".encode()) for path in PATHS]
    assert "Warning" not in done.stderr
    assert expert_problems(recording.path) == []
    ledger: dict[str, Any] = json.loads(account.read_text())
    assert ledger["sockets"]["residue"] == ledger["tls"]["residue"] == 0
    return ledger


def answers(found: Sequence[dict[str, Any]]) -> list[tuple[str, bytes]]:
    """Paths and bodies."""
    return [(path_of(entry), decoded(entry["response"]["content"])) for entry in found]


@pytest.mark.parametrize("who", ["server", "client"])
def test_go_s_goroutines(go_pair: Pair, tmp_path: Path, who: str) -> None:
    ledger = check(go_pair, tmp_path, who)
    # A write and a read for each message; those that were waiting were not seen entered.
    assert ledger["probe_hits"] >= 2 * len(PATHS) - 1


@pytest.mark.parametrize("how", ["recv", "read", "readv", "recvmsg", "waitall"])
def test_system_calls(tmp_path: Path, how: str) -> None:
    with talking(how) as pair:
        ledger = check(pair, tmp_path, "server")
    assert ledger["sockets"]["lost"] == {}


@pytest.mark.parametrize("who", ["server", "client"])
@pytest.mark.parametrize(
    "cipher",
    [
        "TLSv1.3",
        "ECDHE-ECDSA-AES128-GCM-SHA256",
        "ECDHE-ECDSA-CHACHA20-POLY1305",
        "ECDHE-ECDSA-AES256-SHA384",
    ],
)
def test_openssl(servers: Servers, tmp_path: Path, cipher: str, who: str) -> None:
    with talking("recv", servers, cipher) as pair:
        # The client only waits while it is answered.
        ledger = check(pair, tmp_path, who)
    requests = sum(len(path) for path in PATHS)
    assert ledger["tls"]["reported"] > requests


# How tests/support/waiting/server.c is built: the compiler's options, and the linker's.
BUILDS = {
    "openssl": ("-O2 -DUSE_OPENSSL", "-lssl -lcrypto"),
    "openssl-static": ("-O2 -DUSE_OPENSSL -static", "-lssl -lcrypto"),
    "openssl-stripped": ("-O2 -DUSE_OPENSSL -static-pie -s", "-lssl -lcrypto"),
    "openssl-unoptimised": ("-O0 -DUSE_OPENSSL", "-lssl -lcrypto"),
    "gnutls": ("-O2 -DUSE_GNUTLS", "-lgnutls"),
    "mbedtls": ("-O2 -DUSE_MBEDTLS", "-lmbedtls -lmbedx509 -lmbedcrypto"),
    "wolfssl": ("-O2 -DUSE_WOLFSSL", "-lwolfssl"),
}


# The same in assembly: an argument is not known, and in the second what is called is not either.
UNCLEAR = ('-DUNCLEAR="nop"', '-DUNCLEAR="xchg\\t%rax,%rbx;xchg\\t%rax,%rbx"')


@contextlib.contextmanager
def c_pair(build: tuple[str, str], servers: Servers, folder: Path) -> Iterator[Pair]:
    """The server in C, the client TALK's."""
    program = folder / "waits"
    flags, libraries = (options.split() for options in build)
    command = ["gcc", *flags, "-o", str(program), str(SUPPORT / "server.c"), *libraries]
    subprocess.run(command, check=True, capture_output=True, timeout=SECONDS)
    certificate = servers.certificate
    serve = [program, certificate, certificate.with_name("key.pem")]
    with running(serve, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        ask = [PYTHON, "-c", TALK, "ask", server.stdout.readline().strip(), certificate]
        with running(ask, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as client:
            assert say(client, "/before") == "answer to /before"
            yield server.pid, client.pid, client


@pytest.mark.parametrize("library", BUILDS)
def test_threads_in_c(servers: Servers, tmp_path: Path, library: str) -> None:
    with c_pair(BUILDS[library], servers, tmp_path) as pair:
        ledger = check(pair, tmp_path, "server")
    assert ledger["tls"]["lost"] == {}
    assert ledger["unseen_entries"] == 0


def test_nss(servers: Servers, tmp_path: Path) -> None:
    """It waits in poll(), and PR_Read is not on its stack: that has jumped to what the descriptor's layer says."""
    program, account = tmp_path / "nss-waits", tmp_path / "ledger.json"
    found = subprocess.run(
        ["pkg-config", "--cflags", "--libs", "nss"], check=True, capture_output=True, text=True
    )
    command = ["gcc", "-O2", "-o", str(program), str(SUPPORT / "nss.c"), *found.stdout.split()]
    subprocess.run(command, check=True, capture_output=True, timeout=SECONDS)
    certificate = servers.certificate
    serve = [PYTHON, "-c", ANSWERS_LATER, certificate, certificate.with_name("key.pem")]
    with running(serve, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        assert server.stdin is not None
        with running(
            [program, server.stdout.readline().strip()], stdout=subprocess.PIPE, text=True
        ) as client:
            assert client.stdout is not None
            assert client.stdout.readline() == "asked\n"
            with record(tmp_path / "nss.pcapng", "-p", client.pid, "--ledger", account) as recording:
                print("answered", file=server.stdin, flush=True)
                assert client.stdout.readline() == "answered\n"
                settle()
                done = recording.stop()
    assert "Warning" not in done.stderr
    assert [body for _, body in answers(entries(recording.path))] == [b"answered"]
    assert json.loads(account.read_text())["unseen_entries"] == 0


@pytest.mark.parametrize("how", UNCLEAR)
@pytest.mark.parametrize("asked", [0, 3])
def test_what_cannot_be_understood_is_counted(servers: Servers, tmp_path: Path, asked: int, how: str) -> None:
    account = tmp_path / "ledger.json"
    build = (f"-O2 -DUSE_GNUTLS {how}", "-lgnutls")
    with (
        c_pair(build, servers, tmp_path) as (server, _, client),
        record(tmp_path / "unclear.pcapng", "-p", server, "--ledger", account) as recording,
    ):
        for path in PATHS[:asked]:
            assert say(client, path) == f"answer to {path}"
        settle()
        done = recording.stop()
    # The first request was read by a call of before the recording; where there was none, it has moved nothing.
    ledger = json.loads(account.read_text())
    assert ledger["unseen_entries"] == (asked > 0)
    assert ("had begun before the recording" in done.stderr) == (asked > 0)
    assert ("none of them lost" in done.stderr) == (asked > 0)
    assert not asked or [path_of(entry) for entry in entries(recording.path)][1:] == PATHS[1:asked]


def test_a_wait_whose_return_another_recording_watches_is_counted(servers: Servers, tmp_path: Path) -> None:
    """Its stack does not tell who has called the library."""
    account = tmp_path / "ledger.json"
    build = ("-O2 -DUSE_GNUTLS -DPULL", "-lgnutls")
    with (
        record(tmp_path / "other.pcapng", "-c", "waits"),
        c_pair(build, servers, tmp_path) as (server, _, client),
        record(tmp_path / "hidden.pcapng", "-p", server, "--ledger", account) as recording,
    ):
        assert [say(client, path) for path in PATHS] == [f"answer to {path}" for path in PATHS]
        settle()
        done = recording.stop()
    assert json.loads(account.read_text())["unseen_entries"] == 1
    assert "had begun before the recording" in done.stderr


# A call in each of four threads, and two bytes more by another. Arguments: a port and a path.
HALFWAY = """
import socket, sys, threading
def receive(connection):
    connection.recv(3000, socket.MSG_WAITALL)
    connection.recv(2, socket.MSG_WAITALL)
def send(connection):
    connection.send(b"".join(b"%08d" % i for i in range(1 << 17)))
    connection.send(b"++")
def run(call, family, address):
    connection = socket.socket(family)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 16)
    connection.connect(address)
    connection.send(call.__name__[:4].encode())
    call(connection)
threads = [
    threading.Thread(target=run, args=(call, *where))
    for call in (receive, send)
    for where in ((socket.AF_INET, ("127.0.0.1", int(sys.argv[1]))), (socket.AF_UNIX, sys.argv[2]))
]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
"""


def test_what_a_call_moved_before_the_recording_is_no_gap(tmp_path: Path) -> None:
    path, account = str(tmp_path / "s"), tmp_path / "ledger.json"
    with contextlib.ExitStack() as stack:
        tcp = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        tcp.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
        unix = stack.enter_context(socket.socket(socket.AF_UNIX))
        unix.bind(path)
        unix.listen()
        program = stack.enter_context(running([PYTHON, "-c", HALFWAY, str(tcp.getsockname()[1]), path]))
        talks = [stack.enter_context(listener.accept()[0]) for listener in (tcp, tcp, unix, unix)]
        receiving = {talk: talk.recv(4, socket.MSG_WAITALL) == b"rece" for talk in talks}
        for talk in talks:
            if receiving[talk]:
                talk.sendall(b"a" * 1000)
            else:
                talk.recv(100_000, socket.MSG_WAITALL)
        with record(
            tmp_path / "halfway.pcapng", "-p", program.pid, "--unix", "--protocol", "all", "--ledger", account
        ) as recording:
            for talk in talks:
                if receiving[talk]:
                    talk.sendall(b"b" * 2000 + b"++")
                else:
                    talk.recv((1 << 20) + 2 - 100_000, socket.MSG_WAITALL)
            assert program.wait(SECONDS) == 0
        port = tcp.getsockname()[1]
    found = streams_by_ports(recording.path)
    streams = [stream for same_ports in found.values() for stream in same_ports]
    assert len(streams) == 4
    assert all(stream.received.lost == 0 for stream in streams)
    assert [bytes(s.received.data) for s in streams if s.received.data] == [b"b" * 2000 + b"++"] * 2
    whole = b"".join(b"%08d" % i for i in range(1 << 17)) + b"++"
    sent = {ports: stream.sent for ports, (stream,) in found.items() if stream.sent.data}
    assert len(sent) == 2
    for (_, server), flow in sent.items():
        assert len(flow.data) > 1 << 19
        assert flow.is_of(whole[-len(flow.data) :])
        # On a Unix socket a receiver may be quicker than the look at what was sent.
        assert flow.reasons <= (set() if server == port else {"fault"})
    ledger = json.loads(account.read_text())
    assert ledger["sockets"]["residue"] == 0
    assert sum(ledger["sockets"]["lost"].values()) == sum(flow.lost for flow in sent.values())
