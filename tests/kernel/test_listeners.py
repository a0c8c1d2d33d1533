"""TLS sessions on memory BIOs that are older than the recording and send nothing any more."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import listeners
import pytest
from processes import free_port, running, wait_for_port
from recording import STOP_SECONDS, record, settle

from capture.streams import Data, Side
from exporters.reassembly import read_streams

if TYPE_CHECKING:
    from servers import Servers

pytestmark = pytest.mark.kernel

CONNECTIONS = 20


def test_every_event_is_on_its_connection(servers: Servers, tmp_path: Path) -> None:
    port = free_port()
    program = [sys.executable, Path(listeners.__file__)]
    key = servers.certificate.with_name("key.pem")
    server_command = [*program, "server", port, servers.certificate, key]
    client_command = [*program, "client", port, servers.certificate, CONNECTIONS]
    with running(server_command, stdin=subprocess.PIPE) as server:
        wait_for_port(port)
        with running(client_command, stdout=subprocess.PIPE) as client:
            assert client.stdout
            assert server.stdin
            assert client.stdout.readline() == b"listening\n"
            with record(tmp_path / "listeners.pcapng", "-p", client.pid) as recording:
                server.stdin.write(b"\n")
                server.stdin.close()
                assert client.wait(STOP_SECONDS) == 0
                settle()
    heard: dict[int, bytearray] = {}
    for item in read_streams(recording.path):
        if isinstance(item, Data):
            assert item.sender is Side.SERVER
            heard.setdefault(item.stream, bytearray()).extend(item.data)
    expected = [
        b"".join(listeners.event(number, index) for index in range(listeners.EVENTS))
        for number in range(CONNECTIONS)
    ]
    assert sorted(heard.values()) == sorted(expected)
