"""Connections that were open before the recording: which end is whose, in any network namespace, and the idle ones."""

from __future__ import annotations

import hashlib
import json
import random
import socket
import ssl
import subprocess
from typing import TYPE_CHECKING, Any

import pytest
from conformance_runs import streams_by_ports
from processes import PYTHON, running
from recording import entries, path_of, record, response_sha256
from two_programs import ENDS, record_end

from capture.streams import Side

if TYPE_CHECKING:
    from pathlib import Path

    from servers import Servers

pytestmark = pytest.mark.kernel

# Both ends of two connections. The client's port is the lower one, and what is said no protocol: what remains to
# tell them apart is who listens. A line of input moves bytes on the first connection; the second is idle.
PROGRAM = """
import fcntl, hashlib, json, os, random, socket, struct, sys
loopback = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
fcntl.ioctl(loopback, 0x8914, struct.pack("16sh14x", b"lo", 0x41))  # SIOCSIFFLAGS: up, running
loopback.close()
host = sys.argv[1]
family = socket.AF_INET6 if ":" in host else socket.AF_INET
listener = socket.socket(family)
port = 60000
while True:
    try:
        listener.bind((host, port))
        listener.listen()
        break
    except OSError:
        port += 1
def connect():
    client = socket.socket(family)
    below = random.randrange(10000, 30000)
    while True:
        try:
            client.bind((host, below))
            client.connect((host, port))
            return client, listener.accept()[0]
        except OSError:
            below += 1
busy, idle = connect(), connect()
noise = random.Random(5)
def moves(sender, receiver, n):
    data = bytes([0]) + noise.randbytes(n - 1)
    sender.sendall(data)
    assert receiver.recv(n, socket.MSG_WAITALL) == data
    return data
moves(*busy, 211)
print(json.dumps({"port": port, "busy": busy[0].getsockname()[1], "idle": idle[0].getsockname()[1],
                  "fds": [end.fileno() for end in idle]}), flush=True)
sent = received = b""
for _ in sys.stdin:
    sent += moves(busy[0], busy[1], 1009)
    received += moves(busy[1], busy[0], 503)
    print(json.dumps({"sent": hashlib.sha256(sent).hexdigest(),
                      "received": hashlib.sha256(received).hexdigest()}), flush=True)
"""


def said(process: subprocess.Popen[Any]) -> dict[str, Any]:
    """The program's next line."""
    assert process.stdout is not None
    line: dict[str, Any] = json.loads(process.stdout.readline())
    return line


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
@pytest.mark.parametrize("elsewhere", [False, True], ids=["here", "namespace"])
def test_which_end_is_the_server_and_which_connections_are_idle(
    tmp_path: Path, host: str, *, elsewhere: bool
) -> None:
    command = [*(["unshare", "--net"] if elsewhere else []), PYTHON, "-c", PROGRAM, host]
    account = tmp_path / "ledger.json"
    with running(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as program:
        assert program.stdin is not None
        begun = said(program)
        options = ["-p", program.pid, "--protocol", "all", "--ledger", account]
        with record(tmp_path / "older.pcapng", *options) as recording:
            for _ in range(7):
                print(file=program.stdin, flush=True)
                truth = said(program)
            done = recording.stop()
        assert done.returncode == 0, done.stderr
    streams = streams_by_ports(recording.path)
    assert list(streams) == [(begun["busy"], begun["port"])]
    ((stream,),) = streams.values()
    assert stream.side is Side.CLIENT
    assert not stream.handshake_seen
    assert (stream.sent.sha256, stream.received.sha256) == (truth["sent"], truth["received"])
    assert (len(stream.sent.data), len(stream.received.data)) == (7 * 1009, 7 * 503)
    assert hashlib.sha256().hexdigest() not in truth.values()
    ledger = json.loads(account.read_text())
    place = f"[{host}]" if ":" in host else host
    ends = [f"{place}:{begun['idle']}", f"{place}:{begun['port']}"]
    assert ledger["idle"] == len(ends)
    assert sorted(ledger["idle_connections"], key=lambda end: str(end["side"])) == [
        {"pid": program.pid, "comm": PYTHON.name, "fd": begun["fds"][0], "local": ends[0], "remote": ends[1],
         "side": "client"},
        {"pid": program.pid, "comm": PYTHON.name, "fd": begun["fds"][1], "local": ends[1], "remote": ends[0],
         "side": "server"},
    ]  # fmt: skip
    assert "2 more were open and moved nothing" in done.stderr


# A request whose answer is under way when the recording begins, in thousands of calls; then another one.
ANSWERING = """
import socket, sys
listener = socket.create_server(("127.0.0.1", 0))
print(listener.getsockname()[1], flush=True)
connection, _ = listener.accept()
connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
connection.recv(1000)
body = b"a long answer " * 500_000
connection.sendall(b"HTTP/1.1 200 OK\\r\\nContent-Length: %d\\r\\n\\r\\n" % len(body))
for at in range(0, len(body), 1000):
    connection.sendall(body[at:at + 1000])
connection.recv(1000)
connection.sendall(b"HTTP/1.1 200 OK\\r\\nContent-Length: 6\\r\\n\\r\\nsecond")
connection.recv(1)
"""
ASKING = """
import socket, sys
with socket.create_connection(("127.0.0.1", int(sys.argv[1]))) as connection:
    connection.sendall(b"GET /first HTTP/1.1\\r\\nHost: a\\r\\n\\r\\n")
    head = b""
    while not head.endswith(b"\\r\\n\\r\\n"):
        head += connection.recv(1)
    sys.stdin.readline()
    left = int(head.split()[-1])
    while left:
        left -= len(connection.recv(min(left, 1000)))
    connection.sendall(b"GET /second HTTP/1.1\\r\\nHost: a\\r\\n\\r\\n")
    connection.recv(1000)
"""


@pytest.mark.parametrize("end", ENDS)
def test_a_request_after_an_answer_that_was_under_way(tmp_path: Path, end: str) -> None:
    path = tmp_path / "under-way.pcapng"
    done, _ = record_end(path, end, [PYTHON, "-c", ANSWERING], lambda port: [PYTHON, "-c", ASKING, port])
    found = [entry for entry in entries(path) if path_of(entry) == "/second"]
    assert [response_sha256(entry) for entry in found] == [hashlib.sha256(b"second").hexdigest()], done.stderr


# Of a session whose BIOs are in memory, or a pair, and which writes nothing: what it reads is received in pieces that
# begin anywhere in a record. It waits for a line of input when it has received the first piece of one.
READING = """
import ctypes, hashlib, socket, sys
from ctypes import c_void_p
ssl, crypto = ctypes.CDLL("libssl.so.3"), ctypes.CDLL("libcrypto.so.3")
def pointer(function, *arguments):
    function.restype = c_void_p
    return c_void_p(function(*arguments))
session = pointer(ssl.SSL_new, pointer(ssl.SSL_CTX_new, pointer(ssl.TLS_client_method)))
if sys.argv[1] == "pair":
    own, other = c_void_p(), c_void_p()
    assert crypto.BIO_new_bio_pair(ctypes.byref(own), ctypes.c_size_t(0), ctypes.byref(other), ctypes.c_size_t(0))
    ssl.SSL_set_bio(session, own, own)
    incoming = outgoing = other
else:
    incoming, outgoing = (pointer(crypto.BIO_new, pointer(crypto.BIO_s_mem)) for _ in range(2))
    ssl.SSL_set_bio(session, incoming, outgoing)
ssl.SSL_set_connect_state(session)
connection = socket.create_connection(("127.0.0.1", int(sys.argv[2])))
print(connection.getsockname()[1], flush=True)
room = ctypes.create_string_buffer(1 << 16)
def receive(n):
    received = connection.recv(n)
    assert crypto.BIO_write(incoming, received, len(received)) == len(received) > 0
def send():
    n = crypto.BIO_read(outgoing, room, len(room))
    connection.sendall(room.raw[:max(n, 0)])
while ssl.SSL_do_handshake(session) != 1:
    send()
    receive(1 << 14)
send()
length = 0
while length < 500:
    receive(701)
    length += max(0, ssl.SSL_read(session, room, len(room)))
receive(700)
assert ssl.SSL_read(session, room, len(room)) < 0
print("waits", flush=True)
sys.stdin.readline()
while length < 100_000:
    receive(701)
    while (n := ssl.SSL_read(session, room, len(room))) > 0:
        length += n
"""


@pytest.mark.parametrize("how", ["memory", "pair"])
def test_an_older_session_that_only_reads(servers: Servers, tmp_path: Path, how: str) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(servers.certificate, servers.certificate.with_name("key.pem"))
    body = random.Random(3).randbytes(100_000)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        command = [PYTHON, "-c", READING, how, port]
        with running(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as client:
            assert client.stdin is not None
            assert client.stdout is not None
            local = int(client.stdout.readline())
            with context.wrap_socket(listener.accept()[0], server_side=True) as secure:
                secure.sendall(body[:500])
                secure.sendall(body[500:])
                assert client.stdout.readline() == "waits\n"
                with record(tmp_path / "reading.pcapng", "-p", client.pid) as recording:
                    print(file=client.stdin, flush=True)
                    assert client.wait() == 0
    (stream,) = streams_by_ports(recording.path)[local, port]
    assert (bytes(stream.sent.data), bytes(stream.received.data)) == (b"", body[500:])
