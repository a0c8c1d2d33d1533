"""Where in a function a probe costs least and is still exact.

The kernel emulates some instructions under a uprobe (push, nop, jmp, jcc, call) and must step over a copy of
all others in a second trap: 0.7 µs against 13 µs a hit. Functions that begin with endbr64, test or sub are of
the second kind, and often the next instruction would have been of the first. A probe may move on to it only
if nothing is lost on the way there:

- between the function's first byte and the probe no instruction changes an argument register or memory, and
  none leaves the straight line, so that what the probe reads is what the caller passed;
- no branch of the function lands in between or on the probe itself: each hit is one call;
- a probe that also takes the return (uretprobe) must see the stack pointer untouched, because the kernel
  replaces the word at its top as the return address. Moved past a push or sub it would corrupt the stack.

A call's entry and return go to one point where there is a return: one hit instead of two, and every return
has its entry. On AArch64 the first byte is always used.

Linux takes no probe on some instructions, and assemblers make them of a function's first ones, filling up with
prefixes before a branch. The entry may then be behind pushes, with how many there were, and the return on each RET,
if those are the only ways out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from capture import x86
from capture.elf import X86_64, ElfFile, Function

if TYPE_CHECKING:
    from collections.abc import Sequence

# Prologues are shorter; a probe further in would not be near the call any more.
MAX_PROLOGUE_BYTES = 32
# How much of a function is searched for branches back into its prologue; a longer one keeps its first byte.
MAX_FUNCTION_BYTES = 16384


class Place(NamedTuple):
    """Where the probes of a function go: virtual addresses.

    ``returns`` are its RET instructions, where a uretprobe at ``entry`` would be wrong; ``pushed`` is how many
    words the function has put on its stack before ``entry``.
    """

    entry: int
    returns: tuple[int, ...] = ()
    pushed: int = 0


def probe_place(elf: ElfFile, address: int, size: int, *, returns: bool) -> Place | None:
    """Where to probe the function at ``address``: there itself in any doubt; None if that takes no probe.

    ``size`` is the symbol's, in bytes, 0 if unknown: the unwind table then tells, or nothing moves.
    ``returns`` is whether the probe takes the return too.
    """
    if elf.machine != X86_64:
        return Place(address)
    first = x86.decode(elf.read_at(address, x86.MAX_INSTRUCTION_BYTES), 0, address)
    refused = first is not None and first.refused
    at_first = None if refused else Place(address)
    end = _function_end(elf, address, size)
    if end is None or end - address > MAX_FUNCTION_BYTES:
        return at_first
    code = elf.read_at(address, end - address)
    body = list(x86.instructions(code, address))
    if sum(i.length for i in body) != len(code):
        # An undecodable rest could hide a branch back into the prologue.
        return at_first
    place = _behind_pushes(body, code, returns=returns) if refused else _cheap_place(body, returns=returns)
    if place is None or any(i.target is not None and address <= i.target <= place.entry for i in body):
        return at_first
    return place


def _function_end(elf: ElfFile, address: int, size: int) -> int | None:
    function: Function | None = elf.function_at(address)
    if function is not None and function.start == address:
        return max(function.end, address + size)
    return address + size if size and function is None else None


def _cheap_place(body: Sequence[x86.Instruction], *, returns: bool) -> Place | None:
    """The first emulated instruction, not the function's first byte, that is reached without a change that matters."""
    for instruction in body:
        if instruction.address - body[0].address > MAX_PROLOGUE_BYTES:
            return None
        if x86.is_emulated(instruction):
            return Place(instruction.address)
        if instruction.is_no_operation or instruction.is_comparison:
            continue
        if returns or not _keeps_arguments(instruction):
            return None
    return None


def _behind_pushes(body: Sequence[x86.Instruction], code: bytes, *, returns: bool) -> Place | None:
    """The first emulated instruction behind those that make room on the stack, or else the first that takes a probe;
    with all returns, if they are asked for and can be told."""
    ends = tuple(i.address for i in body if i.is_return) if returns else ()
    if returns and not _only_returns(body):
        return None
    place, pushed = None, 0
    for instruction in body:
        if instruction.address - body[0].address > MAX_PROLOGUE_BYTES:
            break
        if not instruction.refused and (place is None or x86.is_emulated(instruction)):
            place = Place(instruction.address, ends, pushed)
        if x86.is_emulated(instruction) and not instruction.is_no_operation:
            break
        room = _room(instruction, code[: instruction.end - body[0].address])
        if room is None and not (instruction.is_no_operation or instruction.is_comparison):
            break
        pushed += room or 0
    return place


def _only_returns(body: Sequence[x86.Instruction]) -> bool:
    """Whether RET is the only way out of a function, and takes probes."""
    start, end = body[0].address, body[-1].end
    if any(i.leaves or (i.is_return and i.refused) for i in body):
        return False
    return all(i.target is None or i.is_call or start <= i.target < end for i in body)


def _room(instruction: x86.Instruction, code: bytes) -> int | None:
    """How many words an instruction, at the end of ``code``, only adds to the stack; None for any other."""
    if instruction.is_push:
        return 1
    if not _makes_room(instruction) or instruction.map or instruction.vector:
        return None
    amount = int.from_bytes(code[-1 if instruction.opcode == 0x83 else -4 :], "little", signed=True)
    return amount // 8 if amount > 0 and not amount % 8 else None


def _makes_room(instruction: x86.Instruction) -> bool:
    """sub rsp, imm"""
    is_sub = instruction.opcode in (0x81, 0x83) and instruction.reg & 7 == 5 and instruction.in_register
    return is_sub and instruction.rm == x86.RSP and bool(instruction.rex & 8)


def _keeps_arguments(instruction: x86.Instruction) -> bool:
    """Whether it only makes room on the stack, fills that, or writes a register that holds no argument."""
    if instruction.map or instruction.vector:
        return False
    if not instruction.in_register:
        # The stack protector: mov register, fs:0x28 and mov [rsp + n], register.
        if instruction.opcode == 0x8B:
            return instruction.reg not in x86.ARGUMENT_REGISTERS
        return instruction.opcode == 0x89 and instruction.rm == x86.RSP
    if instruction.opcode in (0x81, 0x83):
        return _makes_room(instruction)
    written = {0x89: instruction.rm, 0x8B: instruction.reg, 0x31: instruction.rm, 0x33: instruction.reg}
    return written.get(instruction.opcode, x86.RDI) not in x86.ARGUMENT_REGISTERS
