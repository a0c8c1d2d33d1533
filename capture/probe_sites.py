"""From functions to probe sites: where in the file each is probed, and which cannot be."""

from __future__ import annotations

from typing import TYPE_CHECKING

from capture.call_shapes import ProbeSite, Returns
from capture.probe_points import probe_place

if TYPE_CHECKING:
    from collections.abc import Sequence

    from capture.call_shapes import Call
    from capture.elf import ElfFile, Symbol


def place(
    elf: ElfFile, wanted: Sequence[tuple[Call, Symbol]]
) -> tuple[tuple[ProbeSite, ...], tuple[str, ...]]:
    """The probe sites of functions, and what could not be placed."""
    sites: dict[int, ProbeSite] = {}
    notes = []
    for call, symbol in wanted:
        takes_return = call.returns is Returns.URETPROBE
        found = probe_place(elf, symbol.address, symbol.size, returns=takes_return)
        offset = elf.offset_of(found.entry) if found else None
        if found is None:
            notes.append(f"{symbol.name} begins with instructions that take no probe")
        elif offset is None:
            notes.append(f"{symbol.name} is not in the file's loaded part")
        elif offset not in sites:
            results = tuple(offset - found.entry + address for address in found.returns)
            at_entry = offset if takes_return and not results else None
            sites[offset] = ProbeSite(call, symbol.name, offset, at_entry, results, found.pushed)
        elif sites[offset].call is not call:
            # Linkers can fold equal bodies into one; which function was meant is then unknowable.
            notes.append(f"{symbol.name} shares its code with {sites[offset].symbol} and is not probed")
    return tuple(sites.values()), tuple(notes)
