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
from processes import PLAINTAP, PYTHON, running, wait_until
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
# Of control groups, version 1 and 2.
LIMITS = ("memory.limit_in_bytes", "memory.max")
# The recorder takes some 300 MB with the kernel's tables, and 60 before they are made.
RECORDER_BYTES = 400 << 20
TOO_FEW_BYTES = 150 << 20
# Takes all that there is.
EATER = """
import sys, time
taken = [bytearray(b"x" * (1 << 20)) for _ in range(int(sys.argv[1]) >> 20)]
time.sleep(60)
"""
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


@pytest.fixture
def memory() -> Iterator[Path]:
    """A control group that limits its processes' memory."""
    folder = Path("/sys/fs/cgroup/memory")
    group = (folder if folder.is_dir() else folder.parent) / f"plaintap-{os.getpid()}"
    try:
        group.mkdir()
    except OSError as error:
        pytest.skip(f"no control group can be made: {error}")
    if not any((group / name).exists() for name in LIMITS):
        group.rmdir()
        pytest.skip("there are no control groups of memory")
    yield group
    wait_until(lambda: not (group / "cgroup.procs").read_text(), "the group to be empty", SECONDS)
    group.rmdir()


def limit(group: Path, size: int) -> None:
    """As many bytes for all of its processes, and what the kernel keeps for them."""
    next(group / name for name in LIMITS if (group / name).exists()).write_text(str(size))


def within(group: Path, *command: object) -> list[object]:
    """The command, as one of the group's processes."""
    return ["sh", "-c", 'echo $$ >"$0" && exec "$@"', group / "cgroup.procs", *command]


def test_the_recorder_is_killed_for_its_memory(churn: Path, memory: Path, tmp_path: Path) -> None:
    limit(memory, RECORDER_BYTES)
    log = tmp_path / "stderr"
    recording = within(memory, PLAINTAP, "record", "-w", tmp_path / "limited.pcapng", "-c", NAME, "--hold")
    eating = within(memory, PYTHON, "-c", EATER, RECORDER_BYTES)
    with log.open("wb") as stderr, running(recording, stderr=stderr) as recorder:
        wait_until(lambda: READY in log.read_text(), "the recording to be ready", 3 * SECONDS)
        # It, and not who is greedy.
        Path(f"/proc/{recorder.pid}/oom_score_adj").write_text("1000")
        with started(churn, 10 * CONNECTIONS) as busy:
            with running(eating):
                assert recorder.wait(SECONDS) == -signal.SIGKILL
            with started(churn, CONNECTIONS) as late:
                assert len(truths_of(late)) == CONNECTIONS
            assert len(truths_of(busy)) == 10 * CONNECTIONS
    assert "T" not in set(states(NAME))


def test_no_memory_for_the_tables(memory: Path, tmp_path: Path) -> None:
    limit(memory, TOO_FEW_BYTES)
    command = [*map(str, within(memory, PLAINTAP, "record", "-w", tmp_path / "none.pcapng"))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "There is no memory for the kernel side's tables" in done.stderr


def test_what_is_not_wanted_leaves_no_entry_behind(tmp_path: Path) -> None:
    # Of 32 bits: seen below the system calls only.
    program = compile_program(tmp_path, "moves.c", "unwanted", "-m32")
    with record(tmp_path / "unwanted.pcapng", "-c", "unwanted", "--protocol", "tls") as recording:
        peer = Peer(response(70_001))
        run([program, "receive_read", peer.port], peer)
        wait_until(lambda: not any(table_entries(recording.process.pid, *TABLES).values()), "empty tables")
