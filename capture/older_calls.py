"""Calls of TLS libraries that threads were in before the libraries had their probes: reads, mostly, that wait for what
comes first. Nobody saw them entered; but a thread that waits shows its callers (capture.thread_stacks), whose code and
stack say what they have called with what (capture.call_arguments). Then an entry is made as a probe would have made it,
and a probe put where the call returns to, in that process alone.

The thread may go on at any time. So it is asked once more, when all is in place, whether it has: then this is over,
and what it enters next is seen. A call of which too little is known is told to the kernel side to be counted, should it
turn out that it has moved something. Of OpenSSL's reads there is another way then (capture.older_reads).
"""

from __future__ import annotations

import contextlib
import threading
import time
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Protocol

from bpf.probes import UprobeSite
from bpf.system_calls import WAITING_CALLS, call_numbers
from bpf.tables import OlderCall
from capture import x86
from capture.call_arguments import Caller
from capture.call_shapes import Call
from capture.elf import ElfError, ElfFile
from capture.older_reads import find_older_reads
from capture.processes import PROC, locate_mapping
from capture.thread_stacks import CodeMemory, ProcessMemory, waiting

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from bpf.probes import Probes
    from capture.call_shapes import ProbeSite
    from capture.thread_stacks import Frame, Waiting

# (descriptor, …); ({descriptor, …}, count, …).
_WRITING = call_numbers("write", "writev", "sendto", "sendmsg")
_ON_DESCRIPTOR = _WRITING | call_numbers("read", "readv", "recvfrom", "recvmsg")
_POLLING = call_numbers("poll", "ppoll")
_WAITS = _ON_DESCRIPTOR | call_numbers(*WAITING_CALLS)
# As many as the kernel side has room for. A thread takes 1 ms of a processor, the first of a process 10.
_MAX_THREADS = 16384
# A thread that runs may be in such a call as well, and wait in it, or have left it, a little later.
_LOOKS = 4
_PAUSE_S = 0.005
# As of capture.switched_stacks: each is a link.
_MAX_PLACES = 1024
# PRFileDesc begins with a pointer to its methods, those with their type (bpf/nss.bpf.h).
_NSPR_LAYERED = 4
_NO_FD = 0xFFFFFFFF

_OBJECT, _BUFFER, _COUNT = x86.RDI, x86.RSI, x86.RDX
# Where the pointer to the number of bytes is.
_DONE = {Call.READ_EX: x86.RCX, Call.READ_INTERNAL: x86.RCX, Call.WRITE_EX: x86.RCX, Call.WRITE_EX2: x86.R8}
_WRITES = frozenset({Call.WRITE_INT, Call.WRITE_LONG, Call.WRITE_EX, Call.WRITE_EX2, Call.NSPR_WRITE})
_NSPR = frozenset({Call.NSPR_READ, Call.NSPR_WRITE})
# Those whose length is an int: the register's upper half is anyone's.
_INT = _NSPR | {Call.READ_INT, Call.WRITE_INT}
_UNDERSTOOD = frozenset({Call.READ_LONG, Call.READ_PACKET, *_DONE, *_WRITES, *_INT})


class ExpectedCalls(Protocol):
    """The kernel side's tables of them (bpf.tables.Tables)."""

    def expect_older_call(self, call: OlderCall) -> bool:
        """A probe will see it return; False if another call of the thread is known."""

    def knows_call(self, tid: int) -> bool:
        """Whether a call of the thread was seen entered, or is expected."""

    def expects_older_call(self, call: OlderCall) -> bool:
        """Whether it has not returned yet."""

    def drop_older_call(self, call: OlderCall) -> None:
        """Forget it, if it has not returned and was seen to."""

    def expect_older_read(self, pid: int, tid: int, fd: int, buffer: int, *, writes: bool = False) -> None:
        """A thread is in a call that will be counted, should it have moved something."""

    def drop_older_read(self, tid: int) -> None:
        """It is in none."""

    def older_reads(self) -> set[int]:
        """The threads that are in one of those still, or have not entered another since."""


@dataclass(frozen=True)
class ProbedFile:
    """``sites`` are a file's functions with the number of their library, and flags, as samples have them."""

    path: str
    inode: int
    number: int
    sites: tuple[tuple[ProbeSite, int], ...]

    @cached_property
    def functions(self) -> dict[int, tuple[ProbeSite, int]]:
        """By the offset at which they begin: a probe may be further on."""
        found = {}
        with ElfFile(self.path) as elf:
            if elf.view.inode != self.inode:
                raise ElfError(self.path, "was closed")
            for site, library in self.sites:
                address = elf.address_of(site.entry_offset)
                function = elf.function_at(address) if address is not None else None
                start = elf.offset_of(function.start) if function else None
                found[site.entry_offset if start is None else start] = site, library
        return found


@dataclass(frozen=True, slots=True)
class _Found:
    """A thread's call of a probed function, and where it returns to; no ``caller`` where arguments may be another's."""

    frame: Frame
    site: ProbeSite
    library: int
    caller: Caller | None

    def understood(self, pid: int, tid: int, fd: int | None) -> OlderCall | None:
        """The call with its arguments; None where one is not known."""
        call = self.site.call
        wanted = {_OBJECT, _BUFFER} | ({_COUNT} if call is not Call.READ_PACKET else set())
        if call in _DONE:
            wanted.add(_DONE[call])
        found = {register: self.caller.argument(register) for register in wanted} if self.caller else {}
        known = {register: value for register, value in found.items() if value is not None}
        if known.keys() != wanted:
            return None
        count = known.get(_COUNT, 0)
        return OlderCall(
            pid, tid, fd, call.name, call in _WRITES, self.library, self.frame.stack - 8,
            known[_OBJECT],
            known[_BUFFER],
            count & 0xFFFFFFFF if call in _INT else count,
            known[_DONE[call]] if call in _DONE else 0,
        )  # fmt: skip


class OlderCalls:
    """Those of one recording."""

    def __init__(self, tables: ExpectedCalls, probes: Probes) -> None:
        self._tables = tables
        self._probes = probes
        # Files come and go, and are looked for, while recording too; who writes to one must not wait for a look.
        self._lock = threading.Lock()
        self._probed: dict[int, ProbedFile] = {}  # by inode
        self._files = self._probed  # as of the last look
        self._code = CodeMemory()
        self._left = 0  # threads that may still be looked at
        # Where they return to, by process and address: the probe, and which are to come.
        self._links: dict[tuple[int, int], int] = {}
        self._coming: dict[tuple[int, int], list[OlderCall]] = {}
        self._counted: dict[int, tuple[int, Waiting]] = {}  # by thread, with its process

    def add(self, file: ProbedFile) -> None:
        """A file has its probes."""
        if any(site.call in _UNDERSTOOD for site, _ in file.sites):
            self._probed[file.inode] = file

    def remove(self, inode: int) -> None:
        """It has none any more."""
        self._probed.pop(inode, None)

    def look(self, pids: Iterable[int]) -> None:
        """Find the calls that threads of these processes are in, of files that have probes."""
        unclear: dict[int, dict[int, Waiting]] = {}
        with self._lock:
            self._files = dict(self._probed)
            self._code = CodeMemory()
            self._left = _MAX_THREADS
            running = {pid: _threads(pid) for pid in pids}
            for attempt in range(_LOOKS):
                if attempt:
                    time.sleep(_PAUSE_S)
                running = {
                    pid: still
                    for pid, tids in running.items()
                    if (still := self._look_at(pid, tids, unclear))
                }
                if not running:
                    break
            if unclear:
                self._look_for_copies(unclear)

    def release_ended(self) -> None:
        """Let go of the probes where all have returned: what comes there now is seen without. Takes 0.1 s.

        Who asks does not wait for a look: there is another time.
        """
        if not self._lock.acquire(blocking=False):
            return
        try:
            for place, calls in list(self._coming.items()):
                self._coming[place] = [call for call in calls if self._tables.expects_older_call(call)]
            ended = [place for place, calls in self._coming.items() if not calls]
            links = [self._links.pop(place) for place in ended]
            for place in ended:
                del self._coming[place]
        finally:
            self._lock.release()
        if links:
            self._probes.release(links)

    def unseen(self) -> int:
        """Of those that are counted only, how many have gone on since and entered no other: nobody else counts them."""
        left = self._tables.older_reads()
        now = {tid: waiting(pid, tid) for tid, (pid, _) in self._counted.items() if tid in left}
        return sum(there is None or there.is_elsewhere(self._counted[tid][1]) for tid, there in now.items())

    def _look_at(self, pid: int, tids: Sequence[int], unclear: dict[int, dict[int, Waiting]]) -> list[int]:
        """Those of a process's threads that run. ``unclear`` gets those of which it is not clear what they are in."""
        found = [(tid, waiting(pid, tid)) for tid in tids]
        threads = [(tid, at) for tid, at in found if at and at.call in _WAITS][: self._left]
        self._left -= len(threads)
        if threads:
            with contextlib.suppress(ElfError, OSError), ProcessMemory(pid, self._code) as memory:
                if any(mapping.inode in self._files for mapping in memory.code):
                    missed = {tid: at for tid, at in threads if not self._is_clear(memory, tid, at)}
                    if missed:
                        unclear.setdefault(pid, {}).update(missed)
        return [tid for tid, at in found if at is None]

    def _is_clear(self, memory: ProcessMemory, tid: int, at: Waiting) -> bool:
        frames, whole = memory.frames(at)
        found = next(self._calls(memory, frames), None)
        if found is None and not self._may_be_in_one(memory, frames, whole=whole):
            return whole
        if found and found.site.call not in _UNDERSTOOD:
            return True
        fd = _descriptor(memory, at)
        call = found.understood(memory.pid, tid, fd) if found else None
        if found and call and self._put_probe(memory, found.frame):
            self._expect(call, at)
            self._coming.setdefault((memory.pid, found.frame.address), []).append(call)
            return True
        fd = _NO_FD if fd is None else fd
        self._count(memory.pid, tid, at, fd, 0, writes=at.call in _WRITING)
        return False

    def _count(self, pid: int, tid: int, at: Waiting, fd: int, buffer: int, *, writes: bool = False) -> None:
        """Have a call counted, should it have moved something."""
        if waiting(pid, tid) == at and not self._tables.knows_call(tid):
            self._tables.expect_older_read(pid, tid, fd, buffer, writes=writes)
            self._counted[tid] = (pid, at)
            if waiting(pid, tid) != at:
                self._tables.drop_older_read(tid)

    def _look_for_copies(self, unclear: dict[int, dict[int, Waiting]]) -> None:
        """Of threads whose callers tell too little: what their stacks may say of OpenSSL's reads."""
        for file in self._files.values():
            with contextlib.suppress(ElfError, OSError):
                older = find_older_reads(file.path, file.inode, unclear)
                sites = [UprobeSite(Call.COPY.name, offset) for offset in older.copies]
                if sites:
                    self._probes.attach_uprobes(file.path, sites, file.number)
                for read in older.reads:
                    if at := unclear[read.pid].get(read.tid):
                        self._count(read.pid, read.tid, at, read.fd, read.buffer)

    def _calls(self, memory: ProcessMemory, frames: Sequence[Frame]) -> Iterator[_Found]:
        """Calls of probed functions, the outermost first: what is inside of one is the same bytes."""
        for index in range(len(frames) - 1, 0, -1):
            caller = Caller(memory, frames, index)
            target = caller.plain_target()
            if target is None and frames[index - 1].mapping.inode in self._files:
                target = caller.target()
            # If nothing tells where it has called, it has come there all the same, maybe by way of another function.
            reached = target if target is not None else frames[index - 1].start(innermost=index == 1)
            mapping = memory.code_at(reached) if reached is not None else None
            file = self._files.get(mapping.inode) if mapping else None
            if file and mapping and reached is not None:
                site = file.functions.get(reached - mapping.begin + mapping.offset)
                if site and (site[0].call not in _NSPR or _is_layered(memory, caller)):
                    yield _Found(frames[index], *site, None if target is None else caller)

    def _may_be_in_one(self, memory: ProcessMemory, frames: Sequence[Frame], *, whole: bool) -> bool:
        """Whether a thread is in a probed library, nobody can tell by which function: by one that has jumped on, or
        whose caller is not found.
        """
        return (not whole and self._ends_in_library(frames)) or any(
            below.mapping.inode in self._files
            and below.mapping.inode != frames[index].mapping.inode
            and Caller(memory, frames, index).target() is None
            for index, below in enumerate(frames[:-1], 1)
        )

    def _ends_in_library(self, frames: Sequence[Frame]) -> bool:
        """Whether a thread is in a probed library whose caller is not found: where others watch its return, the address
        is not on the stack. What a program links statically may have been called by nobody but itself.
        """
        return bool(frames) and frames[-1].mapping.inode in self._files.keys() - {frames[0].mapping.inode}

    def _expect(self, call: OlderCall, at: Waiting) -> None:
        """Have its return seen, unless the thread went on meanwhile: then it is in no such call any more."""
        if self._tables.expect_older_call(call) and waiting(call.pid, call.tid) != at:
            self._tables.drop_older_call(call)

    def _put_probe(self, memory: ProcessMemory, frame: Frame) -> bool:
        """Where a call returns to; False where there can be none."""
        key = (memory.pid, frame.address)
        if key in self._links:
            return True
        file = locate_mapping(memory.pid, frame.mapping)
        offset = frame.elf.offset_of(frame.place)
        if file is None or offset is None or len(self._links) >= _MAX_PLACES:
            return False
        try:
            self._links[key] = self._probes.attach_return_place(file.path, offset, memory.pid)
        except OSError:
            return False
        return True


def _is_layered(memory: ProcessMemory, caller: Caller) -> bool:
    """Whether NSPR's descriptor has a layer on it, such as TLS."""
    descriptor = caller.argument(_OBJECT)
    if descriptor is None:
        return True  # maybe
    methods = memory.word(descriptor)
    return methods is not None and memory.word(methods, 4) == _NSPR_LAYERED


def _descriptor(memory: ProcessMemory, at: Waiting) -> int | None:
    """The descriptor that a thread waits on, if it is one."""
    if at.call in _ON_DESCRIPTOR:
        return at.arguments[0] & 0x7FFFFFFF
    if at.call in _POLLING and at.arguments[1] == 1:
        return memory.word(at.arguments[0], 4)
    return None


def _threads(pid: int) -> list[int]:
    try:
        return [int(entry.name) for entry in (PROC / str(pid) / "task").iterdir()]
    except OSError:
        return []
