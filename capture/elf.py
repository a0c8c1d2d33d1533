"""The little of an ELF file that placing probes needs, read without loading the file.

Models the ELF-64 object format (System V gABI, chapters 4 and 5; the GNU hash table as glibc's ld.so reads
it; the Linux Standard Base's .eh_frame_hdr) for x86-64 and AArch64, both little endian. ELF-32 and foreign
machines are recognised and refused with an ElfError that says so. Section headers are used where they are
there and never needed: segments and PT_DYNAMIC describe a stripped file as well.

Look-ups are for wanted names only. Exported ones go through the hash table, a few reads each, so that a
300 MB executable without them costs nothing; .symtab has no hash table and is searched only on request.

It must not know which names matter, TLS or probes.
"""

from __future__ import annotations

import struct
from array import array
from bisect import bisect_right
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from capture.file_view import ElfError, FileView

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Sequence
    from types import TracebackType

__all__ = ["AARCH64", "X86_64", "ElfError", "ElfFile", "Function", "Section", "Segment", "Symbol"]

X86_64 = 62
AARCH64 = 183
_MACHINE_NAMES = {3: "i386", 8: "MIPS", 20: "PowerPC", 21: "PowerPC64", 22: "S390", 40: "ARM", 243: "RISC-V"}

_ET_EXEC, _ET_DYN = 2, 3
_PT_LOAD, _PT_DYNAMIC, _PT_NOTE, _PT_GNU_EH_FRAME = 1, 2, 4, 0x6474E550
_PF_EXECUTE, _PF_WRITE = 1, 2
_SHT_SYMTAB, _SHT_NOBITS = 2, 8
_STT_FUNC = 2
_NT_GNU_BUILD_ID = 3
_RELATIVE = {X86_64: 8, AARCH64: 1027}  # R_X86_64_RELATIVE, R_AARCH64_RELATIVE

_DT_NEEDED, _DT_HASH, _DT_STRTAB, _DT_SYMTAB, _DT_RELA, _DT_RELASZ, _DT_SONAME = 1, 4, 5, 6, 7, 8, 14
_DT_GNU_HASH, _DT_VERSYM = 0x6FFFFEF5, 0x6FFFFFF0

_HEADER = struct.Struct("<16sHHIQQQIHHHHHH")
_PROGRAM_HEADER = struct.Struct("<IIQQQQQQ")
_SECTION_HEADER = struct.Struct("<IIQQQQIIQQ")
_SYMBOL = struct.Struct("<IBBHQQ")
_RELOCATION = struct.Struct("<QQq")
_DYNAMIC = struct.Struct("<qQ")
_NOTE = struct.Struct("<III")
_WORD = struct.Struct("<I")
_XWORD = struct.Struct("<Q")

# From a name to the indexes of the symbols that may have it.
_Candidates: TypeAlias = "Callable[[bytes], Iterator[int]]"

# A C++ symbol can be some kilobytes long; names that probes want are short.
MAX_NAME_BYTES = 4096
# Hash chains end at a flag bit; a corrupt table could make one endless.
MAX_CHAIN_STEPS = 1 << 12


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


@dataclass(frozen=True, slots=True)
class Symbol:
    """A defined function: virtual ``address`` and ``size`` in bytes (0 where the table doesn't say)."""

    name: str
    address: int
    size: int


@dataclass(frozen=True, slots=True)
class Function:
    """A function's extent by its unwind entry: virtual addresses, ``end`` exclusive."""

    start: int
    end: int


class _Unwind(NamedTuple):
    """Ascending function starts and the places of their unwind entries, relative to ``base``."""

    base: int
    starts: array[int]
    entries: array[int]


class ElfFile:
    """One ELF file, open for look-ups. A context manager; every failure is an ElfError."""

    def __init__(self, path: str) -> None:
        self.path = path
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

    @cached_property
    def build_id(self) -> str | None:
        """The GNU build ID in lower-case hex, or None."""
        for kind, _, offset, _, _, size, _, _ in self._program:
            if kind != _PT_NOTE or size > MAX_NAME_BYTES * 16:
                continue
            notes, position = self.view.read(offset, size), 0
            while position + _NOTE.size <= size:
                name_size, value_size, note = _NOTE.unpack_from(notes, position)
                value = position + _NOTE.size + (name_size + 3 & ~3)
                if note == _NT_GNU_BUILD_ID and notes[position + 12 : position + 16] == b"GNU\0":
                    return notes[value : value + value_size].hex()
                position = value + (value_size + 3 & ~3)
        return None

    # The dynamic table

    @cached_property
    def _dynamic(self) -> dict[int, list[int]]:
        """Values by tag, in order."""
        table: dict[int, list[int]] = {}
        for kind, _, offset, _, _, size, _, _ in self._program:
            if kind != _PT_DYNAMIC:
                continue
            data = self.view.read(offset, size - size % _DYNAMIC.size)
            for tag, value in _DYNAMIC.iter_unpack(data):
                if tag == 0:
                    break
                table.setdefault(tag, []).append(value)
        return table

    def _dynamic_offset(self, tag: int) -> int | None:
        """The file offset of the table that a dynamic tag points at."""
        values = self._dynamic.get(tag)
        return self.offset_of(values[0]) if values else None

    def _dynamic_texts(self, tag: int) -> tuple[str, ...]:
        strings = self._dynamic_offset(_DT_STRTAB)
        if strings is None:
            return ()
        return tuple(
            self.view.read_text(strings + value, MAX_NAME_BYTES).decode("utf-8", "replace")
            for value in self._dynamic.get(tag, ())
        )

    @property
    def needed(self) -> tuple[str, ...]:
        """The names of the libraries that it is linked with (DT_NEEDED)."""
        return self._dynamic_texts(_DT_NEEDED)

    @property
    def soname(self) -> str | None:
        """Its own library name (DT_SONAME), or None."""
        return next(iter(self._dynamic_texts(_DT_SONAME)), None)

    # Symbols

    def exported(self, names: Collection[str]) -> dict[str, Symbol]:
        """Those of ``names`` that the file defines as functions in its dynamic symbol table."""
        symbols, strings = self._dynamic_offset(_DT_SYMTAB), self._dynamic_offset(_DT_STRTAB)
        if symbols is None or strings is None:
            return {}
        if (table := self._dynamic_offset(_DT_GNU_HASH)) is not None:
            candidates = self._gnu_hash_candidates(table)
        elif (table := self._dynamic_offset(_DT_HASH)) is not None:
            candidates = self._sysv_hash_candidates(table)
        else:
            return {}
        versions = self._dynamic_offset(_DT_VERSYM)
        found: dict[str, Symbol] = {}
        for name in names:
            wanted = name.encode() + b"\0"
            for index in candidates(wanted[:-1]):
                entry = self.view.read(symbols + index * _SYMBOL.size, _SYMBOL.size)
                text, info, _, section, address, size = _SYMBOL.unpack(entry)
                if not section or info & 15 != _STT_FUNC or not self.is_code(address):
                    continue
                if (
                    self.view.read(strings + text, min(len(wanted), self.view.size - strings - text))
                    != wanted
                ):
                    continue
                symbol = Symbol(name, address, size)
                # Of several versions of a name the default one counts: programs built today bind to it.
                if versions is not None and self.view.read(versions + index * 2 + 1, 1)[0] & 0x80:
                    found.setdefault(name, symbol)
                else:
                    found[name] = symbol
                    break
        return found

    def _gnu_hash_candidates(self, table: int) -> _Candidates:
        """Symbol indexes by GNU hash: bloom filter, bucket, chain until the low bit."""
        view = self.view
        buckets, first, bloom_words, shift = struct.unpack("<4I", view.read(table, 16))
        if not buckets or not bloom_words:
            return _no_candidates
        bucket_at = table + 16 + bloom_words * 8
        chain_at = bucket_at + buckets * 4

        def candidates(name: bytes) -> Iterator[int]:
            value = 5381
            for byte in name:
                value = value * 33 + byte & 0xFFFFFFFF
            (bloom,) = _XWORD.unpack(view.read(table + 16 + (value // 64 % bloom_words) * 8, 8))
            if not bloom >> value % 64 & bloom >> (value >> shift) % 64 & 1:
                return
            (index,) = _WORD.unpack(view.read(bucket_at + value % buckets * 4, 4))
            for _ in range(MAX_CHAIN_STEPS if index >= first else 0):
                (chained,) = _WORD.unpack(view.read(chain_at + (index - first) * 4, 4))
                if chained | 1 == value | 1:
                    yield index
                if chained & 1:
                    return
                index += 1

        return candidates

    def _sysv_hash_candidates(self, table: int) -> _Candidates:
        """Symbol indexes by the gABI's hash table: bucket, then chain until index 0."""
        view = self.view
        buckets, _ = struct.unpack("<2I", view.read(table, 8))
        if not buckets:
            return _no_candidates

        def candidates(name: bytes) -> Iterator[int]:
            value = 0
            for byte in name:
                value = (value << 4) + byte
                value ^= value >> 24 & 0xF0
                value &= 0x0FFFFFFF
            (index,) = _WORD.unpack(view.read(table + 8 + value % buckets * 4, 4))
            for _ in range(MAX_CHAIN_STEPS):
                if not index:
                    return
                yield index
                (index,) = _WORD.unpack(view.read(table + 8 + (buckets + index) * 4, 4))

        return candidates

    def local(self, names: Collection[str]) -> dict[str, Symbol]:
        """Those of ``names`` that .symtab defines as functions; empty in a stripped file.

        The names are looked for in the string table first, so that a large .symtab without them is not read.
        """
        table = next((s for s in self.sections if s.kind == _SHT_SYMTAB), None)
        if table is None or table.link >= len(self.sections):
            return {}
        strings = self.sections[table.link]
        wanted: dict[int, str] = {}
        needles = {name.encode() + b"\0": name for name in names}
        for offset, needle in self.view.find(list(needles), strings.offset, strings.size):
            # Linkers merge tails: a name may be the end of a longer one, with no NUL before it.
            wanted[offset - strings.offset] = needles[needle]
        found: dict[str, Symbol] = {}
        for offset, chunk in self.view.chunks(table.offset, table.size // 24 * 24, 0) if wanted else ():
            # Chunks are no multiple of 24 bytes: begin at the first whole entry, and finish the cut one.
            skip = (table.offset - offset) % 24
            usable = chunk[skip : skip + (len(chunk) - skip) // 24 * 24]
            cut = offset + skip + len(usable)
            if cut < table.offset + table.size // 24 * 24:
                usable += self.view.read(cut, 24)
            for index, text in enumerate(array("I", usable)[::6]):
                if text not in wanted:
                    continue
                _, info, _, section, address, size = _SYMBOL.unpack_from(usable, index * 24)
                if section and info & 15 == _STT_FUNC and self.is_code(address):
                    found.setdefault(wanted[text], Symbol(wanted[text], address, size))
        return found

    def functions(self, names: Collection[str]) -> dict[str, Symbol]:
        """Those of ``names`` that it defines, by the dynamic symbol table or else by .symtab."""
        found = self.exported(names)
        missing = [name for name in names if name not in found]
        return self.local(missing) | found if missing else found

    # Pointers in data

    @cached_property
    def _relocations(self) -> bytes:
        offset, sizes = self._dynamic_offset(_DT_RELA), self._dynamic.get(_DT_RELASZ)
        return self.view.read(offset, sizes[0]) if offset is not None and sizes else b""

    def pointer_at(self, address: int) -> int | None:
        """The pointer that the loader leaves at ``address``, as an unrelocated address; None if it is
        symbolic.

        Where no RELA entry covers the address the file's own bytes count: RELR and fixed-address files.
        """
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
        """Aligned places in writable data that hold this pointer when the program is loaded."""
        key = _XWORD.pack(address)
        position = self._relocations.find(key)
        while position >= 0:
            place, info, addend = _RELOCATION.unpack_from(self._relocations, position // 24 * 24)
            if addend == address and info == _RELATIVE[self.machine]:
                yield place
            position = self._relocations.find(key, position + 1)
        for segment in self.segments:
            if segment.writable:
                for offset, _ in self.view.find([key], segment.offset, segment.size):
                    place = offset - segment.offset + segment.address
                    if place % 8 == 0:
                        yield place

    # Unwind table

    @cached_property
    def _unwind(self) -> _Unwind:
        """Function starts and their unwind entries, from .eh_frame_hdr or else from .eh_frame itself."""
        for kind, _, offset, address, _, size, _, _ in self._program:
            if kind != _PT_GNU_EH_FRAME or size < 12:
                continue
            # Version 1, eh_frame pointer pcrel sdata4, count udata4, table datarel sdata4: what linkers
            # write.
            if self.view.read(offset, 4) != b"\x01\x1b\x03\x3b":
                break
            (count,) = _WORD.unpack(self.view.read(offset + 8, 4))
            table = array("i", self.view.read(offset + 12, min(count * 8, (size - 12) // 8 * 8)))
            return _Unwind(address, table[::2], table[1::2])
        return self._walk_eh_frame()

    def _walk_eh_frame(self) -> _Unwind:
        """The same from the entries one by one: static programs often have no search table."""
        section = self.section(".eh_frame")
        data = self.view.read(section.offset, section.size) if section else b""
        found, position = [], 0
        while section and position + 12 <= len(data):
            length, parent, begin = struct.unpack_from("<IIi", data, position)
            if length == 0xFFFFFFFF:
                break
            if length and parent and abs(position + 8 + begin) < 1 << 31:
                found.append((position + 8 + begin, position))
            position += 4 + length
        found.sort()
        starts, entries = (array("i", column) for column in zip(*found, strict=True)) if found else ((), ())
        return _Unwind(section.address if section else 0, array("i", starts), array("i", entries))

    def function_at(self, address: int) -> Function | None:
        """The function around an address, by .eh_frame_hdr; None where that doesn't cover it."""
        base, starts, entries = self._unwind
        index = bisect_right(starts, address - base) - 1
        if index < 0:
            return None
        start, entry = base + starts[index], base + entries[index]
        record = self.read_at(entry, 16)
        if len(record) < 16:
            return None
        length, _, begin, extent = struct.unpack("<IIiI", record)
        # pc_begin is pcrel sdata4 in all that compilers write; where it isn't, the two tables disagree.
        if length in (0, 0xFFFFFFFF) or entry + 8 + begin != start or address >= start + extent:
            return None
        return Function(start, start + extent)

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


def _no_candidates(_: bytes) -> Iterator[int]:
    return iter(())
