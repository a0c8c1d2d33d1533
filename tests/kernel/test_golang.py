"""Go's crypto/tls in programs that use it otherwise than net/http."""

from __future__ import annotations

import shutil
import socket
import ssl
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from https_client import sample_body
from judges import rows
from processes import PLAINTAP, PYTHON, ROOT, free_port, running, wait_for_port
from recording import decoded, entries, path_of, plaintap, record, record_command, settle, warnings

if TYPE_CHECKING:
    from servers import Servers

pytestmark = pytest.mark.kernel

# Places that are known are looked at when a recording has begun: in a third of a second, on an idle machine.
PREPARED_SECONDS = 1.5
PROXY = ROOT / "tests/stacks/programs/https_proxy.py"


@pytest.fixture(scope="module")
def implicit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A program that never asks for a handshake: its first Read or Write makes one."""
    program = tmp_path_factory.mktemp("go") / "implicit"
    source = ROOT / "tests/support/go/implicit.go"
    subprocess.run(["go", "build", "-o", program, source], check=True)
    return program


def served_by(program: Path, servers: Servers, capture: Path) -> None:
    """Record the program as a server that is asked for two things."""
    key = servers.certificate.with_name("key.pem")
    command = [PLAINTAP, "record", "-w", capture, "--", program, "server", servers.certificate, key]
    context = ssl.create_default_context(cafile=servers.certificate)
    with running(command, stdout=subprocess.PIPE, text=True) as recorder:
        assert recorder.stdout
        port = int(recorder.stdout.readline())
        with (
            socket.create_connection(("127.0.0.1", port)) as plain,
            context.wrap_socket(plain, server_hostname="localhost") as secure,
        ):
            for path in (b"/first", b"/second"):
                secure.sendall(b"GET " + path + b" HTTP/1.1\r\nHost: localhost\r\n\r\n")
                assert secure.recv(4096).endswith(path)
        assert recorder.wait() == 0


def test_a_client_whose_first_write_shakes_hands(servers: Servers, tmp_path: Path, implicit: Path) -> None:
    capture = tmp_path / "client.pcapng"
    done = record_command(capture, [implicit, "client", servers.https])
    assert done.returncode == 0, done.stderr
    found = [(path_of(entry), entry["response"]["status"]) for entry in entries(capture, servers.https)]
    assert found == [("/bytes/17", 200), ("/bytes/18", 200)], done.stderr
    # Announced at the Write's entry, with both ends.
    ports = {
        tuple(row)
        for row in rows(capture, "tcp.flags.syn == 1 && tcp.flags.ack == 0", "tcp.srcport", "tcp.dstport")
    }
    ((client, server),) = ports
    assert (int(client) > 0, int(server)) == (True, servers.https)


def test_what_an_earlier_recording_met_has_its_probes_before_it_runs(
    servers: Servers, tmp_path: Path, implicit: Path
) -> None:
    """It has asked for something before it could be looked at, and is not held."""
    program = Path(shutil.copy(implicit, tmp_path / "met_before"))
    for number in range(3):
        capture = tmp_path / f"{number}.pcapng"
        with record(capture, "-c", program.name) as recording:
            settle(PREPARED_SECONDS)
            subprocess.run([program, "client", str(servers.https)], check=True)
            settle()
            done = recording.stop()
        if number:
            found = [path_of(entry) for entry in entries(capture, servers.https)]
            assert found == ["/bytes/17", "/bytes/18"], done.stderr


def test_a_filter_of_ports_holds_for_what_is_known_at_a_write_only(
    servers: Servers, tmp_path: Path, implicit: Path
) -> None:
    capture = tmp_path / "client.pcapng"
    done = plaintap(
        "record", "-w", capture, "--exclude-port", servers.https, "--", implicit, "client", servers.https
    )
    assert done.returncode == 0, done.stderr
    assert "0 streams written" in done.stderr


def test_a_server_whose_first_read_shakes_hands(servers: Servers, tmp_path: Path, implicit: Path) -> None:
    capture = tmp_path / "server.pcapng"
    served_by(implicit, servers, capture)
    found = [(path_of(entry), entry["response"]["status"]) for entry in entries(capture)]
    assert found == [("/first", 200), ("/second", 200)]


def test_a_buffer_on_a_stack_that_moves(servers: Servers, tmp_path: Path) -> None:
    capture = tmp_path / "server.pcapng"
    served_by(built(tmp_path, "on_stack"), servers, capture)
    found = [(path_of(entry), entry["response"]["status"]) for entry in entries(capture)]
    assert found == [("/first", 200), ("/second", 200)]


@pytest.fixture(scope="module")
def wrapped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A program whose tls.Conn is above two other types, of which one has its connection not as its first member."""
    program = tmp_path_factory.mktemp("go") / "wrapped"
    subprocess.run(["go", "build", "-o", program, ROOT / "tests/support/go/wrapped.go"], check=True)
    return program


def test_a_client_whose_connection_is_wrapped(servers: Servers, tmp_path: Path, wrapped: Path) -> None:
    capture = tmp_path / "client.pcapng"
    done = record_command(capture, [wrapped, "client", servers.https])
    assert done.returncode == 0, done.stderr
    found = entries(capture, servers.https)
    assert [path_of(entry) for entry in found] == ["/bytes/17", "/bytes/100003"], done.stderr
    for entry, length in zip(found, (17, 100_003), strict=True):
        assert decoded(entry["response"]["content"]) == sample_body(length)
    assert warnings(done.stderr) == []


def test_a_server_that_has_looked_at_the_first_byte(tmp_path: Path, servers: Servers, wrapped: Path) -> None:
    capture = tmp_path / "server.pcapng"
    served_by(wrapped, servers, capture)
    found = [(path_of(entry), entry["response"]["status"]) for entry in entries(capture)]
    assert found == [("/first", 200), ("/second", 200)]


def built(folder: Path, name: str) -> Path:
    """A program of tests/support/go."""
    program = folder / name
    subprocess.run(["go", "build", "-o", program, ROOT / f"tests/support/go/{name}.go"], check=True)
    return program


def test_what_is_in_the_tunnel_of_a_proxy_that_speaks_tls(servers: Servers, tmp_path: Path) -> None:
    capture, port, tunnel = tmp_path / "tunnel.pcapng", free_port(), built(tmp_path, "tunnel")
    key = servers.certificate.with_name("key.pem")
    paths = ["/bytes/17", "/bytes/100003", "/bytes/18"]
    with running([PYTHON, PROXY, port, servers.certificate, key]):
        wait_for_port(port)
        done = record_command(capture, [tunnel, port, servers.https, *paths])
    assert done.returncode == 0, done.stderr
    connect, *found = entries(capture)
    assert connect["request"]["method"] == "CONNECT"
    urls = [f"https://localhost:{servers.https}{path}" for path in paths]
    assert [entry["request"]["url"] for entry in found] == urls
    for path, entry in zip(paths, found, strict=True):
        assert decoded(entry["response"]["content"]) == sample_body(int(path.rpartition("/")[2]))
    assert warnings(done.stderr) == []
    assert "lost (" not in done.stderr


def test_a_proxy_that_speaks_tls_and_is_the_server_in_its_tunnels(servers: Servers, tmp_path: Path) -> None:
    capture, port = tmp_path / "proxy.pcapng", free_port()
    proxy = [
        built(tmp_path, "tunnels_end"),
        port,
        servers.certificate,
        servers.certificate.with_name("key.pem"),
    ]
    urls = [f"https://inner.example/bytes/{length}" for length in (17, 100_003)]
    with running(proxy) as process:
        wait_for_port(port)
        with record(capture, "-p", process.pid):
            command = ["curl", "-sSk", "--proxy-insecure", "-x", f"https://localhost:{port}", *urls]
            done = subprocess.run(command, capture_output=True, check=True)
    assert len(done.stdout) == 17 + 100_003
    connect, *found = entries(capture)
    assert connect["request"]["method"] == "CONNECT"
    assert [entry["request"]["url"] for entry in found] == urls
    assert b"".join(decoded(entry["response"]["content"]) for entry in found) == done.stdout
