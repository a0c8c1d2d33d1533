"""Which TLS library a file holds, and where in it the probes go: TLS_LIBRARIES has a row per library.

``probes_for(path)`` answers for one file, an executable or a shared object alike::

    LibraryProbes(library="OpenSSL 3.0.22", level="internal", notes=(),
                  sites=(ProbeSite(Call.READ_EX, "ssl_read_internal", entry_offset, return_offset), ...))

A row matches by the functions that the file defines (its dynamic symbols, or .symtab), never by its name,
so that renamed, bundled and statically linked copies count. Where no symbol is left, level "located", OpenSSL
and BoringSSL are found by their code (capture.located_libraries), and Go by its own table (capture.golang). Names that
compilers make up are matched by patterns (capture.rustls).
File names only preselect from the loader's cache, where thousands of libraries are listed (``may_hold_tls``).

What the kernel side implements are call shapes (capture.call_shapes), each once; a library is only a row
here. Three rules bind the two sides:

- ``entry_offset`` and ``return_offset`` are file offsets for a uprobe and a uretprobe. They are equal where
  both exist; ``return_offset`` is None for shapes that have all they need at entry.
- Calls of one direction nest (SSL_write_ex calls SSL_write_ex2, gnutls_record_send calls
  gnutls_record_send2, SSL_connect calls SSL_do_handshake): on one thread the outermost call on one TLS object
  counts, and what is nested in it is the same bytes. TLS in TLS nests too, on different objects: both count.
- At level "internal" the sites for reading and writing are OpenSSL's internal functions
  (capture.openssl_internals), which every exported one reaches: the exports are then left out.

Knows nothing of processes, BPF, or which of the sites get attached.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from capture import (
    golang,
    located_libraries,
    name_lookups,
    openssl_internals,
    probe_sites,
    record_places,
    rustls,
)
from capture.boringssl import UNEXPORTED
from capture.call_shapes import Call, LibraryProbes
from capture.elf import ElfError, ElfFile, Symbol
from capture.file_view import file_exists

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping


@dataclass(frozen=True, slots=True)
class Library:
    """A row. ``anchors`` are functions that all must be defined; ``functions`` those that are probed if
    they are. ``evidence`` is in read-only data where a linker has dropped all anchors but the first.

    ``file_names`` is a regular expression for the usual names. ``version`` finds ``name`` and version in
    read-only data, after ``version_needle``, in the file or in the companion library of that name that it
    is linked with. ``handing`` is how it hands its records to the program, if it makes no system calls.
    """

    name: str
    anchors: tuple[str, ...]
    functions: Mapping[str, Call]
    file_names: str
    evidence: bytes = b""
    version_needle: bytes | None = None
    version: str = ""
    companion: str = ""
    has_openssl_internals: bool = False
    not_linked_with: str = ""
    handing: record_places.Handing | None = None


_SSL = {
    "SSL_read": Call.READ_INT,
    "SSL_read_ex": Call.READ_EX,
    "SSL_write": Call.WRITE_INT,
    "SSL_write_ex": Call.WRITE_EX,
    "SSL_write_ex2": Call.WRITE_EX2,
    "SSL_sendfile": Call.WRITE_FILE,
    "SSL_do_handshake": Call.HANDSHAKE,
    "SSL_connect": Call.HANDSHAKE,
    "SSL_accept": Call.HANDSHAKE,
    "SSL_free": Call.FREE,
    "SSL_clear": Call.FREE,
}
_SSL_FILE = r"libssl[-.\w]*\.so[.\w]*"
_CRYPTO_FILE = r"libcrypto[-.\w]*\.so[.\w]*"

# In this order: of the rows with the same functions the first that matches counts. SSL_peek is in none, on
# purpose: it moves nothing. Early data needs no row: SSL_read_early_data and its twin call SSL_*_ex, and GnuTLS's
# handshake calls gnutls_record_send.
TLS_LIBRARIES: tuple[Library, ...] = (
    Library(
        "AWS-LC",
        ("SSL_read", "SSL_to_bytes"),
        _SSL,
        _SSL_FILE,
        b"",
        b"compatible; AWS-LC",
        r"AWS-LC [\d.]+",
        _CRYPTO_FILE,
    ),
    # Its sources are C++, and named by it in errors.
    Library("BoringSSL", ("SSL_read", "SSL_CTX_set_grease_enabled"), _SSL, _SSL_FILE, b"ssl_lib.cc"),
    Library(
        "LibreSSL",
        ("SSL_read", "SSL_CTX_use_certificate_chain_mem"),
        _SSL,
        _SSL_FILE,
        b"",
        b"LibreSSL ",
        r"LibreSSL \d[\d.]+",
        _CRYPTO_FILE,
    ),
    Library(
        "OpenSSL",
        ("SSL_read",),
        _SSL,
        _SSL_FILE,
        b"",
        b"OpenSSL ",
        r"OpenSSL \d\.\d+\.\d+\w*",
        _CRYPTO_FILE,
        has_openssl_internals=True,
        not_linked_with=r"libgnutls\.so.*",
    ),
    Library(
        "GnuTLS",
        ("gnutls_record_recv",),
        {
            "gnutls_record_recv": Call.READ_LONG,
            "gnutls_record_recv_seq": Call.READ_LONG,
            "gnutls_record_recv_packet": Call.READ_PACKET,
            "gnutls_record_recv_early_data": Call.READ_LONG,
            "gnutls_record_send": Call.WRITE_LONG,
            "gnutls_record_send2": Call.WRITE_LONG,
            "gnutls_record_send_range": Call.WRITE_LONG,
            "gnutls_record_uncork": Call.WRITE_KEPT,
            "gnutls_handshake": Call.HANDSHAKE_ZERO,
            "gnutls_deinit": Call.FREE,
        },
        r"libgnutls[-.\w]*\.so[.\w]*",
        b"",
        b"Enabled GnuTLS ",
        r"GnuTLS \d[\d.]+\d",
        handing=record_places.GNUTLS,
    ),
    Library(
        "mbedTLS",
        ("mbedtls_ssl_read",),
        {
            "mbedtls_ssl_read": Call.READ_INT,
            "mbedtls_ssl_write": Call.WRITE_INT,
            "mbedtls_ssl_handshake": Call.HANDSHAKE_ZERO,
            "mbedtls_ssl_free": Call.FREE,
            "mbedtls_ssl_session_reset": Call.FREE,
        },
        r"libmbedtls[-.\w]*\.so[.\w]*",
        handing=record_places.MBEDTLS,
    ),
    Library(
        "wolfSSL",
        ("wolfSSL_read",),
        {
            "wolfSSL_read": Call.READ_INT,
            "wolfSSL_recv": Call.READ_INT,
            "wolfSSL_write": Call.WRITE_INT,
            "wolfSSL_send": Call.WRITE_INT,
            "wolfSSL_connect": Call.HANDSHAKE,
            "wolfSSL_accept": Call.HANDSHAKE,
            "wolfSSL_negotiate": Call.HANDSHAKE,
            "wolfSSL_free": Call.FREE,
            "wolfSSL_clear": Call.FREE,
        },
        r"libwolfssl[-.\w]*\.so[.\w]*",
        b"",
        b"wolfSSL ",
        r"wolfSSL \d[\d.]+\d",
        handing=record_places.WOLFSSL,
    ),
    Library(
        "s2n-tls",
        ("s2n_recv", "s2n_negotiate"),
        {
            "s2n_recv": Call.READ_LONG,
            "s2n_send": Call.WRITE_LONG,
            "s2n_negotiate": Call.HANDSHAKE_ZERO,
            "s2n_connection_free": Call.FREE,
        },
        r"libs2n[-.\w]*\.so[.\w]*",
    ),
    Library(
        "NSS",
        ("SSL_ImportFD",),
        {"SSL_ImportFD": Call.NSS_IMPORT, "SSL_ForceHandshake": Call.HANDSHAKE_ZERO},
        r"libssl3\.so",
    ),
    Library(
        "NSS (NSPR)",
        ("PR_Read", "PR_Write"),
        {
            "PR_Read": Call.NSPR_READ,
            "PR_Recv": Call.NSPR_RECV,
            "PR_Write": Call.NSPR_WRITE,
            "PR_Send": Call.NSPR_WRITE,
            "PR_Writev": Call.NSPR_WRITEV,
            "PR_Close": Call.NSPR_CLOSE,
        },
        r"libnspr4\.so",
    ),
    Library(
        "libcrypto",
        ("BIO_read", "BIO_write"),
        {"BIO_write": Call.BIO_WRITE},
        _CRYPTO_FILE,
        b"",
        b"OpenSSL ",
        r"OpenSSL \d\.\d+\.\d+\w*",
    ),
)

_READS_AND_WRITES = frozenset({Call.READ_INT, Call.READ_EX, Call.WRITE_INT, Call.WRITE_EX, Call.WRITE_EX2})
# Longer than any "Name 1.2.3" that is looked for.
_MAX_VERSION_BYTES = 64


def may_hold_tls(file_name: str) -> bool:
    """Whether a library's file name (no directory) is one that a row's library usually has."""
    return any(re.fullmatch(row.file_names, file_name) for row in TLS_LIBRARIES)


def probes_for(path: str) -> LibraryProbes | None:
    """The probes of the file at ``path``; None if no TLS library is found in it.

    Raises ElfError where the file is no readable ELF file for x86-64 or AArch64.
    """
    with ElfFile(path) as elf:
        return find_probes(elf)


def find_probes(elf: ElfFile) -> LibraryProbes | None:
    """The same for a file that is open."""
    found = [_by_symbols(elf), _go(elf), _rustls(elf)]
    if all(part is None or part.library.startswith("libcrypto") for part in found):
        found.insert(0, _by_code(elf))
    found.append(_resolver(elf))
    parts = [part for part in found if part is not None]
    if not parts:
        return None
    return LibraryProbes(
        parts[0].library,
        parts[0].level,
        tuple({site.entry_offset: site for part in parts for site in part.sites}.values()),
        tuple(note for part in parts for note in part.notes),
    )


def _by_symbols(elf: ElfFile) -> LibraryProbes | None:
    functions = _wanted_functions(elf)
    rows = list(_matching(elf, functions))
    if not rows:
        return None
    internals = openssl_internals.find_internals(elf, functions) if rows[0].has_openssl_internals else None
    wanted = _internal_sites(internals)
    places = [
        place for row in rows if row.handing and (place := record_places.find(elf, row.handing, functions))
    ]
    wanted += [(place.call, place.symbol) for place in places]
    for row in rows:
        replaced = _READS_AND_WRITES if internals and row.has_openssl_internals else frozenset()
        wanted += [
            (call, functions[name])
            for name, call in row.functions.items()
            if name in functions and call not in replaced
        ]
    sites, notes = probe_sites.place(elf, wanted)
    offsets = {place.symbol.name: place.offsets for place in places}
    sites = tuple(replace(site, offsets=offsets.get(site.symbol, ())) for site in sites)
    return LibraryProbes(_label(elf, rows[0]), "internal" if internals else "exports", sites, notes)


def _by_code(elf: ElfFile) -> LibraryProbes | None:
    located = located_libraries.locate(elf)
    if located is None:
        return None
    row = next(row for row in TLS_LIBRARIES if row.name == located.name)
    calls = {**row.functions, **TLS_LIBRARIES[-1].functions, **UNEXPORTED}
    wanted = _internal_sites(located.internals)
    replaced = _READS_AND_WRITES if located.internals else frozenset()
    wanted += [
        (call, symbol)
        for symbol in located.functions
        if (call := calls.get(symbol.name)) and call not in replaced
    ]
    sites, notes = probe_sites.place(elf, wanted)
    return LibraryProbes(_label(elf, row), "located", sites, notes)


def _go(elf: ElfFile) -> LibraryProbes | None:
    found = golang.find_go_tls(elf)
    return LibraryProbes(found.label, "exports", found.sites, found.notes) if found else None


def _rustls(elf: ElfFile) -> LibraryProbes | None:
    found = rustls.find_rustls(elf)
    return LibraryProbes(found.label, "exports", *probe_sites.place(elf, found.functions)) if found else None


def _resolver(elf: ElfFile) -> LibraryProbes | None:
    sites, notes = name_lookups.find(elf)
    return LibraryProbes(name_lookups.LIBRARY, "resolver", sites, notes) if sites else None


def _wanted_functions(elf: ElfFile) -> dict[str, Symbol]:
    """Everything that any row could want of the file; only anchors are looked up where none is there."""
    anchors = elf.functions({row.anchors[0] for row in TLS_LIBRARIES})
    wanted = {
        name
        for row in TLS_LIBRARIES
        if row.anchors[0] in anchors
        for name in (
            *row.anchors,
            *row.functions,
            *(openssl_internals.WANTED if row.has_openssl_internals else ()),
            *(row.handing.names if row.handing else ()),
        )
    }
    return elf.functions(wanted) if wanted else {}


def _matching(elf: ElfFile, functions: Mapping[str, Symbol]) -> Iterator[Library]:
    """The rows whose anchors are all defined, or have evidence, one for each set of functions."""
    taken: list[Mapping[str, Call]] = []
    for row in TLS_LIBRARIES:
        if row.functions in taken or row.anchors[0] not in functions:
            continue
        if not all(anchor in functions for anchor in row.anchors) and not _has_evidence(elf, row):
            continue
        if row.not_linked_with and any(re.fullmatch(row.not_linked_with, name) for name in elf.needed):
            continue
        taken.append(row.functions)
        yield row


def _has_evidence(elf: ElfFile, row: Library) -> bool:
    return bool(row.evidence) and next(elf.find_read_only([row.evidence]), None) is not None


def _internal_sites(internals: openssl_internals.OpenSslInternals | None) -> list[tuple[Call, Symbol]]:
    if internals is None:
        return []
    shapes = (
        (internals.read, {4: Call.READ_INTERNAL}),
        (internals.write, {4: Call.WRITE_EX, 5: Call.WRITE_EX2}),
    )
    return [(calls[f.out_argument], Symbol(f.name, f.address, f.size)) for f, calls in shapes]


def _label(elf: ElfFile, row: Library) -> str:
    """The row's name, with the version where the file or its companion library says it."""
    if row.version_needle is None:
        return row.name
    version = _version(elf, row)
    if version is None and row.companion:
        # Resolved, a path in another mount namespace (/proc/PID/root/…) would be one of ours.
        place = Path(elf.place)
        folder = (place if place.is_relative_to("/proc") else place.resolve()).parent
        for name in elf.needed:
            companion = str(folder / name)
            if re.fullmatch(row.companion, name) and file_exists(companion):
                version = _companion_version(companion, row)
    return f"{row.name} ({version})" if row.name == "libcrypto" and version else version or row.name


def _companion_version(path: str, row: Library) -> str | None:
    try:
        with ElfFile(path) as companion:
            return _version(companion, row)
    except ElfError:
        return None


def _version(elf: ElfFile, row: Library) -> str | None:
    """The first match of the row's version pattern in read-only data, of a string's beginning if there is one.

    What a program says of other versions, as in the text of an option, is in the middle.
    """
    needle, elsewhere = row.version_needle or b"", None
    for address, _ in elf.find_read_only([needle]):
        text = elf.read_at(address, _MAX_VERSION_BYTES).split(b"\0", 1)[0].decode("latin-1")
        match = re.search(row.version, text)
        if match and elf.read_before(address, 1) in (b"", b"\0"):
            return match[0]
        elsewhere = elsewhere or match
    return elsewhere[0] if elsewhere else None
