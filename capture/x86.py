"""Lengths, branches and a few operands of x86-64 instructions: enough to reason about a function's first
instructions and its direct calls, and no more.

Models the instruction format of the Intel SDM, volume 2, §2.1–2.7 (legacy, REX, VEX and EVEX encodings) and
the immediate sizes of its opcode maps (appendix A). An encoding that is invalid in 64-bit mode, or AMD's XOP,
decodes to None: callers take that as doubt and give up.

Written out here, rather than taken from the libLLVM that libbcc links with, because the answers place
probes in other people's processes: LLVM's C interface hands back text in a syntax that changes with its
version (14 to 20 across distributions, some linked statically into libbcc), it needs a string match for
every question below, and tests could then run only where bcc is installed. The tables are checked against
objdump on whole libraries.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI, R8, R9 = range(10)
# System V AMD64 psABI §3.2.3: where a function finds its integer arguments.
ARGUMENT_REGISTERS = frozenset({RDI, RSI, RDX, RCX, R8, R9})
# The same section: what a function leaves as it was, beside the stack pointer.
KEPT_REGISTERS = frozenset({RBX, RBP, 12, 13, 14, 15})
# Opcodes: MOV of a register to ModRM.rm; indirect calls and jumps, and others.
STORE = 0x89
INDIRECT = 0xFF
MACHINE = 62  # EM_X86_64
MAX_INSTRUCTION_BYTES = 15
# Of a stub of the procedure linkage table.
MAX_STUB_BYTES = 16


class Instruction(NamedTuple):
    """One instruction. ``map`` is the opcode map (0 one byte, 1 0F, 2 0F38, 3 0F3A, higher VEX and EVEX
    only).

    ``modrm`` is -1 where there is none. ``prefix`` is the last of 66, F2 and F3, or 0. ``vector`` is set
    for VEX and EVEX encodings. ``displacement`` belongs to a memory operand or a relative branch. ``refused`` is
    set where Linux puts no uprobe (is_prefix_bad in arch/x86/kernel/uprobes.c): LOCK, and segments that do not
    count in 64-bit mode, with which assemblers fill up (-mbranches-within-32B-boundaries).
    """

    address: int
    length: int
    map: int
    opcode: int
    modrm: int
    rex: int
    prefix: int
    displacement: int
    sib: int
    vector: bool
    refused: bool = False

    @property
    def end(self) -> int:
        """The address of the next instruction."""
        return self.address + self.length

    @property
    def reg(self) -> int:
        """The register in ModRM.reg."""
        return (self.modrm >> 3 & 7) | (self.rex & 4) << 1

    @property
    def rm(self) -> int:
        """The register in ModRM.rm: an operand, or the base of one in memory."""
        return (self.modrm & 7) | (self.rex & 1) << 3

    @property
    def in_register(self) -> bool:
        """Whether ModRM.rm names a register itself."""
        return self.modrm >= 0xC0

    @property
    def is_call(self) -> bool:
        """A direct near call."""
        return self.map == 0 and self.opcode == 0xE8 and not self.vector

    @property
    def is_jump(self) -> bool:
        """A direct unconditional jump."""
        return self.map == 0 and self.opcode in (0xE9, 0xEB) and not self.vector

    @property
    def is_conditional_jump(self) -> bool:
        """A direct conditional jump (Jcc, JrCXZ, LOOPcc)."""
        if self.vector:
            return False
        if self.map == 0:
            return self.opcode & 0xF0 == 0x70 or 0xE0 <= self.opcode <= 0xE3
        return self.map == 1 and self.opcode & 0xF0 == 0x80

    @property
    def is_return(self) -> bool:
        """A near return."""
        return self.map == 0 and self.opcode in (0xC3, 0xC2) and not self.vector

    @property
    def target(self) -> int | None:
        """Where a direct call or jump goes; None for every other instruction."""
        if self.is_call or self.is_jump or self.is_conditional_jump:
            return self.end + self.displacement
        return None

    @property
    def rip_target(self) -> int | None:
        """The address of a RIP-relative operand; None for every other instruction."""
        if self.modrm >= 0 and self.modrm & 0xC7 == 0x05:
            return self.end + self.displacement
        return None

    @property
    def is_no_operation(self) -> bool:
        """A NOP in any of its forms, or ENDBR64: nothing changes but the instruction pointer."""
        if self.vector:
            return False
        if self.map == 0:
            return self.opcode == 0x90 and self.prefix != 0xF3 and not self.rex & 1
        return self.map == 1 and (
            self.opcode == 0x1F or (self.opcode == 0x1E and self.prefix == 0xF3 and self.modrm == 0xFA)
        )

    @property
    def is_push(self) -> bool:
        """PUSH of a whole register."""
        return self.opcode & 0xF8 == 0x50 and not self.map and not self.vector and self.prefix != 0x66

    @property
    def leaves(self) -> bool:
        """An indirect jump: where to is not told."""
        return self.opcode == 0xFF and not self.map and not self.vector and self.modrm >> 3 & 7 in (4, 5)

    @property
    def is_indirect_call(self) -> bool:
        """A call through a register or memory."""
        return self.opcode == 0xFF and not self.map and not self.vector and self.modrm >> 3 & 7 == 2

    @property
    def is_comparison(self) -> bool:
        """CMP or TEST: flags change, no register and no memory does."""
        if self.map or self.vector:
            return False
        if self.opcode in (0x84, 0x85, 0xA8, 0xA9) or 0x38 <= self.opcode <= 0x3D:
            return True
        field = self.modrm >> 3 & 7
        return (self.opcode in (0x80, 0x81, 0x83) and field == 7) or (
            self.opcode in (0xF6, 0xF7) and field < 2
        )


def _bits(*ranges: int | tuple[int, int]) -> frozenset[int]:
    """Opcodes from single values and inclusive ranges."""
    spans = [(r, r) if isinstance(r, int) else r for r in ranges]
    return frozenset(value for low, high in spans for value in range(low, high + 1))


# Intel SDM volume 2, appendix A, table A-2: one-byte opcodes in 64-bit mode.
_ALU = frozenset(base + low for base in range(0, 0x40, 8) for low in range(4))
_MODRM = (
    _ALU
    | _bits(0x63, 0x69, 0x6B, (0x80, 0x81), (0x83, 0x8F), 0xC0, 0xC1, 0xC6, 0xC7, (0xD0, 0xD3))
    | _bits((0xD8, 0xDF), 0xF6, 0xF7, 0xFE, 0xFF)
)
_ALU_IMMEDIATE_8 = frozenset(range(0x04, 0x40, 8))
_ALU_IMMEDIATE_32 = frozenset(range(0x05, 0x40, 8))
_IMMEDIATE_8 = (
    _ALU_IMMEDIATE_8
    | _bits(0x6A, 0x6B, 0x80, 0x83, 0xA8, (0xB0, 0xB7), 0xC0, 0xC1, 0xC6, 0xCD, 0xF6)
    | _bits((0xE4, 0xE7), 0xD4)
)
_IMMEDIATE_32 = _ALU_IMMEDIATE_32 | _bits(0x68, 0x69, 0x81, 0xA9, (0xB8, 0xBF), 0xC7, 0xF7)  # or 16 or 64
_RELATIVE_8 = _bits((0x70, 0x7F), (0xE0, 0xE3), 0xEB)
_RELATIVE_32 = _bits(0xE8, 0xE9)
_INVALID = frozenset(base + low for base in range(0, 0x40, 8) for low in (6, 7)) - _bits(0x0F) | _bits(
    0x60, 0x61, 0x82, 0x9A, 0xCE, (0xD4, 0xD6), 0xEA
)
_FIXED_IMMEDIATES = (
    dict.fromkeys(_IMMEDIATE_8 | _RELATIVE_8, 1)
    | dict.fromkeys(_RELATIVE_32, 4)
    | {0xC2: 2, 0xCA: 2, 0xC8: 3}
)
# Table A-3: two-byte opcodes.
_NO_MODRM_0F = _bits((0x05, 0x09), 0x0B, 0x0E, (0x30, 0x37), 0x77, (0x80, 0x8F), (0xA0, 0xA2)) | _bits(
    (0xA8, 0xAA), (0xC8, 0xCF)
)
_IMMEDIATE_8_0F = _bits(0x0F, (0x70, 0x73), 0xA4, 0xAC, 0xBA, 0xC2, (0xC4, 0xC6))
_INVALID_0F = _bits(0x04, 0x0A, 0x0C, (0x24, 0x27))
# In the VEX and EVEX maps everything has ModRM except VZEROUPPER and VZEROALL.
_IMMEDIATE_8_VECTOR = _bits((0x70, 0x73), 0xC2, (0xC4, 0xC6))

_LEGACY_PREFIXES = frozenset(b"\x26\x2e\x36\x3e\x64\x65\x66\x67\xf0\xf2\xf3")
_REFUSED_PREFIXES = frozenset(b"\x26\x2e\x36\x3e\xf0")


class _Opcode(NamedTuple):
    """What comes before ModRM; ``position`` is that of the byte after the opcode."""

    map: int
    opcode: int
    rex: int
    prefix: int
    vector: bool
    short_address: bool
    refused: bool
    position: int


def decode(code: bytes, position: int, address: int) -> Instruction | None:
    """The instruction at ``code[position]``, loaded at ``address``; None if it is invalid or cut off."""
    try:
        head = _opcode(code, position)
        if not _is_valid(head):
            return None
        end = head.position
        modrm, sib, displacement = -1, -1, 0
        if _has_modrm(head):
            modrm, sib, displacement, end = _memory_operand(code, end)
    except IndexError:
        return None
    if head.opcode == 0x8F and not head.map and modrm & 0x38:
        return None  # AMD XOP
    immediate = _immediate_size(head, modrm)
    if _is_relative(head):
        displacement = int.from_bytes(code[end : end + immediate], "little", signed=True)
    length = end + immediate - position
    if end + immediate > len(code) or length > MAX_INSTRUCTION_BYTES:
        return None
    return Instruction(
        address,
        length,
        head.map,
        head.opcode,
        modrm,
        head.rex,
        head.prefix,
        displacement,
        sib,
        head.vector,
        head.refused,
    )


def _opcode(code: bytes, position: int) -> _Opcode:
    """Prefixes and opcode (SDM §2.1.1, §2.1.2, §2.2.1)."""
    prefix, short_address, refused, rex = 0, False, False, 0
    while (byte := code[position]) in _LEGACY_PREFIXES:
        if byte == 0x66 or (byte in (0xF2, 0xF3) and prefix != 0x66):
            prefix = byte  # 66 matters for immediates even where F2 or F3 select the operation
        short_address |= byte == 0x67
        refused |= byte in _REFUSED_PREFIXES
        position += 1
    if byte & 0xF0 == 0x40:
        rex = byte
        position += 1
        byte = code[position]
    if byte in (0xC4, 0xC5, 0x62) and not rex:
        opcode_map, rex, position = _vector_prefix(code, position)
        return _Opcode(opcode_map, code[position], rex, prefix, True, short_address, refused, position + 1)
    opcode_map = 0
    if byte == 0x0F:
        position += 1
        opcode_map = {0x38: 2, 0x3A: 3}.get(code[position], 1)
        position += opcode_map > 1
        byte = code[position]
    return _Opcode(opcode_map, byte, rex, prefix, False, short_address, refused, position + 1)


def _vector_prefix(code: bytes, position: int) -> tuple[int, int, int]:
    """(opcode map, equivalent REX, position of the opcode) after VEX or EVEX (SDM §2.3.5, §2.7.1)."""
    kind, first = code[position], code[position + 1]
    if kind == 0xC5:
        return 1, 0x40 | (~first >> 5 & 4), position + 2
    rex = 0x40 | (~first >> 5 & 7) | code[position + 2] >> 4 & 8
    return (first & 0x1F, rex, position + 3) if kind == 0xC4 else (first & 7, rex, position + 4)


def _is_valid(head: _Opcode) -> bool:
    if head.vector:
        return 1 <= head.map <= 6
    if head.map == 0:
        return head.opcode not in _INVALID and head.opcode & 0xF0 != 0x40
    return head.map > 1 or head.opcode not in _INVALID_0F


def _has_modrm(head: _Opcode) -> bool:
    if head.vector:
        return head.map != 1 or head.opcode != 0x77
    if head.map == 0:
        return head.opcode in _MODRM
    return head.map > 1 or head.opcode not in _NO_MODRM_0F


def _memory_operand(code: bytes, position: int) -> tuple[int, int, int, int]:
    """(ModRM, SIB or -1, displacement, position after them) (SDM §2.1.3, §2.1.5)."""
    modrm = code[position]
    position += 1
    mode, low, sib = modrm >> 6, modrm & 7, -1
    if mode == 3:
        return modrm, sib, 0, position
    if low == 4:
        sib = code[position]
        position += 1
    size = (0, 1, 4)[mode]
    if mode == 0 and (low == 5 or (sib >= 0 and sib & 7 == 5)):
        size = 4
    displacement = int.from_bytes(code[position : position + size], "little", signed=True)
    return modrm, sib, displacement, position + size


def _is_relative(head: _Opcode) -> bool:
    if head.vector:
        return False
    if head.map == 0:
        return head.opcode in _RELATIVE_8 or head.opcode in _RELATIVE_32
    return head.map == 1 and head.opcode & 0xF0 == 0x80


def _immediate_size(head: _Opcode, modrm: int) -> int:
    opcode = head.opcode
    if head.vector:
        return int(head.map == 3 or (head.map == 1 and opcode in _IMMEDIATE_8_VECTOR))
    if head.map:
        near_jump = head.map == 1 and opcode & 0xF0 == 0x80
        return 4 if near_jump else int(head.map == 3 or (head.map == 1 and opcode in _IMMEDIATE_8_0F))
    if 0xA0 <= opcode <= 0xA3:
        return 4 if head.short_address else 8
    if opcode in (0xF6, 0xF7) and modrm >> 3 & 7 > 1:
        return 0
    if opcode in _IMMEDIATE_32:
        narrow = head.prefix == 0x66 and not head.rex & 8
        long = head.rex & 8 and opcode & 0xF8 == 0xB8
        return 2 if narrow else 8 if long else 4
    return _FIXED_IMMEDIATES.get(opcode, 0)


def instructions(code: bytes, address: int) -> Iterator[Instruction]:
    """The instructions of ``code``, one after the other, up to the first that can't be decoded."""
    position = 0
    while position < len(code):
        instruction = decode(code, position, address + position)
        if instruction is None:
            return
        yield instruction
        position += instruction.length


def stub_pointer(code: bytes, address: int) -> int | None:
    """Where the pointer is that code jumps through at once, as a stub of the procedure linkage table does (System V
    psABI §5.2); None if it does something else.
    """
    for instruction in instructions(code, address):
        if not instruction.is_no_operation:
            return instruction.rip_target if instruction.leaves else None
    return None


def is_emulated(instruction: Instruction) -> bool:
    """Whether the kernel emulates it under a uprobe, instead of stepping over a copy at twenty times the
    cost.

    As in Linux's arch/x86/kernel/uprobes.c since 4.16: branch_setup_xol_ops (JMP, CALL, Jcc and one-byte NOP
    without a 66 prefix) and push_setup_xol_ops (PUSH of a register, with no prefix but REX.B alone).
    """
    if instruction.vector or instruction.refused or instruction.prefix == 0x66:
        return False
    opcode = instruction.opcode
    if instruction.map == 1:
        return opcode & 0xF0 == 0x80
    if instruction.map:
        return False
    if opcode & 0xF8 == 0x50:
        return instruction.length == 1 or (instruction.length == 2 and instruction.rex == 0x41)
    return opcode in (0x90, 0xE8, 0xE9, 0xEB) or opcode & 0xF0 == 0x70
