"""The little of an ELF file that placing probes needs, read without loading the file.

Models the ELF-64 object format (System V gABI, chapters 4 and 5) for x86-64 and AArch64, both little endian.
ELF-32 and foreign machines are recognised and refused with an ElfError that says so. Section headers are used
where they are there and never needed: segments and PT_DYNAMIC describe a stripped file as well.

Symbols are looked up by wanted names only (capture.elf_symbols), and function extents come from the unwind
tables (capture.elf_unwind), so that a 300 MB executable costs what is asked of it and no more.

It must not know which names matter, TLS or probes.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from capture import elf_symbols, elf_unwind
from capture.elf_symbols import Symbol
from capture.elf_unwind import Function
from capture.file_view import ElfError, FileView

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence
    from types import TracebackType

__all__ = ["AARCH64", "X86_64", "ElfError", "ElfFile", "Function", "Section", "Segment", "Symbol"]

X86_64 = 62
AARCH64 = 183
_MACHINE_NAMES = {3: "i386", 8: "MIPS", 20: "PowerPC", 21: "PowerPC64", 22: "S390", 40: "ARM", 243: "RISC-V"}

_ET_EXEC, _ET_DYN = 2, 3
_PT_LOAD, _PT_DYNAMIC = 1, 2
_PF_EXECUTE, _PF_WRITE = 1, 2
_SHT_NOBITS = 8
_RELATIVE = {X86_64: 8, AARCH64: 1027}  # R_X86_64_RELATIVE, R_AARCH64_RELATIVE

_DT_NEEDED, _DT_PLTRELSZ, _DT_STRTAB, _DT_SYMTAB, _DT_RELA, _DT_RELASZ, _DT_JMPREL = 1, 2, 5, 6, 7, 8, 23

_HEADER = struct.Struct("<16sHHIQQQIHHHHHH")
_PROGRAM_HEADER = struct.Struct("<IIQQQQQQ")
_SECTION_HEADER = struct.Struct("<IIQQQQIIQQ")
_RELOCATION = struct.Struct("<QQq")
_DYNAMIC = struct.Struct("<qQ")
_XWORD = struct.Struct("<Q")
_WORD = struct.Struct("<I")

# A C++ symbol can be some kilobytes long; names that probes want are short.
MAX_NAME_BYTES = 4096
# User space ends below this on both machines; computing with addresses stays far from 64 bits.
MAX_ADDRESS = 1 << 62


@dataclass(frozen=True, slots=True)
class Segment:
    """A loaded range (PT_LOAD): ``address`` and file ``offset`` of its first byte, ``size`` in the file."""

    address: int
    offset: int
    size: int
    executable: bool
    writable: bool


@dataclass(frozen=True, slots=True)
class Section:
    """A section header; ``offset`` and ``size`` are in the file."""

    name: str
    kind: int
    address: int
    offset: int
    size: int
    link: int


class ElfFile:
    """One ELF file, open for look-ups. A context manager; every failure is an ElfError.

    ``place`` is where it was found, if ``path`` is a descriptor's: what lies beside it can be opened there.
    """

    def __init__(self, path: str, place: str | None = None) -> None:
        self.path = path
        self.place = path if place is None else place
        self.view = FileView(path)
        try:
            self._read_headers()
        except BaseException:
            self.view.close()
            raise

    def __enter__(self) -> ElfFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.view.close()

    def _read_headers(self) -> None:
        identity = self.view.read(0, min(20, self.view.size))
        if identity[:4] != b"\x7fELF" or len(identity) < 20:
            raise ElfError(self.path, "is not an ELF file")
        machine = int.from_bytes(identity[18:20], "little" if identity[5] == 1 else "big")
        if identity[4:6] != b"\x02\x01" or machine not in _RELATIVE:
            bits = 32 if identity[4] == 1 else 64
            name = _MACHINE_NAMES.get(machine, "x86-64" if machine == X86_64 else f"machine {machine}")
            raise ElfError(
                self.path, f"is a {bits}-bit {name} file, and only x86-64 and AArch64 can be probed"
            )
        header = _HEADER.unpack(self.view.read(0, _HEADER.size))
        self.machine: int = machine
        self.position_independent = header[1] == _ET_DYN
        self._section_table = (header[6], header[11], header[12], header[13])
        entry_size, count = header[9], header[10]
        if entry_size != _PROGRAM_HEADER.size or header[1] not in (_ET_EXEC, _ET_DYN):
            raise ElfError(self.path, "is an ELF file, but no program and no shared library")
        self._program = list(_PROGRAM_HEADER.iter_unpack(self.view.read(header[5], entry_size * count)))
        self.segments: tuple[Segment, ...] = tuple(
            Segment(address, offset, size, bool(flags & _PF_EXECUTE), bool(flags & _PF_WRITE))
            for kind, flags, offset, address, _, size, _, _ in self._program
            if kind == _PT_LOAD
        )
        if any(segment.address + segment.size > MAX_ADDRESS for segment in self.segments):
            raise ElfError(self.path, "is loaded at addresses that no process has")

    def program_ranges(self, kind: int) -> Iterator[tuple[int, int, int]]:
        """(file offset, virtual address, size in the file) of the program headers of one kind."""
        for header_kind, _, offset, address, _, size, _, _ in self._program:
            if header_kind == kind:
                yield offset, address, size

    # Addresses

    def offset_of(self, address: int) -> int | None:
        """The file offset of a virtual address; None where nothing of the file is loaded there."""
        segment = self.segment_at(address)
        return address - segment.address + segment.offset if segment else None

    def address_of(self, offset: int) -> int | None:
        """The virtual address that a file offset is loaded at; None where it isn't."""
        for segment in self.segments:
            if segment.offset <= offset < segment.offset + segment.size:
                return offset - segment.offset + segment.address
        return None

    def is_code(self, address: int) -> bool:
        """Whether the address is in an executable segment."""
        segment = self.segment_at(address)
        return segment is not None and segment.executable

    def segment_at(self, address: int) -> Segment | None:
        """The loaded range around a virtual address; None outside."""
        return next((s for s in self.segments if s.address <= address < s.address + s.size), None)

    def read_at(self, address: int, length: int) -> bytes:
        """Up to ``length`` bytes at a virtual address, fewer at the end of its segment, none outside."""
        segment = self.segment_at(address)
        if segment is None:
            return b""
        start = address - segment.address
        return self.view.read(segment.offset + start, min(length, segment.size - start))

    def read_before(self, address: int, length: int) -> bytes:
        """Up to ``length`` bytes that end at a virtual address, fewer at the start of its segment."""
        segment = self.segment_at(address)
        start = max(address - length, segment.address) if segment else address
        return self.read_at(start, address - start)

    # Sections

    @cached_property
    def sections(self) -> tuple[Section, ...]:
        """The section headers; empty where the file has none or they are cut off (segments still work)."""
        offset, entry_size, count, names_index = self._section_table
        if not offset or not count or entry_size != _SECTION_HEADER.size or names_index >= count:
            return ()
        if offset + entry_size * count > self.view.size:
            return ()
        raw = list(_SECTION_HEADER.iter_unpack(self.view.read(offset, entry_size * count)))
        names = self.view.read(raw[names_index][4], raw[names_index][5])
        return tuple(
            Section(_text(names, name).decode("latin-1"), kind, address, at, size, link)
            for name, kind, _, address, at, size, link, _, _, _ in raw
        )

    def section(self, name: str) -> Section | None:
        """The section of that name with bytes in the file, or None."""
        return next((s for s in self.sections if s.name == name and s.kind != _SHT_NOBITS), None)

    # The dynamic table

    @cached_property
    def _dynamic(self) -> dict[int, list[int]]:
        """Values by tag, in order."""
        table: dict[int, list[int]] = {}
        for offset, _, size in self.program_ranges(_PT_DYNAMIC):
            data = self.view.read(offset, size - size % _DYNAMIC.size)
            for tag, value in _DYNAMIC.iter_unpack(data):
                if tag == 0:
                    break
                table.setdefault(tag, []).append(value)
        return table

    def dynamic_offset(self, tag: int) -> int | None:
        """The file offset of the table that a dynamic tag points at."""
        values = self._dynamic.get(tag)
        return self.offset_of(values[0]) if values else None

    @property
    def needed(self) -> tuple[str, ...]:
        """The names of the libraries that it is linked with (DT_NEEDED)."""
        strings = self.dynamic_offset(_DT_STRTAB)
        if strings is None:
            return ()
        return tuple(
            self.view.read_text(strings + value, MAX_NAME_BYTES).decode("utf-8", "replace")
            for value in self._dynamic.get(_DT_NEEDED, ())
        )

    # Symbols and functions

    def exported(self, names: Collection[str]) -> dict[str, Symbol]:
        """Those of ``names`` that the file defines as functions in its dynamic symbol table."""
        return elf_symbols.exported(self, names)

    def local(self, names: Collection[str]) -> dict[str, Symbol]:
        """Those of ``names`` that .symtab defines as functions; empty in a stripped file."""
        return elf_symbols.local(self, names)

    def local_like(self, parts: Collection[bytes]) -> list[Symbol]:
        """The functions of .symtab with one of ``parts`` in their name."""
        return elf_symbols.local_like(self, parts)

    def functions(self, names: Collection[str]) -> dict[str, Symbol]:
        """Those of ``names`` that it defines, by the dynamic symbol table or else by .symtab."""
        found = self.exported(names)
        missing = [name for name in names if name not in found]
        return self.local(missing) | found if missing else found

    def function_at(self, address: int) -> Function | None:
        """The function around an address, by the unwind tables; None where they don't cover it."""
        found = elf_unwind.entry_at(self, self._unwind, address)
        return found[0] if found else None

    def unwind_entry_at(self, address: int) -> int | None:
        """The address of the entry of the unwind tables that covers an address."""
        found = elf_unwind.entry_at(self, self._unwind, address)
        return found[1] if found else None

    @cached_property
    def _unwind(self) -> elf_unwind.UnwindTable:
        return elf_unwind.read_unwind_table(self)

    # Pointers in data

    @cached_property
    def _relocations(self) -> bytes:
        return self._relocation_table(_DT_RELA, _DT_RELASZ)

    def _relocation_table(self, table: int, size: int) -> bytes:
        """Whole entries of the table that one dynamic tag points at, and another has the size of."""
        offset, sizes = self.dynamic_offset(table), self._dynamic.get(size)
        whole = sizes[0] - sizes[0] % _RELOCATION.size if sizes else 0
        return self.view.read(offset, whole) if offset is not None else b""

    def pointer_at(self, address: int) -> int | None:
        """The pointer that the loader leaves at ``address``, as an unrelocated address; None if it is
        symbolic.

        Where no RELA entry covers the address the file's own bytes count: RELR and fixed-address files.
        """
        if not 0 <= address < MAX_ADDRESS:
            return None
        key = _XWORD.pack(address)
        position = self._relocations.find(key)
        while position >= 0:
            if position % _RELOCATION.size == 0:
                _, info, addend = _RELOCATION.unpack_from(self._relocations, position)
                return int(addend) if info == _RELATIVE[self.machine] else None
            position = self._relocations.find(key, position + 1)
        data = self.read_at(address, 8)
        return _XWORD.unpack(data)[0] if len(data) == 8 else None

    def pointers_to(self, address: int) -> Iterator[int]:
        """Aligned places in writable data that hold this pointer (of a segment) in the loaded program."""
        key = _XWORD.pack(address)
        position = self._relocations.find(key)
        while position >= 0:
            entry = position - position % _RELOCATION.size
            place, info, addend = _RELOCATION.unpack_from(self._relocations, entry)
            if addend == address and info == _RELATIVE[self.machine]:
                yield place
            position = self._relocations.find(key, position + 1)
        for segment in self.segments:
            if segment.writable:
                for offset, _ in self.view.find([key], segment.offset, segment.size):
                    place = offset - segment.offset + segment.address
                    if place % 8 == 0:
                        yield place

    def imports(self, names: Collection[str]) -> frozenset[int]:
        """The places (addresses) where the loader puts pointers to functions of these names from other files."""
        symbols, strings = self.dynamic_offset(_DT_SYMTAB), self.dynamic_offset(_DT_STRTAB)
        if symbols is None or strings is None:
            return frozenset()
        calls = self._relocation_table(_DT_JMPREL, _DT_PLTRELSZ)
        wanted = {name.encode() + b"\0" for name in names}
        longest = max(map(len, wanted), default=0)
        places = set()
        for place, info, _ in _RELOCATION.iter_unpack(self._relocations + calls):
            if number := info >> 32:
                (name,) = _WORD.unpack(self.view.read(symbols + number * elf_symbols.SYMBOL.size, 4))
                text = self.view.read(strings + name, longest)
                if text[: text.find(b"\0") + 1] in wanted:
                    places.add(place)
        return frozenset(places)

    # Searching

    def find_read_only(self, needles: Sequence[bytes]) -> Iterator[tuple[int, bytes]]:
        """(virtual address, needle) of every occurrence in read-only data.

        That has a segment of its own, or is in the code's where a linker makes one of the two.
        """
        read_only = [segment for segment in self.segments if not segment.writable]
        data = [segment for segment in read_only if not segment.executable]
        for segment in data or read_only:
            if segment.size:
                for offset, needle in self.view.find(needles, segment.offset, segment.size):
                    yield offset - segment.offset + segment.address, needle


def _text(strings: bytes, offset: int) -> bytes:
    end = strings.find(b"\0", offset, offset + MAX_NAME_BYTES)
    return strings[offset:end] if end >= 0 else b""
