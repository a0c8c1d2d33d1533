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
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from capture import x86
from capture.elf import X86_64, ElfFile, Function

if TYPE_CHECKING:
    from collections.abc import Sequence

# Prologues are shorter; a probe further in would not be near the call any more.
MAX_PROLOGUE_BYTES = 32
# How much of a function is searched for branches back into its prologue; a longer one keeps its first byte.
MAX_FUNCTION_BYTES = 16384


def probe_address(elf: ElfFile, address: int, size: int, *, returns: bool) -> int:
    """The virtual address for the probe of the function at ``address``; ``address`` itself in any doubt.

    ``size`` is the symbol's, in bytes, 0 if unknown: the unwind table then tells, or nothing moves.
    ``returns`` is whether the probe takes the return too.
    """
    if elf.machine != X86_64:
        return address
    end = _function_end(elf, address, size)
    if end is None or end - address > MAX_FUNCTION_BYTES:
        return address
    code = elf.read_at(address, end - address)
    body = list(x86.instructions(code, address))
    point = _cheap_point(body, returns=returns)
    if point is None or point == address or sum(i.length for i in body) != len(code):
        # An undecodable rest could hide a branch back into the prologue.
        return address
    if any(i.target is not None and address <= i.target <= point for i in body):
        return address
    return point


def _function_end(elf: ElfFile, address: int, size: int) -> int | None:
    function: Function | None = elf.function_at(address)
    if function is not None and function.start == address:
        return max(function.end, address + size)
    return address + size if size and function is None else None


def _cheap_point(body: Sequence[x86.Instruction], *, returns: bool) -> int | None:
    """The address of the first emulated instruction that can be reached without a change that matters."""
    for instruction in body:
        if instruction.address - body[0].address > MAX_PROLOGUE_BYTES:
            return None
        if x86.is_emulated(instruction):
            return instruction.address
        if instruction.is_no_operation or instruction.is_comparison:
            continue
        if returns or not _keeps_arguments(instruction):
            return None
    return None


def _keeps_arguments(instruction: x86.Instruction) -> bool:
    """Whether it only makes room on the stack, fills that, or writes a register that holds no argument."""
    if instruction.map or instruction.vector:
        return False
    if not instruction.in_register:
        # The stack protector: mov register, fs:0x28 and mov [rsp + n], register.
        if instruction.opcode == 0x8B:
            return instruction.reg not in x86.ARGUMENT_REGISTERS
        return instruction.opcode == 0x89 and instruction.rm == x86.RSP
    if instruction.opcode in (0x81, 0x83):  # sub rsp, imm
        return instruction.reg & 7 == 5 and instruction.rm == x86.RSP
    written = {0x89: instruction.rm, 0x8B: instruction.reg, 0x31: instruction.rm, 0x33: instruction.reg}
    return written.get(instruction.opcode, x86.RDI) not in x86.ARGUMENT_REGISTERS
