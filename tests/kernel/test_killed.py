"""Whoever is killed at whatever moment: what is recorded goes on, and nothing is left of who recorded it."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from conformance_runs import Peer, Truth, compile_program, response, run, streams_by_ports
from kernel_state import table_entries
from processes import PLAINTAP, running, wait_until
from recording import READY, record

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.kernel

# Nobody else's: tests may run side by side.
NAME = "churn-killed"
ROUNDS = 5
# A busy machine may leave the recorder without a processor for a while.
RING_BYTES = 256 << 20
CONNECTIONS = 503
SECONDS = 60
# Filled for as long as a call or a connection lasts.
TABLES = ("connections", "drafts", "syscalls", "jobs", "pieces", "splits")


@pytest.fixture(scope="module")
def churn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("churn")
    return compile_program(folder, "churn.c", NAME, "-lpthread", "-Wno-unused-function")


@contextlib.contextmanager
def started(churn: Path, connections: int) -> Iterator[subprocess.Popen[str]]:
    """A churn in a process group of its own, which is killed at the end."""
    command = [str(churn), str(connections), str(random.randrange(1 << 20)), "3", "3"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True) as process:
        try:
            yield process
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.communicate(timeout=SECONDS)


def truths_of(process: subprocess.Popen[str]) -> list[Truth]:
    """What it saw, to its end."""
    said, _ = process.communicate(timeout=SECONDS)
    assert process.returncode == 0
    return [Truth(**json.loads(line)) for line in said.splitlines()]


def states(name: str) -> Iterator[str]:
    """Of each process of a name: R, S, T and so on, as in proc_pid_stat(5)."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            comm, _, rest = (folder / "stat").read_text().rpartition(")")
        except OSError:
            continue
        if comm.endswith(f"({name}"):
            yield rest.split()[0]


def test_targets_are_killed_in_the_middle(churn: Path, tmp_path: Path) -> None:
    with record(tmp_path / "targets.pcapng", "-c", NAME, "--ring-size", RING_BYTES) as recording:
        for _ in range(ROUNDS):
            with started(churn, 100_003):
                time.sleep(random.uniform(0.01, 0.1))
        wait_until(lambda: not list(states(NAME)), "the group to end")
        with started(churn, CONNECTIONS) as survivor:
            truths = truths_of(survivor)
        wait_until(
            lambda: not any(table_entries(recording.process.pid, *TABLES).values()), "empty tables", SECONDS
        )
        done = recording.stop()
    assert done.returncode == 0
    assert not any(word in done.stderr for word in ("were lost", "off by", "please report")), done.stderr
    streams = streams_by_ports(recording.path)
    for truth in truths:
        assert (truth.sent, truth.received) in {
            (s.sent.sha256, s.received.sha256)
            for s in streams[truth.ports]
            if not s.sent.lost + s.received.lost
        }


def test_the_recorder_is_killed_in_the_middle(churn: Path, tmp_path: Path) -> None:
    mounts = Path("/proc/self/mountinfo").read_text()
    log = tmp_path / "stderr"
    for number in range(3):
        command = [PLAINTAP, "record", "-w", tmp_path / "recorder.pcapng", "-c", NAME, "--hold"]
        with (
            started(churn, CONNECTIONS) as busy,
            log.open("wb") as stderr,
            running(command, stderr=stderr) as recorder,
        ):
            if number % 2:
                # While it records; else while it compiles, attaches or has just begun.
                wait_until(lambda: READY in log.read_text(), "the recording to be ready", 3 * SECONDS)
            time.sleep(random.uniform(0, 1.5))
            with started(churn, CONNECTIONS) as late:
                time.sleep(random.uniform(0, 0.1))
                recorder.kill()
                assert recorder.wait(SECONDS) == -signal.SIGKILL
                assert len(truths_of(busy)) == len(truths_of(late)) == CONNECTIONS
        assert "T" not in set(states(NAME))
    assert Path("/proc/self/mountinfo").read_text() == mounts


def test_what_is_not_wanted_leaves_no_entry_behind(tmp_path: Path) -> None:
    # Of 32 bits: seen below the system calls only.
    program = compile_program(tmp_path, "moves.c", "unwanted", "-m32")
    with record(tmp_path / "unwanted.pcapng", "-c", "unwanted", "--protocol", "tls") as recording:
        peer = Peer(response(70_001))
        run([program, "receive_read", peer.port], peer)
        wait_until(lambda: not any(table_entries(recording.process.pid, *TABLES).values()), "empty tables")
