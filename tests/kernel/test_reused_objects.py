"""A library's object for one session after the other: what it is cleared of is another connection's."""

from __future__ import annotations

import socket
import ssl
import subprocess
import threading
from typing import TYPE_CHECKING

import pytest
from conformance_runs import streams_by_ports
from processes import PYTHON
from recording import record

if TYPE_CHECKING:
    from pathlib import Path

    from servers import Servers

pytestmark = pytest.mark.kernel

# With memory BIOs, so that no call inside of the library's tells the connection; that of before is still open.
CLIENT = """
import ctypes, socket, sys
from ctypes import c_void_p
ssl, crypto = ctypes.CDLL("libssl.so.3"), ctypes.CDLL("libcrypto.so.3")

def pointer(function, *arguments):
    function.restype = c_void_p
    return c_void_p(function(*arguments))

context = pointer(ssl.SSL_CTX_new, pointer(ssl.TLS_client_method))
session, room, connections = pointer(ssl.SSL_new, context), ctypes.create_string_buffer(1 << 16), []

def complete(connection, incoming, outgoing, function, *arguments):
    while True:
        result = function(session, *arguments)
        if (length := crypto.BIO_read(outgoing, room, len(room))) > 0:
            connection.sendall(room.raw[:length])
        if result > 0:
            return result
        received = connection.recv(1 << 16)
        crypto.BIO_write(incoming, received, len(received))

for word in (b"first", b"second"):
    connection = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
    connections.append(connection)
    print(connection.getsockname()[1])
    ways = [pointer(crypto.BIO_new, pointer(crypto.BIO_s_mem)) for _ in range(2)]
    ssl.SSL_set_bio(session, *ways)
    ssl.SSL_set_connect_state(session)
    complete(connection, *ways, ssl.SSL_do_handshake)
    complete(connection, *ways, ssl.SSL_write, word, len(word))
    answer = ctypes.create_string_buffer(100)
    length = complete(connection, *ways, ssl.SSL_read, answer, 100)
    assert answer.raw[:length] == word.upper()
    complete(connection, *ways, ssl.SSL_shutdown)
    assert ssl.SSL_clear(session) == 1
"""


def test_each_session_is_on_its_own_connection(servers: Servers, tmp_path: Path) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(servers.certificate, servers.certificate.with_name("key.pem"))
    open_connections: list[socket.socket] = []

    def serve() -> None:
        for _ in range(2):
            accepted, _ = listener.accept()
            with context.wrap_socket(accepted, server_side=True) as secure:
                secure.sendall(secure.recv(100).upper())
                open_connections.append(secure.unwrap())

    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        server = threading.Thread(target=serve, daemon=True)
        server.start()
        with record(tmp_path / "reused.pcapng", "--port", port, "--protocol", "tls") as recording:
            done = subprocess.run(
                [PYTHON, "-c", CLIENT, str(port)], check=True, capture_output=True, text=True, timeout=60
            )
            server.join()
    for connection in open_connections:
        connection.close()
    found = streams_by_ports(recording.path)
    seen = [
        [(bytes(stream.sent.data), bytes(stream.received.data)) for stream in found[int(local), port]]
        for local in done.stdout.split()
    ]
    assert seen == [[(b"first", b"FIRST")], [(b"second", b"SECOND")]]
