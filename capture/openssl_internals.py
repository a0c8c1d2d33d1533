"""Find ssl_read_internal and ssl_write_internal in an OpenSSL library, stripped or not, or prove nothing.

OpenSSL 1.1.1 to 4.x has two functions that no symbol names and that everything goes through::

    int ssl_read_internal (SSL *s, void *buf, size_t num, size_t *readbytes)
    int ssl_write_internal(SSL *s, const void *buf, size_t num, size_t *written)                    to 3.2
    int ssl_write_internal(SSL *s, const void *buf, size_t num, uint64_t flags, size_t *written)    from 3.3

SSL_read, SSL_read_ex, SSL_write, SSL_write_ex, SSL_write_ex2 and the filter BIO of BIO_f_ssl call them, and
SSL_peek does not. Probes there see the users of BIO_f_ssl too, who never touch the exports, and cost a sixth.
They return 1 on success; the length is behind the last argument.

The proof, for each of the two (the callers are named as for reading):

1. SSL_read calls it directly, outside the PLT, with a stack address in the out-pointer's register (RCX, or R8
   for writing from 3.3), and tests or keeps EAX right after.
2. SSL_read_ex (SSL_write_ex2 where it exists) has exactly one such direct callee, and it is this one.
3. Where the file has BIO_f_ssl, that method's table has OpenSSL's type number, and its read slot's function
   calls it too.
4. SSL_peek and SSL_peek_ex do not call it.
5. Where .symtab has its name, it is at this address.

Anything else, an undecodable byte included, is doubt, and doubt is None: the exports are probed instead. In
builds that inline the internals (Node) or have none (1.0.2, BoringSSL, LibreSSL) the proof fails so.
x86-64 only.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from capture import x86
from capture.elf import X86_64, ElfFile, Symbol

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

# SSL_read and its kin are 40 to 300 bytes; a function longer than this is something else.
MAX_CALLER_BYTES = 4096
# BIO_TYPE_SSL: 7 | BIO_TYPE_FILTER (OpenSSL's bio.h).
_BIO_TYPE_SSL = 0x0207


@dataclass(frozen=True, slots=True)
class InternalFunction:
    """A proven internal function; ``out_argument`` is the 1-based position of its size_t * (4 or 5)."""

    name: str
    address: int
    size: int
    out_argument: int


@dataclass(frozen=True, slots=True)
class OpenSslInternals:
    """Both internal functions of one file."""

    read: InternalFunction
    write: InternalFunction


@dataclass(frozen=True, slots=True)
class _Side:
    """What the proof needs to know of one direction."""

    name: str
    main: str
    extended: tuple[str, ...]  # the first that exists counts
    never: tuple[str, ...]
    out_registers: frozenset[int]
    bio_slot: int  # in struct bio_method_st, 1.1.0 and later: type, name, bwrite, old, bread, old, ...


_READ = _Side(
    "ssl_read_internal",
    "SSL_read",
    ("SSL_read_ex",),
    ("SSL_peek", "SSL_peek_ex"),
    frozenset({x86.RCX}),
    4,
)
_WRITE = _Side(
    "ssl_write_internal",
    "SSL_write",
    ("SSL_write_ex2", "SSL_write_ex"),
    (),
    frozenset({x86.RCX, x86.R8}),
    2,
)
_OUT_ARGUMENT = {x86.RCX: 4, x86.R8: 5}

# The functions that the proof starts from, to be looked up by the caller.
WANTED = (
    *(name for side in (_READ, _WRITE) for name in (side.name, side.main, *side.extended, *side.never)),
    "BIO_f_ssl",
)


def find_internals(elf: ElfFile, functions: Mapping[str, Symbol]) -> OpenSslInternals | None:
    """Both functions, proven, or None; ``functions`` has those of WANTED that the file defines.

    Raises ElfError where the file can't be read.
    """
    if elf.machine != X86_64:
        return None
    read = _prove(elf, _READ, functions)
    write = read and _prove(elf, _WRITE, functions)
    return OpenSslInternals(read, write) if read and write else None


def _prove(elf: ElfFile, side: _Side, functions: Mapping[str, Symbol]) -> InternalFunction | None:
    extended = next((functions[name] for name in side.extended if name in functions), None)
    if side.main not in functions or extended is None:
        return None
    callees = _callees(elf, extended.address)
    if callees is None or len(callees) != 1:
        return None
    (address,) = callees
    main = functions[side.main].address
    argument = called_internals(elf, main, writing=side is _WRITE).get(address)
    function = elf.function_at(address)
    if argument is None or function is None or not _agrees(elf, side, functions, address):
        return None
    return InternalFunction(side.name, address, function.end - function.start, argument)


def _agrees(elf: ElfFile, side: _Side, functions: Mapping[str, Symbol], address: int) -> bool:
    """Steps 3 to 5 of the proof."""
    if side.name in functions and functions[side.name].address != address:
        return False
    if "BIO_f_ssl" in functions and not _bio_calls(elf, functions["BIO_f_ssl"], side.bio_slot, address):
        return False
    peeks = [_callees(elf, functions[name].address) for name in side.never if name in functions]
    return all(calls is not None and address not in calls for calls in peeks)


def called_internals(elf: ElfFile, address: int, *, writing: bool) -> dict[int, int]:
    """Step 1 of the proof for the function at ``address``: callees, with their out-pointer's position."""
    registers = (_WRITE if writing else _READ).out_registers
    calls = _out_pointer_calls(elf, address, registers)
    return {callee: _OUT_ARGUMENT[register] for callee, register in calls.items()}


def _body(elf: ElfFile, address: int) -> list[x86.Instruction] | None:
    """A whole function's instructions; None if its extent is unknown or a byte of it can't be decoded."""
    function = elf.function_at(address)
    if function is None or function.start != address or function.end - address > MAX_CALLER_BYTES:
        return None
    body = list(x86.instructions(elf.read_at(address, function.end - address), address))
    return body if body and body[-1].end == function.end else None


def _is_function(elf: ElfFile, address: int) -> bool:
    """Whether a function begins there that is no PLT stub (those jump through the GOT at once)."""
    function = elf.function_at(address)
    if function is None or function.start != address:
        return False
    for instruction in x86.instructions(elf.read_at(address, 16), address):
        if not instruction.is_no_operation:
            return not (instruction.map == 0 and instruction.opcode == 0xFF and instruction.modrm == 0x25)
    return False


def _leaving(body: list[x86.Instruction]) -> Iterator[x86.Instruction]:
    """The direct calls and unconditional jumps that leave the function."""
    start, end = body[0].address, body[-1].end
    for instruction in body:
        if instruction.is_call or instruction.is_jump:
            target = instruction.target
            if target is not None and not start <= target < end:
                yield instruction


def _callees(elf: ElfFile, address: int) -> set[int] | None:
    """The functions that the one at ``address`` calls or jumps to directly; None in doubt."""
    body = _body(elf, address)
    if body is None:
        return None
    targets = {instruction.target for instruction in _leaving(body)}
    return {target for target in targets if target is not None and _is_function(elf, target)}


def _out_pointer_calls(elf: ElfFile, address: int, registers: frozenset[int]) -> dict[int, int]:
    """Callee by address → the register with a stack address, for calls whose result is looked at."""
    body = _body(elf, address) or []
    found: dict[int, int] = {}
    holder: int | None = None
    for index, instruction in enumerate(body):
        target = instruction.target
        if instruction.is_call and target is not None:
            looked_at = _keeps_result(body[index + 1 : index + 4])
            if holder is not None and looked_at and _is_function(elf, target):
                found[target] = holder
            holder = None
        elif (taken := _takes_stack_address(instruction)) in registers:
            holder = taken
        elif holder is not None and _may_write(instruction, holder):
            holder = None
    return found


def _takes_stack_address(instruction: x86.Instruction) -> int | None:
    """The register that LEA reg, [rsp or rbp + x] or MOV reg, rsp writes; None for everything else."""
    if instruction.map or instruction.vector or instruction.modrm < 0:
        return None
    if instruction.opcode == 0x8D and not instruction.in_register and not instruction.rex & 1:
        based_on_rsp = instruction.modrm & 7 == 4 and instruction.sib == 0x24
        based_on_rbp = instruction.modrm & 7 == 5 and instruction.modrm >> 6 in (1, 2)
        return instruction.reg if based_on_rsp or based_on_rbp else None
    if instruction.in_register and instruction.rex & 8:
        if instruction.opcode == 0x89 and instruction.reg == x86.RSP:
            return instruction.rm
        if instruction.opcode == 0x8B and instruction.rm == x86.RSP:
            return instruction.reg
    return None


def _may_write(instruction: x86.Instruction, register: int) -> bool:
    """Whether it might change ``register``: True for every mention of it that isn't surely a read."""
    if instruction.is_comparison or instruction.is_no_operation or instruction.target is not None:
        return False
    if instruction.modrm < 0:
        # Short forms (mov imm, pop, xchg) and the string, loop and system instructions that use RCX unseen.
        pushes = instruction.map == 0 and instruction.opcode & 0xF8 == 0x50
        return not pushes and (
            instruction.opcode & 0x07 | (instruction.rex & 1) << 3 == register or register == x86.RCX
        )
    if instruction.map == 0 and instruction.opcode in (0x88, 0x89) and not instruction.in_register:
        return False  # a store
    return instruction.reg == register or (instruction.in_register and instruction.rm == register)


def _keeps_result(following: Iterable[x86.Instruction]) -> bool:
    """Whether EAX is tested, or copied, in the instructions after a call."""
    for instruction in following:
        if instruction.map or instruction.vector or not instruction.in_register:
            continue
        if instruction.opcode == 0x85 and instruction.reg == instruction.rm == x86.RAX:
            return True
        copied = {0x89: instruction.reg, 0x8B: instruction.rm}
        if copied.get(instruction.opcode) == x86.RAX:
            return True
    return False


def _bio_calls(elf: ElfFile, bio_f_ssl: Symbol, slot: int, address: int) -> bool:
    """Whether the function in that slot of BIO_f_ssl's method table calls ``address`` directly."""
    table = None
    for instruction in x86.instructions(elf.read_at(bio_f_ssl.address, 16), bio_f_ssl.address):
        if instruction.is_no_operation:
            continue
        if instruction.map == 0 and instruction.opcode == 0x8D and instruction.reg == x86.RAX:
            table = instruction.rip_target
        break
    if table is None:
        return False
    kind = int.from_bytes(elf.read_at(table, 4), "little")
    function = elf.pointer_at(table + slot * 8)
    if kind != _BIO_TYPE_SSL or not function:
        return False
    callees = _callees(elf, function)
    return callees is not None and address in callees
