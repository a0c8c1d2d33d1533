"""The kernel's tables, as Python reads them: bcc writes a value into a buffer whose size it derived itself."""

from __future__ import annotations

import ctypes
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from kernel_state import table_values
from processes import ROOT, running
from recording import record

from bpf.program import Kernel

pytestmark = [
    pytest.mark.kernel,
    # bcc takes its own encoding of text for its caller's mistake.
    pytest.mark.filterwarnings("ignore:not a bytes object:DeprecationWarning"),
]

DECLARED = re.compile(r"^BPF_(?:HASH|ARRAY)\((\w+)|^BPF_TABLE\([^,]+,[^,]+,[^,]+, (\w+)", re.MULTILINE)


def size(fd: int, what: str) -> int:
    """The kernel's ``key_size`` or ``value_size`` of an open map."""
    lines = Path(f"/proc/self/fdinfo/{fd}").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{what}:"))


def test_python_s_values_are_as_large_as_the_kernel_s() -> None:
    names = [hash_ or table for hash_, table in DECLARED.findall((ROOT / "bpf/maps.bpf.h").read_text())]
    assert "connections" in names
    kernel = Kernel(os.sysconf("SC_PAGE_SIZE"))
    try:
        for name in names:
            table = kernel.table(name)
            # A smaller buffer is overrun by the kernel, which corrupts the heap.
            assert ctypes.sizeof(table.Key) == size(table.map_fd, "key_size"), name
            assert ctypes.sizeof(table.Leaf) == size(table.map_fd, "value_size"), name
    finally:
        kernel.close()


# Its peer reads only when nothing more can be sent.
SLOW_READER = """
import os, socket, sys, tempfile
listener = socket.create_server(("127.0.0.1", 0))
sender = socket.create_connection(listener.getsockname())
reader, _ = listener.accept()
reader.sendall(b"GET / HTTP/1.1\\r\\nHost: a\\r\\n\\r\\n")
sender.recv(100)
file = tempfile.TemporaryFile()
file.write(b"HTTP/1.1 200 OK\\r\\n\\r\\n" + bytes(8 << 20))
sys.stdin.readline()
sender.setblocking(False)
at = refused = 0
while refused < 3:
    try:
        at += os.sendfile(sender.fileno(), file.fileno(), at, 1 << 20)
    except BlockingIOError:
        refused += 1
        got = 0
        while got < 1 << 20:
            got += len(reader.recv(1 << 20))
print("done", flush=True)
sys.stdin.readline()
"""


def test_a_call_that_moves_nothing_is_in_flight_no_more(tmp_path: Path) -> None:
    kernel = Kernel(os.sysconf("SC_PAGE_SIZE"))
    try:
        layout = kernel.table("connections").Leaf
    finally:
        kernel.close()
    command = [sys.executable, "-c", SLOW_READER]
    with running(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as program:
        assert program.stdin
        assert program.stdout
        with record(tmp_path / "slow.pcapng", "-p", program.pid) as recording:
            program.stdin.write("go\n")
            program.stdin.flush()
            assert program.stdout.readline() == "done\n"
            values = table_values(recording.process.pid, "connections")["connections"]
    found = [layout.from_buffer_copy(value) for value in values]
    assert any(connection.position[0] > 1 << 16 for connection in found)
    assert [list(connection.in_flight) for connection in found] == [[0, 0]] * len(found)
