"""Which general registers an instruction of x86-64 may change: in doubt it changes them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from capture import x86

if TYPE_CHECKING:
    from capture.x86 import Instruction

# Opcodes that change what ModRM.rm names, or ModRM.reg; and registers that are changed without being named.
_ON_RM = frozenset({0x80, 0x81, 0x83, 0x88, 0x89, 0xC0, 0xC1, 0xC6, 0xC7, 0xD0, 0xD1, 0xD2, 0xD3, 0xFE})
_ON_REG = frozenset({0x63, 0x69, 0x6B, 0x8A, 0x8B, 0x8D})
_WRITTEN = {0x98: x86.RAX, 0x99: x86.RDX}  # CWDE and CDQE; CDQ and CQO


def writes(i: Instruction, register: int) -> bool:
    """Whether it might change a general register: True for all that isn't known to leave it alone."""
    if i.is_no_operation or i.is_comparison or i.is_jump or i.is_conditional_jump:
        return register == x86.RCX and i.opcode & 0xFC == 0xE0 and not i.map  # LOOP
    if i.is_call or i.is_indirect_call:
        return register not in x86.KEPT_REGISTERS and register != x86.RSP
    if i.is_push:
        return register == x86.RSP
    named = register == i.rm if i.in_register else False
    if i.vector:
        return i.map != 1 or named or register == i.reg
    if i.map == 1:
        return _writes_two_bytes(i, register, named=named)
    return i.map > 1 or _writes_one_byte(i, register, named=named)


def _writes_two_bytes(i: Instruction, register: int, *, named: bool) -> bool:
    if i.modrm < 0:
        return i.opcode not in (0x0B, 0x77)
    if i.opcode in (0xB0, 0xB1, 0xC7, 0x00, 0x01, 0xAE):  # CMPXCHG and what has many meanings
        return True
    return named or register == i.reg


def _writes_one_byte(i: Instruction, register: int, *, named: bool) -> bool:
    if i.modrm < 0:
        return _writes_unnamed(i, register)
    field = i.modrm >> 3 & 7
    if i.opcode in _ON_RM or (i.opcode < 0x40 and i.opcode & 7 < 2):
        return named
    if i.opcode in _ON_REG or i.opcode < 0x40:
        return register == i.reg
    if i.opcode in (0x86, 0x87):  # XCHG
        return named or register == i.reg
    if i.opcode in (0xF6, 0xF7):  # MUL, DIV and their kin
        return named or (field > 3 and register in (x86.RAX, x86.RDX))
    return named or i.opcode != x86.INDIRECT or field > 1


def _writes_unnamed(i: Instruction, register: int) -> bool:
    low = (i.opcode & 7) | (i.rex & 1) << 3
    if i.opcode & 0xF0 == 0xB0:  # MOV r, imm
        return register == low
    if i.opcode & 0xF8 == 0x58:  # POP
        return register in (low, x86.RSP)
    if i.opcode < 0x40:
        return register == x86.RAX
    return _WRITTEN.get(i.opcode, register) == register
