"""HTTP that begins later: a client that agrees with a SOCKS proxy first, a proxy that says first whom it speaks for, a
handshake that comes in packets of another protocol.
"""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

import memory_session
import pytest
from recording import entries, path_of, response_sha256, warnings
from stacks import digest
from two_programs import ENDS, record_end

if TYPE_CHECKING:
    from pathlib import Path

    from servers import Servers

pytestmark = pytest.mark.kernel

REQUEST = b"GET /behind HTTP/1.1\r\nHost: a\r\n\r\n"
BODY = b"found behind it" * 100
RESPONSE = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(BODY) + BODY
PROXY_LINE = b"PROXY TCP4 192.0.2.1 192.0.2.2 5 80\r\n"
# The PROXY protocol's second version, and what HTTP allows before a request (RFC 9112 §2.2).
HEADER = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c" + bytes([192, 0, 2, 1, 192, 0, 2, 2, 0, 5, 0, 80])
# Turns: what the client sends in one call, and what the server answers; in hexadecimal.
HTTP = (REQUEST.hex(), RESPONSE.hex())
CONNECTIONS = {
    "SOCKS 5": [("050100", "0500"), ("050100017f0000010050", "05000001000000000000"), HTTP, HTTP],
    "SOCKS 5 with a name": [
        ("05020002", "0500"),
        ("050100030961792e6c6f63616c0050", "05000001000000000000"),
        HTTP,
        HTTP,
    ],
    "SOCKS 4": [("040100507f00000100", "005a000000000000"), HTTP, HTTP],
    "PROXY": [(PROXY_LINE.hex(), ""), HTTP, HTTP],
    "PROXY in one piece": [((PROXY_LINE + REQUEST).hex(), RESPONSE.hex()), HTTP],
    "PROXY 2": [(HEADER.hex(), ""), HTTP, HTTP],
    "PROXY 2 in one piece": [((HEADER + REQUEST).hex(), RESPONSE.hex()), HTTP],
    "an empty line": [((b"\r\n" + REQUEST).hex(), RESPONSE.hex()), HTTP],
    "an empty line apart": [(b"\r\n".hex(), ""), HTTP, HTTP],
}

SERVER = """
import json, socket, sys
listener = socket.create_server(("127.0.0.1", 0))
print(listener.getsockname()[1], flush=True)
for turns in json.loads(sys.argv[1]):
    connection, _ = listener.accept()
    for sent, answer in turns:
        awaited = len(sent) // 2
        while awaited:
            awaited -= len(connection.recv(awaited))
        connection.sendall(bytes.fromhex(answer))
    connection.recv(1)
"""
CLIENT = """
import json, socket, sys
sys.stdin.readline()
for turns in json.loads(sys.argv[2]):
    with socket.create_connection(("127.0.0.1", int(sys.argv[1]))) as connection:
        for sent, answer in turns:
            connection.sendall(bytes.fromhex(sent))
            awaited = len(answer) // 2
            while awaited:
                awaited -= len(connection.recv(awaited))
"""


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("protocol", ["http,tls", "all"])
def test_http_behind_it(tmp_path: Path, protocol: str, end: str) -> None:
    script = json.dumps(list(CONNECTIONS.values()))
    path = tmp_path / "behind.pcapng"
    done, port = record_end(
        path,
        end,
        [sys.executable, "-c", SERVER, script],
        lambda port: [sys.executable, "-c", CLIENT, port, script],
        "--protocol",
        protocol,
    )
    found = entries(path)
    assert [path_of(entry) for entry in found] == ["/behind"] * 2 * len(CONNECTIONS), done.stderr
    assert {entry["connection"] for entry in found} == {str(port)}
    assert {(entry["response"]["status"], response_sha256(entry)) for entry in found} == {(200, digest(BODY))}
    assert [entry.get("comment") for entry in found] == [None] * len(found)


# TLS behind it, where the client sends its hello with it, as a proxy that relays does.
TLS_SERVER = """
import socket, ssl, sys
context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
context.load_cert_chain(sys.argv[1], sys.argv[2])
listener = socket.create_server(("127.0.0.1", 0))
print(listener.getsockname()[1], flush=True)
for before in sys.argv[3:]:
    connection, _ = listener.accept()
    connection.recv(int(before), socket.MSG_WAITALL)
    with context.wrap_socket(connection, server_side=True) as session:
        session.recv(1 << 16)
        session.sendall(b"HTTP/1.1 204 N\\r\\n\\r\\n")
        session.recv(1)
"""
TLS_CLIENT = (
    memory_session.source()
    + """
import socket, sys
sys.stdin.readline()
for before in sys.argv[2:]:
    with socket.create_connection(("127.0.0.1", int(sys.argv[1]))) as connection:
        def send_first(written):
            connection.sendall(bytes.fromhex(before) + written)
            session.send = connection.sendall
        session = MemorySession(ssl._create_unverified_context(), send_first, lambda: connection.recv(1 << 16))
        session.do("do_handshake")
        session.do("write", b"GET /behind HTTP/1.1\\r\\nHost: a\\r\\n\\r\\n")
        session.do("read", 1000)
"""
)


@pytest.mark.parametrize("end", ENDS)
def test_a_hello_that_comes_with_it(servers: Servers, tmp_path: Path, end: str) -> None:
    key = servers.certificate.with_name("key.pem")
    sizes = [str(len(before)) for before in (PROXY_LINE, HEADER)]
    command = [sys.executable, "-c", TLS_SERVER, servers.certificate, key, *sizes]
    path = tmp_path / "hello.pcapng"
    client = [sys.executable, "-c", TLS_CLIENT]
    done, _ = record_end(path, end, command, lambda port: [*client, port, PROXY_LINE.hex(), HEADER.hex()])
    assert [entry["request"]["url"] for entry in entries(path)] == ["https://a/behind"] * 2, done.stderr
    assert warnings(done.stderr) == []
    assert "lost (" not in done.stderr


# TLS whose handshake is in packets of another protocol, and what follows is not: SQL Server's (TDS).

PACKETS = (
    memory_session.source()
    + """
import socket, sys
request, response = b"GET /behind HTTP/1.1\\r\\nHost: a\\r\\n\\r\\n", b"HTTP/1.1 204 N\\r\\n\\r\\n"
server = sys.argv[1] == "server"
if server:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(*sys.argv[2:])
    listener = socket.create_server(("127.0.0.1", 0))
    print(listener.getsockname()[1], flush=True)
    connection, _ = listener.accept()
else:
    context = ssl._create_unverified_context()
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    sys.stdin.readline()
    connection = socket.create_connection(("127.0.0.1", int(sys.argv[2])))
header = b"\\x12\\x01\\0\\0\\0\\0\\1\\0"
session = MemorySession(
    context,
    lambda written: connection.sendall(header + written),
    lambda: connection.recv(1 << 16)[len(header):],
    server_side=server,
)
session.do("do_handshake")
header = b""
for said, heard in [(b"", request), (response, b"")] if server else [(request, response)]:
    if said:
        session.do("write", said)
    if heard:
        assert session.do("read", 1000) == heard
if server:
    connection.recv(1)
"""
)


@pytest.mark.parametrize("end", ENDS)
def test_a_handshake_in_packets(servers: Servers, tmp_path: Path, end: str) -> None:
    key = servers.certificate.with_name("key.pem")
    program = [sys.executable, "-c", PACKETS]
    path = tmp_path / "packets.pcapng"
    done, _ = record_end(
        path, end, [*program, "server", servers.certificate, key], lambda port: [*program, "client", port]
    )
    assert [entry["request"]["url"] for entry in entries(path)] == ["https://a/behind"], done.stderr
    assert warnings(done.stderr) == []
    assert "lost (" not in done.stderr
