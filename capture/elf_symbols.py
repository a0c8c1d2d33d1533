"""Looking functions up by name in an ELF file, without reading its symbol tables whole.

Exported functions are found through the hash table that the loader uses: DT_GNU_HASH (as in glibc's
dl-lookup.c) or the gABI's DT_HASH. .symtab has none: the names are looked for in its string table first, so
that a large table without them is not read. Imports are in the tables too, and count as absent.
"""

from __future__ import annotations

import struct
from array import array
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping

    from capture.elf import ElfFile, Section
    from capture.file_view import FileView

_DT_HASH, _DT_STRTAB, _DT_SYMTAB = 4, 5, 6
_DT_GNU_HASH, _DT_VERSYM = 0x6FFFFEF5, 0x6FFFFFF0
_SHT_SYMTAB = 2
_STT_FUNC = 2
SYMBOL = struct.Struct("<IBBHQQ")
_WORD = struct.Struct("<I")
_XWORD = struct.Struct("<Q")

# From a name to the indexes of the symbols that may have it.
_Candidates: TypeAlias = "Callable[[bytes], Iterator[int]]"

# Hash chains end at a flag bit; a corrupt table could make one endless.
MAX_CHAIN_STEPS = 1 << 12
# Of a mangled name before a part that is looked for, and after it: Rust's have some hundred bytes.
MAX_LIKE_BYTES = 1 << 10


@dataclass(frozen=True, slots=True)
class Symbol:
    """A defined function: virtual ``address`` and ``size`` in bytes (0 where the table doesn't say)."""

    name: str
    address: int
    size: int


def exported(elf: ElfFile, names: Collection[str]) -> dict[str, Symbol]:
    """Those of ``names`` that the file defines as functions in its dynamic symbol table."""
    symbols, strings = elf.dynamic_offset(_DT_SYMTAB), elf.dynamic_offset(_DT_STRTAB)
    if symbols is None or strings is None:
        return {}
    if (table := elf.dynamic_offset(_DT_GNU_HASH)) is not None:
        candidates = _gnu_hash_candidates(elf.view, table)
    elif (table := elf.dynamic_offset(_DT_HASH)) is not None:
        candidates = _sysv_hash_candidates(elf.view, table)
    else:
        return {}
    versions = elf.dynamic_offset(_DT_VERSYM)
    found: dict[str, Symbol] = {}
    for name in names:
        wanted = name.encode() + b"\0"
        for index in candidates(wanted[:-1]):
            entry = elf.view.read(symbols + index * SYMBOL.size, SYMBOL.size)
            text, info, _, section, address, size = SYMBOL.unpack(entry)
            if not section or info & 15 != _STT_FUNC or not elf.is_code(address):
                continue
            if elf.view.read(strings + text, min(len(wanted), elf.view.size - strings - text)) != wanted:
                continue
            symbol = Symbol(name, address, size)
            # Of several versions of a name the default one counts: programs built today bind to it.
            if versions is not None and elf.view.read(versions + index * 2 + 1, 1)[0] & 0x80:
                found.setdefault(name, symbol)
            else:
                found[name] = symbol
                break
    return found


def _gnu_hash_candidates(view: FileView, table: int) -> _Candidates:
    """Symbol indexes by GNU hash: bloom filter, bucket, chain until the low bit."""
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


def _sysv_hash_candidates(view: FileView, table: int) -> _Candidates:
    """Symbol indexes by the gABI's hash table: bucket, then chain until index 0."""
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


def _no_candidates(_: bytes) -> Iterator[int]:
    return iter(())


def local(elf: ElfFile, names: Collection[str]) -> dict[str, Symbol]:
    """Those of ``names`` that .symtab defines as functions; empty in a stripped file.

    The names are looked for in the string table first, so that a large .symtab without them is not read.
    """
    table = _symbol_table(elf)
    if table is None:
        return {}
    strings = elf.sections[table.link]
    wanted: dict[int, str] = {}
    needles = {name.encode() + b"\0": name for name in names}
    for offset, needle in elf.view.find(list(needles), strings.offset, strings.size):
        # Linkers merge tails: a name may be the end of a longer one, with no NUL before it.
        wanted[offset - strings.offset] = needles[needle]
    found: dict[str, Symbol] = {}
    for symbol in _defined(elf, table, wanted):
        found.setdefault(symbol.name, symbol)
    return found


def local_like(elf: ElfFile, parts: Collection[bytes]) -> list[Symbol]:
    """The functions of .symtab with one of ``parts`` in their name, which may be anything around it."""
    table = _symbol_table(elf)
    if table is None:
        return []
    strings = elf.sections[table.link]
    wanted: dict[int, str] = {}
    for offset, _ in elf.view.find(list(parts), strings.offset, strings.size):
        begin = max(offset - MAX_LIKE_BYTES, strings.offset)
        start = begin + elf.view.read(begin, offset - begin).rfind(b"\0") + 1
        name = elf.view.read(start, min(2 * MAX_LIKE_BYTES, strings.offset + strings.size - start))
        wanted[start - strings.offset] = name.split(b"\0", 1)[0].decode("latin-1")
    return list(_defined(elf, table, wanted))


def _symbol_table(elf: ElfFile) -> Section | None:
    table = next((s for s in elf.sections if s.kind == _SHT_SYMTAB), None)
    return table if table is not None and table.link < len(elf.sections) else None


def _defined(elf: ElfFile, table: Section, wanted: Mapping[int, str]) -> Iterator[Symbol]:
    """The functions whose names begin at these places of the string table."""
    width = SYMBOL.size
    whole = table.size - table.size % width
    for offset, chunk in elf.view.chunks(table.offset, whole, 0) if wanted else ():
        # A chunk's size is no multiple of an entry's: begin at the first whole entry, and finish the cut one.
        skip = (table.offset - offset) % width
        usable = chunk[skip : len(chunk) - (len(chunk) - skip) % width]
        cut = offset + skip + len(usable)
        if cut < table.offset + whole:
            usable += elf.view.read(cut, width)
        # The name comes first, in an entry of six words.
        for index, text in enumerate(array("I", usable)[:: width // 4]):
            if text not in wanted:
                continue
            _, info, _, section, address, size = SYMBOL.unpack_from(usable, index * width)
            if section and info & 15 == _STT_FUNC and elf.is_code(address):
                yield Symbol(wanted[text], address, size)
