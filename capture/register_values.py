"""What registers hold as a function's code goes on, as far as it follows from the function's arguments: themselves,
words that they point to, and sums and differences of these.

The code is followed from its first byte to its last, as it lies in the file. Where a jump forward leads to, what is not
known from the instruction before is what it was at the jump; and what is held in registers that calls keep is taken to
be held behind a jump or a return, too: compilers put the function's object there once. So a value is what it is on one
way through the function, which is not said to be the only one: who asks must have other evidence.
"""

from __future__ import annotations

from typing import NamedTuple

from capture import x86
from capture.register_writes import writes

_SEGMENTS_AND_SHORT_ADDRESSES = frozenset(b"\x64\x65\x67")
_MOV_FROM, _LEA, _GROUP_1, _GROUP_1_SHORT = 0x8B, 0x8D, 0x81, 0x83
_SIGNS = {0: 1, 5: -1}  # ADD and SUB, by ModRM.reg of group 1


class Argument(NamedTuple):
    """What the function was given in a register, and so many bytes more."""

    register: int
    plus: int = 0


class Word(NamedTuple):
    """What is in memory, of ``size`` bytes, at an argument."""

    place: Argument
    size: int = 8


class Sum(NamedTuple):
    """One and another, in any order."""

    one: Argument | Word
    other: Argument | Word


class Difference(NamedTuple):
    """One less another."""

    whole: Argument | Word
    part: Argument | Word


Value = Argument | Word | Sum | Difference


class Values:
    """What general registers hold; None for what is not known."""

    def __init__(self) -> None:
        self._held: dict[int, Value] = {r: Argument(r) for r in x86.ARGUMENT_REGISTERS}
        self._at_jumps: dict[int, dict[int, Value]] = {}  # by where the first jump there leads to

    def of(self, register: int) -> Value | None:
        """What a register holds."""
        return self._held.get(register)

    def address(self, i: x86.Instruction) -> Value | None:
        """The address of an operand in memory (SDM §2.1.5)."""
        if i.modrm < 0 or i.in_register or i.rip_target is not None:
            return None
        base, index = i.rm, x86.RSP
        if i.sib >= 0:
            base, index = (i.sib & 7) | (i.rex & 1) << 3, (i.sib >> 3 & 7) | (i.rex & 2) << 2
            if i.sib & 7 == 5 and i.modrm >> 6 == 0:
                return None
        if index == x86.RSP:
            return _moved(self.of(base), i.displacement)
        return None if i.sib >> 6 or i.displacement else _sum(self.of(base), self.of(index))

    def operand(self, i: x86.Instruction) -> Value | None:
        """What ModRM.rm names."""
        size = 8 if i.rex & 8 or i.opcode == x86.INDIRECT else 4
        if i.in_register:
            return _of_size(self.of(i.rm), size)
        place = self.address(i)
        return Word(place, size) if isinstance(place, Argument) else None

    def reach(self, address: int) -> None:
        """The next instruction is there."""
        self._held = self._at_jumps.pop(address, {}) | self._held

    def follow(self, i: x86.Instruction, code: bytes) -> None:
        """An instruction, and its bytes."""
        is_simple = not (i.map or i.vector or i.prefix) and code[0] not in _SEGMENTS_AND_SHORT_ADDRESSES
        register, value = self._result(i, code) if is_simple else (-1, None)
        if i.target is not None and not i.is_call and i.target > i.address:
            self._at_jumps.setdefault(i.target, dict(self._held))
        is_left = i.is_jump or i.is_return or i.leaves
        for held in list(self._held):
            if writes(i, held) or (is_left and held not in x86.KEPT_REGISTERS):
                del self._held[held]
        if value is not None:
            self._held[register] = value

    def _result(self, i: x86.Instruction, code: bytes) -> tuple[int, Value | None]:
        """A register, and what is put into it."""
        if i.opcode == _MOV_FROM:
            return i.reg, self.operand(i)
        if i.opcode == x86.STORE and i.in_register:
            return i.rm, _of_size(self.of(i.reg), 8 if i.rex & 8 else 4)
        if not i.rex & 8:
            return -1, None
        if i.opcode == _LEA:
            return i.reg, self.address(i)
        if i.opcode in _INTO_REGISTER:
            return i.reg, _INTO_REGISTER[i.opcode](self.of(i.reg), self.operand(i))
        return (i.rm, self._put(i, code)) if i.in_register else (-1, None)

    def _put(self, i: x86.Instruction, code: bytes) -> Value | None:
        """What is put into the register that ModRM.rm names."""
        if i.opcode in _INTO_OPERAND:
            return _INTO_OPERAND[i.opcode](self.of(i.rm), self.of(i.reg))
        sign = _SIGNS.get(i.reg & 7)
        if i.opcode not in (_GROUP_1, _GROUP_1_SHORT) or sign is None:
            return None
        amount = int.from_bytes(code[-1 if i.opcode == _GROUP_1_SHORT else -4 :], "little", signed=True)
        return _moved(self.of(i.rm), sign * amount)


def _of_size(value: Value | None, size: int) -> Value | None:
    """What is left of it in so many bytes: all or nothing."""
    return value if size == 8 or (isinstance(value, Word) and value.size == size) else None


def _moved(value: Value | None, amount: int) -> Value | None:
    if isinstance(value, Argument):
        return Argument(value.register, value.plus + amount)
    return None if amount else value


def _sum(one: Value | None, other: Value | None) -> Value | None:
    return (
        Sum(one, other) if isinstance(one, Argument | Word) and isinstance(other, Argument | Word) else None
    )


def _difference(whole: Value | None, part: Value | None) -> Value | None:
    if isinstance(whole, Argument | Word) and isinstance(part, Argument | Word):
        return Difference(whole, part)
    return None


# By opcode: ADD and SUB.
_INTO_REGISTER = {0x03: _sum, 0x2B: _difference}
_INTO_OPERAND = {0x01: _sum, 0x29: _difference}
