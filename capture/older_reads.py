"""Threads that were in a TLS library's read before it had probes: how to understand their return.

Nobody saw them enter, so no probe at a return tells where their plaintext goes. But OpenSSL and its kin receive a
record into a buffer, decrypt it there, and copy what they return from there with memcpy, by a call that is still to
come. Of a thread that waits it is known with which socket, into which buffer, and where its stack is
(capture.thread_stacks). Return addresses there name the library's functions that it is in; of these, the calls of
memcpy are the places to probe. What crosses such a place is judged by the kernel side (older_reads.bpf.h): it must come
out of the record.
"""

from __future__ import annotations

import struct
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bpf.system_calls import call_numbers
from capture import x86
from capture.elf import X86_64, ElfFile
from capture.processes import PROC, mappings_of_code

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping

    from capture.thread_stacks import Waiting

# (fd, buffer, …)
_RECEIVING = call_numbers("read", "recvfrom")
_RECORD_HEADER_BYTES = 5
# Above these bits of a return address arm64 has its signature.
_ADDRESS = (1 << 48) - 1
# A waiting thread's stack above its stack pointer. From the library's read down to the system call there is less.
_STACK_BYTES = 8192
# Threads that wait: those that serve a connection each. Looking at one takes 0.1 ms.
_MAX_READS = 4096
_COPIES = ("memcpy", "memmove", "__memcpy_chk", "__memmove_chk")


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


def find_older_reads(path: str, inode: int, threads: Mapping[int, Mapping[int, Waiting]]) -> OlderReads:
    """Of waiting threads, by process, those in the library at ``path``, which has that inode. Raises ElfError."""
    found: list[OlderRead] = []
    places: set[int] = set()
    for pid, waiting in threads.items():
        with suppress(OSError, ValueError):
            for read, offsets in _reads_of(pid, waiting, inode):
                if len(found) < _MAX_READS:
                    found.append(read)
                    places |= offsets
    if not found:
        return OlderReads()
    with ElfFile(path) as elf:
        return OlderReads(tuple(found), _copies(elf, places))


def _reads_of(pid: int, threads: Mapping[int, Waiting], inode: int) -> Iterator[tuple[OlderRead, set[int]]]:
    """Each thread that waits with the library on its stack, and the file offsets that it would return to."""
    waiting = {tid: at for tid, at in threads.items() if _awaits_header(pid, at)}
    code = [mapping for mapping in mappings_of_code(pid) if mapping.inode == inode] if waiting else []
    for tid, at in waiting.items():
        offsets = {
            word - mapping.begin + mapping.offset
            for word in (_words(pid, at.stack) if code else ())
            for mapping in code
            if mapping.begin <= word < mapping.end
        }
        if offsets:
            fd, buffer, *_ = at.arguments
            yield OlderRead(pid, tid, fd, buffer), offsets


def _awaits_header(pid: int, at: Waiting) -> bool:
    """Whether a thread waits on a socket for what may be a record's header."""
    fd, _, length, *_ = at.arguments
    if at.call not in _RECEIVING or length < _RECORD_HEADER_BYTES:
        return False
    try:
        return (PROC / f"{pid}/fd/{fd}").readlink().name.startswith("socket:")
    except OSError:
        return False


def _stack(pid: int, stack: int) -> bytes:
    with Path(f"/proc/{pid}/mem").open("rb", buffering=0) as memory:
        memory.seek(stack)
        return memory.read(_STACK_BYTES)


def _words(pid: int, stack: int) -> tuple[int, ...]:
    """What may be addresses."""
    data = _stack(pid, stack)
    words = struct.unpack(f"<{len(data) // 8}Q", data[: len(data) // 8 * 8])
    return tuple(word & _ADDRESS for word in words)


def _copies(elf: ElfFile, places: Collection[int]) -> tuple[int, ...]:
    """The calls of memcpy in the functions around these file offsets."""
    if elf.machine != X86_64:
        return ()
    imported = elf.imports(_COPIES)
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
    """Where the pointer is through which this calls, itself or by a stub of the procedure linkage table."""
    if i.is_indirect_call:
        return i.rip_target
    if not i.is_call or i.target is None:
        return None
    return x86.stub_pointer(elf.read_at(i.target, x86.MAX_STUB_BYTES), i.target)
