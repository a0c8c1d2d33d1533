"""HTTP that begins later: a client that agrees with a SOCKS proxy first, a proxy that says first whom it speaks for."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from processes import running
from recording import entries, path_of, record, response_sha256
from stacks import digest

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.kernel

REQUEST = b"GET /behind HTTP/1.1\r\nHost: a\r\n\r\n"
BODY = b"found behind it" * 100
RESPONSE = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(BODY) + BODY
PROXY_LINE = b"PROXY TCP4 192.0.2.1 192.0.2.2 5 80\r\n"
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


@pytest.mark.parametrize("end", ["client", "server"])
@pytest.mark.parametrize("protocol", ["http,tls", "all"])
def test_http_behind_it(tmp_path: Path, protocol: str, end: str) -> None:
    script = json.dumps(list(CONNECTIONS.values()))
    with running([sys.executable, "-c", SERVER, script], stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout
        port = server.stdout.readline().strip()
        with running(
            [sys.executable, "-c", CLIENT, port, script], stdin=subprocess.PIPE, text=True
        ) as client:
            pid = client.pid if end == "client" else server.pid
            with record(tmp_path / "behind.pcapng", "-p", pid, "--protocol", protocol) as recording:
                client.communicate("go\n")
                assert server.wait() == 0
                done = recording.stop()
    found = entries(recording.path)
    assert [path_of(entry) for entry in found] == ["/behind"] * 2 * len(CONNECTIONS), done.stderr
    assert {entry["connection"] for entry in found} == {port}
    assert {(entry["response"]["status"], response_sha256(entry)) for entry in found} == {(200, digest(BODY))}
    assert [entry.get("comment") for entry in found] == [None] * len(found)
