"""Go's crypto/tls in programs that use it otherwise than net/http."""

from __future__ import annotations

import socket
import ssl
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from processes import PLAINTAP, ROOT, running
from recording import entries, path_of

if TYPE_CHECKING:
    from servers import Servers

pytestmark = pytest.mark.kernel


@pytest.fixture(scope="module")
def implicit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A program that never asks for a handshake: its first Read or Write makes one."""
    program = tmp_path_factory.mktemp("go") / "implicit"
    source = ROOT / "tests/support/go/implicit.go"
    subprocess.run(["go", "build", "-o", program, source], check=True)
    return program


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
