"""A server that answers before it is asked, and resets: whose answer that was."""

from __future__ import annotations

import socket
import struct
import subprocess
from typing import TYPE_CHECKING

import pytest
from conformance_runs import streams_by_ports
from processes import PYTHON
from recording import record

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.kernel

BUSY = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n"
CLIENT = """
import select, socket, sys
connection = socket.create_connection((sys.argv[1], int(sys.argv[2])))
print(connection.getsockname()[1], flush=True)
waiting = select.poll()
waiting.register(connection, 0)
assert waiting.poll(30_000)
assert connection.recv(1000)
"""


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_the_client_of_an_answer_before_a_reset(tmp_path: Path, host: str) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, 0), family=family) as listener:
        port = listener.getsockname()[1]
        with (
            record(tmp_path / "reset.pcapng", "--port", port, "-c", PYTHON.name) as recording,
            subprocess.Popen(
                [PYTHON, "-c", CLIENT, host, str(port)], stdout=subprocess.PIPE, text=True
            ) as client,
        ):
            accepted, (_, local, *_) = listener.accept()
            accepted.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            accepted.sendall(BUSY)
            accepted.close()
            assert client.wait(60) == 0
    ((ports, (stream,)),) = streams_by_ports(recording.path).items()
    assert (ports, bytes(stream.received.data)) == ((local, port), BUSY)
