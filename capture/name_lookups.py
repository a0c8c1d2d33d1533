"""Where the C library looks up host names: getaddrinfo and gethostbyname, in glibc, musl and static programs.

``gethostbyname`` itself ends in one of the two ``_r`` functions, ``getaddrinfo_a`` in getaddrinfo on a thread of its
own. A C library needs no looking for: every process maps one. Returns are probed on each RET, for threads are
cancelled inside these functions: a uretprobe would stop whoever unwinds the stack. Go and c-ares ask name servers
themselves, and are not seen. A program's own getaddrinfo (Chromium has one) counts as well: it calls the C library's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from capture import x86
from capture.call_shapes import Call, ProbeSite
from capture.elf import AARCH64

if TYPE_CHECKING:
    from capture.elf import ElfFile, Symbol

LIBRARY: Final = "C library"
FUNCTIONS: Final = {
    "getaddrinfo": Call.NAME_ADDRINFO,
    "gethostbyname_r": Call.NAME_HOST,
    "gethostbyname2_r": Call.NAME_HOST2,
}
# glibc's getaddrinfo, with everything inlined, has 9 kB.
MAX_FUNCTION_BYTES: Final = 1 << 16
_AARCH64_RETURN: Final = b"\xc0\x03\x5f\xd6"
# retaa, retab: Linux takes no probe on them.
_AARCH64_REFUSED: Final = (b"\xff\x0b\x5f\xd6", b"\xff\x0f\x5f\xd6")


def find(elf: ElfFile) -> tuple[tuple[ProbeSite, ...], tuple[str, ...]]:
    """The probe sites of a file, and what could not be placed."""
    # A program that is linked with a C library defines none of them itself.
    functions = elf.exported(FUNCTIONS) if elf.needed else elf.functions(FUNCTIONS)
    sites, notes = [], []
    for name, call in FUNCTIONS.items():
        function = functions.get(name)
        if function is None:
            continue
        offset, returns = elf.offset_of(function.address), _returns(elf, function)
        if offset is None or not returns:
            notes.append(f"{name} can't be decoded")
            continue
        shift = offset - function.address
        sites.append(ProbeSite(call, name, offset, None, tuple(shift + place for place in returns)))
    return tuple(sites), tuple(notes)


def _returns(elf: ElfFile, function: Symbol) -> list[int]:
    """The addresses of a function's return instructions; none in doubt."""
    if not 0 < function.size <= MAX_FUNCTION_BYTES:
        return []
    code = elf.read_at(function.address, function.size)
    if elf.machine == AARCH64:
        words = [code[place : place + 4] for place in range(0, len(code), 4)]
        if any(word in _AARCH64_REFUSED for word in words):
            return []
        return [function.address + 4 * number for number, word in enumerate(words) if word == _AARCH64_RETURN]
    body = list(x86.instructions(code, function.address))
    if not body or body[-1].end != function.address + function.size:
        return []
    return [instruction.address for instruction in body if instruction.is_return]
