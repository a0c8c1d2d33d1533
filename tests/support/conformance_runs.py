"""Programs that move bytes in one way each, a peer for each of their connections, and what a capture has of them.

A program prints a line of JSON for a connection: its local port, how many calls, and for either direction how many
bytes with which SHA-256. The peer is a thread of this process, which is not recorded.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import socket
import subprocess
import threading
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from capture.streams import Data, Gap, Side, StreamOpened
from exporters.reassembly import read_streams

if TYPE_CHECKING:
    from collections.abc import Sequence

SOURCES = Path(__file__).parent / "conformance"
RESPONSE = b"HTTP/1.1 200 OK\r\nServer: conformance\r\n\r\n"
SECONDS = 60
# Of streams of AF_UNIX that speak HTTP.
UNIX_PORT = 80


@dataclass(frozen=True, slots=True)
class Truth:
    """A connection as its program saw it; hashes are SHA-256."""

    port: int
    calls: int
    sent_bytes: int
    received_bytes: int
    sent: str
    received: str
    peer_port: int = 0

    @property
    def ports(self) -> tuple[int, int]:
        """What tells the connection from the others: a port of ours may serve several at once."""
        return self.port, self.peer_port


@dataclass(slots=True)
class Flow:
    """One direction of a stream in a capture: holes are zeros in ``data``, ``holes`` where each begins and ends."""

    data: bytearray = field(default_factory=bytearray)
    lost: int = 0
    reasons: set[str] = field(default_factory=set)
    holes: list[tuple[int, int]] = field(default_factory=list)

    @property
    def sha256(self) -> str:
        """Of what there is."""
        return hashlib.sha256(self.data).hexdigest()

    def is_of(self, whole: bytes) -> bool:
        """Whether it is these bytes, but for the holes."""
        expected = bytearray(whole)
        for begin, end in self.holes:
            expected[begin:end] = bytes(end - begin)
        return self.data == expected


@dataclass(slots=True)
class Stream:
    """A connection in a capture, by who sent."""

    side: Side
    handshake_seen: bool
    sent: Flow = field(default_factory=Flow)
    received: Flow = field(default_factory=Flow)


def listen(kind: str, folder: Path) -> socket.socket:
    """A listener of AF_UNIX (``unix``, ``unix_abstract``), IPv6, or MPTCP."""
    if kind.startswith("unix"):
        listener = socket.socket(socket.AF_UNIX)
        name = f"plaintap-{uuid.uuid4().hex}"
        listener.bind(f"\0{name}" if kind == "unix_abstract" else str(folder / f"{name}.sock"))
    else:
        family = socket.AF_INET6 if "6" in kind else socket.AF_INET
        protocol = socket.IPPROTO_MPTCP if "mptcp" in kind else 0
        listener = socket.socket(family, socket.SOCK_STREAM, protocol)
        listener.bind(("::1" if "6" in kind else "127.0.0.1", 0))
    listener.listen()
    return listener


def _where(listener: socket.socket) -> tuple[str, int]:
    """A listener's port or path (with an @, the name of an abstract one), and the port that a capture has of it."""
    name = listener.getsockname()
    if listener.family != socket.AF_UNIX:
        return str(name[1]), int(name[1])
    return (name if isinstance(name, str) else f"@{name[1:].decode()}"), UNIX_PORT


# What fits into a pipe.
PIPE_BYTES = 1 << 16


class Peer:
    """The other end: sends ``response`` at once, reads to the end, and closes."""

    def __init__(
        self,
        response: bytes = b"",
        connections: int = 1,
        urgent: bool = False,
        listener: socket.socket | None = None,
        pages: bool = False,
    ) -> None:
        """``pages``: sends whole pages, which a receiver may map."""
        self._pages = pages
        self._listener = listener or socket.create_server(("127.0.0.1", 0))
        self.where, self.port = _where(self._listener)
        # Urgent bytes too, where they are sent: what is accepted inherits it, and so has it when the first one comes.
        if self._listener.proto != socket.IPPROTO_MPTCP:
            self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE, 1)
        self._response, self._connections, self._urgent = response, connections, urgent
        self.received = [hashlib.sha256()]
        self.bytes = bytearray()  # of all connections
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        with self._listener:
            for number in range(self._connections):
                self.received += [hashlib.sha256()] if number else []
                accepted, _ = self._listener.accept()
                with accepted:
                    self._talk(accepted)

    def _talk(self, accepted: socket.socket) -> None:
        accepted.settimeout(SECONDS)
        chunks, at = random.Random(11), 0
        if self._pages:
            at = self._send_pages(accepted)
        while at < len(self._response):
            n = chunks.randrange(1, 20_000)
            accepted.sendall(self._response[at : at + n])
            at += n
            if self._urgent and chunks.random() < 0.3:
                accepted.send(b"!", socket.MSG_OOB)
        if self._response:
            accepted.shutdown(socket.SHUT_WR)
        while piece := accepted.recv(1 << 18):
            self.received[-1].update(piece)
            self.bytes += piece

    def _send_pages(self, accepted: socket.socket) -> int:
        """The pages of a pipe become TCP's own. How much of the response that was."""
        reader, writer = os.pipe()
        try:
            for at in range(0, len(self._response), PIPE_BYTES):
                left = os.write(writer, self._response[at : at + PIPE_BYTES])
                while left:
                    left -= os.splice(reader, accepted.fileno(), left)
        finally:
            os.close(reader)
            os.close(writer)
        return len(self._response)

    def join(self) -> None:
        """Wait for the end."""
        self._thread.join(SECONDS)
        assert not self._thread.is_alive()


def response(size: int) -> bytes:
    """What begins like a response and goes on as noise, the same each time."""
    return RESPONSE + random.Random(size).randbytes(size - len(RESPONSE))


def compile_program(folder: Path, source: str, name: str, *flags: str) -> Path:
    """A program of tests/support/conformance, under a name of at most 15 characters to be recorded by."""
    program = folder / name
    warnings = ("-Wall", "-Wextra", "-Werror")
    subprocess.run(["gcc", "-O1", *warnings, "-o", program, SOURCES / source, *flags], check=True)
    return program


def run(command: Sequence[object], peer: Peer | None) -> list[Truth]:
    """Run a program to its end; what it says of its connections. Without a peer, it talks to its own child."""
    done = subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, timeout=SECONDS, check=False
    )
    assert done.returncode == 0, f"{command}: {done.stderr}"
    if peer:
        peer.join()
    port = peer.port if peer else UNIX_PORT
    return [Truth(**json.loads(line), peer_port=port) for line in done.stdout.splitlines()]


def accept(command: Sequence[object], request: bytes, connections: int) -> list[Truth]:
    """Run a program that says on which port it listens, and ask it; what it says of its connections, the client's
    port first.
    """
    with subprocess.Popen(list(map(str, command)), stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        port = int(process.stdout.readline())
        for _ in range(connections):
            with socket.create_connection(("127.0.0.1", port), SECONDS) as client:
                client.sendall(request)
                client.shutdown(socket.SHUT_WR)
                while client.recv(1 << 16):
                    pass
        said = [json.loads(line) for line in process.stdout]
    assert process.returncode == 0, f"{command}"
    return [
        Truth(**line | {"sent": line["received"], "sent_bytes": line["received_bytes"],
                        "received": line["sent"], "received_bytes": line["sent_bytes"]}, peer_port=port)
        for line in said
    ]  # fmt: skip


def streams_by_ports(capture: Path) -> dict[tuple[int, int], list[Stream]]:
    """A capture's streams by their client's and their server's port."""
    found: dict[tuple[int, int], list[Stream]] = {}
    by_number: dict[int, Stream] = {}
    for item in read_streams(capture):
        if isinstance(item, StreamOpened):
            stream = by_number[item.stream] = Stream(item.side, item.handshake_seen)
            found.setdefault((item.client.port, item.server.port), []).append(stream)
        elif isinstance(item, Data | Gap):
            stream = by_number[item.stream]
            flow = stream.sent if item.sender is Side.CLIENT else stream.received
            if isinstance(item, Data):
                flow.data += item.data
            else:
                flow.holes.append((len(flow.data), len(flow.data) + item.length))
                flow.data += bytes(item.length)
                flow.lost += item.length
                flow.reasons.add(item.reason)
    return found
