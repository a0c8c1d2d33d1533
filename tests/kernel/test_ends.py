"""How recordings begin and end: signals, time limits, children, pipes, and being killed."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import ssl
import stat
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from clients import curl, curl_command, keep_alive_client
from https_client import sample_body, sample_server
from judges import expert_problems, requests, rows
from memory_session import MemorySession
from processes import PLAINTAP, running, wait_until
from recording import READY, decoded, entries, path_of, plaintap, record, record_command, warnings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from servers import Servers

pytestmark = pytest.mark.kernel

LIMIT_SECONDS = 4
CURL_TIMED_OUT = 28


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_cleanly(servers: Servers, tmp_path: Path, how: signal.Signals) -> None:
    with record(tmp_path / "signal.pcapng", "--port", servers.https) as recording:
        curl(servers, servers.url("https", "/text"))
        done = recording.stop(how)
    assert done.returncode == 0
    assert "Traceback" not in done.stderr
    assert [path_of(entry) for entry in entries(recording.path)] == ["/text"]


def test_it_ends_after_the_given_seconds(servers: Servers, tmp_path: Path) -> None:
    began = time.monotonic()
    with record(tmp_path / "limit.pcapng", "--port", servers.http, "-d", LIMIT_SECONDS) as recording:
        curl(servers, servers.url("http", "/text"))
        done = recording.wait()
    assert done.returncode == 0
    assert time.monotonic() - began > LIMIT_SECONDS
    assert [path_of(entry) for entry in entries(recording.path)] == ["/text"]


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_what_a_client_gives_up_ends_there(servers: Servers, tmp_path: Path, scheme: str) -> None:
    path = tmp_path / "given-up.pcapng"
    with record(path, "--port", servers.port(scheme)):
        command = curl_command(servers, "-m", "1", servers.url(scheme, "/slow?ms=9000"))
        assert subprocess.run(command, capture_output=True, check=False).returncode == CURL_TIMED_OUT
        time.sleep(2)
    (entry,) = entries(path)
    assert entry["_outcome"] == "the connection was closed"
    assert 500 < entry["time"] < 2500


# Node closes the socket at once, and then decrypts what it has received of it.
GIVES_UP = """
for (let i = 0; i < 6; i++) {
  const control = new AbortController();
  const response = await fetch(process.argv[1], { signal: control.signal });
  const reader = response.body.getReader();
  await reader.read();
  if (i % 2) await reader.read();
  control.abort();
}
await new Promise(done => setTimeout(done, 300));
"""


def test_what_is_decrypted_after_the_socket_was_closed_is_in_the_file(
    servers: Servers, tmp_path: Path
) -> None:
    path, url = tmp_path / "read-on.pcapng", servers.url("https", "/bytes/3000017")
    command = (
        "env",
        "NODE_TLS_REJECT_UNAUTHORIZED=0",
        "node",
        "--no-warnings",
        "--input-type=module",
        "-e",
        GIVES_UP,
    )
    done = record_command(path, (*command, url))
    assert warnings(done.stderr) == []
    body = sample_body(3_000_017)
    found = [decoded(entry["response"]["content"]) for entry in entries(path)]
    assert len(found) >= 6
    assert all(part and body.startswith(part) for part in found)


ENOUGH = """
for (let i = 0; i < 6; i++) {
  const control = new AbortController();
  const response = await fetch(process.argv[1], { signal: control.signal });
  await response.body.getReader().read();
  control.abort();
}
await new Promise(done => setTimeout(done, 300));
"""
SHARES_A_SEGMENT = (b"5\r\ndata\n\r\n", b"0\r\n\r\n")


def test_what_is_decrypted_after_the_peers_end_is_in_the_file(servers: Servers, tmp_path: Path) -> None:
    """TCP's end is told when the peer's FIN comes, to whoever runs then."""
    path = tmp_path / "after-fin.pcapng"
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(servers.certificate, servers.certificate.with_name("key.pem"))

    def answer(connection: socket.socket) -> None:
        records: list[bytes] = []

        def receive() -> bytes:
            if not (received := connection.recv(65536)):
                raise ConnectionResetError  # a connection ahead of need
            return received

        with connection, contextlib.suppress(ConnectionError):
            session = MemorySession(context, connection.sendall, receive, server_side=True)
            session.do("do_handshake")
            session.do("read", 65536)
            session.do("write", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
            session.send = records.append
            for chunk in SHARES_A_SEGMENT:
                session.do("write", chunk)
            connection.sendall(b"".join(records))
            while connection.recv(65536):
                pass

    def serve(listener: socket.socket) -> None:
        with contextlib.suppress(OSError):  # the test is over
            while True:
                pool.submit(answer, listener.accept()[0])

    with ThreadPoolExecutor(16) as pool, socket.create_server(("127.0.0.1", 0)) as listener:
        pool.submit(serve, listener)
        url = f"https://localhost:{listener.getsockname()[1]}/"
        node = ("node", "--no-warnings", "--input-type=module", "-e", ENOUGH)
        done = record_command(path, ("env", "NODE_TLS_REJECT_UNAUTHORIZED=0", *node, url))
        listener.shutdown(socket.SHUT_RDWR)
    assert warnings(done.stderr) == []
    assert [decoded(entry["response"]["content"]) for entry in entries(path)] == [b"data\n"] * 6


CLIENTS = ("-c", "curl", "-c", "python3")


@contextlib.contextmanager
def without_length(servers: Servers, tells_end: bool) -> Iterator[int]:
    """The port of an HTTPS server of one response, whose body ends with the connection, which its client closes."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(servers.certificate, servers.certificate.with_name("key.pem"))

    def serve() -> None:
        with context.wrap_socket(listener.accept()[0], server_side=True) as connection:
            connection.recv(1 << 16)
            connection.sendall(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + b"x" * 1009)
            with contextlib.suppress(OSError):
                if tells_end:
                    connection.unwrap()  # sends close_notify, and waits for the client's
                connection.recv(1)
            time.sleep(0.1)  # the client's FIN is first, and its kernel may have forgotten the socket

    with socket.create_server(("127.0.0.1", 0)) as listener, ThreadPoolExecutor(1) as thread:
        done = thread.submit(serve)
        yield listener.getsockname()[1]
        done.result(60)


def python_command(servers: Servers, url: str) -> list[str]:
    """A client that reads with SSL_read_ex."""
    script = (
        "import ssl, sys, urllib.request as u;"
        "u.urlopen(sys.argv[2], context=ssl.create_default_context(cafile=sys.argv[1])).read()"
    )
    return ["python3", "-c", script, str(servers.certificate), url]


@pytest.mark.parametrize("client", [curl_command, python_command])
def test_a_body_is_whole_if_close_notify_has_ended_it(
    servers: Servers, tmp_path: Path, client: Callable[[Servers, str], list[str]]
) -> None:
    """RFC 9112 §9.8: it is what shows that nothing was cut off; the server's FIN comes after the client's."""
    path = tmp_path / "notified.pcapng"
    with without_length(servers, tells_end=True) as port, record(path, "--port", port, *CLIENTS):
        subprocess.run(client(servers, f"https://localhost:{port}/"), check=True, capture_output=True)
        time.sleep(0.5)  # until the socket has ended
    (entry,) = entries(path)
    assert entry.get("_outcome") is None
    assert entry["response"]["content"]["size"] == 1009
    assert [problem for problem in expert_problems(path) if "Reset" not in str(problem)] == []


def test_a_body_that_its_client_gives_up_is_not_whole(servers: Servers, tmp_path: Path) -> None:
    path = tmp_path / "given-up.pcapng"
    with without_length(servers, tells_end=False) as port, record(path, "--port", port, *CLIENTS):
        command = curl_command(servers, "-m", "1", f"https://localhost:{port}/")
        assert subprocess.run(command, capture_output=True, check=False).returncode == CURL_TIMED_OUT
        time.sleep(0.5)
    (entry,) = entries(path)
    assert entry["_outcome"] == "the connection was closed"


def test_a_command_s_streams_and_exit_code_are_its_own(tmp_path: Path) -> None:
    capture = tmp_path / "own.pcapng"
    script = "cat; echo out; echo err >&2; exit 37"
    command = [str(PLAINTAP), "record", "-w", str(capture), "--", "sh", "-c", script]
    done = subprocess.run(command, input=b"in\n", capture_output=True, timeout=180, check=False)
    assert done.returncode == 37
    assert done.stdout == b"in\nout\n"
    assert b"err\n" in done.stderr
    assert capture.exists()


def test_a_command_that_a_signal_kills_gives_128_and_its_number(tmp_path: Path) -> None:
    done = record_command(tmp_path / "killed.pcapng", ["sh", "-c", "kill -KILL $$"])
    assert done.returncode == 128 + signal.SIGKILL
    assert "SIGTRAP" not in done.stderr
    trapped = record_command(tmp_path / "trapped.pcapng", ["sh", "-c", "kill -TRAP $$"])
    assert trapped.returncode == 128 + signal.SIGTRAP
    assert "Warning: the command was ended by SIGTRAP, as are programs that " in trapped.stderr


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_is_passed_on_to_the_command(tmp_path: Path, how: signal.Signals) -> None:
    script = f"trap 'exit 41' {how.name.removeprefix('SIG')}; echo up; while :; do sleep 0.05; done"
    # Under nohup, SIGHUP is ignored by all that is started, and rightly so: not what is tested here.
    undisturbed = ["env", f"--default-signal={how.name.removeprefix('SIG')}"]
    command = [*undisturbed, PLAINTAP, "record", "-w", tmp_path / "passed.pcapng", "--", "sh", "-c", script]
    with running(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"up\n"
        process.send_signal(how)
        assert process.wait(60) == 41


def test_a_command_that_does_not_exist(tmp_path: Path) -> None:
    done = record_command(tmp_path / "none.pcapng", ["/no/such/program"])
    assert done.returncode != 0
    assert "/no/such/program" in done.stderr
    assert "Traceback" not in done.stderr


def test_children_of_the_command_are_followed(servers: Servers, tmp_path: Path) -> None:
    capture = tmp_path / "children.pcapng"
    fetch = " ".join(curl_command(servers, servers.url("https", "/text")))
    done = record_command(capture, ["sh", "-c", f"sh -c '{fetch} >/dev/null; true' & wait"])
    assert done.returncode == 0, done.stderr
    assert [path_of(entry) for entry in entries(capture)] == ["/text"]


def test_others_than_the_command_are_left_out(servers: Servers, tmp_path: Path) -> None:
    capture = tmp_path / "others.pcapng"
    command = [PLAINTAP, "record", "-w", capture, "--", "sh", "-c", "echo up; sleep 2"]
    with running(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"up\n"
        curl(servers, servers.url("https", "/text"))
        assert process.wait(60) == 0
    assert rows(capture, "tcp", "frame.number") == []
    done = plaintap("export", capture, "-o", "-")
    assert done.returncode == 1
    assert done.stdout == ""
    assert "nothing to export" in done.stderr


def test_the_capture_goes_down_a_pipe_while_it_is_made(servers: Servers, tmp_path: Path) -> None:
    command = [PLAINTAP, "record", "-w", "-", "--port", servers.https]
    log = tmp_path / "stderr"
    capture = tmp_path / "pipe.pcapng"
    with (
        log.open("wb") as stderr,
        capture.open("wb") as output,
        running(command, stdout=output, stderr=stderr) as process,
    ):
        wait_until(lambda: READY in log.read_text(), "the recording to be ready")
        curl(servers, servers.url("https", "/text"))
        url = servers.url("https", "/text")
        # A second is the longest that a flush may take to come.
        wait_until(lambda: url in requests_so_far(capture), "the exchange to be in the pipe")
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0
    assert requests(capture) == [url]


def test_an_interrupt_counts_before_the_recording_has_begun(tmp_path: Path) -> None:
    """Also of one that a script has started with &: its shell has it ignore SIGINT."""
    log = tmp_path / "stderr"
    command = ["sh", "-c", f"trap '' INT; exec {PLAINTAP} record -w {tmp_path / 'x.pcapng'}"]
    with log.open("wb") as stderr, running(command, stderr=stderr) as process:
        wait_until(lambda: is_ignored(process.pid, signal.SIGINT), "the shell")
        wait_until(lambda: not is_ignored(process.pid, signal.SIGINT), "the recorder to hear it")
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 1
    assert READY not in log.read_text()
    assert "Traceback" not in log.read_text()


def is_ignored(pid: int, number: signal.Signals) -> bool:
    status = Path(f"/proc/{pid}/status").read_text()
    ignored = next(line for line in status.splitlines() if line.startswith("SigIgn:"))
    return bool(int(ignored.split()[1], 16) >> (number - 1) & 1)


def requests_so_far(capture: Path) -> list[str]:
    """The requests in a capture that is being written; tshark must be able to read it at any time."""
    copy = capture.with_name("copy.pcapng")
    copy.write_bytes(capture.read_bytes())
    return requests(copy) if copy.stat().st_size else []


def test_a_closed_pipe_ends_it_without_a_traceback(servers: Servers, tmp_path: Path) -> None:
    log = tmp_path / "stderr"
    reading, writing = os.pipe()
    with log.open("wb") as stderr:
        command = [PLAINTAP, "record", "-w", "-", "--port", servers.http]
        with running(command, stdout=writing, stderr=stderr) as process:
            os.close(writing)
            wait_until(lambda: READY in log.read_text(), "the recording to be ready")
            os.close(reading)
            curl(servers, servers.url("http", "/text"))
            process.wait(60)
    assert "Traceback" not in log.read_text()


def test_only_the_user_may_read_the_capture(tmp_path: Path) -> None:
    capture = tmp_path / "private.pcapng"
    assert record_command(capture, ["true"]).returncode == 0
    assert stat.S_IMODE(capture.stat().st_mode) == 0o600


def test_killed_in_the_middle_it_leaves_a_file_and_nothing_else(servers: Servers, tmp_path: Path) -> None:
    with keep_alive_client(servers) as client:
        with record(tmp_path / "killed.pcapng") as recording:
            for number in range(5):
                client.request(f"/json?number={number}")
            time.sleep(1.2)  # the file is readable up to a second ago
            for number in range(5, 200):
                client.request(f"/json?number={number}")
            recording.process.kill()
            # The kernel lets go of each tracepoint in its own time, and the process is not gone before.
            assert recording.process.wait(60) == -signal.SIGKILL
        # The traced processes go on; that no program stays loaded is checked after every kernel test.
        answer = client.request("/bytes/70001")
        assert answer["sha256"] == sample_server().sample_sha256(70_001)
    found = [path_of(entry) for entry in entries(recording.path, servers.https)]
    assert found[:5] == [f"/json?number={number}" for number in range(5)]
    assert found == [f"/json?number={number}" for number in range(len(found))]


def test_the_default_file_is_named_after_the_date(tmp_path: Path) -> None:
    command = [str(PLAINTAP), "record", "--", "true"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, timeout=180, check=False)
    assert done.returncode == 0, done.stderr
    (capture,) = tmp_path.glob("plaintap-*.pcapng")
    assert str(time.localtime().tm_year) in capture.name


def test_show_prints_a_line_per_exchange(servers: Servers, tmp_path: Path) -> None:
    capture = tmp_path / "show.pcapng"
    urls = [servers.url("https", path) for path in ("/text", "/status/404", "/bytes/16385")]
    command = [part for part in curl_command(servers, *urls) if part != "--fail"]
    assert (
        record_command(
            capture, [*command, "--output", "/dev/null", "--output", "/dev/null", "--output", "/dev/null"]
        ).returncode
        == 0
    )
    done = plaintap("show", capture)
    assert done.returncode == 0
    lines = [line for line in done.stdout.splitlines() if "https://" in line]
    assert len(lines) == len(urls)
    for line, url, status in zip(lines, urls, ("200", "404", "200"), strict=True):
        assert url in line
        assert status in line
        assert "curl" in line
        assert "GET" in line
