"""Fuzzing targets of what the recorder reads: executables of any user, and what the kernel says of sockets."""

from __future__ import annotations

import os
import struct
import subprocess
import tempfile
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from compiled import SHARED, compile_library
from go_like import MAGIC_16, GoLike

from capture import call_frames, code_search, golang, name_lookups, openssl_internals, rustls, sock_diag, x86
from capture.elf import ElfError, ElfFile

if TYPE_CHECKING:
    from collections.abc import Iterator

_NAMES = ("SSL_read", "SSL_write", "getaddrinfo", "main", "_start")
# How many functions of a file are looked at.
_FUNCTIONS = 16
_LIBRARY = """
static const char path[] = "/rustls-0.23.1/src/";
const char *SSL_read(int x) { return x ? path : 0; }
const char *(*const table[])(int) = {SSL_read};
const char *getaddrinfo(int x) { return x > 3 ? SSL_read(x) : path + 1; }
"""


def elf(data: bytes) -> None:
    """An executable or library, asked everything that placing probes asks."""
    descriptor = os.memfd_create("fuzz")
    try:
        os.write(descriptor, data)
        with ElfFile(f"/proc/self/fd/{descriptor}") as file:
            _ask(file)
    except ElfError:
        return
    finally:
        os.close(descriptor)


def _ask(file: ElfFile) -> None:
    for question in (_symbols, _code, golang.find_go_tls, rustls.find_rustls, name_lookups.find):
        try:
            question(file)
        except ElfError:
            continue


def _symbols(file: ElfFile) -> None:
    assert isinstance(file.needed, tuple)
    found = [*file.exported(_NAMES).values(), *file.local(_NAMES).values(), *file.local_like([b"SSL"])]
    for symbol in found[:_FUNCTIONS]:
        file.function_at(symbol.address)
        list(file.pointers_to(symbol.address))
        file.pointer_at(symbol.address)
    file.imports(_NAMES)


def _code(file: ElfFile) -> None:
    search = code_search.CodeSearch(file)
    targets = search.strings(b"/src/")
    for start, code in search.code_pieces():
        search.references(start, code, targets)
        for place in range(0, len(code), max(len(code) // _FUNCTIONS, 1)):
            call_frames.frame_rules(file, start + place)
            function = search.function(start + place)
            if function is not None:
                search.owners([function])
                list(search.body(function))
    openssl_internals.find_internals(file, file.functions(_NAMES))


def code(data: bytes) -> None:
    """Machine code."""
    position = 0
    for instruction in x86.instructions(data, 0x1000):
        assert instruction.address == 0x1000 + position < instruction.end
        position = instruction.end - 0x1000
        x86.is_emulated(instruction)
        assert instruction.target is None or isinstance(instruction.target, int)


def sockets(data: bytes) -> None:
    """An answer of sock_diag(7)."""
    try:
        list(sock_diag.read_dump(iter((data[: len(data) // 2], data))))
    except OSError:
        return


@cache
def _executables() -> tuple[bytes, ...]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        files = [
            compile_library(folder, program.source(), "-nostdlib", "-Wl,-z,noseparate-code", "-Wl,--no-eh-frame-hdr",
                            kind="s", name=f"go{number}", linkage=linkage)
            for number, (program, linkage) in enumerate(
                ((GoLike(), ("-static",)), (replace(GoLike(), magic=MAGIC_16), ("-static",)), (GoLike(), SHARED))
            )
        ]  # fmt: skip
        files += [
            compile_library(folder, _LIBRARY, "-nostdlib", "-Wl,-z,noseparate-code", f"-Wl,--hash-style={style}",
                            name=f"{style}.so")
            for style in ("gnu", "sysv")
        ]  # fmt: skip
        stripped = folder / "stripped"
        subprocess.run(["strip", "-o", str(stripped), str(files[-1])], check=True)
        return tuple(file.read_bytes() for file in (*files, stripped))


def executables() -> Iterator[bytes]:
    """Small ones, as Go's and C's linkers make them."""
    yield from _executables()


def machine_code() -> Iterator[bytes]:
    """The text of one."""
    yield _executables()[0][0x1000:0x2000] or _executables()[0]
    yield bytes.fromhex("554889e54883ec10e8000000000f1f440000c5f877c3f30f1efae9fbffffff")


def socket_dumps() -> Iterator[bytes]:
    """Two sockets, the second with what TCP has counted, and the end."""
    message = struct.pack("=BBxx2s2s16s16s4xQ16xI", 2, 1, b"\0\x50", b"\xc0\0", b"\x7f\0\0\1", b"", 7, 9)
    counts = struct.pack("=HH120xQQ", 4 + 136, 2, 10, 20)
    answer = b"".join(
        struct.pack("=IHHII", 16 + len(body), 20, 2, 1, 0) + body for body in (message, message + counts)
    )
    yield answer + struct.pack("=IHHIIi", 20, 3, 2, 1, 0, 0)
    yield answer + struct.pack("=IHHIIi", 20, 2, 2, 1, 0, -1)
