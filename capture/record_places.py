"""Where a TLS library has the next record that it hands to a function of the program: GnuTLS, mbedTLS, wolfSSL.

Such a library makes no system call of its own; what the program's function does with a record is its affair. But the
session's object tells where the record is, and the library's function that is about to call the program's has that
object as its first argument. So what is found here is that function, and offsets into the object.

The program's function is known by an exported one that sets it, whose code says where in the object it is kept.
Whoever calls what is kept there, of the object that is its own first argument, is the function; the second argument of
that call, as it is computed from the object, is where the record is. GnuTLS keeps records in a queue, whose place
another exported function tells. Exactly one function, or none: in doubt nothing is probed.

x86-64 only. Nothing is an error but an unreadable file (ElfError).
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from capture import x86
from capture.call_shapes import Call
from capture.code_search import CodeSearch
from capture.elf import Function, Symbol
from capture.register_values import Argument, Difference, Sum, Value, Values, Word

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from capture.elf import ElfFile

# Offsets are handed to the kernel side in 16 bits (MAX_OFFSET in bpf/events.h).
MAX_OFFSET = (1 << 16) - 1
# Functions of fewer bytes that only set or hand on.
MAX_SETTER_BYTES = 256
# What may be a load of a 64-bit register, or a call, with a displacement of 32 bits that follows.
_USES = rb"(?:[\x48-\x4f]\x8b[\x80-\xbf]|\xff[\x90-\x97])\x24?"


@dataclass(frozen=True, slots=True)
class Handing:
    """How a library hands records to the program. ``setter`` sets the function, given in ``register``; ``caller`` is
    what calls that, by the name that it has where it has one; ``queue`` gives the address of the records' queue, if
    they are in one, to another function.
    """

    setter: str
    register: int
    caller: str
    queue: str = ""

    @property
    def label(self) -> str:
        """The caller, with the library's name before it, as its exported functions have it."""
        library, name = library_of(self.setter), self.caller.removeprefix("_")
        return name if library_of(name) == library else f"{library}_{name}"

    @property
    def names(self) -> tuple[str, ...]:
        """The functions that are looked for by name."""
        return tuple(filter(None, (self.setter, self.caller, self.queue)))


def library_of(symbol: str) -> str:
    """What a library's names begin with, which is not asked of C++."""
    return symbol.partition("_")[0]


GNUTLS = Handing(
    "gnutls_transport_set_vec_push_function",
    x86.RSI,
    "_gnutls_io_write_flush",
    "gnutls_record_discard_queued",
)
MBEDTLS = Handing("mbedtls_ssl_set_bio", x86.RDX, "mbedtls_ssl_flush_output")
WOLFSSL = Handing("wolfSSL_SSLSetIOSend", x86.RSI, "SendBuffered")


class RecordPlace(NamedTuple):
    """The function that is about to hand on a record, its shape, and where in its object the shape's words are."""

    call: Call
    symbol: Symbol
    offsets: tuple[int, ...]


def find(elf: ElfFile, handing: Handing, functions: Mapping[str, Symbol]) -> RecordPlace | None:
    """The place of a library's records; ``functions`` are those of ``handing.names`` that the file defines."""
    setter, queue = functions.get(handing.setter), functions.get(handing.queue)
    if elf.machine != x86.MACHINE or setter is None or (handing.queue and queue is None):
        return None
    search = CodeSearch(elf)
    kept = _kept_at(search, setter, handing.register)
    if kept is None:
        return None
    named = functions.get(handing.caller)
    suspects = [_extent(search, named)] if named else _users(search, kept)
    found = {
        function: place
        for function in suspects
        if function and (place := _place(search, function, kept, queue))
    }
    # One that another one calls has the same object, and the same record.
    called = {
        i.target
        for function in found
        for i in search.body(function)
        if i.is_call and i.target != function.start
    }
    outer = [function for function in found if function.start not in called]
    if len(outer) != 1:
        return None
    call, offsets = found[outer[0]]
    symbol = Symbol(handing.label, outer[0].start, outer[0].end - outer[0].start)
    return RecordPlace(call, symbol, offsets)


def _extent(search: CodeSearch, symbol: Symbol) -> Function | None:
    function = search.function(symbol.address)
    return function if function and function.start == symbol.address else None


def _short(search: CodeSearch, symbol: Symbol) -> Iterator[tuple[x86.Instruction, Values]]:
    """A short function's instructions, each with what registers hold before it."""
    size = min(symbol.size or MAX_SETTER_BYTES, MAX_SETTER_BYTES)
    code = search.elf.read_at(symbol.address, size)
    return _followed(x86.instructions(code, symbol.address), code)


def _followed(
    instructions: Iterable[x86.Instruction], code: bytes
) -> Iterator[tuple[x86.Instruction, Values]]:
    values, place = Values(), 0
    for instruction in instructions:
        values.reach(instruction.address)
        yield instruction, values
        values.follow(instruction, code[place : place + instruction.length])
        place += instruction.length


def _kept_at(search: CodeSearch, setter: Symbol, register: int) -> int | None:
    """The offset at which a function keeps an argument in the object that is its first."""
    for i, values in _short(search, setter):
        is_store = i.opcode == x86.STORE and not (i.map or i.vector or i.in_register) and i.rex & 8
        if is_store and values.of(i.reg) == Argument(register):
            return _offset(values.address(i))
    return None


def _queue_at(search: CodeSearch, queue: Symbol) -> int | None:
    """The offset in its object of what a function hands to the first that it calls."""
    for i, values in _short(search, queue):
        if i.is_call or i.is_jump:
            return _offset(values.of(x86.RDI))
    return None


def _offset(place: Value | None) -> int | None:
    """How far behind the beginning of the object a place is."""
    is_in_object = isinstance(place, Argument) and place.register == x86.RDI and 0 < place.plus <= MAX_OFFSET
    return place.plus if isinstance(place, Argument) and is_in_object else None


def _users(search: CodeSearch, kept: int) -> list[Function]:
    """Functions that use what is at that offset of something."""
    pattern = re.compile(_USES + re.escape(struct.pack("<i", kept)), re.DOTALL)
    found = {
        function
        for start, code in search.code_pieces()
        for match in pattern.finditer(code)
        if (function := search.elf.function_at(start + match.start()))
    }
    return sorted(found, key=lambda function: function.start)


def _place(
    search: CodeSearch, function: Function, kept: int, queue: Symbol | None
) -> tuple[Call, tuple[int, ...]] | None:
    """The shape and the offsets of a function, if it is one that calls what its object keeps."""
    body = search.body(function)
    if not any(i.is_indirect_call or i.leaves for i in body):
        return None
    code = search.elf.read_at(function.start, function.end - function.start)
    for i, values in _followed(body, code):
        if (i.is_indirect_call or i.leaves) and values.operand(i) == Word(Argument(x86.RDI, kept)):
            at = _queue_at(search, queue) if queue else None
            if queue:
                return (Call.RECORD_QUEUED, (at,)) if at is not None else None
            return _words(values.of(x86.RSI))
    return None


def _words(buffer: Value | None) -> tuple[Call, tuple[int, ...]] | None:
    """Which words of the object a record's address is made of."""
    if isinstance(buffer, Difference):
        call, words, sizes = Call.RECORD_BEFORE, tuple(buffer), (8, 8)
    elif isinstance(buffer, Sum):
        call, sizes = Call.RECORD_BEHIND, (8, 4)
        words = tuple(sorted(buffer, key=lambda word: -getattr(word, "size", 0)))
    else:
        return None
    found = [
        _offset(word.place)
        for word, size in zip(words, sizes, strict=True)
        if isinstance(word, Word) and word.size == size
    ]
    offsets = tuple(offset for offset in found if offset is not None)
    return (call, offsets) if len(offsets) == len(sizes) else None
