"""HTTPS over a proxy that itself speaks TLS, as Python's clients do it: the inner records come from a memory BIO."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from https_client import sample_body
from processes import PYTHON, free_port, running, wait_for_port
from recording import decoded, entries, record_command, warnings

if TYPE_CHECKING:
    from servers import Servers

pytestmark = pytest.mark.kernel

PROXY = Path(__file__).parents[1] / "stacks" / "programs" / "https_proxy.py"
LENGTH = 100_003

# As urllib3: the outer session owns the socket.
OVER_A_SOCKET = """
import socket, ssl, sys
proxy, server, path = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
context = ssl._create_unverified_context()
outer = context.wrap_socket(socket.create_connection(("127.0.0.1", proxy)))
outer.sendall(b"CONNECT localhost:%d HTTP/1.1\\r\\nHost: localhost:%d\\r\\n\\r\\n" % (server, server))
assert b" 200 " in outer.recv(1000)
incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
inner = context.wrap_bio(incoming, outgoing, server_hostname="localhost")

def complete(call, *arguments):
    while True:
        try:
            result = call(*arguments)
        except ssl.SSLWantReadError:
            result = None
        if written := outgoing.read():
            outer.sendall(written)
        if result is not None:
            return result
        incoming.write(outer.recv(65536))

complete(lambda: inner.do_handshake() or 0)
complete(inner.write, f"GET {path} HTTP/1.1\\r\\nHost: localhost\\r\\nConnection: close\\r\\n\\r\\n".encode())
answer = b""
while chunk := complete(inner.read, 65536):
    answer += chunk
    if b"\\r\\n\\r\\n" in answer and len(answer.partition(b"\\r\\n\\r\\n")[2]) == LENGTH:
        break
"""

# As aiohttp: both sessions are on memory BIOs.
OVER_A_BIO = """
import asyncio, ssl, sys
proxy, server, path = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
context = ssl._create_unverified_context()

async def main():
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy, ssl=context)
    writer.write(b"CONNECT localhost:%d HTTP/1.1\\r\\nHost: localhost:%d\\r\\n\\r\\n" % (server, server))
    assert b" 200 " in await reader.readuntil(b"\\r\\n\\r\\n")
    await writer.start_tls(context, server_hostname="localhost")
    writer.write(f"GET {path} HTTP/1.1\\r\\nHost: localhost\\r\\nConnection: close\\r\\n\\r\\n".encode())
    head = await reader.readuntil(b"\\r\\n\\r\\n")
    assert len(await reader.readexactly(LENGTH)) == LENGTH

asyncio.run(main())
"""


@pytest.mark.parametrize("program", [OVER_A_SOCKET, OVER_A_BIO], ids=["over a socket", "over a memory BIO"])
def test_what_is_in_the_tunnel(servers: Servers, tmp_path: Path, program: str) -> None:
    capture, port = tmp_path / "tunnel.pcapng", free_port()
    key = servers.certificate.with_name("key.pem")
    code = program.replace("LENGTH", str(LENGTH))
    with running([PYTHON, PROXY, port, servers.certificate, key]):
        wait_for_port(port)
        done = record_command(capture, [PYTHON, "-c", code, port, servers.https, f"/bytes/{LENGTH}"])
    assert done.returncode == 0, done.stderr
    connect, found = entries(capture)
    assert connect["request"]["method"] == "CONNECT"
    assert found["request"]["url"] == f"https://localhost/bytes/{LENGTH}"
    assert found["timings"]["ssl"] > 0
    assert decoded(found["response"]["content"]) == sample_body(LENGTH)
    assert warnings(done.stderr) == []
    assert "lost (" not in done.stderr
