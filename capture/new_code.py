"""Probes for code that is first used while recording: a program that starts, a library that is loaded late, a file
that someone wrote over.

The kernel side tells of files that were not looked at, in a ring of its own, and a thread of its own answers: a
stopped process must never wait for a file that is written, or for bursts of data to be handled. Where processes
are held, the one that told is stopped and goes on when its file has its probes; where not, its memory map is looked
at now and again a little later, for the kernel tells when a file is about to be mapped. A parent that stopped with
its child goes on with it; the jobs of a shell with job control are never held, for the shell would take it for the
user's doing, nor what others watch (``is_watched`` and ``is_debugged`` in bpf/new_code.bpf.h).

A file counts as looked at when it was: a process that ended too soon leaves it for the next one, or its path.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import threading
import time
from collections import deque
from typing import TYPE_CHECKING

from bpf import abi
from bpf.ring import Ring, copied
from capture.events import NewCodeUsed, ReturnExpected
from capture.processes import Version, stat_fields
from capture.samples import Decoder

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bpf.tables import Tables
    from capture.older_calls import OlderCalls
    from capture.switched_stacks import SwitchedStacks
    from capture.tls_probes import TlsFiles, TlsProbes

# When an unheld process is looked at again: mapping takes microseconds, but a busy machine may delay it.
_LOOKS_S = (0.02, 0.1, 0.5)
# A build makes programs, runs them once and deletes them; to find what is mapped takes 0.1 s.
_DELETED_S = 30.0
# How long the thread waits for an event before it looks at what waits for time.
_TICK_MS = 20
# Of these the ledger says why they were not read.
_MAX_UNHELD = 16384
# Programs wait for it.
_NICE = -15
# A signal acts when its process next returns from the kernel: at once, unless it is busy there.
_STOP_WAIT_S = 0.1
_STOP_POLL_S = 0.0005
# Programs such as su and sudo stop themselves when their child stops, a moment later.
_PARENT_S = 0.5


class NewCode:
    """Answers to NewCodeUsed, and to ReturnExpected."""

    def __init__(
        self, tables: Tables, files: TlsFiles, tls: TlsProbes, stacks: SwitchedStacks, older: OlderCalls
    ) -> None:
        header = abi.header()
        self._tables = tables
        self._files = files
        self._tls = tls
        self._stacks = stacks
        self._older = older
        self._ring = Ring(tables.new_code_map, header.constants["NEW_CODE_RING_BYTES"])
        self._decoder = Decoder(header.layouts, header.constants, 0)
        self._told: dict[int, list[NewCodeUsed | ReturnExpected]] = {}  # by process, in order
        self._due: list[tuple[float, NewCodeUsed]] = []
        self._parents: list[tuple[float, int]] = []
        self._next_deleted = time.monotonic() + _DELETED_S
        self._unheld: set[tuple[int, int]] = set()  # pid, inode
        self._warnings: deque[str] = deque()
        self._refused = False
        self._has_seen_places = False
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="new code", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """Answer what there is, and end. The kernel side tells no more."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join()

    @property
    def lets_go(self) -> bool:
        """Whether what is held goes on: the thread runs, and may wake whom the kernel side stops."""
        return self._thread.is_alive() and not self._refused

    @property
    def late(self) -> set[int]:
        """Processes that ran code of a TLS library before it had its probes."""
        return {pid for pid, inode in self._unheld if self._files.has_probes(inode)}

    def _run(self) -> None:
        with contextlib.suppress(PermissionError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICE)
        poll = select.poll()
        poll.register(self._tables.new_code_map, select.POLLIN)
        while True:
            stopping = self._stopping.is_set()
            poll.poll(0 if stopping else _TICK_MS)
            self._take()
            while self._told:
                self._answer(next(iter(self._told)))
            self._tick(time.monotonic())
            if stopping:
                return

    def _take(self) -> None:
        """What the kernel side has told of by now."""
        while batch := self._ring.drain(copied):
            for event in self._decoder.decode(batch.buffer, batch.starts):
                if isinstance(event, (NewCodeUsed, ReturnExpected)):
                    self._told.setdefault(event.pid, []).append(event)

    def _answer(self, pid: int) -> None:
        """Do what a process has told of, and let it go on.

        Its threads stop one after the other, and the last may tell of more: they all go on at once.
        """
        held = any(event.held for event in self._told[pid])
        parent = _parent(pid) if held else None
        told: list[NewCodeUsed | ReturnExpected] = []
        try:
            if held:
                _await_stop(pid)
                self._take()
            told = self._told.pop(pid)
            for event in told:
                if isinstance(event, ReturnExpected):
                    self._stacks.expect(event)
                else:
                    self._used(event)
        finally:
            if held:
                self._let_go(pid, [event.time for event in told if event.held])
        if parent is not None:
            self._parents.append((time.monotonic() + _PARENT_S, parent))

    def _let_go(self, pid: int, holds: list[int]) -> None:
        """The guard knows of it until it goes on; it may be held anew right then, which is another entry's business."""
        if not _continue(pid):
            self._refuse(pid)
        for since in holds:
            self._tables.let_go(pid, since)

    def _refuse(self, pid: int) -> None:
        """Someone (a security module, say) lets us stop a process and not wake it: it stays the only one."""
        self._tables.hold(on=False)
        if not self._refused:
            self._warnings.append(
                f"The process {pid} was held and may not be told to go on: kill -CONT {pid}. Programs are not held any "
                "more, and their first bytes may be missing."
            )
        self._refused = True

    def take_warnings(self) -> Sequence[str]:
        """What the user should know, once."""
        return [self._warnings.popleft() for _ in range(len(self._warnings))]

    def _used(self, event: NewCodeUsed) -> None:
        """Look at the file; of a process that is not held again a little later."""
        if not event.held:
            if len(self._unheld) < _MAX_UNHELD:
                self._unheld.add((event.pid, event.inode))
            now = time.monotonic()
            self._due += [(now + delay, event) for delay in _LOOKS_S]
        self._look([event])

    def _look(self, events: Sequence[NewCodeUsed]) -> None:
        self._tls.attach(self._files.look_again())
        if self._tls.attach(self._files.look_at({event.pid for event in events})):
            # What is held has come to no call yet.
            self._older.look({event.pid for event in events if not event.held})
        for event in events:
            version = Version(event.changed, event.size)
            if event.path and not self._files.has_seen(event.inode, version):
                self._tls.attach(self._files.look_at_path(event.path, event.inode, version))
            if self._files.has_seen(event.inode, version):
                self._tables.know_kernel_file(event.device, event.inode, version)

    def _tick(self, now: float) -> None:
        """Look again at what was written, and at processes whose time has come; forget what was deleted."""
        self._tls.attach(self._files.look_again())
        if ready := [event for at, event in self._due if at <= now]:
            self._due = [look for look in self._due if look[0] > now]
            self._look(ready)
        if now >= self._next_deleted:
            self._tls.attach(self._files.drop_deleted())
            self._next_deleted = now + _DELETED_S
        if not self._has_seen_places:
            self._has_seen_places = True
            self._tls.attach(self._files.look_at_places())
        if self._parents:
            for _, parent in self._parents:
                if _state(str(parent)) == b"T":
                    _continue(parent)
            self._parents = [(until, parent) for until, parent in self._parents if until > now]


def _continue(pid: int) -> bool:
    """Whether it may go on: False where we have no right to say so."""
    try:
        os.kill(pid, signal.SIGCONT)
    except ProcessLookupError:
        pass
    except PermissionError:
        return False
    return True


def _await_stop(pid: int) -> None:
    deadline = time.monotonic() + _STOP_WAIT_S
    while not _has_stopped(pid) and time.monotonic() < deadline:
        time.sleep(_STOP_POLL_S)


def _has_stopped(pid: int) -> bool:
    """Whether no thread of the process runs."""
    try:
        threads = os.listdir(f"/proc/{pid}/task")  # noqa: PTH208 - often, and many
    except OSError:
        return True
    return all(_state(f"{pid}/task/{thread}") in (None, b"T", b"t", b"Z") for thread in threads)


def _parent(pid: int) -> int | None:
    """The parent; not ours, nor init."""
    try:
        parent = int(stat_fields(str(pid))[1])
    except OSError:
        return None
    return parent if parent not in (0, 1, os.getpid(), os.getppid()) else None


def _state(process: str) -> bytes | None:
    """proc(5)'s letter; None if the process, or ``PID/task/TID``, has gone."""
    try:
        return stat_fields(process)[0]
    except OSError:
        return None
