"""What a function was called with, long after: from its caller's code and what is known of its caller's frame.

A call's arguments are in registers that nobody keeps (System V psABI, §3.2.3). But the instructions before the call
have put them there, mostly from registers that are kept, from the stack or from constants, and these are what they
were. Followed is only what can have been no other way: straight code back to where a value comes from, or to the
function's begin, whose own caller is asked then. In doubt nothing is known.
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

from capture import x86
from capture.register_writes import writes
from capture.x86 import KEPT_REGISTERS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from capture.thread_stacks import Frame, FunctionCode, ProcessMemory
    from capture.x86 import Instruction

_MAX_STEPS = 32
_MASK = (1 << 64) - 1
_SEGMENTS_AND_SHORT_ADDRESSES = frozenset(b"\x64\x65\x67")
# call rel32; call [rip + rel32].
_CALL, _CALL_THROUGH, _LONG_CALL_BYTES = b"\xe8", b"\xff\x15", 6


class Caller:
    """The function of ``frames[index]``, at its call of what is below it."""

    def __init__(self, memory: ProcessMemory, frames: Sequence[Frame], index: int) -> None:
        self._memory = memory
        self._frames = frames
        self._index = index
        self._frame = frames[index]
        self._steps = 0

    def target(self) -> int | None:
        """The address in the process of the function that it calls."""
        return self.plain_target() or self._decoded_target()

    def plain_target(self) -> int | None:
        """The same, if its call is one of the two that are most of all: to find that takes no time."""
        place = self._frame.place
        code = self._frame.elf.read_before(place, _LONG_CALL_BYTES)
        operand = int.from_bytes(code[-4:], "little", signed=True)
        if code[-5:-4] == _CALL and (found := self._function(place + operand)):
            return found
        if code == _CALL_THROUGH + code[-4:]:
            return self._memory.word(place + operand + self._frame.bias)
        return None

    def _decoded_target(self) -> int | None:
        call = self._body[-1] if self._body else None
        if call and call.is_call and call.target is not None:
            return self._function(call.target) or call.target + self._frame.bias
        return self._operand(len(self._body) - 1) if call and call.is_indirect_call else None

    def argument(self, register: int) -> int | None:
        """What was in a register at the call, if that is certain."""
        return self._before(len(self._body) - 1, register) if self._body else None

    @cached_property
    def _function_code(self) -> FunctionCode | None:
        return self._memory.function_code(self._frame)

    @cached_property
    def _body(self) -> Sequence[Instruction]:
        """The function up to the call; empty where that is not clear."""
        code = self._function_code
        count = code.counts.get(self._frame.place) if code else None
        return code.instructions[:count] if code and count else ()

    @cached_property
    def _labels(self) -> frozenset[int]:
        return self._function_code.labels if self._function_code else frozenset()

    def _function(self, target: int) -> int | None:
        """Which function is called there, itself or by a stub of the procedure linkage table; None if none begins."""
        elf = self._frame.elf
        pointer = x86.stub_pointer(elf.read_at(target, x86.MAX_STUB_BYTES), target)
        if pointer is not None:
            return self._memory.word(pointer + self._frame.bias)
        function = elf.function_at(target)
        return target + self._frame.bias if function and function.start == target else None

    def _before(self, position: int, register: int) -> int | None:
        """A register's value before the instruction at a position of the body."""
        self._steps += 1
        if self._steps > _MAX_STEPS:
            return None
        since = self._body[position:-1]
        if not any(writes(instruction, register) for instruction in since):
            if register == x86.RSP:
                return self._frame.stack
            if register in KEPT_REGISTERS and register in self._frame.registers:
                return self._frame.registers[register]
        return self._put_before(position, register)

    def _put_before(self, position: int, register: int) -> int | None:
        """The same by what has put it there last."""
        while position and self._body[position].address not in self._labels:
            position -= 1
            instruction = self._body[position]
            if instruction.is_jump or instruction.is_return or instruction.leaves:
                return None
            if writes(instruction, register):
                return self._result(position, register)
        return self._at_entry(register) if self._body[position].address not in self._labels else None

    def _at_entry(self, register: int) -> int | None:
        if register not in x86.ARGUMENT_REGISTERS or self._index + 1 >= len(self._frames):
            return None
        outer = Caller(self._memory, self._frames, self._index + 1)
        # It may have called another function that has jumped here, with arguments of its own.
        start = self._body[0].address + self._frame.bias
        return outer.argument(register) if outer.target() == start else None

    def _result(self, position: int, register: int) -> int | None:
        """What an instruction puts into a register."""
        i = self._body[position]
        if i.map or i.vector or i.prefix or self._is_odd(i):
            return None
        value: int | None = None
        wide = i.rex & 8
        if i.opcode == 0x8B and i.reg == register:  # MOV r, r/m
            value = self._operand(position)
        elif i.opcode == 0x89 and i.in_register and i.rm == register:  # MOV r/m, r
            value = self._before(position, i.reg)
        elif i.opcode == 0x8D and i.reg == register:  # LEA
            value = self._address(position)
        elif i.opcode == 0x63 and wide and i.reg == register:  # MOVSXD
            value = _extended(self._operand(position, size=4))
        elif i.opcode & 0xF8 == 0xB8:  # MOV r, imm
            value = self._immediate(i, 8 if wide else 4)
        elif i.opcode == 0xC7 and i.in_register and i.rm == register:  # MOV r/m, imm32
            value = _extended(self._immediate(i, 4))
        elif i.opcode in (0x31, 0x33) and i.in_register and i.reg == i.rm == register:  # XOR r, r
            value = 0
        return None if value is None else value & (_MASK if wide else _MASK >> 32)

    def _operand(self, position: int, size: int | None = None) -> int | None:
        """The value of ModRM.rm, of a size in bytes."""
        i = self._body[position]
        size = size or (8 if i.rex & 8 or i.opcode == x86.INDIRECT else 4)
        if i.in_register:
            value = self._before(position, i.rm)
            return None if value is None else value & (1 << 8 * size) - 1
        if self._is_odd(i):
            return None
        address = self._address(position)
        return None if address is None else self._memory.word(address, size)

    def _address(self, position: int) -> int | None:
        """The address of an operand in memory (SDM §2.1.5)."""
        i = self._body[position]
        if i.in_register:
            return None
        if i.rip_target is not None:
            return i.rip_target + self._frame.bias
        total = i.displacement
        if i.sib >= 0:
            index = (i.sib >> 3 & 7) | (i.rex & 2) << 2
            if index != x86.RSP:
                value = self._before(position, index)
                if value is None:
                    return None
                total += value << (i.sib >> 6)
            base = (i.sib & 7) | (i.rex & 1) << 3
            if i.sib & 7 == 5 and i.modrm >> 6 == 0:
                return total & _MASK
        else:
            base = i.rm
        value = self._before(position, base)
        return None if value is None else (total + value) & _MASK

    def _immediate(self, i: Instruction, size: int) -> int:
        return int.from_bytes(self._frame.elf.read_at(i.end - size, size), "little")

    def _is_odd(self, i: Instruction) -> bool:
        """Whether an address of it may be another than its operand says."""
        return self._frame.elf.read_at(i.address, 1)[0] in _SEGMENTS_AND_SHORT_ADDRESSES


def _extended(value: int | None) -> int | None:
    return None if value is None else (value - (1 << 32) if value >> 31 else value) & _MASK
