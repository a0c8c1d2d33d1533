"""What the ledger says of how traffic was seen: by the kernel's own counts, at the call, or not at all."""

from __future__ import annotations

import json
import os
import struct
from typing import TYPE_CHECKING, Any

import pytest
from conformance_runs import Peer, Truth, compile_program, run, streams_by_ports
from judges import rows
from processes import PYTHON, ROOT
from recording import plaintap, record, settle

from bpf import system
from capture.streams import StreamOpened
from exporters.reassembly import read_streams

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.kernel


def recorded(folder: Path, way: str, *options: str) -> tuple[Truth, dict[str, Any], str]:
    """A program of tests/support/conformance that sends in one way: what it saw, the ledger, what was said."""
    name = f"account-{way[-7:]}".replace("_", "-")
    program = compile_program(folder, "moves.c", name)
    account = folder / "ledger.json"
    with record(folder / "account.pcapng", "-c", name, "--ledger", account, *options) as recording:
        (truth,) = run([program, way, (peer := Peer()).port], peer)
        settle()
        done = recording.stop()
    return truth, json.loads(account.read_text()), done.stderr


def test_bytes_by_reference_are_as_of_the_call(tmp_path: Path) -> None:
    truth, ledger, _ = recorded(tmp_path, "send_sendfile")
    assert ledger["as_of_call"] == truth.sent_bytes
    assert ledger["counted_by"] == "socket-layer"
    said = rows(tmp_path / "account.pcapng", "frame.comment", "frame.comment")
    assert sum("as of the call" in "".join(comments) for comments in said) == 1


def test_bytes_by_value_are_not(tmp_path: Path) -> None:
    _, ledger, _ = recorded(tmp_path, "send_write")
    assert ledger["as_of_call"] == 0
    assert rows(tmp_path / "account.pcapng", 'frame.comment contains "as of"', "frame.number") == []


def test_tcp_s_own_totals_know_of_what_no_call_showed(tmp_path: Path) -> None:
    truth, ledger, said = recorded(tmp_path, "send_splice_of_pipe", "--no-below")
    assert ledger["counted_by"] == "system-calls"
    assert ledger["tcp_totals"] == {
        "connections": 1, "unseen_sent": truth.sent_bytes, "unseen_received": 0, "excess": 0,
    }  # fmt: skip
    assert f"{truth.sent_bytes:,} bytes" in said


# What a client sends is put into its server's socket by a BPF program, as service meshes do; the bytes, then the end.
DIVERTED = """
import os, socket, struct, sys
sys.path.insert(0, {root!r})
from bpf import system
sockets = system._bpf(0, struct.pack("<IIIII", 15, 4, 4, 2, 0))
instructions = [(0x18, 0x12, sockets), (0, 0, 0), (0xB7, 3, 0), (0xB7, 4, 1), (0x85, 0, 60), (0x95, 0, 0)]
code = b"".join(struct.pack("<BBhi", code, registers, 0, value) for code, registers, value in instructions)
system._bpf(8, struct.pack("<IIII", sockets, system._load_program(16, code, "divert", 7), 7, 0))
listener = socket.create_server(("127.0.0.1", 0))
client = socket.create_connection(listener.getsockname())
server, _ = listener.accept()
for key, end in enumerate((server, client)):
    system.write_map(sockets, struct.pack("<I", key), struct.pack("<I", end.fileno()))
data = b"POST / HTTP/1.1\\r\\n\\r\\n" + os.urandom(70_001)
client.sendall(data)
received = b""
while len(received) < len(data):
    received += server.recv(1 << 16)
assert received == data
"""


def test_bytes_that_tcp_never_had_are_no_fault(tmp_path: Path) -> None:
    account = tmp_path / "ledger.json"
    script = DIVERTED.format(root=str(ROOT))
    done = plaintap("record", "-w", tmp_path / "x.pcapng", "--ledger", account, "--", PYTHON, "-c", script)
    assert done.returncode == 0, done.stderr
    assert "please report" not in done.stderr
    ledger = json.loads(account.read_text())
    assert ledger["sockets"]["captured"] == ledger["sockets"]["mirrored"] > 70_001
    assert ledger["tcp_totals"]["excess"] == 0


# Both ends ask at once: here they are one socket.
SIMULTANEOUS = """
import socket
end = socket.socket()
end.bind(("127.0.0.1", 0))
end.connect(end.getsockname())
end.sendall(b"GET / HTTP/1.1\\r\\n\\r\\n" * 101)
left = 101 * 18
while left:
    left -= len(end.recv(1 << 16))
end.shutdown(socket.SHUT_WR)
assert end.recv(1) == b""
"""


def test_a_simultaneous_open_is_one(tmp_path: Path) -> None:
    account, capture = tmp_path / "ledger.json", tmp_path / "x.pcapng"
    done = plaintap("record", "-w", capture, "--ledger", account, "--", PYTHON, "-c", SIMULTANEOUS)
    assert done.returncode == 0, done.stderr
    assert json.loads(account.read_text())["tcp_totals"] == {
        "connections": 1, "unseen_sent": 0, "unseen_received": 0, "excess": 0,
    }  # fmt: skip
    (opened,) = (item for item in read_streams(capture) if isinstance(item, StreamOpened))
    assert opened.handshake_seen


def test_tcp_s_own_totals_agree_with_what_was_seen(tmp_path: Path) -> None:
    truth, ledger, said = recorded(tmp_path, "send_splice_of_pipe")
    assert ledger["tcp_totals"] == {"connections": 1, "unseen_sent": 0, "unseen_received": 0, "excess": 0}
    assert ledger["sockets"]["reported"] == truth.sent_bytes
    ((stream,),) = streams_by_ports(tmp_path / "account.pcapng").values()
    assert stream.sent.sha256 == truth.sent
    assert "Warning" not in said
    assert 0 < ledger["samples"] < 10_000
    assert ledger["connections_without_address"] == 0


def instruction(code: int, registers: int, offset: int = 0, immediate: int = 0) -> bytes:
    """One of BPF's."""
    return struct.pack("<BBhi", code, registers, offset, immediate)


def test_runs_that_the_kernel_skips_are_counted() -> None:
    # *(u64 *)(r10 - 8) = "x"; r1 = r10 - 8; r2 = 2; bpf_trace_printk(r1, r2); return 0
    program = system.load_program(
        "RAW_TRACEPOINT",
        instruction(0x7A, 10, -8, ord("x")) + instruction(0xBF, 10 << 4 | 1) + instruction(0x07, 1, 0, -8)
        + instruction(0xB7, 2, 0, 2) + instruction(0x85, 0, 0, 6) + instruction(0xB7, 0) + instruction(0x95, 0),
        "prints",
    )  # fmt: skip
    try:
        assert system.skipped_runs(program) == 0
        # It prints, which is what it is called for: the kernel does not call it again from within.
        link = system.open_raw_tracepoint(program, "bpf_trace_printk")
        try:
            for _ in range(7):
                system.run_raw_tracepoint(program, (0,))
        finally:
            os.close(link)
        assert system.skipped_runs(program) >= 7
    finally:
        os.close(program)


RESTORED = """
import socket, struct
listener = socket.create_server(("127.0.0.1", 0))
dumped = socket.create_connection(listener.getsockname())
server, _ = listener.accept()
dumped.sendall(b"GET / HTTP/1.1\\r\\nHost: a\\r\\n\\r\\n")
server.recv(100)
REPAIR, QUEUE, SEQUENCE = 19, 20, 21
dumped.setsockopt(socket.IPPROTO_TCP, REPAIR, 1)
ends, sequences = (dumped.getsockname(), dumped.getpeername()), {}
for queue in (1, 2):
    dumped.setsockopt(socket.IPPROTO_TCP, QUEUE, queue)
    sequences[queue] = dumped.getsockopt(socket.IPPROTO_TCP, SEQUENCE) & 0xffffffff
dumped.close()
restored = socket.socket()
restored.setsockopt(socket.IPPROTO_TCP, REPAIR, 1)
for queue, sequence in sequences.items():
    restored.setsockopt(socket.IPPROTO_TCP, QUEUE, queue)
    restored.setsockopt(socket.IPPROTO_TCP, SEQUENCE, struct.pack("I", sequence))
restored.bind(ends[0])
restored.connect(ends[1])
restored.setsockopt(socket.IPPROTO_TCP, REPAIR, 0)
server.sendall(b"HTTP/1.1 204 No Content\\r\\n\\r\\n")
restored.recv(100)
restored.close()
server.close()
"""


def test_a_connection_that_was_restored_has_no_totals(tmp_path: Path) -> None:
    """As CRIU does it (TCP_REPAIR): there was no SYN to be acknowledged."""
    account = tmp_path / "ledger.json"
    done = plaintap("record", "-w", tmp_path / "r.pcapng", "--ledger", account, "--", PYTHON, "-c", RESTORED)
    assert done.returncode == 0, done.stderr
    assert "Warning" not in done.stderr
    found = json.loads(account.read_text())["tcp_totals"]
    assert (found["unseen_sent"], found["unseen_received"], found["excess"]) == (0, 0, 0)


RESET = """
import socket, struct
listener = socket.create_server(("127.0.0.1", 0))
client = socket.create_connection(listener.getsockname())
server, _ = listener.accept()
client.sendall(b"GET / HTTP/1.1\\r\\nHost: a\\r\\n\\r\\n")
server.recv(100)
server.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
server.close()
try:
    client.recv(100)
except ConnectionResetError:
    pass
try:
    client.shutdown(socket.SHUT_RDWR)
except OSError:
    pass
client.close()
"""


def test_shutdown_after_a_reset_sends_nothing(tmp_path: Path) -> None:
    capture, account = tmp_path / "reset.pcapng", tmp_path / "ledger.json"
    done = plaintap("record", "-w", capture, "--ledger", account, "--", PYTHON, "-c", RESET)
    assert done.returncode == 0, done.stderr
    assert json.loads(account.read_text())["tcp_totals"]["excess"] == 0, done.stderr
    flags = "".join(flag for (flag,) in rows(capture, "tcp", "tcp.flags.str"))
    assert "R" in flags
    assert "F" not in flags
