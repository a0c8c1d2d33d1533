"""What the recorder keeps of connections that are open: its memory with 100,000 of them, of both ends."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import time
from pathlib import Path
from typing import TYPE_CHECKING

import tracers
from report import MB, Row, Table, goal

if TYPE_CHECKING:
    from collections.abc import Iterator

OPEN = 100_000
# Two descriptors each: what a process may have without asking for more is often 20,000, or 16,384.
PAIRS_EACH = 8_000
MOST_BYTES_EACH = 4_096
REQUEST = b"GET / HTTP/1.1\r\nHost: many\r\n\r\n"
ANSWER = b"HTTP/1.1 204 No Content\r\n\r\n"
RESIDENT = re.compile(r"^VmRSS:\s+(\d+) kB", re.MULTILINE)
SETTLE_SECONDS = 5.0


def resident(pid: int) -> int:
    """Bytes of a process that are in memory."""
    found = RESIDENT.search(Path(f"/proc/{pid}/status").read_text())
    assert found is not None
    return int(found[1]) * 1024


def hold(pairs: int, ready: int, until: int) -> None:
    """Connections within this process, each of which has said something in either direction."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        for _ in range(pairs):
            one = stack.enter_context(socket.create_connection(listener.getsockname()))
            other = stack.enter_context(listener.accept()[0])
            one.send(REQUEST)
            other.recv(len(REQUEST))
            other.send(ANSWER)
            one.recv(len(ANSWER))
        os.write(ready, b".")
        os.read(until, 1)


@contextlib.contextmanager
def many(pairs: int) -> Iterator[None]:
    """So many connections, in as many processes as that takes."""
    ready, tell = os.pipe()
    wait, release = os.pipe()
    shares = [min(PAIRS_EACH, pairs - begun) for begun in range(0, pairs, PAIRS_EACH)]
    for share in shares:
        if not os.fork():
            os.close(release)
            hold(share, tell, wait)
            os._exit(0)
    for _ in shares:
        os.read(ready, 1)
    try:
        yield
    finally:
        for fd in (release, ready, tell, wait):
            os.close(fd)
        for _ in shares:
            os.wait()


def many_table(folder: Path) -> Table:
    """The recorder's memory without connections, and with 100,000 sockets of connections that are open."""
    place = folder / "many"
    place.mkdir()
    with tracers.plaintap(place, options=("-p", os.getpid())) as recording:
        pid = recording.process.pid
        before = resident(pid)
        with many(OPEN // 2):
            time.sleep(SETTLE_SECONDS)
            after = resident(pid)
    assert recording.finished is not None
    said = recording.finished.stderr
    assert f"{OPEN:,} connections, {OPEN // 2:,} streams" in said, said
    each = (after - before) / OPEN
    rows = [
        Row("none open", f"{before / MB:.0f} MB"),
        Row(f"{OPEN:,} open", f"{after / MB:.0f} MB"),
        Row(
            "each",
            f"{each:,.0f} bytes",
            goal(f"{MOST_BYTES_EACH:,} bytes", each <= MOST_BYTES_EACH),
        ),
    ]
    method = (
        f"{OPEN // 2:,} connections whose both ends are recorded, all open; resident memory of the recorder, with "
        "the ring. The kernel's tables have their size from the beginning."
    )
    return Table("Open connections", method, rows)
