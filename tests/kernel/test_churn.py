"""Twenty thousand connections in random order, both ends recorded: descriptors, ports and sockets are used again at
once, by processes with threads. Every stream is right, none merged, none split; nothing of them is kept.
"""

from __future__ import annotations

import json
import random
import re
import subprocess
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from conformance_runs import Truth, compile_program, streams_by_ports
from kernel_state import table_entries
from processes import wait_until
from recording import record

if TYPE_CHECKING:
    from conformance_runs import Stream

pytestmark = pytest.mark.kernel

CONNECTIONS = 20_011
WARM_UP = 7_001
PROCESSES, THREADS = 3, 3
NAME = "churn"
# A busy machine may leave the recorder without a processor for a while.
RING_BYTES = 256 << 20
# Filled by what is recorded, and by nothing else.
TABLES = ("connections", "descriptors", "drafts", "syscalls", "jobs", "pieces", "splits", "mirrored")
ANONYMOUS = re.compile(r"^RssAnon:\s+(\d+) kB", re.MULTILINE)
# What the allocator keeps of a burst, in holes: a batch of 4 MiB here and there. Half a view for each connection.
KEPT_BYTES = 40 << 20
SECONDS = 120


def churn(program: Path, connections: int) -> list[Truth]:
    """What the clients saw."""
    command = [program, connections, random.randrange(1 << 20), PROCESSES, THREADS]
    done = subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, timeout=SECONDS, check=True
    )
    truths = [Truth(**json.loads(line)) for line in done.stdout.splitlines()]
    assert len(truths) == connections
    return truths


def resident_bytes(pid: int) -> int:
    """Without what is shared, such as the ring."""
    found = ANONYMOUS.search(Path(f"/proc/{pid}/status").read_text())
    assert found is not None
    return int(found[1]) * 1024


def shown(streams: dict[tuple[int, int], list[Stream]]) -> Counter[tuple[object, ...]]:
    """What the capture has, as what a client saw."""
    return Counter(
        (ports, s.sent.lost + s.received.lost, s.sent.sha256, s.received.sha256)
        for ports, found in streams.items()
        for s in found
    )


@pytest.mark.slow
def test_connections_in_random_order_by_processes_and_threads(tmp_path: Path) -> None:
    program = compile_program(tmp_path, "churn.c", NAME, "-lpthread", "-Wno-unused-function")
    account = tmp_path / "ledger.json"
    options = ("-c", NAME, "--ledger", account, "--ring-size", RING_BYTES)
    with record(tmp_path / "churn.pcapng", *options) as recording:
        truths = churn(program, WARM_UP)
        wait_until(lambda: not any(table_entries(recording.process.pid, *TABLES).values()), "empty tables")
        before = resident_bytes(recording.process.pid)
        truths += churn(program, CONNECTIONS)
        wait_until(
            lambda: not any(table_entries(recording.process.pid, *TABLES).values()), "empty tables", SECONDS
        )
        assert set(table_entries(recording.process.pid, *TABLES)) == set(TABLES)
        wait_until(
            lambda: resident_bytes(recording.process.pid) < before + KEPT_BYTES, "memory as before", SECONDS
        )
        done = recording.stop()
    assert done.returncode == 0, done.stderr
    assert shown(streams_by_ports(recording.path)) == Counter(
        (t.ports, 0, t.sent, t.received) for t in truths
    )
    ledger = json.loads(account.read_text())
    moved = 2 * sum(t.sent_bytes + t.received_bytes for t in truths)
    assert (ledger["connections"], ledger["streams"]) == (2 * len(truths), len(truths))
    assert (ledger["sockets"]["reported"], ledger["sockets"]["lost"]) == (moved, {})
    assert ledger["sockets"]["residue"] == 0
    totals = ledger["tcp_totals"]
    assert (totals["unseen_sent"], totals["unseen_received"], totals["excess"]) == (0, 0, 0)
    assert totals["connections"] == 2 * len(truths)
    assert (ledger["connections_without_address"], ledger["losses"]) == (0, [])
