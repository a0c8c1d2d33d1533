"""Find Go's crypto/tls in a Go program, stripped or not, and every instruction where its functions return; and
copies of it under other names, such as uTLS.

Go has no dynamic symbols, but each program carries a table from code to function names for its stack traces:
.gopclntab (Go's internal/abi and runtime/symtab.go; layouts of 1.2, 1.16, 1.18 and 1.20). Stripping leaves it.

A uretprobe would break Go, whose stacks move: returns are probed where they are, on each RET of the function.
From Go 1.17 (arm64: 1.18) arguments and results are in registers; older programs are recognised by their
prologue, or their table, and left out. On amd64, in the order of Go's internal ABI: the connection in RAX,
the buffer in RBX, its length in RCX, the goroutine in R14; at return the count in RAX, the error (nil: 0) in
RBX and RCX. On arm64 R0, R1, R2, with the goroutine in R28. A function that needs more stack starts over: its entry can
be hit twice.

The caller leaves room for these arguments, above the return address, and a function that needs them for longer than
it has registers puts them there (Go's internal ABI, "Stack layout"). Where the code of Read does, a call that waited
before there were probes is understood when it returns: most goroutines of a server are in one.

What is said is proven by the code: each function must begin by comparing the stack with its goroutine's
limit, and must decode to its end.
"""

from __future__ import annotations

import re
import struct
from array import array
from typing import TYPE_CHECKING, NamedTuple

from capture import x86
from capture.call_shapes import Call, ProbeSite, Returns
from capture.elf import AARCH64, X86_64, ElfFile, Symbol

if TYPE_CHECKING:
    from collections.abc import Iterator

# Of the package crypto/tls, and of copies of it.
GO_FUNCTIONS = {
    "(*Conn).Read": Call.GO_READ,
    "(*Conn).Write": Call.GO_WRITE,
    # Handshake itself is called by every Read and Write, and returns at once when it is done.
    "(*Conn).clientHandshake": Call.GO_HANDSHAKE,
    "(*Conn).serverHandshake": Call.GO_HANDSHAKE,
    "(*Conn).Close": Call.GO_CLOSE,
    # uTLS wraps a Conn. Where one calls the Conn's own, that is the same call once more.
    "(*UConn).Read": Call.GO_READ_WRAPPED,
    "(*UConn).Write": Call.GO_WRITE_WRAPPED,
    "(*UConn).clientHandshake": Call.GO_HANDSHAKE_WRAPPED,
}
PACKAGE = "crypto/tls"
# Functions that no other kind of Conn has.
_OF_COPIES = (b".(*Conn).clientHandshake\0", b".(*Conn).serverHandshake\0")
_MAX_PACKAGE_BYTES = 256

# Header magics by the Go version that brought them.
_MAGIC_2, _MAGIC_16, _MAGIC_18, _MAGIC_20 = 0xFFFFFFFB, 0xFFFFFFFA, 0xFFFFFFF0, 0xFFFFFFF1
_TABLE_SECTIONS = (".gopclntab", ".data.rel.ro.gopclntab")
_GO_SECTIONS = (".go.buildinfo", ".note.go.buildid")
_BUILD_INFO_MAGIC = b"\xff Go buildinf:"
_VERSION = re.compile(rb"go(1\.\d+(?:\.\d+)?(?:rc\d+|beta\d+)?)")
# runtime.moduledata.text, counted in words; the pclntab's header is word 0.
_MODULE_TEXT_WORD = 22
# The longest of these functions, serverHandshake with everything inlined, has about 10 kB.
MAX_FUNCTION_BYTES = 1 << 18
_PROLOGUE_BYTES = 24
_MAX_WRAPPER_BYTES = 32
# cmp rsp, [r14+16] or cmp r12, [r14+16]; ldr x16, [x28, #16]
_STACK_CHECK = {X86_64: re.compile(rb"[\x49\x4d]\x3b\x66\x10"), AARCH64: re.compile(rb"\x90\x0b\x40\xf9")}
_AARCH64_RET = b"\xc0\x03\x5f\xd6"
_R12 = 12
# Above the return address: the room for RAX, RBX and RCX, as they are at entry.
_ROOM = {8: x86.RAX, 16: x86.RBX, 24: x86.RCX}
_PUSH_RBP = 0x55
# SUB RSP, and ADD RSP, for -128 is shorter than 128.
_SUB_RSP, _ADD_RSP = 0xEC, 0xC4
_FRAME = {(0, opcode, modrm) for opcode in (0x81, 0x83) for modrm in (_SUB_RSP, _ADD_RSP)}
_SIB_RSP = 0x24
# MOV to a register, LEA.
_ONLY_READS = (0x8B, 0x8D)
_UNLIKE_GO = "its functions take no arguments in registers (Go before 1.17), or aren't Go's"


class GoTls(NamedTuple):
    """Go's version, as "1.22.3" (None: unknown), the probe sites, and what could not be placed."""

    version: str | None
    sites: tuple[ProbeSite, ...]
    notes: tuple[str, ...]

    @property
    def label(self) -> str:
        """What people call it."""
        return f"Go {self.version} crypto/tls" if self.version else "Go crypto/tls"


class _Table(NamedTuple):
    """A pclntab: file ``offset``, virtual ``address``, ``end`` in the file; the rest as in its header.

    ``number`` is that of its functions; ``names`` and ``functions`` are relative to ``offset``, ``text`` is
    the address that entries count from.
    """

    offset: int
    address: int
    end: int
    magic: int
    number: int
    text: int
    names: int
    names_end: int
    functions: int


def find_go_tls(elf: ElfFile) -> GoTls | None:
    """crypto/tls in a Go program, or None where there is none or it is no Go program."""
    table = _find_table(elf)
    if table is None:
        return None
    if table.magic == _MAGIC_2:
        return GoTls(_version(elf), (), (_UNLIKE_GO,)) if _is_told_of(elf, table) else None
    offsets = _name_offsets(elf, table)
    if not offsets:
        return None
    version = _version(elf)
    for text in _text_starts(elf, table):
        functions = _functions(elf, table._replace(text=text), offsets)
        probed = [function for function in functions if not _only_jumps(elf, function, functions)]
        if probed and all(_checks_stack(elf, function) for function in probed):
            return _sites(elf, version, probed)
    return GoTls(version, (), (_UNLIKE_GO,))


# The table


def _find_table(elf: ElfFile) -> _Table | None:
    for name in _TABLE_SECTIONS:
        section = elf.section(name)
        if section:
            return _read_table(elf, section.offset, section.offset + section.size)
    if elf.sections and not any(elf.section(name) for name in _GO_SECTIONS):
        return None
    # No section names it: the file has none, or C's linker, which makes shared libraries of Go, put it elsewhere.
    quantum = 1 if elf.machine == X86_64 else 4
    magics = (_MAGIC_20, _MAGIC_18, _MAGIC_16, _MAGIC_2)
    headers = [struct.pack("<IHBB", magic, 0, quantum, 8) for magic in magics]
    for segment in elf.segments:
        if not segment.executable:
            for offset, _ in elf.view.find(headers, segment.offset, segment.size):
                table = _read_table(elf, offset, segment.offset + segment.size)
                if table:
                    return table
    return None


def _read_table(elf: ElfFile, offset: int, end: int) -> _Table | None:
    address = elf.address_of(offset)
    if end - offset < 72 or address is None:
        return None
    magic, _, pointer_size, count, *words = struct.unpack("<IHxBQ7Q", elf.view.read(offset, 72))
    if magic == _MAGIC_2 and pointer_size == 8 and count <= (end - offset) // 16:
        return _Table(offset, address, end, magic, count, 0, 0, end - offset, 0)
    if pointer_size != 8 or magic not in (_MAGIC_16, _MAGIC_18, _MAGIC_20):
        return None
    # words: the number of files, from 1.18 the text's start, then offsets: names, units, files, pcs,
    # functions
    text = 0
    if magic != _MAGIC_16:
        text = elf.pointer_at(address + 24) or 0
        words.pop(1)
    else:
        words.pop()
    _, names, units, _, _, functions = words
    if not names < units <= functions < end - offset or count > (end - offset - functions) // 8:
        return None
    return _Table(offset, address, end, magic, count, text, names, units, functions)


def _is_told_of(elf: ElfFile, table: _Table) -> bool:
    """Whether a table of Go 1.15 or older, which has names among the rest, has those of reading and writing."""
    names = {f"{PACKAGE}.(*Conn).{name}\0".encode() for name in ("Read", "Write")}
    found = elf.view.find(list(names), table.offset, table.end - table.offset)
    return {needle for _, needle in found} == names


def _name_offsets(elf: ElfFile, table: _Table) -> dict[str, int]:
    """The offsets in the name table of the functions of each package that can both read and write."""
    start, length = table.offset + table.names, table.names_end - table.names
    packages = {PACKAGE}
    for hit, _ in elf.view.find(_OF_COPIES, start, length):
        before = max(start, hit - _MAX_PACKAGE_BYTES)
        packages.add(elf.view.read(before, hit - before).rpartition(b"\0")[2].decode("latin-1"))
    names = [f"{package}.{function}" for package in sorted(packages) for function in GO_FUNCTIONS]
    needles = {b"\0" + name.encode("latin-1") + b"\0": name for name in names}
    found = {
        needles[needle]: offset + 1 - start for offset, needle in elf.view.find(list(needles), start, length)
    }
    whole = tuple(f"{p}." for p in packages if {f"{p}.(*Conn).Read", f"{p}.(*Conn).Write"} <= set(found))
    return {name: found[name] for name in names if name in found and name.startswith(whole)}


def _functions(elf: ElfFile, table: _Table, offsets: dict[str, int]) -> list[Symbol]:
    """Addresses and sizes, by the function table: (entry, offset of the function's record) and an end."""
    wide = table.magic == _MAGIC_16
    start = table.offset + table.functions
    width = 16 if wide else 8
    entries = array("Q" if wide else "I", elf.view.read(start, (table.number * 2 + 1) * (width // 2)))
    starts, records = entries[::2], entries[1::2]
    # A record begins with its entry (a pointer to 1.17, then 32 bits), then the name's offset.
    name_place = 8 if wide else 4
    needles = {struct.pack("<I", offset): name for name, offset in offsets.items()}
    found: dict[str, Symbol] = {}
    for hit, needle in elf.view.find(list(needles), start, table.end - start):
        try:
            index = records.index(hit - name_place - start)
        except (ValueError, OverflowError):
            continue
        name = needles[needle]
        size = starts[index + 1] - starts[index]
        found.setdefault(name, Symbol(name, (0 if wide else table.text) + starts[index], size))
    return [found[name] for name in offsets if name in found]


def _text_starts(elf: ElfFile, table: _Table) -> Iterator[int]:
    """Where function entries may count from; the right one is known by the functions found there.

    The header says it up to Go 1.25; later only runtime.moduledata does, or the section if Go linked alone.
    """
    if table.text or table.magic == _MAGIC_16:
        yield table.text
    section = elf.section(".text")
    if section:
        yield section.address
    for place in elf.pointers_to(table.address):
        text = elf.pointer_at(place + 8 * _MODULE_TEXT_WORD)
        if text:
            yield text


# The code


def _checks_stack(elf: ElfFile, function: Symbol) -> bool:
    code = elf.read_at(function.address, _PROLOGUE_BYTES)
    return elf.is_code(function.address) and _STACK_CHECK[elf.machine].search(code) is not None


def _only_jumps(elf: ElfFile, function: Symbol, others: list[Symbol]) -> bool:
    """Whether it is a method that a struct has of an embedded one, and only goes on to that: Go 1.18 makes such ones
    for shared libraries of amd64, without a stack of their own.
    """
    if elf.machine != X86_64 or function.size > _MAX_WRAPPER_BYTES:
        return False
    body = x86.instructions(elf.read_at(function.address, function.size), function.address)
    leads_to = {i.target for i in body if i.target is not None}
    return len(leads_to) == 1 and leads_to <= {other.address for other in others if other is not function}


def _sites(elf: ElfFile, version: str | None, functions: list[Symbol]) -> GoTls:
    sites, notes = [], []
    for function in functions:
        # Its size is what the file says: nothing is decoded of one that is too long.
        places = _places(elf, function) if 0 < function.size <= MAX_FUNCTION_BYTES else None
        offset = elf.offset_of(places[0]) if places else None
        if places is None or offset is None:
            notes.append(f"{function.name} can't be decoded")
            continue
        entry, returns = places
        call = GO_FUNCTIONS[function.name[function.name.rindex(".(") + 1 :]]
        if call is Call.GO_READ and _spills(elf, function):
            call = Call.GO_READ_SPILLED
        returns = [offset - entry + place for place in returns] if call.returns is Returns.EACH_RET else []
        sites.append(ProbeSite(call, function.name, offset, None, tuple(returns)))
    return GoTls(version, tuple(sites), tuple(notes))


def _places(elf: ElfFile, function: Symbol) -> tuple[int, list[int]] | None:
    """Where to probe the function's entry, and its return instructions; None in doubt."""
    code = elf.read_at(function.address, function.size)
    if elf.machine == AARCH64:
        words = range(0, len(code) - 3, 4)
        returns = [function.address + place for place in words if code[place : place + 4] == _AARCH64_RET]
        return function.address, returns
    body = list(x86.instructions(code, function.address))
    if not body or body[-1].end != function.address + function.size:
        return None
    return _entry(function.address, body), [i.address for i in body if i.is_return]


def _spills(elf: ElfFile, function: Symbol) -> bool:
    """Whether connection, buffer and length are put into the caller's room for them, before anything is called, and
    nothing else ever is. Not looked for on arm64.
    """
    if elf.machine != X86_64:
        return False
    code = elf.read_at(function.address, function.size)
    frame, begun = 0, False
    spilled: set[int] = set()
    for i in x86.instructions(code, function.address):
        if i.is_call:
            begun = True
        if i.map == 0 and i.opcode == _PUSH_RBP and not spilled:
            frame += 8
        if (i.map, i.opcode, i.modrm) in _FRAME and i.rex & 8 and not begun and not spilled:
            width = 1 if i.opcode == 0x83 else 4
            place = i.end - function.address - width
            step = int.from_bytes(code[place : place + width], "little", signed=True)
            frame += step if i.modrm == _SUB_RSP else -step
        if not frame or i.displacement - frame not in _ROOM or not _stores_at_rsp(i):
            continue
        if i.vector or (i.map, i.opcode) != (0, 0x89) or i.reg != _ROOM[i.displacement - frame]:
            return False
        if not begun:
            spilled.add(i.reg)
    return spilled == set(_ROOM.values())


def _stores_at_rsp(i: x86.Instruction) -> bool:
    """Whether its operand in memory is at RSP and a displacement, and may be written to."""
    if i.modrm < 0 or i.in_register or i.modrm & 7 != x86.RSP or i.sib != _SIB_RSP:
        return False
    reads = not i.vector and i.map == 0 and i.opcode in _ONLY_READS
    return not reads and not i.is_comparison


def _entry(start: int, body: list[x86.Instruction]) -> int:
    """The branch after the stack check, which the kernel emulates, or else the first byte.

    What is before it touches R12 only, Go's scratch register. Nothing but the restart leads back there.
    """
    for instruction in body:
        if x86.is_emulated(instruction):
            point = instruction.address
            inside = (i.target is not None and start < i.target <= point for i in body)
            return start if any(inside) else point
        in_r12 = instruction.opcode in (0x8D, 0x8B) and instruction.reg == _R12
        if not instruction.is_comparison and (instruction.map or instruction.vector or not in_r12):
            break
    return start


# The version


def _version(elf: ElfFile) -> str | None:
    """Go's version by the build information (debug/buildinfo); None where it was removed."""
    section = elf.section(".go.buildinfo")
    if section is None or section.size < 32:
        return None
    head = elf.view.read(section.offset, min(section.size, 64))
    if not head.startswith(_BUILD_INFO_MAGIC):
        return None
    if head[15] & 2:  # from 1.18: the text follows, after its length
        match = _VERSION.match(head, 33)
    else:
        header = elf.pointer_at(section.address + 16)
        text = elf.pointer_at(header) if header else None
        match = _VERSION.match(elf.read_at(text, 32)) if text else None
    return match[1].decode() if match else None
