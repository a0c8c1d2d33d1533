"""TLS libraries inside a program whose symbols are gone: which there is, and its functions, found by their
code.

Asks capture.boringssl, then capture.openssl_static. Most files answer no after a search of their read-only
data for one string, half a millisecond per megabyte; a yes takes a quarter of a second in a browser, and is
worth a cache (capture.probe_catalog). x86-64 only.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from capture import boringssl, openssl_static
from capture.code_search import WITHOUT_UNUSED, CodeSearch
from capture.elf import X86_64, ElfFile, Symbol

if TYPE_CHECKING:
    from capture.openssl_internals import OpenSslInternals

# The smallest TLS library has 200 kB of code with everything optional left out; a copy inside something else
# brings its cryptography as well. What is smaller isn't searched.
MIN_CODE_BYTES = 256 << 10
# The source file that reports errors for SSL_read and SSL_write, in both libraries (.c, or .cc).
_EVIDENCE = b"ssl_lib.c"


class LocatedLibrary(NamedTuple):
    """A library's name as in its row of TLS_LIBRARIES, and its functions. A name can be there more than once."""

    name: str
    functions: tuple[Symbol, ...]
    internals: OpenSslInternals | None = None


def locate(elf: ElfFile) -> LocatedLibrary | None:
    """The library that was found by its code, or None. Raises ElfError where the file can't be read."""
    code = sum(segment.size for segment in elf.segments if segment.executable)
    if elf.machine != X86_64 or code < MIN_CODE_BYTES:
        return None
    if next(elf.find_read_only([_EVIDENCE]), None) is None:
        return None
    search = CodeSearch(elf)
    if found := boringssl.locate(search) or boringssl.locate(search.taking(WITHOUT_UNUSED)):
        return LocatedLibrary("BoringSSL", tuple(found))
    found, internals = openssl_static.locate(search)
    return LocatedLibrary("OpenSSL", tuple(found), internals) if found else None
