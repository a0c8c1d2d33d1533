"""Searching x86-64 code without symbols: what mentions a string, what calls a function, where functions
begin.

Error reporting gives functions away. A library's macro passes its source file's name, a line and a code to
one function for every error, so that near a reference to the string "ssl/ssl_lib.cc" there is ``mov edx,
REASON`` and ``mov r8d, LINE`` (or what ErrorArguments says instead). What such sites say together identifies
a function as surely as a name (capture.boringssl, capture.openssl_static).

Function starts come from the unwind tables where they cover, and otherwise from the code itself: an aligned
prologue after padding, from which decoding arrives at an end behind the instruction in question.

Everything here is a search that can fail, and nothing is an error but an unreadable file (ElfError).
"""

from __future__ import annotations

import re
import struct
from typing import TYPE_CHECKING, NamedTuple

from capture import x86
from capture.elf import ElfFile, Function

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

# lea r64, [rip + rel32] from its second byte, which is what is rarest of it; the first is one of _LEA_PREFIXES.
_LEA = rb"\x8d(?=[\x05\x0d\x15\x1d\x25\x2d\x35\x3d]%s)"
_ANY_LEA = re.compile(_LEA % rb"....", re.DOTALL)
_LEA_PREFIXES = b"\x48\x4c"
_CALL_OR_JUMP = re.compile(rb"[\xe8\xe9](?=(....))", re.DOTALL)
_CONDITIONAL_JUMP = re.compile(rb"\x0f[\x80-\x8f](?=(....))", re.DOTALL)
# What functions begin with: endbr64, push of a register, sub rsp.
_PROLOGUE = re.compile(rb"\xf3\x0f\x1e\xfa|[\x50-\x57]|\x41[\x50-\x57]|\x48[\x81\x83]\xec", re.DOTALL)

_PRINTABLE_END = re.compile(rb"[\x20-\x7e]*$")
MAX_BUILD_PATH_BYTES = 512
# Where all code is searched, it is in pieces of this size.
PIECE_BYTES = 1 << 20
# In so much code LEAs are told apart before they are looked at, by so many upper halves of distances at most.
MIN_PICKY_BYTES = 1 << 18
MAX_PICKY_HALVES = 1024
# An error call's arguments are set within this distance of the file name's (longest encodings, and some code
# that the compiler moves in between).
NEAR_BYTES = 48
# The longest function that is considered where no unwind entry tells.
MAX_FUNCTION_BYTES = 8192
ALIGNMENT = 16


class ErrorArguments(NamedTuple):
    """What begins the instructions that load a reason and a line for the function that takes errors."""

    reason: bytes
    line: bytes

    def loads_reason(self, reason: int) -> bytes:
        """The instruction that loads this one."""
        return self.reason + struct.pack("<I", reason)


# ERR_put_error(library, unused, reason, file, line): mov edx, REASON and mov r8d, LINE.
ALL_ARGUMENTS = ErrorArguments(b"\xba", b"\x41\xb8")
# Where the whole program is linked as one, the argument that is not used is dropped: mov esi, REASON and mov ecx, LINE.
WITHOUT_UNUSED = ErrorArguments(b"\xbe", b"\xb9")


class ErrorSite(NamedTuple):
    """A reference to a source file's name, with the reason and line passed beside it (None: not seen)."""

    address: int
    reason: int | None
    line: int | None


class CodeSearch:
    """Searches in one open file; what was found out about function extents is kept for the next question."""

    def __init__(self, elf: ElfFile, arguments: ErrorArguments = ALL_ARGUMENTS) -> None:
        self.elf = elf
        self.arguments = arguments
        self._patterns = [re.compile(re.escape(load) + rb"(..)\0\0", re.DOTALL) for load in arguments]
        self._extents: dict[int, Function | None] = {}
        self._strings: dict[tuple[bytes, ...], frozenset[int]] = {}

    def taking(self, arguments: ErrorArguments) -> CodeSearch:
        """The same, where errors are told by other arguments; what was found out is shared."""
        search = CodeSearch(self.elf, arguments)
        search._extents, search._strings = self._extents, self._strings
        return search

    # Strings and what refers to them

    def strings(self, *endings: bytes) -> frozenset[int]:
        """The addresses of the NUL-terminated strings that end so (file names have build paths before).

        Where a string follows other data with no NUL between, it begins with its first printable character.
        """
        if endings in self._strings:
            return self._strings[endings]
        found = set()
        for address, _ in self.elf.find_read_only([ending + b"\0" for ending in endings]):
            before = self.elf.read_before(address, MAX_BUILD_PATH_BYTES)
            path = _PRINTABLE_END.search(before)
            found.add(address - (len(path[0]) if path else 0))
            found.add(address - (len(before) - before.rfind(b"\0") - 1))
        self._strings[endings] = frozenset(found)
        return self._strings[endings]

    def references(self, start: int, code: bytes, targets: Collection[int]) -> list[int]:
        """Addresses in ``code``, loaded at ``start``, that form one of the target addresses."""
        found = []
        for match in _lea(start, len(code), targets).finditer(code, 1):
            opcode = match.start()
            if (
                start + opcode + 6 + struct.unpack_from("<i", code, opcode + 2)[0] in targets
                and code[opcode - 1] in _LEA_PREFIXES
            ):
                found.append(start + opcode - 1)
        if not self.elf.position_independent:
            for target in targets:
                found += (start + at for at in _immediates(code, target))
        return sorted(found)

    def error_sites(self, start: int, end: int, names: Collection[int]) -> list[ErrorSite]:
        """The error sites between two addresses that name one of the files (addresses of their names)."""
        low = start - len(self.elf.read_before(start, NEAR_BYTES))
        code = self.elf.read_at(low, end + NEAR_BYTES - low)
        sites = []
        for address in self.references(low, code, names):
            if start <= address < end:
                place = address - low
                reason, line = (argument(pattern, code, place) for pattern in self._patterns)
                sites.append(ErrorSite(address, reason, line))
        return sites

    def code_hits(self, needle: bytes, start: int = 0, end: int = 1 << 64) -> Iterator[int]:
        """The addresses of a byte sequence in executable segments, between two addresses."""
        for segment in self.elf.segments:
            low = max(start, segment.address)
            size = min(end, segment.address + segment.size) - low
            if segment.executable and size > 0:
                shift = segment.address - segment.offset
                for offset, _ in self.elf.view.find([needle], low - shift, size):
                    yield offset + shift

    def code_pieces(self) -> Iterator[tuple[int, bytes]]:
        """(address, code) over all executable segments, in pieces that overlap by twice NEAR_BYTES."""
        for segment in self.elf.segments:
            if segment.executable:
                for start in range(segment.address, segment.address + segment.size, PIECE_BYTES):
                    yield start, self.elf.read_at(start, PIECE_BYTES + 2 * NEAR_BYTES)

    def callers(self, target: int, distance: int) -> list[int]:
        """The addresses of the direct calls and jumps to ``target`` from within ``distance`` bytes of it."""
        before = self.elf.read_before(target, distance)
        start, code = target - len(before), before + self.elf.read_at(target, distance)
        return [
            start + match.start()
            for match in _CALL_OR_JUMP.finditer(code)
            if start + match.start() + 5 + struct.unpack("<i", match[1])[0] == target
        ]

    # Functions

    def function(self, address: int) -> Function | None:
        """The function around an address, by the unwind table or else by its code; None if unknown."""
        return self.elf.function_at(address) or self._guess(address)

    def body(self, function: Function) -> list[x86.Instruction]:
        """A function's instructions, up to the first that can't be decoded."""
        code = self.elf.read_at(function.start, function.end - function.start)
        return list(x86.instructions(code, function.start))

    def owners(self, functions: Collection[Function]) -> dict[Function, set[Function]]:
        """For parts that the compiler moved away as cold, the functions they belong to; for others themselves.

        A part has an unwind entry of its own, and conditional jumps lead into it from its function; into a
        function nothing jumps so. What is aligned and begins like a function is none.
        """
        suspects = [
            function
            for function in functions
            if function.start % ALIGNMENT or not _PROLOGUE.match(self.elf.read_at(function.start, 4))
        ]
        found = self._jumping_into(suspects) if suspects else {}
        return {function: found.get(function) or {function} for function in functions}

    def _jumping_into(self, parts: list[Function]) -> dict[Function, set[Function]]:
        found: dict[Function, set[Function]] = {}
        low, high = min(part.start for part in parts), max(part.end for part in parts)
        for start, code in self.code_pieces():
            for match in _CONDITIONAL_JUMP.finditer(code):
                place = start + match.start()
                target = place + 6 + struct.unpack("<i", match[1])[0]
                if not low <= target < high:
                    continue
                for part in parts:
                    if part.start <= target < part.end and not part.start <= place < part.end:
                        owner = self.function(place)
                        found.setdefault(part, set()).update({owner} if owner else ())
        return found

    def called_function(self, target: int) -> Function | None:
        """The function that a direct call to ``target`` proves to begin there; None if its end is unknown."""
        unwound = self.elf.function_at(target)
        if unwound:
            return unwound if unwound.start == target else None
        return self._extent(target) if self.elf.is_code(target) else None

    def _guess(self, address: int) -> Function | None:
        """Back to the nearest aligned prologue after padding whose code contains the address."""
        aligned = address & -ALIGNMENT
        code = self.elf.read_before(aligned, MAX_FUNCTION_BYTES) + self.elf.read_at(aligned, 4)
        # Back from the last 4 bytes in steps; what is before each start must be in view as well.
        for place in range(len(code) - 4, ALIGNMENT - 1, -ALIGNMENT):
            start = aligned - (len(code) - 4 - place)
            if _PROLOGUE.match(code, place) and _is_boundary(code[place - ALIGNMENT : place]):
                function = self._extent(start)
                if function and address < function.end:
                    return function
        return None

    def _extent(self, start: int) -> Function | None:
        if start not in self._extents:
            self._extents[start] = _decoded_extent(self.elf, start)
        return self._extents[start]


def _lea(start: int, length: int, targets: Collection[int]) -> re.Pattern[bytes]:
    """What matches all LEAs of the targets in so much code, and few others: by the upper half of their distance.

    In half a gigabyte of code there are millions; to look at each in turn takes seconds.
    """
    halves = (
        {
            upper & 0xFFFF
            for target in targets
            for upper in range((target - start - length) >> 16, ((target - start) >> 16) + 1)
        }
        if length >= MIN_PICKY_BYTES
        else set()
    )
    if not 0 < len(halves) <= MAX_PICKY_HALVES:
        return _ANY_LEA
    by_highest: dict[int, list[int]] = {}
    for half in sorted(halves):
        by_highest.setdefault(half >> 8, []).append(half & 0xFF)
    ends = [b"[%s]%s" % (re.escape(bytes(low)), re.escape(bytes([high]))) for high, low in by_highest.items()]
    return re.compile(_LEA % (rb"..(?:" + b"|".join(ends) + rb")"), re.DOTALL)


def _immediates(code: bytes, target: int) -> Iterator[int]:
    """Positions of ``mov r32, target`` in code that is linked at fixed addresses."""
    packed = struct.pack("<I", target) if target < 1 << 32 else b""
    place = code.find(packed, 1) if packed else -1
    while place > 0:
        if 0xB8 <= code[place - 1] <= 0xBF:
            yield place - 1
        place = code.find(packed, place + 1)


def argument(pattern: re.Pattern[bytes], code: bytes, place: int) -> int | None:
    """The number in group 1 that the call whose arguments are set around ``place`` is given; None if not seen.

    What is set last on the way from ``place`` to the call, or to a jump to it, counts; else what is set nearest,
    within NEAR_BYTES.
    """
    behind = list(pattern.finditer(code, place, _straight_until(code, place)))
    if behind:
        return int.from_bytes(behind[-1][1], "little")
    matches = pattern.finditer(code, max(0, place - NEAR_BYTES), place + NEAR_BYTES)
    closest = min(matches, key=lambda match: abs(match.start() - place), default=None)
    return int.from_bytes(closest[1], "little") if closest else None


def _straight_until(code: bytes, place: int) -> int:
    """Where the first call, jump or return is at or behind the instruction at ``place``, NEAR_BYTES away at most."""
    instruction = None
    for instruction in x86.instructions(code[place : place + NEAR_BYTES], place):
        if instruction.is_call or instruction.is_conditional_jump or _ends_flow(instruction):
            return instruction.address
    return instruction.end if instruction else place


def _is_boundary(before: bytes) -> bool:
    """Whether bytes that end here end a function: padding, a return or a jump."""
    return (
        before[-1] in (0xCC, 0x90, 0xC3)
        or before[-5] in (0xE8, 0xE9)
        or before[-2] == 0xEB
        or before[-2:] == b"\x0f\x0b"
        or re.search(rb"\x66*\x2e?\x0f\x1f[\x00\x40\x44\x80\x84]\0{0,5}$", before) is not None
    )


def _decoded_extent(elf: ElfFile, start: int) -> Function | None:
    """From ``start`` to the first instruction that nothing goes past: by following forward branches."""
    furthest, after_call = start, False
    code = elf.read_at(start, MAX_FUNCTION_BYTES)
    for instruction in x86.instructions(code, start):
        if instruction.address > furthest and after_call and instruction.is_no_operation:
            return Function(start, instruction.address)  # padding after a call that doesn't return
        target = instruction.target
        if target is not None and not instruction.is_call and target < start + MAX_FUNCTION_BYTES:
            furthest = max(furthest, target)
        if _ends_flow(instruction) and instruction.end > furthest:
            return Function(start, instruction.end)
        after_call = instruction.is_call
    return None


def _ends_flow(instruction: x86.Instruction) -> bool:
    if instruction.vector:
        return False
    if instruction.map == 1:
        return instruction.opcode == 0x0B  # ud2
    return instruction.map == 0 and (
        instruction.is_return
        or instruction.is_jump
        or instruction.opcode in (0xCC, 0xF4)
        or (instruction.opcode == 0xFF and instruction.modrm >> 3 & 7 == 4)
    )
