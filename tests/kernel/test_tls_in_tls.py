"""HTTPS over a proxy that itself speaks TLS, as Python's clients do it: the inner records come from a memory BIO."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import memory_session
import pytest
from https_client import sample_body
from judges import expert_problems, rows
from processes import PYTHON, free_port, running, wait_for_port, wait_until
from recording import decoded, entries, record, record_command, warnings

if TYPE_CHECKING:
    from collections.abc import Iterator

    from servers import Servers

pytestmark = pytest.mark.kernel

PROXY = Path(__file__).parents[1] / "stacks" / "programs" / "https_proxy.py"
HTTP2 = Path(__file__).parents[1] / "support" / "http2"
LENGTH = 100_003
TUNNELS = 5
SECONDS = 120

# As urllib3: the outer session owns the socket.
OVER_A_SOCKET = (
    memory_session.source()
    + """
import socket, sys
proxy, server, path = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
context = ssl._create_unverified_context()
outer = context.wrap_socket(socket.create_connection(("127.0.0.1", proxy)))
outer.sendall(b"CONNECT localhost:%d HTTP/1.1\\r\\nHost: localhost:%d\\r\\n\\r\\n" % (server, server))
assert b" 200 " in outer.recv(1000)
inner = MemorySession(context, outer.sendall, lambda: outer.recv(65536), server_hostname="localhost")
inner.do("do_handshake")
inner.do("write", f"GET {path} HTTP/1.1\\r\\nHost: localhost\\r\\nConnection: close\\r\\n\\r\\n".encode())
answer = b""
while chunk := inner.do("read", 65536):
    answer += chunk
    if b"\\r\\n\\r\\n" in answer and len(answer.partition(b"\\r\\n\\r\\n")[2]) == LENGTH:
        break
"""
)

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
    (comment,) = rows(capture, "http.request.method == GET", "frame.comment")[0]
    assert "tls=inside" in comment
    assert "host=localhost" in comment
    assert decoded(found["response"]["content"]) == sample_body(LENGTH)
    assert warnings(done.stderr) == []
    assert "lost (" not in done.stderr


# Through a proxy that speaks HTTP/2, where DATA frames are between the sessions.


@pytest.fixture
def http2_proxy(servers: Servers, tmp_path: Path) -> Iterator[int]:
    """Its port."""
    log, key = tmp_path / "proxy.log", servers.certificate.with_name("key.pem")
    with log.open("w") as out, running(["node", HTTP2 / "proxy.js", servers.certificate, key], stdout=out):
        yield int(wait_until(lambda: "\n" in (text := log.read_text()) and text, "the proxy's port"))


def test_tunnels_that_are_streams_of_one_connection(
    servers: Servers, tmp_path: Path, http2_proxy: int
) -> None:
    capture = tmp_path / "tunnels.pcapng"
    client = ["node", HTTP2 / "tunnels.js", http2_proxy, servers.https, servers.certificate, TUNNELS]
    done = record_command(capture, client)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split("\n") == ["HTTP/1.1 200 OK"] * TUNNELS + [""]
    assert warnings(done.stderr) == []
    assert "lost (" not in done.stderr
    found = entries(capture)
    connects = [entry for entry in found if entry["request"]["method"] == "CONNECT"]
    uploads = [entry for entry in found if entry["request"]["method"] == "PUT"]
    assert (len(connects), len(uploads)) == (TUNNELS, TUNNELS)
    by_url = {entry["request"]["url"]: entry for entry in uploads}
    for number in range(TUNNELS):
        entry = by_url[f"https://localhost:{servers.https}/echo?{number}"]
        body = b"x" * (number * 7000)
        assert decoded(entry["request"].get("postData", {})) == body
        told = json.loads(decoded(entry["response"]["content"]))
        assert told["length"] == len(body)
        assert "_outcome" not in entry
        assert (entry["_clientPort"], entry["connection"]) == (connects[0]["_clientPort"], str(http2_proxy))
    assert len({entry["_connectionId"] for entry in found}) == TUNNELS + 1
    assert expert_problems(capture) == []


@pytest.mark.skipif(shutil.which("chromium") is None, reason="CHROMIUM IS NOT INSTALLED")
def test_chromium_behind_a_proxy_that_speaks_http_2(
    servers: Servers, tmp_path: Path, http2_proxy: int
) -> None:
    capture = tmp_path / "chromium.pcapng"
    options = ["--headless=new", "--no-sandbox", "--disable-gpu", "--ignore-certificate-errors", "--dump-dom"]
    options += [f"--user-data-dir={tmp_path / 'profile'}", f"--proxy-server=https://localhost:{http2_proxy}"]
    options += ["--disable-background-networking", "--proxy-bypass-list=<-loopback>"]
    with record(capture, "--hold", "--port", http2_proxy):
        url = f"https://localhost:{servers.https}/text"
        done = subprocess.run(["chromium", *options, url], capture_output=True, timeout=SECONDS, check=False)
        assert done.returncode == 0, done.stderr
    (found,) = [entry for entry in entries(capture) if entry["request"]["url"] == url]
    assert decoded(found["response"]["content"]) in done.stdout
    assert found["timings"]["ssl"] > 0
    assert found["_comm"] == "chromium"
