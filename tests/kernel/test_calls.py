"""System calls as programs make them, one oddity at a time: what is recorded is what crossed the socket."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
from processes import PLAINTAP, PYTHON, running, wait_until
from recording import decoded, entries, path_of, record, record_command, warnings

from capture.streams import Data, Gap, StreamOpened, TlsStarted
from exporters.reassembly import read_streams

if TYPE_CHECKING:
    from pathlib import Path

    from servers import Servers

pytestmark = pytest.mark.kernel

# A client that sees all of the answer; ``ask`` is what each test does between connect() and close().
CLIENT = """
import os, socket, ssl, sys, threading, time
port = int(sys.argv[1])
s = socket.create_connection(("127.0.0.1", port))
def answer():
    data = b""
    while b"\\r\\n\\r\\n" not in data:
        data += s.recv(1 << 16)
    head, _, body = data.partition(b"\\r\\n\\r\\n")
    length = int(head.lower().split(b"content-length:")[1].split()[0])
    while len(body) < length:
        body += s.recv(1 << 16)
HEAD = b"Host: localhost\\r\\n\\r\\n"
"""


def recorded(servers: Servers, tmp_path: Path, ask: str) -> list[dict[str, Any]]:
    """The exchanges of a client that asks so."""
    capture = tmp_path / "calls.pcapng"
    command = [sys.executable, "-c", CLIENT + ask + "\ns.close()\n", servers.http]
    done = record_command(capture, command)
    assert done.returncode == 0, done.stderr
    assert "off by" not in done.stderr
    return entries(capture)


def test_a_body_that_looks_like_a_client_hello(servers: Servers, tmp_path: Path) -> None:
    # One call in a billion of random bytes begins so; a file of packets more often.
    ask = """
first, second = b"A" * 1000, b"\\x16\\x03\\x01\\x00\\x50\\x01" + bytes(range(250)) * 16
s.sendall(b"POST /echo HTTP/1.1\\r\\nContent-Length: %d\\r\\n" % len(first + second) + HEAD)
s.sendall(first)
time.sleep(0.05)
s.sendall(second)
answer()
"""
    (entry,) = recorded(servers, tmp_path, ask)
    body = b"A" * 1000 + b"\x16\x03\x01\x00\x50\x01" + bytes(range(250)) * 16
    assert decoded(entry["request"]["postData"]) == body
    assert entry["response"]["status"] == 200


@pytest.mark.parametrize(
    "blocks",
    [
        '[b"", b"GET /text HTTP/1.1\\r\\n" + HEAD]',
        '[b"GE", b"T /te", b"", b"xt HTTP/1.1\\r\\n", HEAD]',
        '[b"G"] + [b"ET /text HTTP/1.1\\r\\n" + HEAD]',
    ],
)
def test_a_request_in_blocks_of_any_size(servers: Servers, tmp_path: Path, blocks: str) -> None:
    found = recorded(servers, tmp_path, f"os.writev(s.fileno(), {blocks})\nanswer()")
    assert [(path_of(entry), entry["response"]["status"]) for entry in found] == [("/text", 200)]


def test_an_answer_into_blocks_of_any_size(servers: Servers, tmp_path: Path) -> None:
    ask = """
s.sendall(b"GET /text HTTP/1.1\\r\\n" + HEAD)
time.sleep(0.1)
os.readv(s.fileno(), [bytearray(1), bytearray(2), bytearray(1 << 16)])
"""
    (entry,) = recorded(servers, tmp_path, ask)
    assert (path_of(entry), entry["response"]["status"]) == ("/text", 200)


def test_the_error_queue_holds_nothing_that_was_received(servers: Servers, tmp_path: Path) -> None:
    # With time stamps of sent packets the kernel gives copies of them back.
    ask = """
s.setsockopt(socket.SOL_SOCKET, 37, 1 << 1 | 1 << 4)  # SO_TIMESTAMPING: TX_SOFTWARE, SOFTWARE
s.sendall(b"GET /bytes/3000 HTTP/1.1\\r\\n" + HEAD)
time.sleep(0.1)
assert len(s.recvmsg(4096, 1024, socket.MSG_ERRQUEUE)[0]) > 30
answer()
"""
    (entry,) = recorded(servers, tmp_path, ask)
    assert entry["response"]["status"] == 200
    assert len(decoded(entry["response"]["content"])) == 3000


def test_what_is_peeked_at_is_received_once(servers: Servers, tmp_path: Path) -> None:
    ask = """
s.sendall(b"GET /bytes/3000 HTTP/1.1\\r\\n" + HEAD)
s.recv(100, socket.MSG_PEEK)
s.recv(5000, socket.MSG_PEEK)
answer()
"""
    (entry,) = recorded(servers, tmp_path, ask)
    assert len(decoded(entry["response"]["content"])) == 3000


def test_a_call_that_is_not_hooked_receives_first_while_another_waits(
    servers: Servers, tmp_path: Path
) -> None:
    # Half of all sequence numbers are negative, and did no harm.
    ask = """
for _ in range(6):
    s = socket.create_connection(("127.0.0.1", port))
    # A splice that waits for room.
    reader, writer = os.pipe()
    os.write(writer, bytes(1 << 16))
    other = threading.Thread(target=os.splice, args=(s.fileno(), writer, 1 << 16))
    other.start()
    time.sleep(0.05)
    s.sendall(b"GET /bytes/3000 HTTP/1.1\\r\\n" + HEAD)
    time.sleep(0.1)
    assert os.preadv(s.fileno(), [bytearray(1 << 16)], -1, os.RWF_NOWAIT) > 3000
    s.shutdown(socket.SHUT_RDWR)
    os.read(reader, 1 << 16)
    other.join()
"""
    found = recorded(servers, tmp_path, ask)
    assert [len(decoded(entry["response"]["content"])) for entry in found] == [3000] * 6
    gaps = [item for item in read_streams(tmp_path / "calls.pcapng") if isinstance(item, Gap)]
    assert gaps == []


# Both ends of connections of which each first call comes when TCP is done with the socket: the client's, after a FIN of
# either end, and the server's, after a reset.
LATE_READERS = """
import socket, struct, time
listener = socket.create_server(("127.0.0.1", 0))
port = listener.getsockname()[1]
client = socket.create_connection(("127.0.0.1", port))
client.shutdown(socket.SHUT_WR)
server = listener.accept()[0]
server.sendall(b"HTTP/1.1 200 OK\\r\\nContent-Length: 0\\r\\n\\r\\n")
server.close()
time.sleep(0.1)
print(port, client.getsockname()[1])
client.recv(1000)
client = socket.create_connection(("127.0.0.1", port))
print(port, client.getsockname()[1])
client.sendall(b"GET / HTTP/1.1\\r\\n\\r\\n")
client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
client.close()
time.sleep(0.1)
listener.accept()[0].recv(1000)
"""


def test_what_is_read_when_tcp_is_done_with_a_connection_is_on_its_ports(tmp_path: Path) -> None:
    capture = tmp_path / "late.pcapng"
    done = record_command(capture, [sys.executable, "-c", LATE_READERS])
    assert done.returncode == 0, done.stderr
    opened = [item for item in read_streams(capture) if isinstance(item, StreamOpened)]
    ports = [f"{item.server.port} {item.client.port}" for item in opened]
    assert sorted(ports) == sorted(done.stdout.splitlines())


def test_a_program_that_another_thread_starts_is_followed(servers: Servers, tmp_path: Path) -> None:
    # The leader's thread ends, and the one that called exec() takes over its number.
    capture = tmp_path / "thread.pcapng"
    url = servers.url("http", "/text")
    script = (
        "import os, threading\n"
        f"arguments = ['curl', '-s', '-o', '/dev/null', '{url}']\n"
        "thread = threading.Thread(target=os.execvp, args=('curl', arguments))\n"
        "thread.start(); thread.join()"
    )
    done = record_command(capture, [sys.executable, "-c", script])
    assert done.returncode == 0, done.stderr
    assert [path_of(entry) for entry in entries(capture)] == ["/text"]


# Both ends of a socket: TLS, its proper end, and TLS once more.
TWICE = """
import socket, ssl, sys, threading
certificate, key = sys.argv[1:3]
a, b = socket.create_server(("127.0.0.1", 0)), None
client = socket.create_connection(a.getsockname())
served = a.accept()[0]
def serve():
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    tls = context.wrap_socket(served, server_side=True)
    assert tls.recv(5000) == b"1" * 2000
    tls.sendall(b"2" * 3000)
    plain = tls.unwrap()
    again = context.wrap_socket(plain, server_side=True)
    assert again.recv(5000) == b"3" * 10
    try:
        again.unwrap()
    except (ssl.SSLError, OSError):
        pass
    again.close()
thread = threading.Thread(target=serve)
thread.start()
context = ssl.create_default_context(cafile=certificate)
tls = context.wrap_socket(client, server_hostname="localhost")
tls.sendall(b"1" * 2000)
got = b""
while len(got) < 3000:
    got += tls.recv(5000)
plain = tls.unwrap()
again = context.wrap_socket(plain, server_hostname="localhost")
again.sendall(b"3" * 10)
try:
    again.unwrap()
except (ssl.SSLError, OSError):
    pass
again.close()
thread.join()
"""


def test_a_second_session_on_a_connection_has_positions_of_its_own(servers: Servers, tmp_path: Path) -> None:
    capture = tmp_path / "twice.pcapng"
    certificate = servers.certificate
    command = [sys.executable, "-c", TWICE, certificate, certificate.with_name("key.pem")]
    done = record_command(capture, command)
    assert done.returncode == 0, done.stderr
    items = list(read_streams(str(capture)))
    assert [item for item in items if isinstance(item, Gap)] == [], done.stderr
    assert sum(len(item.data) for item in items if isinstance(item, Data)) == 5010
    assert not any(isinstance(item, TlsStarted) and item.tls is None for item in items)


# TLS over a memory BIO, on a connection that waits for a line between its requests.
MEMORY = """
import asyncio, ssl, sys
async def main():
    context = ssl.create_default_context(cafile=sys.argv[2])
    reader, writer = await asyncio.open_connection("localhost", int(sys.argv[1]), ssl=context)
    print("up", flush=True)
    for number, _ in enumerate(iter(sys.stdin.readline, "")):
        writer.write(b"GET /text?%d HTTP/1.1\\r\\nHost: localhost\\r\\n\\r\\n" % number)
        head = await reader.readuntil(b"\\r\\n\\r\\n")
        await reader.readexactly(int(head.lower().split(b"content-length:")[1].split()[0]))
        print("done", flush=True)
    writer.close()
asyncio.run(main())
"""


def test_the_first_request_on_an_older_connection_over_a_memory_bio(servers: Servers, tmp_path: Path) -> None:
    command = [PYTHON, "-c", MEMORY, servers.https, servers.certificate]
    with running(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as client:
        assert client.stdin is not None
        assert client.stdout is not None
        assert client.stdout.readline() == "up\n"
        with record(tmp_path / "memory.pcapng", "-p", client.pid) as recording:
            for _ in range(3):
                print(file=client.stdin, flush=True)
                assert client.stdout.readline() == "done\n"
            done = recording.stop()
    assert warnings(done.stderr) == []
    assert [path_of(entry) for entry in entries(recording.path)] == ["/text?0", "/text?1", "/text?2"]


def test_the_guard_is_not_looked_for_where_the_command_runs(tmp_path: Path) -> None:
    (tmp_path / "capture").mkdir()
    (tmp_path / "capture/__init__.py").write_text("")
    (tmp_path / "capture/guard.py").write_text(f"open({str(tmp_path / 'planted')!r}, 'w')")
    command = [str(PLAINTAP), "record", "-w", "x.pcapng", "--", "true"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=180, check=False)
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "planted").exists()


def test_a_time_limit_ends_the_recording_and_leaves_the_command_its_exit_code(tmp_path: Path) -> None:
    command = [
        str(PLAINTAP),
        "record",
        "-w",
        str(tmp_path / "x.pcapng"),
        "-d",
        "0.5",
        "--",
        "sh",
        "-c",
        "sleep 2; exit 7",
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=180, check=False)
    assert done.returncode == 7, done.stderr


def test_a_signal_where_stdin_is_closed(tmp_path: Path) -> None:
    up = tmp_path / "up"
    shell = f"trap 'exit 9' INT; touch {up}; while :; do sleep 0.05; done"
    command = shlex.join([str(PLAINTAP), "record", "-w", str(tmp_path / "x.pcapng"), "--", "sh", "-c", shell])
    with (
        (tmp_path / "stderr").open("wb") as stderr,
        running(["sh", "-c", f"exec {command} <&-"], stderr=stderr) as process,
    ):
        wait_until(up.exists, "the command to be up")
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 9
    assert "Traceback" not in (tmp_path / "stderr").read_text()


def test_nohup_outlives_the_terminal(servers: Servers, tmp_path: Path) -> None:
    log = tmp_path / "stderr"
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with log.open("wb") as stderr:
            process = subprocess.Popen(
                [PLAINTAP, "record", "-w", tmp_path / "x.pcapng", "-d", "2"], stderr=stderr
            )
    finally:
        signal.signal(signal.SIGHUP, before)
    try:
        while "Recording" not in log.read_text():
            assert process.poll() is None, log.read_text()
        os.kill(process.pid, signal.SIGHUP)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(1)
        assert process.wait(60) == 0
    finally:
        process.kill()
