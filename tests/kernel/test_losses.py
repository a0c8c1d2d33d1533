"""A recording that cannot keep up: losses are counted to the byte, shown as holes, and never filled in."""

from __future__ import annotations

import contextlib
import json
import re
import signal
import socket
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest
from clients import curl
from conformance_runs import streams_by_ports
from https_client import sample_body
from judges import expert_problems, rows
from recording import decoded, entries, record, settle, warnings

from capture.pipeline import SWEEP_INTERVAL_S

if TYPE_CHECKING:
    from pathlib import Path

    from servers import Servers

pytestmark = pytest.mark.kernel

LENGTH = 24 << 20
# Two of the ring's smallest records of 16 KiB: a burst of 1 MiB writes must overflow it.
RING_BYTES = 65_536
SCHEMES = ("http", "https")
ACCOUNT = re.compile(r"^(sockets|TLS): ([\d,]+) bytes [^=]+= (.+)$", re.MULTILINE)
PART = re.compile(r"([\d,]+) bytes? (captured|suppressed as ciphertext|filtered|lost)")


@dataclass(frozen=True, slots=True)
class Segment:
    """What the server sent in one packet: its place in the stream, what was captured and what was not."""

    start: int
    data: bytes
    missing: int


def number(text: str) -> int:
    return int(text.replace(",", ""))


def accounts(stderr: str) -> dict[str, tuple[int, dict[str, int]]]:
    """The ledger as printed: what was reported, and the sum of each fate."""
    found = {}
    for name, reported, parts in ACCOUNT.findall(stderr):
        fates: dict[str, int] = {}
        for amount, fate in PART.findall(parts):
            fates[fate] = fates.get(fate, 0) + number(amount)
        found[name] = (number(reported), fates)
    return found


def server_segments(capture: Path, port: int) -> list[Segment]:
    """The server's side of the only connection, positions counted from its first byte."""
    fields = ("tcp.seq", "tcp.payload", "frame.len", "frame.cap_len")
    found = rows(capture, f"tcp.srcport=={port} && frame.len>66", *fields)
    return [
        Segment(int(sequence) - 1, bytes.fromhex(payload), int(length) - int(captured))
        for sequence, payload, length, captured in found
    ]


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_ring_that_is_too_small(servers: Servers, tmp_path: Path, scheme: str) -> None:
    port = servers.port(scheme)
    options = ("-c", "curl", "--port", port, "--framing", "plain", "--ring-size", RING_BYTES)
    with record(tmp_path / "loss.pcapng", *options) as recording:
        curl(servers, servers.url(scheme, f"/bytes/{LENGTH}"))
        settle()
        done = recording.stop()
    assert done.returncode == 0, done.stderr

    # The ledger adds up to the byte, and knows of a loss.
    for reported, fates in accounts(done.stderr).values():
        assert reported == sum(fates.values()), done.stderr
    _reported, fates = accounts(done.stderr)["TLS" if scheme == "https" else "sockets"]
    assert 0 < fates["lost"] < LENGTH

    # The pcapng shows every hole at its place, and what is there is what was sent at that place.
    sent = server_segments(recording.path, port)
    missing = sum(segment.missing for segment in sent)
    total = max(segment.start + len(segment.data) + segment.missing for segment in sent)
    assert missing == fates["lost"], "the file and the ledger disagree"
    assert sum(len(segment.data) + segment.missing for segment in sent) == total
    head = total - LENGTH
    assert 100 < head < 1000
    body = sample_body(LENGTH)
    for segment in sent:
        data = segment.data[max(0, head - segment.start) :]
        start = max(segment.start, head) - head
        assert data == body[start : start + len(data)]
    assert expert_problems(recording.path) == []

    # The HAR says so too, and holds a part of the body without a byte that was not sent.
    (entry,) = entries(recording.path)
    content = entry["response"]["content"]
    assert str(missing) in json.dumps(entry).replace(",", "")
    assert len(decoded(content)) == LENGTH - missing


@pytest.mark.parametrize("options", [(), ("--no-below",)], ids=["below", "no-below"])
@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_recorder_that_stands_still(
    servers: Servers, tmp_path: Path, scheme: str, options: tuple[str, ...]
) -> None:
    """Connections that begin and end meanwhile, whose announcements and ends find no room either."""
    port, account = servers.port(scheme), tmp_path / "ledger.json"
    common = ("--port", port, "--ring-size", RING_BYTES, "--ledger", account)
    with record(tmp_path / "still.pcapng", *common, *options) as recording:
        curl(servers, servers.url(scheme, "/bytes/300007"))
        recording.process.send_signal(signal.SIGSTOP)
        try:
            for _ in range(3):
                curl(servers, servers.url(scheme, "/bytes/1048583"))
        finally:
            recording.process.send_signal(signal.SIGCONT)
        curl(servers, servers.url(scheme, "/bytes/17"))
        settle()
        done = recording.stop()
    ledger = json.loads(account.read_text())
    assert ledger["events_lost"] > 0
    assert ledger["tls" if scheme == "https" else "sockets"]["lost"]["ring-full"] > 1_000_000
    for name in ("sockets", "tls"):
        assert ledger[name]["residue"] == 0, ledger
    assert ledger["tcp_totals"]["excess"] == 0
    assert "please report" not in done.stderr
    # Of a response whose head is lost, Wireshark takes what remains of the body for one.
    assert expert_problems(recording.path, "!http") == []


def test_an_end_without_room_does_not_overtake_its_own_bytes(tmp_path: Path) -> None:
    """What the ring holds already is handled in batches of 4 MiB, and ends are looked for in between."""
    path = tmp_path / "ends.pcapng"
    with socket.create_server(("127.0.0.1", 0), backlog=64) as listener, contextlib.ExitStack() as ends:

        def pair() -> tuple[socket.socket, socket.socket]:
            client = ends.enter_context(socket.create_connection(listener.getsockname()))
            return client, ends.enter_context(listener.accept()[0])

        def send(client: socket.socket, server: socket.socket, blocks: int) -> None:
            with ThreadPoolExecutor(1) as beside:
                done = beside.submit(client.sendall, bytes(blocks << 20))
                left = blocks << 20
                while left:
                    left -= len(server.recv(min(left, 1 << 20)))
                done.result()

        port = listener.getsockname()[1]
        with record(path, "--port", port, "--protocol", "all", "--no-hold") as recording:
            big, small = pair(), [pair() for _ in range(20)]
            for number, (client, server) in enumerate(small):
                client.sendall(b"first of %d" % number)
                server.recv(100)
            settle()
            recording.process.send_signal(signal.SIGSTOP)
            send(*big, 5)
            words = [b"last words of %d." % number for number in range(len(small))]
            for (client, server), word in zip(small, words, strict=True):
                client.sendall(word)
                server.recv(100)
            send(*big, 30)
            for both in small:
                for end in both:
                    end.close()
            settle(SWEEP_INTERVAL_S)
            recording.process.send_signal(signal.SIGCONT)
            settle()
            done = recording.stop()
    assert accounts(done.stderr)["sockets"][1]["lost"] > 0, "the ring was not full"
    captured = path.read_bytes()
    assert [word for word in words if word not in captured] == []


def test_an_end_that_waits_while_its_address_is_another_s(tmp_path: Path) -> None:
    """The ring is full all the while: the next socket at the same place has no room for the last one's end either."""
    # Small pieces in the end, for which there is room when there is none for large ones.
    path, amounts = tmp_path / "again.pcapng", [1, *[10_000] * 64, *[10] * 1000]
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def converse(amounts: list[int]) -> int:
            with socket.create_connection(listener.getsockname()) as client, listener.accept()[0] as server:
                for amount in amounts:
                    client.sendall(bytes(amount))
                    server.recv(amount, socket.MSG_WAITALL)
                    if amount == 1:
                        settle()
                        recording.process.send_signal(signal.SIGSTOP)
                return int(client.getsockname()[1])

        port = listener.getsockname()[1]
        with record(path, "--port", port, "--protocol", "all", "--ring-size", RING_BYTES) as recording:
            local = converse(amounts)
            for _ in range(50):
                converse([10])
            recording.process.send_signal(signal.SIGCONT)
            settle()
            done = recording.stop()
    (stream,) = streams_by_ports(path)[local, port]
    assert (len(stream.sent.data), stream.sent.reasons) == (sum(amounts), {"ring-full"}), done.stderr


@pytest.mark.parametrize("scheme", SCHEMES)
def test_without_a_loss_the_ledger_adds_up_too(servers: Servers, tmp_path: Path, scheme: str) -> None:
    with record(tmp_path / "all.pcapng", "-c", "curl", "--port", servers.port(scheme)) as recording:
        curl(servers, servers.url(scheme, "/bytes/1048583"))
        settle()
        done = recording.stop()
    found = accounts(done.stderr)
    assert set(found) == {"sockets", "TLS"}
    for reported, fates in found.values():
        assert reported == sum(fates.values()), done.stderr
        assert "lost" not in fates, done.stderr
    reported, fates = found["TLS" if scheme == "https" else "sockets"]
    assert fates["captured"] > 1_048_583
    assert warnings(done.stderr) == []
