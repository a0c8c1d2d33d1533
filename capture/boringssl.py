"""Find BoringSSL's functions in a program that has it inside and no symbols: Chromium, Bun, grpcio and kin.

x86-64 only, by what its error sites say (capture.code_search), which are compiled in one of two ways. In BoringSSL's
ssl_lib.cc:

- SSL_write alone reports UNINITIALIZED (226), SSL_HANDSHAKE_FAILURE (215) and BAD_LENGTH (111).
- ssl_read_impl reports 226 and 215 without 111. Trees from before BAD_LENGTH moved there have two functions
  with 226 and 215, of which SSL_write's lines are the later ones.
- SSL_read is the short caller of ssl_read_impl that takes the bytes: a field of the connection's that it
  loads it also stores. SSL_peek, the other short caller, stores none; SSL_shutdown reports errors of its own.
  Before 2017 ssl_read_impl took the bytes itself, and was told by its fourth argument to only peek: SSL_read
  is then the caller that clears that register and jumps.
- SSL_do_handshake is called by SSL_write and reports CONNECTION_TYPE_NOT_SET (134).

Where the whole program is optimised at once (profiles and ThinLTO, as browsers are released), SSL_read and
ssl_read_impl are put into their callers, in whole or in part. What is left is tls_open_app_data, in s3_pkt.cc, which
opens a record: it alone reports UNEXPECTED_RECORD (225) and TOO_MUCH_READ_EARLY_DATA (300). It is taken where there
is no one SSL_read.

A fork (wreq's) writes through a function of its own, with vectors, and never calls SSL_write. What it calls
is known by OUTPUT_ALIASES_INPUT (189) in s3_pkt.cc, which reports that nowhere else.

In bio.cc BIO_read is the first function that reports UNSUPPORTED_METHOD (115) and UNINITIALIZED (114).
BIO_write, or the BIO_write_ex that it calls, reports the same and uses a lower slot of the method table,
which is {[type, name,] bwrite, [bwrite_ex,] bread, [bputs,] bgets, ...}. Compilers inline BIO_write_ex into
its callers; these have the same first arguments, and all are taken: what probes look for there, the header
of a TLS record, is elsewhere only by a miracle. Before 2017 one function did both, told by its fourth argument where
the table's entry is; it is then the only one that reports the two, and is taken for BIO_write.

Any other function is named only where exactly one candidate is left and it begins as functions do. What reads
and SSL_write are found both or not at all.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from capture.call_shapes import Call
from capture.elf import Symbol

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from capture.code_search import CodeSearch, ErrorSite
    from capture.elf import Function
    from capture.x86 import Instruction

# SSL_R_* of BoringSSL's ssl.h and BIO_R_* of its bio.h; they have not changed since 2014.
_BAD_LENGTH = 111
_CONNECTION_TYPE_NOT_SET = 134
_OUTPUT_ALIASES_INPUT = 189
_HANDSHAKE_FAILURE = 215
_UNEXPECTED_RECORD = 225
_UNINITIALIZED = 226
_TOO_MUCH_READ_EARLY_DATA = 300
_BIO_UNINITIALIZED = 114
_BIO_UNSUPPORTED_METHOD = 115
# ERR_R_SHOULD_NOT_HAVE_BEEN_CALLED: SSL_read and SSL_peek report it on QUIC connections.
_SHOULD_NOT_HAVE_BEEN_CALLED = 66

_SSL_FILES = (b"ssl/ssl_lib.cc", b"ssl/ssl_lib.c")
_RECORD_FILES = (b"ssl/s3_pkt.cc",)
_BIO_FILES = (b"crypto/bio/bio.cc", b"crypto/bio/bio.c")

# The name that stands for the vectored write, which has none that is known.
VECTORED_WRITE = "SSL_write (vectored)"
OPENED_READ = "tls_open_app_data"
# What is found here and no header declares.
UNEXPORTED = {VECTORED_WRITE: Call.WRITE_VECTORS, OPENED_READ: Call.READ_OPENED}

# A hit is at an error site if the file's name is this near (see NEAR_BYTES of capture.code_search).
SITE_BYTES = 64
# The record layer is in another source file than SSL_write; in one library, 85 kB apart in the build seen.
VECTORED_DISTANCE_BYTES = 1 << 20

# BIO_read is within 2 MB of SSL_write in all builds seen. Looked for there first, it costs no search of all code, which
# is most of a browser.
BIO_DISTANCE_BYTES = 1 << 24

# How far around a hit the rest of the same source file's functions are looked for, where they aren't spread.
NEIGHBOURHOOD_BYTES = 0x8000
# SSL_read calls ssl_read_impl from nearby: the two are beside each other in the source.
CALLER_DISTANCE_BYTES = 0x40000
# SSL_read and SSL_peek are 140 to 280 bytes in all builds seen.
MAX_READ_BYTES = 0x200
_FORWARDING_INSTRUCTIONS = 2
# BIO_read is 121 to 140 bytes, and BIO_write with everything inlined 121 to 293. Longer ones are functions of
# other kinds that have them inlined.
MAX_BIO_READ_BYTES = 0x100
MAX_BIO_WRITE_BYTES = 0x140
# 269 in the build seen, with the callbacks that there were then.
MAX_BIO_BOTH_BYTES = 0x180


def locate(search: CodeSearch) -> list[Symbol]:
    """SSL_read (or what opens records instead), SSL_write, and what else of SSL_do_handshake and BIO_write is certain;
    or nothing.

    BIO_write can be there more than once.
    """
    names = search.strings(*_SSL_FILES)
    functions = _by_function(search, names, _UNINITIALIZED) if names else {}
    write, read_impl = _write_and_read_impl(functions)
    read = read_impl and _read(search, read_impl, names)
    opening = None if write is None or read else _opening(search)
    if write is None or not (read or opening):
        return []
    found = [("SSL_read", read)] if read else []
    found += [(OPENED_READ, opening)] if opening else []
    found.append(("SSL_write", write))
    handshake = _handshake(search, write, names)
    if handshake:
        found.append(("SSL_do_handshake", handshake))
    found += _vectored_write(search, write)
    near = write.start - BIO_DISTANCE_BYTES, write.start + BIO_DISTANCE_BYTES
    found += _bio_writes(search, *near) or _bio_writes(search)
    return [Symbol(name, f.start, f.end - f.start) for name, f in found]


def _by_function(
    search: CodeSearch, names: frozenset[int], reason: int, start: int = 0, end: int = 1 << 64
) -> dict[Function, list[ErrorSite]]:
    """The error sites around every one (between two addresses) that has this reason, by function."""
    sites: set[ErrorSite] = set()
    for hit in search.code_hits(search.arguments.loads_reason(reason), start, end):
        if search.error_sites(hit - SITE_BYTES, hit + SITE_BYTES, names):
            sites |= set(search.error_sites(hit - NEIGHBOURHOOD_BYTES, hit + NEIGHBOURHOOD_BYTES, names))
    functions: dict[Function, list[ErrorSite]] = {}
    for site in sorted(sites):
        function = search.function(site.address)
        if function:
            functions.setdefault(function, []).append(site)
    owners = search.owners(functions)
    whole: dict[Function, list[ErrorSite]] = {}
    for part, found in functions.items():
        for function in owners[part]:
            whole.setdefault(function, []).extend(found)
    return whole


def _reasons(sites: Iterable[ErrorSite]) -> set[int | None]:
    return {site.reason for site in sites}


def _write_and_read_impl(
    functions: dict[Function, list[ErrorSite]],
) -> tuple[Function | None, Function | None]:
    common = {_UNINITIALIZED, _HANDSHAKE_FAILURE}
    both = [function for function, sites in functions.items() if common <= _reasons(sites)]
    writes = [function for function in both if _BAD_LENGTH in _reasons(functions[function])]
    reads = [function for function in both if function not in writes]
    if not writes and len(reads) == 2:
        reads.sort(key=lambda function: max(site.line or 0 for site in functions[function]))
        writes = [reads.pop()]
    return _only(writes), _only(reads)


def _only(candidates: Iterable[Function]) -> Function | None:
    unique = set(candidates)
    return unique.pop() if len(unique) == 1 else None


def _callers(search: CodeSearch, function: Function) -> set[Function]:
    sites = search.callers(function.start, CALLER_DISTANCE_BYTES)
    return {caller for caller in map(search.function, sites) if caller and caller != function}


def _read(search: CodeSearch, read_impl: Function, names: frozenset[int]) -> Function | None:
    """SSL_read: the caller of ssl_read_impl, or of SSL_peek, that consumes."""
    direct = _callers(search, read_impl)
    short = [f for f in direct if _is_read_or_peek(search, f, names)]
    consuming = [f for f in short if _consumes(search.body(f)) or _forwards(search.body(f), read_impl)]
    if not consuming:
        # SSL_read calls SSL_peek where the compiler didn't inline it.
        indirect = {caller for function in short for caller in _callers(search, function)} - direct
        consuming = [f for f in indirect if f.end - f.start < MAX_READ_BYTES and _consumes(search.body(f))]
    return _only(consuming)


def _is_read_or_peek(search: CodeSearch, function: Function, names: frozenset[int]) -> bool:
    if function.end - function.start >= MAX_READ_BYTES:
        return False
    return _reasons(search.error_sites(function.start, function.end, names)) <= {_SHOULD_NOT_HAVE_BEEN_CALLED}


def _forwards(body: list[Instruction], read_impl: Function) -> bool:
    """Whether all it does is to clear the fourth argument (xor ecx, ecx) and to go on in ``read_impl``."""
    if len(body) < _FORWARDING_INSTRUCTIONS:
        return False
    clear, jump = body[:_FORWARDING_INSTRUCTIONS]  # padding may follow
    cleared = not clear.map and not clear.vector and clear.opcode in (0x31, 0x33) and clear.modrm == 0xC9
    return cleared and jump.is_jump and jump.target == read_impl.start


def _consumes(body: list[Instruction]) -> bool:
    """Whether a field that is loaded through a pointer is stored too, or changed in place; not the stack's."""
    loaded, stored = set(), set()
    for instruction in body:
        # mod 1 or 2: [register + displacement], without SIB (RSP) and RBP as its base.
        if instruction.modrm >> 6 not in (1, 2) or instruction.modrm & 7 in (4, 5):
            continue
        if instruction.map or instruction.vector or not instruction.rex & 8:
            continue
        if instruction.opcode == 0x8B:
            loaded.add(instruction.displacement)
        elif instruction.opcode == 0x89:
            stored.add(instruction.displacement)
        elif instruction.opcode in (0x01, 0x29):  # add and sub
            return True
    return bool(loaded & stored)


def _opening(search: CodeSearch) -> Function | None:
    """tls_open_app_data, by its two reasons: the protocol's table leads to it, so that it is never inlined."""
    names = search.strings(*_RECORD_FILES)
    functions = _by_function(search, names, _TOO_MUCH_READ_EARLY_DATA) if names else {}
    wanted = {_UNEXPECTED_RECORD, _TOO_MUCH_READ_EARLY_DATA}
    return _only(function for function, sites in functions.items() if wanted <= _reasons(sites))


def _callees(search: CodeSearch, function: Function) -> Iterator[Function]:
    for instruction in search.body(function):
        target = instruction.target
        if target is None or instruction.is_conditional_jump or function.start <= target < function.end:
            continue
        callee = search.called_function(target)
        if callee:
            yield callee


def _handshake(search: CodeSearch, write: Function, names: frozenset[int]) -> Function | None:
    return _only(
        callee
        for callee in _callees(search, write)
        if _CONNECTION_TYPE_NOT_SET in _reasons(search.error_sites(callee.start, callee.end, names))
    )


def _vectored_write(search: CodeSearch, write: Function) -> list[tuple[str, Function]]:
    """The fork's own way to write: the only caller of what reports OUTPUT_ALIASES_INPUT in s3_pkt.cc."""
    names = search.strings(*_RECORD_FILES)
    start, end = write.start - VECTORED_DISTANCE_BYTES, write.start + VECTORED_DISTANCE_BYTES
    sealing = {
        function
        for hit in search.code_hits(search.arguments.loads_reason(_OUTPUT_ALIASES_INPUT), start, end)
        for site in search.error_sites(hit - SITE_BYTES, hit + SITE_BYTES, names)
        if site.reason == _OUTPUT_ALIASES_INPUT and (function := search.function(site.address))
    }
    seal = _only(sealing)
    caller = _only(_callers(search, seal)) if seal else None
    return [(VECTORED_WRITE, caller)] if caller else []


def _bio_writes(search: CodeSearch, start: int = 0, end: int = 1 << 64) -> list[tuple[str, Function]]:
    """The copies of BIO_write between two addresses; none where they can't be told from BIO_read."""
    names = search.strings(*_BIO_FILES)
    functions = _by_function(search, names, _BIO_UNSUPPORTED_METHOD, start, end) if names else {}
    lines = {
        function: min(site.line or 0 for site in sites)
        for function, sites in functions.items()
        if _reasons(sites) == {_BIO_UNINITIALIZED, _BIO_UNSUPPORTED_METHOD}
    }
    both = _only(lines)
    if both and both.end - both.start < MAX_BIO_BOTH_BYTES and _is_told_the_slot(search.body(both)):
        return [("BIO_write", both)]
    first = min(lines.values(), default=0)
    read = _only(f for f, line in lines.items() if line == first and f.end - f.start < MAX_BIO_READ_BYTES)
    read_slot = _method_slot(search, read) if read else None
    if read is None or read_slot is None:
        return []
    writes = []
    for function, line in lines.items():
        slot = _method_slot(search, function)
        short = function.end - function.start < MAX_BIO_WRITE_BYTES
        if line > first and short and slot is not None and slot < read_slot:
            writes.append(("BIO_write", function))
    return writes


def _is_told_the_slot(body: list[Instruction]) -> bool:
    """Whether it loads from [register + rcx]: the method table's entry at its fourth argument."""
    return any(
        not (i.map or i.vector)
        and i.opcode == 0x8B
        and i.modrm & 0xC7 == 0x04
        and i.sib >> 3 == 1
        and not i.rex & 2
        for i in body
    )


def _method_slot(search: CodeSearch, function: Function) -> int | None:
    """The offset in the BIO's method table that is looked at first, after the table's address is loaded."""
    table = None
    for instruction in search.body(function):
        if instruction.map or instruction.vector or instruction.modrm >> 6 not in (0, 1):
            continue
        if table is not None and instruction.rm == table and instruction.opcode in (0x83, 0x8B, 0xFF):
            return instruction.displacement
        # bio->method is the first or, after the reference count, the second field.
        if table is None and instruction.opcode == 0x8B and instruction.displacement in (0, 8):
            table = instruction.reg
    return None
