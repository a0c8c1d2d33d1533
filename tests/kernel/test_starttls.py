"""TLS that begins in the middle of a connection: SMTP, IMAP, Postgres and others agree on it in cleartext first."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from judges import expert_problems, rows
from processes import running
from recording import record

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


@pytest.mark.parametrize("end", ["client", "server"])
@pytest.mark.parametrize("protocol", ["http,tls", "all"])
def test_either_end_alone(servers: Servers, tmp_path: Path, end: str, protocol: str) -> None:
    certificate = Path(servers.certificate)
    server_command = [sys.executable, "-c", SERVER, certificate, certificate.with_name("key.pem")]
    with running(server_command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout
        port = server.stdout.readline().strip()
        with running([sys.executable, "-c", CLIENT, port], stdin=subprocess.PIPE, text=True) as client:
            assert client.stdin
            pid = client.pid if end == "client" else server.pid
            options = ("-p", pid, "--protocol", protocol, "--framing", "plain")
            with record(tmp_path / "starttls.pcapng", *options) as recording:
                client.communicate("go\n")
                assert server.wait() == 0
                done = recording.stop()
    sent = b"".join(
        bytes.fromhex(payload) for (payload,) in rows(recording.path, f"tcp.dstport=={port}", "tcp.payload")
    )
    answered = b"".join(
        bytes.fromhex(payload) for (payload,) in rows(recording.path, f"tcp.srcport=={port}", "tcp.payload")
    )
    cleartext = protocol == "all"
    assert sent == b"STARTTLS\r\n" * cleartext + b"EHLO over-tls\r\n", done.stderr
    greeting = b"220 plaintap.test ESMTP\r\n220 go ahead\r\n"
    assert answered == greeting * cleartext + b"250 over-tls\r\n"
    assert expert_problems(recording.path) == []
