"""Go's crypto/tls in programs that use it otherwise than net/http."""

from __future__ import annotations

import socket
import ssl
import subprocess
from typing import TYPE_CHECKING

import pytest
from judges import rows
from processes import PLAINTAP, ROOT, running
from recording import entries, path_of, plaintap, record_command

if TYPE_CHECKING:
    from pathlib import Path

    from servers import Servers

pytestmark = pytest.mark.kernel


@pytest.fixture(scope="module")
def implicit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A program that never asks for a handshake: its first Read or Write makes one."""
    program = tmp_path_factory.mktemp("go") / "implicit"
    source = ROOT / "tests/support/go/implicit.go"
    subprocess.run(["go", "build", "-o", program, source], check=True)
    return program


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
    key = servers.certificate.with_name("key.pem")
    command = [PLAINTAP, "record", "-w", capture, "--", implicit, "server", servers.certificate, key]
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
    found = [(path_of(entry), entry["response"]["status"]) for entry in entries(capture)]
    assert found == [("/first", 200), ("/second", 200)]
