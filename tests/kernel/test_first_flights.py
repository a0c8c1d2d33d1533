"""A client's first request that is sent together with the end of its handshake, as Node does: the record that a watched
function wrote is not the first one of the call.
"""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from processes import running
from recording import entries, path_of, record, warnings

if TYPE_CHECKING:
    from pathlib import Path

    from servers import Servers

pytestmark = pytest.mark.kernel

SERVER = """
import socket, ssl, sys
context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
context.load_cert_chain(sys.argv[1], sys.argv[2])
listener = socket.create_server(("127.0.0.1", 0))
print(listener.getsockname()[1], flush=True)
connection, _ = listener.accept()
with context.wrap_socket(connection, server_side=True) as session:
    assert session.recv(1 << 16).endswith(b"\\r\\n\\r\\n")
    session.recv(1)
"""
# The handshake's functions are called before the recording, as those that a compiler has put into their callers are
# not seen; nothing is read by TLS.
CLIENT = """
import socket, ssl, sys
incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
session = ssl._create_unverified_context().wrap_bio(incoming, outgoing)
with socket.create_connection(("127.0.0.1", int(sys.argv[1]))) as connection:
    def step():
        try:
            session.do_handshake()
        except ssl.SSLWantReadError:
            pass
        return outgoing.read()
    flight = step()
    while session.version() is None or not flight:
        if flight:
            connection.sendall(flight)
        incoming.write(connection.recv(1 << 16))
        flight = step()
    print(len(flight), flush=True)
    sys.stdin.readline()
    session.write(b"GET /first HTTP/1.1\\r\\nHost: a\\r\\n\\r\\n")
    connection.sendall(flight + outgoing.read())
"""


def test_a_request_behind_the_handshakes_end(servers: Servers, tmp_path: Path) -> None:
    key = servers.certificate.with_name("key.pem")
    command = [sys.executable, "-c", SERVER, servers.certificate, key]
    with running(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout
        port = server.stdout.readline().strip()
        command = [sys.executable, "-c", CLIENT, port]
        with running(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as client:
            assert client.stdout
            assert client.stdout.readline()
            with record(tmp_path / "flight.pcapng", "-p", client.pid) as recording:
                client.communicate("go\n")
                assert client.returncode == 0
                assert server.wait() == 0
                done = recording.stop()
    assert warnings(done.stderr) == []
    assert [path_of(entry) for entry in entries(recording.path)] == ["/first"]
