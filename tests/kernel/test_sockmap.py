"""A BPF program hands what is sent on one socket on to another (sockmap): whose bytes they are."""

from __future__ import annotations

import json
import socket
import subprocess
from typing import TYPE_CHECKING

import pytest
from conformance_runs import streams_by_ports
from processes import PLAINTAP, PYTHON

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.kernel

# Two connections, whose server says nothing. What `first` sends goes out of `second` (egress), or is received by it
# (ingress).
PROGRAM = """
import ctypes, json, os, socket, struct, sys
libc = ctypes.CDLL(None, use_errno=True)
SYS_BPF = {"x86_64": 321, "aarch64": 280}[os.uname().machine]
MAP_CREATE, MAP_UPDATE, PROG_LOAD, PROG_ATTACH = 0, 2, 5, 8
SOCKMAP, SK_MSG, SK_MSG_VERDICT, MSG_REDIRECT_MAP = 15, 16, 7, 60
kept = []

def at(content):
    kept.append(ctypes.create_string_buffer(content, len(content)))
    return ctypes.addressof(kept[-1])

def bpf(command, form, *values):
    attributes = struct.pack(form, *values).ljust(128, bytes(1))
    result = libc.syscall(SYS_BPF, command, ctypes.c_void_p(at(attributes)), len(attributes))
    assert result >= 0, (command, ctypes.get_errno())
    return result

def code(*instructions):
    return b"".join(struct.pack("<BBhi", *i) for i in instructions)

def message(data):
    block = struct.pack("QQ", at(data), len(data))
    kept.append(ctypes.create_string_buffer(struct.pack("QQQQQQQQ", 0, 0, at(block), 1, 0, 0, 0, 0), 64))
    return ctypes.c_void_p(ctypes.addressof(kept[-1]))

def redirect(flags):
    # r2 = the map, r3 = 1, r4 = flags
    sockets = bpf(MAP_CREATE, "IIII", SOCKMAP, 4, 4, 2)
    program = code((0x18, 0x12, 0, sockets), (0, 0, 0, 0), (0xB7, 3, 0, 1), (0xB7, 4, 0, flags),
                   (0x85, 0, 0, MSG_REDIRECT_MAP), (0x95, 0, 0, 0))
    verdict = bpf(PROG_LOAD, "IIQQ", SK_MSG, len(program) // 8, at(program), at(b"GPL" + bytes(1)))
    bpf(PROG_ATTACH, "IIII", sockets, verdict, SK_MSG_VERDICT, 0)
    return sockets

for way, flags in (("egress", 0), ("ingress", 1)):
    first, second = (socket.create_connection(("127.0.0.1", int(sys.argv[1]))) for _ in range(2))
    for s in (first, second):
        s.send(b"hello")
    sockets = redirect(flags)
    for number, s in enumerate((first, second)):
        bpf(MAP_UPDATE, "IxxxxQQQ", sockets, at(struct.pack("I", number)), at(struct.pack("I", s.fileno())), 0)
    first.send(b"0123456789")
    libc.sendmmsg(first.fileno(), message(b"by others"), 1, 0)
    if way == "ingress":
        assert second.recv(10, socket.MSG_WAITALL) == b"0123456789"
        assert libc.recvmmsg(second.fileno(), message(bytes(100)), 1, 0, None) == 1
    print(json.dumps([way, *(s.getsockname()[1] for s in (first, second))]), flush=True)
"""


def test_what_is_handed_on_is_its_senders(tmp_path: Path) -> None:
    path, account = tmp_path / "map.pcapng", tmp_path / "ledger.json"
    command = [
        PLAINTAP,
        "record",
        "-w",
        path,
        "--protocol",
        "all",
        "--ledger",
        account,
        "--",
        PYTHON,
        "-c",
        PROGRAM,
    ]
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = listener.getsockname()[1]
        done = subprocess.run(
            [*map(str, command), str(server)], capture_output=True, text=True, timeout=60, check=False
        )
    assert done.returncode == 0, done.stderr
    streams = streams_by_ports(path)
    for way, *clients in map(json.loads, done.stdout.splitlines()):
        first, second = (streams[client, server][0] for client in clients)
        assert first.sent.is_of(b"hello0123456789by others")
        assert (way, first.sent.holes) == (way, [(15, 24)])
        assert bytes(second.sent.data) == b"hello"
        if way == "ingress":
            assert second.received.is_of(b"0123456789by others")
            assert second.received.holes == [(10, 19)]
    ledger = json.loads(account.read_text())
    assert ledger["sockets"]["residue"] == 0
    assert ledger["sockets"]["lost"] == {"not-in-user-space": 27}
