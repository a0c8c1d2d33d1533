"""Small shared libraries and programs, compiled for a test, and what binutils say about them."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

LIBSSL = Path("/lib/x86_64-linux-gnu/libssl.so.3")
LIBCRYPTO = Path("/lib/x86_64-linux-gnu/libcrypto.so.3")
LIBC = Path("/lib/x86_64-linux-gnu/libc.so.6")
LIBM = Path("/lib/x86_64-linux-gnu/libm.so.6")
LIBGNUTLS = Path("/lib/x86_64-linux-gnu/libgnutls.so.30")


SHARED = ("-fPIC", "-shared")
FIXED_ADDRESS = ("-fno-pie", "-no-pie")


def compile_library(
    folder: Path,
    source: str,
    *flags: str,
    name: str = "fixture.so",
    kind: str = "c",
    linkage: tuple[str, ...] = SHARED,
) -> Path:
    """``source`` (C, or assembler with kind="s"), optimised, as a shared library or otherwise linked."""
    code = folder / f"{name}.{kind}"
    code.write_text(source)
    library = folder / name
    command = ["gcc", "-O2", *linkage, "-fno-ipa-icf", "-o", str(library), str(code), *flags]
    subprocess.run(command, check=True)
    return library


def symbols(path: Path, *options: str) -> dict[str, int]:
    """Address by name of the functions that nm lists (default: .symtab)."""
    out = subprocess.run(
        ["nm", "--defined-only", *options, str(path)], check=True, capture_output=True, text=True
    )
    found = re.findall(r"^([0-9a-f]+) [tT] ([^@\s]+)(?:@@\S+)?$", out.stdout, re.MULTILINE)
    return {name: int(address, 16) for address, name in found}


def without_section_headers(path: Path, target: Path) -> Path:
    """A copy whose ELF header says that there are no section headers."""
    data = bytearray(path.read_bytes())
    data[0x28:0x30] = bytes(8)  # e_shoff
    data[0x3C:0x40] = bytes(4)  # e_shnum, e_shstrndx
    target.write_bytes(data)
    return target
