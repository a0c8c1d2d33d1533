"""One call that writes more than the ring holds: a body in one piece, as most clients send one."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import https_client
import pytest
from https_client import sample_body
from judges import expert_problems
from processes import PYTHON
from recording import decoded, entries, path_of, plaintap, warnings

if TYPE_CHECKING:
    from collections.abc import Iterator

    from servers import Servers

pytestmark = pytest.mark.kernel

# More than the ring has room for, and than the copying program takes at once.
LENGTH = 54 << 20
SUPPORT = Path(https_client.__file__).parent
TAKEN = 20_000_003
SEND = """
import http.client, ssl, sys
sys.path.insert(0, sys.argv[3])
from https_client import sample_body
where = {"host": "localhost", "port": int(sys.argv[1]), "timeout": TIMEOUT}
if certificate := sys.argv[2]:
    context = ssl.create_default_context(cafile=certificate)
    connection = http.client.HTTPSConnection(**where, context=context)
else:
    connection = http.client.HTTPConnection(**where)
connection.request("PUT", "/text", sample_body(int(sys.argv[4])))
connection.getresponse().read()
"""
# A non-blocking socket: TLS libraries are called again with all that they were given.
WAYS = {"blocking": SEND.replace("TIMEOUT", "None"), "non-blocking": SEND.replace("TIMEOUT", "60")}
WAYS["memory BIO"] = """
import asyncio, ssl, sys
sys.path.insert(0, sys.argv[3])
from https_client import sample_body
async def put():
    context = ssl.create_default_context(cafile=sys.argv[2]) if sys.argv[2] else None
    reader, writer = await asyncio.open_connection("localhost", int(sys.argv[1]), ssl=context)
    head = "PUT /text HTTP/1.1\\r\\nHost: localhost\\r\\nConnection: close\\r\\nContent-Length: " + sys.argv[4]
    writer.write(head.encode() + b"\\r\\n\\r\\n")
    writer.write(sample_body(int(sys.argv[4])))
    await reader.read()
asyncio.run(put())
"""
# A peer that takes a part and closes; then what was sent of the rest.
GIVEN_UP = """
import os, socket, ssl, sys, time
listener = socket.create_server(("127.0.0.1", 0))
taken = int(sys.argv[3])
if not os.fork():
    peer, _ = listener.accept()
    if sys.argv[1]:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*sys.argv[1:3])
        peer = context.wrap_socket(peer, server_side=True)
    while taken > 0:
        taken -= len(peer.recv(65536))
        time.sleep(0.001)
    peer.close()
    os._exit(0)
connection = socket.create_connection(listener.getsockname())
listener.close()
if sys.argv[1]:
    context = ssl.create_default_context(cafile=sys.argv[1])
    connection = context.wrap_socket(connection, server_hostname="localhost")
connection.sendall(b"PUT /text HTTP/1.1\\r\\nHost: localhost\\r\\nContent-Length: 56623104\\r\\n\\r\\n")
try:
    connection.sendall(bytes(56623104))
except OSError:
    os.wait()
"""


@contextlib.contextmanager
def reading_slowly() -> Iterator[int]:
    """A server's port: cleartext that nothing holds up may be faster than a busy machine's recorder."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            peer, _ = listener.accept()
            with peer:
                received = bytearray()
                while len(received) - (received.find(b"\r\n\r\n") + 4) < LENGTH:
                    received += peer.recv(1 << 16)
                    time.sleep(0.001)
                peer.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield listener.getsockname()[1]
        thread.join()


# Without TLS, a call that would block takes what there is room for, and is short.
@pytest.mark.parametrize(("scheme", "way"), [("http", "blocking"), *(("https", way) for way in WAYS)])
def test_a_body_in_one_call_is_whole(servers: Servers, tmp_path: Path, scheme: str, way: str) -> None:
    capture = tmp_path / "long.pcapng"
    certificate = servers.certificate if scheme == "https" else ""
    with contextlib.nullcontext(servers.https) if certificate else reading_slowly() as port:
        command = [PYTHON, "-c", WAYS[way], port, certificate, SUPPORT, LENGTH]
        done = plaintap("record", "-w", capture, "--", *command)
    assert done.returncode == 0, done.stderr
    assert warnings(done.stderr) == []
    (entry,) = entries(capture)
    assert path_of(entry) == "/text"
    assert decoded(entry["request"]["postData"]) == sample_body(LENGTH)
    assert entry["response"]["status"] == 200
    assert expert_problems(capture) == []


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_call_that_fails_half_way_shows_what_was_sent(
    servers: Servers, tmp_path: Path, scheme: str
) -> None:
    capture, account = tmp_path / "half.pcapng", tmp_path / "ledger.json"
    folder = servers.certificate.parent
    files = [servers.certificate, folder / "key.pem"] if scheme == "https" else ["", ""]
    done = plaintap("record", "-w", capture, "--ledger", account, "--", PYTHON, "-c", GIVEN_UP, *files, TAKEN)
    assert done.returncode == 0, done.stderr
    (entry,) = entries(capture)
    body = decoded(entry["request"]["postData"])
    assert set(body) == {0}
    # The peer has read as much, but for two steps; more was sent than it took.
    assert TAKEN - (2 << 20) < len(body) < LENGTH
    assert entry["request"]["_complete"] is False
    ledger = json.loads(account.read_text())
    assert {ledger[name]["residue"] for name in ("sockets", "tls")} == {0}
    assert warnings(done.stderr) == []
