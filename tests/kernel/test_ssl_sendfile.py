"""SSL_sendfile, by which a program has the kernel's TLS encrypt a file that it does not read itself (SSL_sendfile(3)).

The library is made up, for where the kernel has no TLS OpenSSL's refuses: it sends records that are none.
"""

from __future__ import annotations

import json
import socket
import threading
from typing import TYPE_CHECKING

import pytest
from compiled import compile_library
from processes import PYTHON
from recording import entries, plaintap, warnings

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.kernel

LIBRARY = """
#include <sys/sendfile.h>
#include <sys/socket.h>
struct ssl { int fd; };
static void send_header(int fd, unsigned length)
{
    unsigned char header[] = {23, 3, 3, length >> 8, length};
    send(fd, header, sizeof(header), 0);
}
int SSL_read(struct ssl *ssl, void *to, int n) { return -1; }
int SSL_write(struct ssl *ssl, const void *from, int n)
{
    static const char nothing[16384];
    send_header(ssl->fd, n);
    return send(ssl->fd, nothing, n, 0);
}
long SSL_sendfile(struct ssl *ssl, int file, long offset, unsigned long n, int flags)
{
    send_header(ssl->fd, n);
    return sendfile(ssl->fd, file, &offset, n);
}
"""
BODY_BYTES, OFFSET = 5003, 101
PROGRAM = f"""
import ctypes, os, socket, ssl, sys
library = ctypes.CDLL(sys.argv[1])
library.SSL_sendfile.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_long, ctypes.c_ulong, ctypes.c_int]
context = ssl.create_default_context()
hello = ssl.MemoryBIO()
try:
    context.wrap_bio(ssl.MemoryBIO(), hello, server_hostname="localhost").do_handshake()
except ssl.SSLWantReadError:
    pass
with socket.create_connection(("127.0.0.1", int(sys.argv[2]))) as connection:
    connection.sendall(hello.read())
    tls = ctypes.byref(ctypes.c_int(connection.fileno()))
    first = b"POST /1 HTTP/1.1\\r\\nHost: localhost\\r\\nContent-Length: {BODY_BYTES}\\r\\n\\r\\n"
    second = b"POST /2 HTTP/1.1\\r\\nHost: localhost\\r\\nContent-Length: 2\\r\\n\\r\\nok"
    assert library.SSL_write(tls, first, len(first)) == len(first)
    file = os.open(sys.argv[1], os.O_RDONLY)
    assert library.SSL_sendfile(tls, file, {OFFSET}, {BODY_BYTES}, 0) == {BODY_BYTES}
    assert library.SSL_sendfile(tls, -1, 0, 1, 0) == -1
    assert library.SSL_write(tls, second, len(second)) == len(second)
"""


@pytest.fixture
def sink() -> Iterator[int]:
    """A port where everything is taken."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def take() -> None:
            with listener.accept()[0] as connection:
                while connection.recv(1 << 16):
                    pass

        thread = threading.Thread(target=take)
        thread.start()
        yield listener.getsockname()[1]
        thread.join()


def test_what_the_kernel_takes_from_a_file_is_a_gap(tmp_path: Path, sink: int) -> None:
    library = compile_library(tmp_path, LIBRARY, name="libssl.so")
    path, account = tmp_path / "a.pcapng", tmp_path / "ledger.json"
    command = [PYTHON, "-c", PROGRAM, library, sink]
    done = plaintap("record", "-w", path, "--ledger", account, "--", *command)
    assert done.returncode == 0, done.stderr
    ledger = json.loads(account.read_text())
    assert ledger["tls"]["lost"] == {"not-in-user-space": BODY_BYTES}
    assert ledger["tls"]["residue"] == 0
    assert ledger["gap_bytes"] == BODY_BYTES
    assert [line for line in warnings(done.stderr) if "lost" not in line] == []
    first, second = (entry["request"] for entry in entries(path))
    assert first["url"].endswith("/1")
    assert first["_lostBytes"] == BODY_BYTES
    assert (second["url"][-2:], second["postData"]["text"]) == ("/2", "ok")
