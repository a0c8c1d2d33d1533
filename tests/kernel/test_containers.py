"""A container: namespaces for mounts and network, and a root folder of its own with its own copies of the libraries.

No file of it has a name or an inode that the host knows.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from https_client import sample_body
from judges import expert_problems
from processes import PYTHON, running, wait_until
from recording import decoded, entries, plaintap, record, warnings
from stacks import streams_on

if TYPE_CHECKING:
    from collections.abc import Iterator

    from servers import Servers

pytestmark = pytest.mark.kernel

LENGTH = 70_001
# In a network namespace of its own, where even lo is down at first (SIOCSIFFLAGS, IFF_UP).
SERVER = """
import fcntl, pathlib, socket, ssl, struct, sys
with socket.socket() as any_socket:
    fcntl.ioctl(any_socket, 0x8914, struct.pack("16sH14x", b"lo", 1))
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(sys.argv[1], sys.argv[2])
body = pathlib.Path(sys.argv[3]).read_bytes()
listener = socket.create_server(("127.0.0.1", 0))
print(listener.getsockname()[1], flush=True)
while True:
    connection, _ = listener.accept()
    with context.wrap_socket(connection, server_side=True) as secure:
        while secure.recv(1000):
            secure.sendall(b"HTTP/1.1 200 OK\\r\\nContent-Length: %d\\r\\n\\r\\n" % len(body) + body)
"""


@pytest.fixture
def image(servers: Servers, tmp_path: Path) -> Path:
    """A root folder with curl, openssl and what they need, copied."""
    root = tmp_path / "image"
    programs = [shutil.which(name) or name for name in ("curl", "openssl")]
    listed = subprocess.run(["ldd", *programs], check=True, capture_output=True, text=True).stdout
    for file in {*programs, *re.findall(r"(/\S+) \(0x", listed), str(servers.certificate)}:
        copy = root / file.lstrip("/")
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, copy)
    return root


@pytest.fixture
def server(servers: Servers, tmp_path: Path) -> Iterator[tuple[list[str], str]]:
    """A server in a network namespace: the command to enter that, and its port."""
    body = tmp_path / "body"
    body.write_bytes(sample_body(LENGTH))
    key = servers.certificate.with_name("key.pem")
    command = ["unshare", "--net", PYTHON, "-c", SERVER, servers.certificate, key, body]
    with running(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        port = process.stdout.readline().strip()
        yield ["nsenter", f"--net=/proc/{process.pid}/ns/net", "unshare", "--mount", "chroot"], port


def check(capture: Path, port: str) -> None:
    """One exchange, whole, at the addresses of the container's own network."""
    (entry,) = entries(capture, int(port))
    assert decoded(entry["response"]["content"]) == sample_body(LENGTH)
    assert entry["request"]["url"].startswith("https://")
    assert entry["serverIPAddress"] == "127.0.0.1"
    (stream,) = streams_on(capture, int(port))
    assert stream.tls
    # Its version is in another file of the container.
    assert re.match(r"OpenSSL \d", str(stream.tls.library))
    assert expert_problems(capture) == []


def test_a_container_that_starts(
    servers: Servers, image: Path, server: tuple[list[str], str], tmp_path: Path
) -> None:
    enter, port = server
    capture = tmp_path / "starts.pcapng"
    curl = ["curl", "-sS", "--cacert", servers.certificate, "--resolve", f"localhost:{port}:127.0.0.1"]
    command = [*enter, image, *curl, "-o", "/body", f"https://localhost:{port}/x"]
    done = plaintap("record", "-w", capture, "--", *command)
    assert done.returncode == 0, done.stderr
    assert warnings(done.stderr) == []
    assert (image / "body").read_bytes() == sample_body(LENGTH)
    check(capture, port)


def test_a_container_that_runs(image: Path, server: tuple[list[str], str], tmp_path: Path) -> None:
    enter, port = server
    client = [*enter, image, "openssl", "s_client", "-quiet", "-connect", f"127.0.0.1:{port}"]
    pipe, nowhere = subprocess.PIPE, subprocess.DEVNULL
    with running(client, stdin=pipe, stdout=pipe, stderr=nowhere) as process:
        assert process.stdin
        assert process.stdout
        wait_until(
            lambda: Path(f"/proc/{process.pid}/comm").read_text() == "openssl\n", "the client to start"
        )
        with record(tmp_path / "runs.pcapng", "-p", process.pid) as recording:
            process.stdin.write(f"GET /x HTTP/1.1\r\nHost: localhost:{port}\r\n\r\n".encode())
            process.stdin.flush()
            head = b""
            while not head.endswith(b"\r\n\r\n"):
                head += process.stdout.read(1)
            assert process.stdout.read(LENGTH) == sample_body(LENGTH)
            done = recording.stop()
    assert warnings(done.stderr) == []
    check(recording.path, port)
