"""rustls in a program that has kept its symbols: where it seals records, and where it opens them.

What programs call of rustls is inlined into them. Behind a vtable, and hence functions in any build, are the methods of
its keys, by whichever library does the cryptography: <… as rustls::cipher::MessageEncrypter>::encrypt and its
counterpart (rustls::crypto::cipher from 0.22 on). Names are mangled as rustc has done it so far, _ZN…17h…E, and as it
does since 2025, _R….
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

from capture.call_shapes import Call
from capture.elf import X86_64

if TYPE_CHECKING:
    from collections.abc import Sequence

    from capture.elf import ElfFile, Symbol

LIBRARY = "rustls"
_TRAIT = re.compile(
    r"(?:_ZN.*\brustls\.\.(?:crypto\.\.)?cipher\.\.|_R.*6rustls.*\d)"
    r"Message(?:Encrypter|Decrypter)(?:\$GT\$)?"
    r"(7encrypt|7decrypt|21encrypted_payload_len)(?:17h[0-9a-f]{16}E|C\w+)?(?:\.llvm\.\d+)?"
)
# Keys that there are none of yet.
_NONE_YET = re.compile(r"InvalidMessage(?:En|De)crypter")
_NEEDLES = (b"MessageEncrypter", b"MessageDecrypter")
# The source paths that panics leave in the file: of cargo, and of Bazel, which names a crate's folder CRATES__rustls-….
PATH_NEEDLES = (b"/rustls-", b"__rustls-")
PATH_VERSION = re.compile(rb"(?:/|__)rustls-(\d+\.\d+\.\d+)[^/\0]{0,32}/src/")
PATH_BYTES = 64
# The last that seals one slice, by its label.
_ONE_SLICE = f"{LIBRARY} 0.22."


class RustlsFunctions(NamedTuple):
    """``label`` has the version, if the file tells it."""

    label: str
    functions: Sequence[tuple[Call, Symbol]]


def find_rustls(elf: ElfFile) -> RustlsFunctions | None:
    """The functions that all records pass through; None where not both directions have some."""
    if elf.machine != X86_64:
        return None
    methods: dict[str, list[Symbol]] = {}
    for symbol in elf.local_like(_NEEDLES):
        found = _TRAIT.fullmatch(symbol.name)
        if found and not _NONE_YET.search(symbol.name):
            methods.setdefault(found[1], []).append(symbol)
    reads, writes = methods.get("7decrypt"), methods.get("7encrypt")
    if not reads or not writes:
        return None
    label = _label(elf)
    # A method that came with 0.22, and the message of several slices with 0.23.
    of_chunks = "21encrypted_payload_len" in methods and not label.startswith(_ONE_SLICE)
    write = Call.RUSTLS_WRITE_CHUNKS if of_chunks else Call.RUSTLS_WRITE
    functions = [*((Call.RUSTLS_READ, symbol) for symbol in reads), *((write, symbol) for symbol in writes)]
    return RustlsFunctions(label, functions)


def _label(elf: ElfFile) -> str:
    for address, _ in elf.find_read_only(PATH_NEEDLES):
        if found := PATH_VERSION.match(elf.read_at(address, PATH_BYTES)):
            return f"{LIBRARY} {found[1].decode()}"
    return LIBRARY
