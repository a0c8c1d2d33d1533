"""sock_diag(7), asked of the sockets of this process."""

from __future__ import annotations

import os
import socket
import struct
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from capture.sock_diag import TcpSocket, read_dump, tcp_sockets

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(params=["127.0.0.1", "::1"])
def sockets(request: pytest.FixtureRequest) -> Iterator[tuple[socket.socket, socket.socket, socket.socket]]:
    """A listener, and both ends of a connection."""
    family = socket.AF_INET6 if ":" in request.param else socket.AF_INET
    with (
        socket.create_server((request.param, 0), family=family) as listener,
        socket.create_connection(listener.getsockname()[:2]) as client,
        listener.accept()[0] as server,
    ):
        yield listener, client, server


def of(wanted: socket.socket) -> TcpSocket:
    """The socket as the kernel dumps it."""
    inode = os.fstat(wanted.fileno()).st_ino
    (found,) = (found for found in tcp_sockets() if found.inode == inode)
    return found


def packed(name: tuple[str, int]) -> tuple[bytes, int]:
    """An address as the kernel has it."""
    return socket.inet_pton(socket.AF_INET6 if ":" in name[0] else socket.AF_INET, name[0]), name[1]


def test_a_listener_and_a_connection(sockets: tuple[socket.socket, socket.socket, socket.socket]) -> None:
    listener, client, server = sockets
    assert of(listener).listens
    assert of(listener).local == packed(listener.getsockname()[:2])
    found = of(client)
    assert not found.listens
    assert (found.local, found.remote) == (of(server).remote, of(server).local)
    assert found.local == packed(client.getsockname()[:2])
    assert found.cookie != of(server).cookie


def test_what_moved(sockets: tuple[socket.socket, socket.socket, socket.socket]) -> None:
    _, client, server = sockets
    before, other = of(client), of(server)
    client.sendall(b"x" * 1009)
    server.recv(1009, socket.MSG_WAITALL)
    server.sendall(b"y" * 503)
    client.recv(503, socket.MSG_WAITALL)
    # What was answered was acknowledged.
    assert of(client).moved == (before.moved[0] + 1009, before.moved[1] + 503)
    assert of(server).moved[1] == other.moved[1] + 1009
    assert of(client).cookie == before.cookie


def test_a_namespace_that_is_gone() -> None:
    with pytest.raises(OSError, match="No such file"):
        tcp_sockets(Path("/proc/0/ns/net"))


@pytest.mark.parametrize(
    "answer",
    [
        bytes(16),
        bytes(7),
        struct.pack("=IHHII", 20, 20, 2, 1, 0) + bytes(4),
        struct.pack("=IHHIIi", 20, 2, 2, 1, 0, -(1 << 31)),  # an error that there is none of
        struct.pack("=IHHIIi", 20, 2, 2, 1, 0, 5),
    ],
)
def test_an_answer_that_is_none_has_an_end(answer: bytes) -> None:
    with pytest.raises(OSError, match="Bad message"):
        list(read_dump(iter((answer,))))
