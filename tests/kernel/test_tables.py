"""The kernel's tables, as Python reads them: into buffers whose size bpf.maps derived from what bcc declared."""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import socket
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from kernel_state import empty_table, table_values
from processes import ROOT, running
from recording import record

from bpf import probes, system
from bpf.probes import RAW_TRACEPOINTS, Probes
from bpf.program import Kernel
from bpf.tables import Choice, OlderCall, Tables

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.kernel

DECLARED = re.compile(r"^BPF_(?:HASH|ARRAY)\((\w+)|^BPF_TABLE\([^,]+,[^,]+,[^,]+, (\w+)", re.MULTILINE)


@pytest.fixture(scope="module")
def kernel() -> Iterator[Kernel]:
    """A kernel side that records nothing."""
    loaded = Kernel(os.sysconf("SC_PAGE_SIZE"))
    yield loaded
    loaded.close()


def size(fd: int, what: str) -> int:
    """The kernel's ``key_size`` or ``value_size`` of an open map."""
    lines = Path(f"/proc/self/fdinfo/{fd}").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{what}:"))


def test_python_s_values_are_as_large_as_the_kernel_s(kernel: Kernel) -> None:
    names = [hash_ or table for hash_, table in DECLARED.findall((ROOT / "bpf/maps.bpf.h").read_text())]
    assert "connections" in names
    for name in names:
        table = kernel.table(name)
        # A smaller buffer is overrun by the kernel, which corrupts the heap.
        assert ctypes.sizeof(table.Key) == size(table.map_fd, "key_size"), name
        assert ctypes.sizeof(table.Leaf) == size(table.map_fd, "value_size"), name


def ended(kernel: Kernel, key: int, connection: int, *, late: bool = True) -> None:
    """Put a connection into the tables that has ended, or one that took its key."""
    table, ends = kernel.table("connections"), kernel.table("late_ends")
    value = table.Leaf()
    value.id, value.announced, value.ended = connection, 1, late
    table[table.Key(key)] = value
    if late:
        ends[ends.Key(key)] = ends.Leaf(connection)


def test_an_end_that_was_told_late_takes_nobody_s_entry_but_its_own(kernel: Kernel) -> None:
    tables = Tables(kernel)
    for key in (1, 2, 3):
        ended(kernel, key, 10 + key)
    first, second, third = sorted(tables.late_ends(), key=lambda c: c.key)
    assert [(c.key, c.connection) for c in (first, second, third)] == [(1, 11), (2, 12), (3, 13)]
    # Meanwhile one address is used again, and one entry is gone.
    ended(kernel, 2, 22, late=False)
    del kernel.table("connections")[kernel.table("connections").Key(3)]
    for c in (first, second, third):
        tables.drop_ended(c.key, c.connection)
    assert [(c.key, c.connection) for c in tables.connections()] == [(2, 22)]
    assert list(kernel.table("late_ends")) == []
    # The same is found out of who is listed.
    ended(kernel, 4, 14)
    ended(kernel, 4, 24, late=False)
    assert list(tables.late_ends()) == []
    assert list(kernel.table("late_ends")) == []


@pytest.mark.parametrize(("writing", "connection"), [(1, 16), (0, 16), (1, 17)])
def test_an_end_says_whether_its_session_is_being_written_to(
    kernel: Kernel, writing: int, connection: int
) -> None:
    """The TLS object may be another connection's by now."""
    tables = Tables(kernel)
    ended(kernel, 6, 16)
    table, sessions = kernel.table("connections"), kernel.table("sessions")
    value = table[table.Key(6)]
    value.ssl, value.ssl_tgid = 0x1000, 99
    table[table.Key(6)] = value
    key, session = sessions.Key(), sessions.Leaf()
    key.ssl, key.tgid = 0x1000, 99
    session.connection, session.writing = connection, writing
    sessions[key] = session
    (late,) = tables.late_ends()
    assert late.written_to is (writing > 0 and connection == 16)
    tables.drop_ended(6, 16)
    del sessions[key]
    assert list(tables.late_ends()) == []


def test_a_call_that_was_seen_entered_is_not_taken_for_an_older_one(kernel: Kernel) -> None:
    """The thread went on, and entered another, while its older call was looked at."""
    tables, calls = Tables(kernel), kernel.table("tls_calls")
    older = OlderCall(7, 8, None, "READ_LONG", False, 1, 0x7000, 0x1000, 0x2000, 100, 0)
    assert not tables.knows_call(8)
    key, seen = calls.Key(), calls.Leaf()
    key.stack, seen.ssl = 8, 0x3000
    calls[key] = seen
    assert tables.knows_call(8)
    assert not tables.expect_older_call(older)
    tables.drop_older_call(older)
    assert calls[key].ssl == 0x3000
    del calls[key]
    assert tables.expect_older_call(older)
    assert (calls[key].ssl, tables.expects_older_call(older)) == (0x1000, True)
    tables.drop_older_call(older)
    assert key not in calls


FIN_WAIT1, LAST_ACK = 4, 9


def test_another_socket_at_the_address_of_one_that_has_ended_is_another(kernel: Kernel) -> None:
    """The client's of the same machine, say: its totals were held against the server's."""
    tables = Tables(kernel)
    ended(kernel, 5, 15)
    tables.set(os.getpid(), ())
    for program, arguments in (
        ("on_inet_sock_set_state", (5, FIN_WAIT1, LAST_ACK)),
        ("on_tcp_destroy_sock", (5,)),
    ):
        system.run_raw_tracepoint(kernel.load(program, "RAW_TRACEPOINT"), arguments)
    tables.set(0, ())
    (kept,) = (c for c in tables.connections() if c.key == 5)
    assert (kept.connection, kept.local_fin) == (15, 0)
    tables.drop_ended(5, 15)


def talk(listener: socket.socket) -> tuple[socket.socket, socket.socket]:
    """A connection that both ends have moved bytes on."""
    client = socket.create_connection(listener.getsockname())
    server, _ = listener.accept()
    client.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    server.recv(100)
    server.sendall(b"HTTP/1.1 204 No Content\r\n\r\n")
    client.recv(100)
    return client, server


def test_an_end_that_no_program_saw_is_found_and_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel skips a program that it finds running: a softirq has told of three ends in the middle of a fourth."""
    monkeypatch.setattr(
        probes, "RAW_TRACEPOINTS", [row for row in RAW_TRACEPOINTS if row[0] != "tcp_destroy_sock"]
    )
    kernel = Kernel(1 << 20)
    tables, attached = Tables(kernel), Probes(kernel)
    attached.attach_tracepoints()
    tables.choose_pid(os.getpid(), Choice.WANTED)
    tables.set(1, ("CHECK_PROCESSES", "CHECK_PIDS", "WANT_PIDS"))

    def known() -> int:
        return len(list(tables.connections()))

    with socket.create_server(("127.0.0.1", 0)) as listener:
        stays, lingers, goes = talk(listener), talk(listener), talk(listener)
        lingers[0].setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                lingers[0].send(bytes(1 << 20))
        # It has no file any more, and TCP goes on.
        lingers[0].close()
        for end in goes:
            end.close()
        assert known() == 6
        # TCP may be about to tell it: asked of once, it is as it was.
        tables.find_missed_ends(100)
        assert known() == 6
        tables.find_missed_ends(100)
        assert known() == 4
        tables.find_missed_ends(100)
        assert known() == 4
        while lingers[1].recv(1 << 20):
            pass
        lingers[1].close()
        tables.find_missed_ends(1)
        tables.find_missed_ends(100)
        tables.find_missed_ends(100)
        assert known() == 2
        for end in stays:
            end.close()
    tables.set(0, ())
    attached.detach()
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


def test_a_call_that_moves_nothing_is_in_flight_no_more(kernel: Kernel, tmp_path: Path) -> None:
    command = [sys.executable, "-c", SLOW_READER]
    with running(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as program:
        assert program.stdin
        assert program.stdout
        with record(tmp_path / "slow.pcapng", "-p", program.pid) as recording:
            program.stdin.write("go\n")
            program.stdin.flush()
            assert program.stdout.readline() == "done\n"
            values = table_values(recording.process.pid, "connections")["connections"]
    found = [kernel.table("connections").Leaf.from_buffer_copy(value) for value in values]
    assert any(connection.position[0] > 1 << 16 for connection in found)
    assert [list(connection.in_flight) for connection in found] == [[0, 0]] * len(found)


RECEIVER = """
import socket, sys, threading, time
listener = socket.create_server(("127.0.0.1", 0))
sender = socket.create_connection(listener.getsockname())
reader, _ = listener.accept()
sys.stdin.readline()
sender.sendall(b"GET / HTTP/1.1\\r\\nHost: a\\r\\n\\r\\n")
reader.recv(100)
thread = threading.Thread(target=reader.recv, args=(100,))
thread.start()
time.sleep(0.3)
print("waits", flush=True)
sys.stdin.readline()
sender.sendall(bytes(97))
thread.join()
"""


def test_the_bytes_of_a_call_whose_connection_has_gone_are_lost_not_unexplained(tmp_path: Path) -> None:
    command = [sys.executable, "-c", RECEIVER]
    with running(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as program:
        assert program.stdin
        assert program.stdout
        with record(tmp_path / "gone.pcapng", "-p", program.pid) as recording:
            program.stdin.write("go\n")
            program.stdin.flush()
            assert program.stdout.readline() == "waits\n"
            assert empty_table(recording.process.pid, "connections") == 2
            program.communicate("go on\n")
            done = recording.stop()
    assert "off by" not in done.stderr
    assert "97 bytes lost (table-full)" in done.stderr
