"""Find OpenSSL's functions in a program that has it inside and no symbols: stripped static programs.

x86-64 only, by what its error sites say (capture.code_search):

- OpenSSL 3 and later pass their own name: ERR_set_debug(file, line, function), the last in RDX.
- 1.0.2 and 1.1.x pass numbers: ERR_put_error(library, function, reason, file, line), in EDI and ESI.

A site may be in a part that the compiler moved away as cold; the function meant is the one that jumps
there. A function is named only where all its sites agree on one. ssl_read_internal and ssl_write_internal
count only if SSL_read and SSL_write call them as capture.openssl_internals demands.
"""

from __future__ import annotations

import re
import struct
from typing import TYPE_CHECKING

from capture.code_search import NEAR_BYTES, argument
from capture.elf import Symbol
from capture.openssl_internals import InternalFunction, OpenSslInternals, called_internals

if TYPE_CHECKING:
    from collections.abc import Mapping

    from capture.code_search import CodeSearch
    from capture.elf import Function

# 1.0.2 gives no folder.
_FILES = (b"ssl_lib.c", b"bio_lib.c")
# Function names as OpenSSL 3 has them, with (library, function code) of 1.1.1 (err.h, sslerr.h, bioerr.h).
_SSL, _BIO = 20, 32
_CODES = {
    (_SSL, 223): "SSL_read",
    (_SSL, 208): "SSL_write",
    (_SSL, 523): "ssl_read_internal",
    (_SSL, 524): "ssl_write_internal",
    (_SSL, 180): "SSL_do_handshake",
    (_BIO, 128): "bio_write_intern",
    (_BIO, 113): "BIO_write",
}
_NAMES = tuple(_CODES.values())
_PROBED = ("SSL_read", "SSL_write", "SSL_do_handshake")
# Those that begin with BIO_write's arguments: itself, and what it calls, which may be inlined into its callers.
_BIO_WRITES = ("BIO_write", "bio_write_intern")

_LEA_RDX = re.compile(rb"\x48\x8d\x15(....)", re.DOTALL)
_MOV_EDX = re.compile(rb"(?:\xba|\x48\xc7\xc2)(....)", re.DOTALL)
_MOV_ESI = re.compile(rb"\xbe(..)\0\0", re.DOTALL)
_MOV_EDI = re.compile(rb"\xbf(.)\0\0\0", re.DOTALL)


def locate(search: CodeSearch) -> tuple[list[Symbol], OpenSslInternals | None]:
    """The functions that are certain, SSL_read and SSL_write among them, and the internals; or nothing."""
    files = search.strings(*_FILES)
    if not files:
        return [], None
    names = {
        address: needle[:-1].decode()
        for address, needle in search.elf.find_read_only([name.encode() + b"\0" for name in _NAMES])
    }
    sites = _sites(search, files, names)
    functions = {name: next(iter(found)) for name, found in sites.items() if len(found) == 1}
    if "SSL_read" not in functions or "SSL_write" not in functions:
        return [], None
    internals = _internals(search, functions)
    located = [(name, functions[name]) for name in _PROBED if name in functions]
    writes = set().union(*(sites.get(name, ()) for name in _BIO_WRITES))
    located += (("BIO_write", function) for function in writes)
    symbols = [Symbol(name, function.start, function.end - function.start) for name, function in located]
    return symbols, internals


def _sites(search: CodeSearch, files: frozenset[int], names: Mapping[int, str]) -> dict[str, set[Function]]:
    """Function names, and the functions with an error site that says so: by name, else by number."""
    by_name: dict[str, set[Function]] = {}
    by_number: dict[str, set[Function]] = {}
    for start, code in search.code_pieces():
        for reference in search.references(start, code, files):
            place = reference - start
            if place < NEAR_BYTES and search.elf.is_code(start - 1):
                continue  # seen whole at the end of the piece before
            name, number = _named(search, code, place, start, names), _numbered(code, place)
            function = search.function(reference) if name or number else None
            if name and function:
                by_name.setdefault(name, set()).add(function)
            if number and function:
                by_number.setdefault(number, set()).add(function)
    # The two can't be told apart site by site: what is a function in 1.1 is a reason in 3.0.
    sites = by_name if "SSL_read" in by_name else by_number
    owners = search.owners(set().union(*sites.values()))
    return {name: set().union(*(owners[f] for f in functions)) for name, functions in sites.items()}


def _named(search: CodeSearch, code: bytes, place: int, start: int, names: Mapping[int, str]) -> str | None:
    """The name in RDX at the error site at ``place``, if it is one of ``names``."""
    low, high = max(0, place - NEAR_BYTES), place + NEAR_BYTES
    passed = [
        (abs(match.start() - place), start + match.end() + struct.unpack("<i", match[1])[0])
        for match in _LEA_RDX.finditer(code, low, high)
    ]
    if not search.elf.position_independent:
        passed += [
            (abs(match.start() - place), struct.unpack("<I", match[1])[0])
            for match in _MOV_EDX.finditer(code, low, high)
        ]
    # The bytes of another instruction may look like one of these: what leads nowhere is none.
    passed = [(distance, address) for distance, address in passed if search.elf.segment_at(address)]
    return names.get(min(passed)[1]) if passed else None


def _numbered(code: bytes, place: int) -> str | None:
    """The function whose number is in ESI at the error site at ``place``, if it is one of _CODES."""
    library, number = (argument(pattern, code, place) for pattern in (_MOV_EDI, _MOV_ESI))
    return _CODES.get((library, number)) if library is not None and number is not None else None


def _internals(search: CodeSearch, functions: Mapping[str, Function]) -> OpenSslInternals | None:
    proven = []
    for main, name, writing in (
        ("SSL_read", "ssl_read_internal", False),
        ("SSL_write", "ssl_write_internal", True),
    ):
        function = functions.get(name)
        called = called_internals(search.elf, functions[main].start, writing=writing)
        if function is None or function.start not in called:
            return None
        size = function.end - function.start
        proven.append(InternalFunction(name, function.start, size, called[function.start]))
    return OpenSslInternals(*proven)
