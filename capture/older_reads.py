"""Threads that were in a TLS library's read before it had probes: how to understand their return.

Nobody saw them enter, so no probe at a return tells where their plaintext goes. But OpenSSL and its kin receive a
record into a buffer, decrypt it there, and copy what they return from there with memcpy, by a call that is still to
come. Where a thread waits, the kernel says (/proc/PID/task/TID/syscall, proc(5)): with which socket, into which
buffer, and where its stack is. Return addresses there name the library's functions that it is in; of these, the calls
of memcpy are the places to probe. What crosses such a place is judged by the kernel side (older_reads.bpf.h): it must
come out of the record.
"""

from __future__ import annotations

import struct
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from capture import x86
from capture.elf import X86_64, ElfFile
from capture.processes import PROC

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

# read and recvfrom on x86-64: (fd, buffer, …).
_RECEIVING = frozenset({0, 45})
_RECORD_HEADER_BYTES = 5
# A waiting thread's stack above its stack pointer. From the library's read down to the system call there is less.
_STACK_BYTES = 8192
# Threads that wait: those that serve a connection each. Looking at one takes 0.1 ms.
_MAX_READS = 4096
_COPIES = ("memcpy", "memmove", "__memcpy_chk", "__memmove_chk")
_CALL_INDIRECT, _JUMP_INDIRECT = 2, 4


@dataclass(frozen=True, slots=True)
class OlderRead:
    """A thread that waits on ``fd`` for a record's header, which will begin at ``buffer``."""

    pid: int
    tid: int
    fd: int
    buffer: int


@dataclass(frozen=True, slots=True)
class OlderReads:
    """Those of one file, and the file offsets of the calls by which they will hand over plaintext."""

    reads: tuple[OlderRead, ...] = ()
    copies: tuple[int, ...] = ()


class _Range(NamedTuple):
    """Where a process has a part of the file mapped as code."""

    start: int
    end: int
    offset: int


def find_older_reads(path: str, inode: int, pids: Collection[int]) -> OlderReads:
    """Of the processes that map the library at ``path``, which has that inode. Raises ElfError."""
    found: list[OlderRead] = []
    places: set[int] = set()
    for pid in pids:
        with suppress(OSError, ValueError):
            for read, offsets in _reads_of(pid, inode):
                if len(found) < _MAX_READS:
                    found.append(read)
                    places |= offsets
    if not found:
        return OlderReads()
    with ElfFile(path) as elf:
        return OlderReads(tuple(found), _copies(elf, places))


def _reads_of(pid: int, inode: int) -> Iterator[tuple[OlderRead, set[int]]]:
    """Each thread that waits with the library on its stack, and the file offsets that it would return to."""
    waiting = [(tid, call) for tid in _threads(pid) if (call := _waiting_call(pid, tid))]
    ranges = _code_of(pid, inode) if waiting else []
    for tid, (fd, buffer, stack) in waiting:
        offsets = {
            word - range_.start + range_.offset
            for word in _words(pid, stack)
            for range_ in ranges
            if range_.start <= word < range_.end
        }
        if offsets:
            yield OlderRead(pid, tid, fd, buffer), offsets


def _threads(pid: int) -> list[int]:
    return [int(entry.name) for entry in (PROC / str(pid) / "task").iterdir()]


def _waiting_call(pid: int, tid: int) -> tuple[int, int, int] | None:
    """(descriptor, buffer, stack pointer) of a thread that waits on a socket for a record's header."""
    try:
        words = (PROC / f"{pid}/task/{tid}/syscall").read_text().split()
        if len(words) != 9 or int(words[0]) not in _RECEIVING:
            return None
        fd, buffer, length, *_, stack, _ = (int(word, 16) for word in words[1:])
        if length < _RECORD_HEADER_BYTES:
            return None
        is_socket = (PROC / f"{pid}/fd/{fd}").readlink().name.startswith("socket:")
    except (OSError, ValueError):
        return None
    return (fd, buffer, stack) if is_socket else None


def _code_of(pid: int, inode: int) -> list[_Range]:
    found = []
    for line in (PROC / f"{pid}/maps").read_text(errors="surrogateescape").splitlines():
        extent, mode, offset, _, number, *_ = line.split(maxsplit=5)
        if "x" in mode and int(number) == inode:
            start, end = (int(word, 16) for word in extent.split("-"))
            found.append(_Range(start, end, int(offset, 16)))
    return found


def _words(pid: int, stack: int) -> tuple[int, ...]:
    with Path(f"/proc/{pid}/mem").open("rb", buffering=0) as memory:
        memory.seek(stack)
        data = memory.read(_STACK_BYTES)
    return struct.unpack(f"<{len(data) // 8}Q", data[: len(data) // 8 * 8])


def _copies(elf: ElfFile, places: Collection[int]) -> tuple[int, ...]:
    """The calls of memcpy in the functions around these file offsets."""
    imported = elf.imports(_COPIES) if elf.machine == X86_64 else frozenset()
    functions = {
        function
        for place in places
        if (address := elf.address_of(place)) is not None and (function := elf.function_at(address))
    }
    calls = (
        instruction.address
        for function in functions
        for instruction in x86.instructions(
            elf.read_at(function.start, function.end - function.start), function.start
        )
        if _pointer_called(elf, instruction) in imported
    )
    return tuple(sorted(offset for call in calls if (offset := elf.offset_of(call)) is not None))


def _pointer_called(elf: ElfFile, i: x86.Instruction) -> int | None:
    """Where the pointer is through which this calls, itself or by a jump at its target (System V psABI, PLT)."""
    if _is_indirect(i, _CALL_INDIRECT):
        return i.rip_target
    if not i.is_call or i.target is None:
        return None
    for following in x86.instructions(elf.read_at(i.target, 16), i.target):
        if not following.is_no_operation:
            return following.rip_target if _is_indirect(following, _JUMP_INDIRECT) else None
    return None


def _is_indirect(i: x86.Instruction, kind: int) -> bool:
    return not i.map and not i.vector and i.opcode == 0xFF and i.reg & 7 == kind
