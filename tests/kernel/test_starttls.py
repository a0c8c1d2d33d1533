"""TLS that begins in the middle of a connection: SMTP, IMAP, Postgres and others agree on it in cleartext first."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from judges import expert_problems, rows
from two_programs import ENDS, record_end

if TYPE_CHECKING:
    from servers import Servers

pytestmark = pytest.mark.kernel

SERVER = """
import socket, ssl, sys
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(sys.argv[1], sys.argv[2])
listener = socket.create_server(("127.0.0.1", 0))
print(listener.getsockname()[1], flush=True)
connection, _ = listener.accept()
connection.sendall(b"220 plaintap.test ESMTP\\r\\n")
assert connection.recv(100) == b"STARTTLS\\r\\n"
connection.sendall(b"220 go ahead\\r\\n")
with context.wrap_socket(connection, server_side=True) as secure:
    assert secure.recv(100) == b"EHLO over-tls\\r\\n"
    secure.sendall(b"250 over-tls\\r\\n")
    assert secure.recv(100) == b""
"""
CLIENT = """
import socket, ssl, sys
context = ssl._create_unverified_context()
sys.stdin.readline()
connection = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
assert connection.recv(100).startswith(b"220 ")
connection.sendall(b"STARTTLS\\r\\n")
assert connection.recv(100).startswith(b"220 ")
with context.wrap_socket(connection) as secure:
    secure.sendall(b"EHLO over-tls\\r\\n")
    assert secure.recv(100) == b"250 over-tls\\r\\n"
"""


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("protocol", ["http,tls", "all"])
def test_either_end_alone(servers: Servers, tmp_path: Path, end: str, protocol: str) -> None:
    certificate = Path(servers.certificate)
    server_command = [sys.executable, "-c", SERVER, certificate, certificate.with_name("key.pem")]
    path = tmp_path / "starttls.pcapng"
    options = ("--protocol", protocol, "--framing", "plain")
    done, port = record_end(
        path, end, server_command, lambda port: [sys.executable, "-c", CLIENT, port], *options
    )
    sent = b"".join(
        bytes.fromhex(payload) for (payload,) in rows(path, f"tcp.dstport=={port}", "tcp.payload")
    )
    answered = b"".join(
        bytes.fromhex(payload) for (payload,) in rows(path, f"tcp.srcport=={port}", "tcp.payload")
    )
    assert sent == b"STARTTLS\r\nEHLO over-tls\r\n", done.stderr
    assert answered == b"220 plaintap.test ESMTP\r\n220 go ahead\r\n250 over-tls\r\n"
    assert expert_problems(path) == []
