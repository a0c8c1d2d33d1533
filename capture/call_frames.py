"""Where a function's caller is found on the stack, by its unwind entry: what a debugger's backtrace is made of.

Models the call frame instructions of .eh_frame (DWARF 5, §6.4.2; Linux Standard Base Core, §10.6.1) for x86-64
(System V psABI, §3.6.2 and §3.7), as compilers write them. Rules that are expressions say nothing here: of a register
they make an unknown one, of the frame's place a frame that is not understood.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from capture import x86

if TYPE_CHECKING:
    from capture.elf import ElfFile

# Processor registers by their DWARF numbers (psABI, figure 3.36); the last is the return address.
_REGISTERS = (x86.RAX, x86.RDX, x86.RCX, x86.RBX, x86.RSI, x86.RDI, x86.RBP, x86.RSP, *range(8, 16))
RETURN_ADDRESS = 16
# An entry with its rules is some dozen bytes, of the longest functions some hundred.
_MAX_ENTRY_BYTES = 1 << 14
_MAX_REMEMBERED = 16

_ADVANCE, _OFFSET, _RESTORE = 1, 2, 3  # the two high bits of an instruction, whose low ones are an operand
_NOP, _ADVANCE_1, _ADVANCE_2, _ADVANCE_4 = 0x00, 0x02, 0x03, 0x04
_OFFSET_EXTENDED, _RESTORE_EXTENDED, _UNDEFINED, _SAME_VALUE = 0x05, 0x06, 0x07, 0x08
_REMEMBER, _RESTORE_STATE = 0x0A, 0x0B
_DEFINE_CFA, _DEFINE_REGISTER, _DEFINE_OFFSET, _DEFINE_EXPRESSION = 0x0C, 0x0D, 0x0E, 0x0F
_EXPRESSION, _VALUE_EXPRESSION, _ARGUMENTS_SIZE = 0x10, 0x16, 0x2E


@dataclass(frozen=True, slots=True)
class FrameRules:
    """At one instruction: the caller's stack pointer is ``register`` + ``offset`` (bytes), and ``saved`` has the places
    of its registers, and of the return address, from there (bytes). ``lost`` are registers whose values are gone.
    """

    register: int
    offset: int
    saved: dict[int, int]
    lost: frozenset[int] = frozenset()


class _Reader:
    """Bytes of an entry, with the encodings of DWARF 5, §7.6. Reading past the end raises IndexError."""

    def __init__(self, data: bytes, position: int, end: int) -> None:
        self._data = data
        self.position = position
        self.end = end

    def byte(self) -> int:
        if self.position >= self.end:
            raise IndexError
        self.position += 1
        return self._data[self.position - 1]

    def fixed(self, size: int) -> int:
        return sum(self.byte() << 8 * index for index in range(size))

    def unsigned(self) -> int:
        value = shift = 0
        while True:
            byte = self.byte()
            value |= (byte & 0x7F) << shift
            shift += 7
            if not byte & 0x80:
                return value

    def signed(self) -> int:
        start = self.position
        value = self.unsigned()
        bits = 7 * (self.position - start)
        return value - (1 << bits) if value >> bits - 1 & 1 else value

    def skip(self) -> None:
        """Past a block that begins with its length."""
        length = self.unsigned()
        self.position += length

    def text(self) -> bytes:
        found = bytearray()
        while byte := self.byte():
            found.append(byte)
        return bytes(found)


def frame_rules(elf: ElfFile, address: int) -> FrameRules | None:
    """The rules that hold before the instruction at an address; None where nothing, or nothing simple, is said."""
    place = elf.unwind_entry_at(address)
    if place is None:
        return None
    try:
        return _rules(elf, place, address)
    except IndexError:
        return None


def _rules(elf: ElfFile, place: int, address: int) -> FrameRules | None:
    entry = _reader(elf, place)
    parent = place + 4 - entry.fixed(4)
    begin = place + 8 + _signed_word(entry.fixed(4))
    common = _reader(elf, parent)
    if common.fixed(4) != 0 or common.byte() not in (1, 3):
        return None
    augmentation = common.text()
    code_factor, data_factor = common.unsigned(), common.signed()
    if common.unsigned() != RETURN_ADDRESS:
        return None
    # z: sizes are given, so that the rest need not be understood. S: a signal's frame has all registers elsewhere.
    if not augmentation.startswith(b"z") or b"S" in augmentation:
        return None
    common.skip()
    entry.fixed(4)
    entry.skip()
    machine = _Machine(code_factor, data_factor)
    if not machine.run(common, None):
        return None
    machine.initial = machine.rules
    machine.location = begin
    return machine.rules if machine.run(entry, address) and machine.rules.register >= 0 else None


def _reader(elf: ElfFile, place: int) -> _Reader:
    """An entry's bytes after its length."""
    length = int.from_bytes(elf.read_at(place, 4), "little")
    if not 0 < length <= _MAX_ENTRY_BYTES:
        raise IndexError
    data = elf.read_at(place + 4, length)
    return _Reader(data, 0, len(data))


def _signed_word(value: int) -> int:
    return value - (1 << 32) if value >> 31 else value


class _Machine:
    """Executes call frame instructions up to an address."""

    def __init__(self, code_factor: int, data_factor: int) -> None:
        self._code_factor = code_factor
        self._data_factor = data_factor
        self.location = 0
        self.rules = FrameRules(-1, 0, {})
        self.initial = self.rules
        self._remembered: list[FrameRules] = []

    def run(self, program: _Reader, address: int | None) -> bool:
        """False where an instruction is not understood."""
        while program.position < program.end:
            byte = program.byte()
            kind, operand = byte >> 6, byte & 0x3F
            if (step := self._advance(kind, operand, byte, program)) is not None:
                self.location += step * self._code_factor
                if address is not None and self.location > address:
                    return True
            elif kind == _OFFSET:
                self._save(operand, program.unsigned() * self._data_factor)
            elif kind == _RESTORE:
                self._restore(operand)
            elif not self._other(byte, program):
                return False
        return True

    @staticmethod
    def _advance(kind: int, operand: int, byte: int, program: _Reader) -> int | None:
        if kind == _ADVANCE:
            return operand
        size = {_ADVANCE_1: 1, _ADVANCE_2: 2, _ADVANCE_4: 4}.get(byte)
        return program.fixed(size) if size else None

    def _other(self, byte: int, program: _Reader) -> bool:
        if byte in (_DEFINE_CFA, _DEFINE_REGISTER, _DEFINE_OFFSET, _DEFINE_EXPRESSION):
            self._define(byte, program)
        elif byte == _OFFSET_EXTENDED:
            self._save(program.unsigned(), program.unsigned() * self._data_factor)
        elif byte == _RESTORE_EXTENDED:
            self._restore(program.unsigned())
        elif byte in (_UNDEFINED, _EXPRESSION, _VALUE_EXPRESSION):
            self._lose(program.unsigned())
            if byte != _UNDEFINED:
                program.skip()
        elif byte == _REMEMBER and len(self._remembered) < _MAX_REMEMBERED:
            self._remembered.append(self.rules)
        elif byte == _RESTORE_STATE and self._remembered:
            self.rules = self._remembered.pop()
        elif byte in (_ARGUMENTS_SIZE, _SAME_VALUE):
            program.unsigned()
        else:
            return byte == _NOP
        return True

    def _define(self, byte: int, program: _Reader) -> None:
        """Where the caller's stack pointer was."""
        register, offset = self.rules.register, self.rules.offset
        if byte == _DEFINE_EXPRESSION:
            program.skip()
            register = -1
        if byte in (_DEFINE_CFA, _DEFINE_REGISTER):
            register = _processor_register(program.unsigned())
        if byte in (_DEFINE_CFA, _DEFINE_OFFSET):
            offset = program.unsigned()
        self.rules = replace(self.rules, register=register, offset=offset)

    def _save(self, register: int, offset: int) -> None:
        number = _processor_register(register)
        self.rules = replace(
            self.rules, saved={**self.rules.saved, number: offset}, lost=self.rules.lost - {number}
        )

    def _lose(self, register: int) -> None:
        number = _processor_register(register)
        saved = {known: offset for known, offset in self.rules.saved.items() if known != number}
        self.rules = replace(self.rules, saved=saved, lost=self.rules.lost | {number})

    def _restore(self, register: int) -> None:
        number = _processor_register(register)
        saved = {known: offset for known, offset in self.rules.saved.items() if known != number}
        if number in self.initial.saved:
            saved[number] = self.initial.saved[number]
        self.rules = replace(self.rules, saved=saved, lost=self.rules.lost - {number})


def _processor_register(number: int) -> int:
    """A register's number in instructions. Those of vectors are no one's business: their numbers stay apart."""
    return _REGISTERS[number] if number < len(_REGISTERS) else number
