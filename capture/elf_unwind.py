"""Where functions begin and end, by a file's unwind tables: what remains when symbols are stripped.

Models .eh_frame_hdr, the search table for .eh_frame (Linux Standard Base Core, §10.6), in the one encoding
that linkers write, and .eh_frame itself for static programs, which often have no search table. Compilers
write an entry for every function, and one more for a part that they moved away as cold.
"""

from __future__ import annotations

import struct
from array import array
from bisect import bisect_right
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from capture.elf import ElfFile

_PT_GNU_EH_FRAME = 0x6474E550
_WORD = struct.Struct("<I")


@dataclass(frozen=True, slots=True)
class Function:
    """A function's extent by its unwind entry: virtual addresses, ``end`` exclusive."""

    start: int
    end: int


class UnwindTable(NamedTuple):
    """Ascending function starts and the places of their unwind entries, relative to ``base``."""

    base: int
    starts: array[int]
    entries: array[int]


def read_unwind_table(elf: ElfFile) -> UnwindTable:
    """Function starts and their unwind entries, from .eh_frame_hdr or else from .eh_frame itself."""
    for offset, address, size in elf.program_ranges(_PT_GNU_EH_FRAME):
        if size < 12:
            continue
        # Version 1, eh_frame pointer pcrel sdata4, count udata4, table datarel sdata4.
        if elf.view.read(offset, 4) != b"\x01\x1b\x03\x3b":
            break
        (count,) = _WORD.unpack(elf.view.read(offset + 8, 4))
        table = array("i", elf.view.read(offset + 12, min(count * 8, (size - 12) // 8 * 8)))
        return UnwindTable(address, table[::2], table[1::2])
    return _walk_eh_frame(elf)


def _walk_eh_frame(elf: ElfFile) -> UnwindTable:
    """The same from the entries one by one: static programs often have no search table."""
    section = elf.section(".eh_frame")
    data = elf.view.read(section.offset, section.size) if section else b""
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
    return UnwindTable(section.address if section else 0, array("i", starts), array("i", entries))


def entry_at(elf: ElfFile, table: UnwindTable, address: int) -> tuple[Function, int] | None:
    """The function around an address, and the address of its unwind entry; None where the table doesn't cover it."""
    base, starts, entries = table
    index = bisect_right(starts, address - base) - 1
    if index < 0:
        return None
    start, entry = base + starts[index], base + entries[index]
    record = elf.read_at(entry, 16)
    if len(record) < 16:
        return None
    length, _, begin, extent = struct.unpack("<IIiI", record)
    # pc_begin is pcrel sdata4 in all that compilers write; where it isn't, the two tables disagree.
    if length in (0, 0xFFFFFFFF) or entry + 8 + begin != start or address >= start + extent:
        return None
    return Function(start, start + extent), entry
