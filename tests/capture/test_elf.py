"""The ELF reader against binutils, and against files that are cut off, altered or no ELF files at all."""

from __future__ import annotations

import os
import re
import shutil
import struct
import subprocess
from pathlib import Path

import pytest
from boringssl_like import SOURCE as BORINGSSL
from compiled import LIBC, LIBCRYPTO, LIBGNUTLS, LIBSSL, compile_library, symbols, without_section_headers
from go_like import GoLike
from hypothesis import given, settings
from hypothesis import strategies as st

from capture.elf import ElfError, ElfFile
from capture.file_view import CHUNK_BYTES, FileView
from capture.tls_libraries import probes_for

SOURCE = """
int SSL_read(void *ssl, void *buffer, int length) { return length + 1; }
static __attribute__((noinline, used)) int hidden(int x) { return x * 3; }
extern int getpid(void);
int SSL_write(void *ssl, const void *buffer, int length) { return hidden(length) + getpid(); }
int (*table[2])(void *, void *, int) = {SSL_read, (void *)hidden};
"""


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    folder = tmp_path_factory.mktemp("elf")
    return compile_library(folder, SOURCE, "-Wl,-soname,libfixture.so.7")


@pytest.mark.parametrize("path", [LIBSSL, LIBCRYPTO, LIBGNUTLS, LIBC], ids=lambda p: p.name)
def test_exported_functions_are_nms(path):
    judged = symbols(path, "-D")
    with ElfFile(str(path)) as elf:
        found = elf.exported(judged)
        assert {name: symbol.address for name, symbol in found.items()} == judged
        # Imports are in the table too, and are no definitions.
        assert not elf.exported(["no_such_function", "abort" if path != LIBC else "SSL_read"])


@pytest.mark.parametrize("path", [LIBSSL, LIBGNUTLS], ids=lambda p: p.name)
def test_needed_libraries_are_readelfs(path):
    dynamic = subprocess.run(["readelf", "-d", path], check=True, capture_output=True, text=True).stdout
    with ElfFile(str(path)) as elf:
        assert list(elf.needed) == re.findall(r"NEEDED.*\[(.*)\]", dynamic)


def test_unwind_extents_are_readelfs():
    frames = subprocess.run(
        ["readelf", "--debug-dump=frames", LIBSSL], check=True, capture_output=True, text=True
    ).stdout
    judged = re.findall(r" FDE .*pc=([0-9a-f]+)\.\.([0-9a-f]+)", frames)
    assert len(judged) > 500
    with ElfFile(str(LIBSSL)) as elf:
        for start, end in ((int(a, 16), int(b, 16)) for a, b in judged):
            for address in (start, end - 1):
                function = elf.function_at(address)
                assert (function.start, function.end) == (start, end)
        assert elf.function_at(0) is None


def test_local_functions_come_from_symtab(library, tmp_path):
    judged = symbols(library)
    with ElfFile(str(library)) as elf:
        assert elf.local(["hidden"])["hidden"].address == judged["hidden"]
        assert elf.exported(["hidden"]) == {}
        assert set(elf.functions(["hidden", "SSL_read", "getpid", "nothing"])) == {"hidden", "SSL_read"}
    stripped = tmp_path / "stripped.so"
    subprocess.run(["strip", "-o", stripped, library], check=True)
    with ElfFile(str(stripped)) as elf:
        assert set(elf.functions(["hidden", "SSL_read"])) == {"SSL_read"}


def test_a_name_that_is_another_ones_tail_is_found(tmp_path):
    source = "int prefix_SSL_read(void) { return 1; }\n"
    source += '__attribute__((visibility("hidden"))) int SSL_read(void) { return 2; }\n'
    path = compile_library(tmp_path, source, "-Wl,-O2")
    with ElfFile(str(path)) as elf:
        assert elf.local(["SSL_read"])["SSL_read"].address == symbols(path)["SSL_read"]


def test_symtab_larger_than_a_chunk(tmp_path):
    count = CHUNK_BYTES // 24 * 2
    source = "\n".join(f".type f{i}, @function\nf{i}:" for i in range(count)) + "\nret\n"
    path = compile_library(tmp_path, ".text\n" + source, "-nostdlib", kind="s")
    wanted = [f"f{i}" for i in range(0, count, count // 97)]
    with ElfFile(str(path)) as elf:
        assert set(elf.local(wanted)) == set(wanted)


@pytest.mark.parametrize("style", ["gnu", "sysv", "both"])
def test_each_hash_style_without_section_headers(tmp_path, style):
    path = compile_library(tmp_path, SOURCE, f"-Wl,--hash-style={style}")
    bare = without_section_headers(path, tmp_path / "bare.so")
    with ElfFile(str(bare)) as elf:
        assert elf.sections == ()
        assert elf.exported(["SSL_read", "getpid"])["SSL_read"].address == symbols(path)["SSL_read"]
        assert set(elf.exported(["SSL_read", "getpid"])) == {"SSL_read"}
        assert elf.local(["hidden"]) == {}


@pytest.mark.parametrize("flags", [(), ("-Wl,-z,pack-relative-relocs",)], ids=["rela", "relr"])
def test_pointers_in_data(tmp_path, flags):
    try:
        path = compile_library(tmp_path, SOURCE, *flags)
    except subprocess.CalledProcessError:
        pytest.skip("this linker has no RELR")
    names = symbols(path)
    out = subprocess.run(["nm", path], check=True, capture_output=True, text=True).stdout
    table = int(re.search(r"^([0-9a-f]+) D table", out, re.MULTILINE)[1], 16)
    with ElfFile(str(path)) as elf:
        assert elf.pointer_at(table + 8) == names["hidden"]
        assert elf.pointer_at(table) is None  # by symbol: it can be another library's


def test_offsets_and_addresses_are_each_others_inverse(library):
    with ElfFile(str(library)) as elf:
        for segment in elf.segments:
            for address in (segment.address, segment.address + segment.size - 1):
                assert elf.address_of(elf.offset_of(address)) == address
        assert elf.offset_of(1 << 60) is None
        assert elf.read_at(1 << 60, 4) == b""


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "is not an ELF file"),
        (b"#!/bin/sh\nexit 0\n" * 4, "is not an ELF file"),
        (b"\x7fELF\x02\x01\x01", "is not an ELF file"),
        (b"\x7fELF\x02\x01\x01" + bytes(9) + struct.pack("<HH", 3, 62), "truncated"),
        (b"\x7fELF\x01\x01\x01" + bytes(9) + struct.pack("<HH", 3, 3) + bytes(64), "32-bit i386"),
        (b"\x7fELF\x01\x01\x01" + bytes(9) + struct.pack("<HH", 3, 62) + bytes(64), "32-bit x86-64"),
        (b"\x7fELF\x02\x02\x01" + bytes(9) + struct.pack(">HH", 3, 21) + bytes(64), "64-bit PowerPC64"),
        (b"\x7fELF\x02\x01\x01" + bytes(9) + struct.pack("<HH", 3, 243) + bytes(64), "64-bit RISC-V"),
    ],
)
def test_what_cannot_be_read_says_so(tmp_path, content, problem):
    path = tmp_path / "odd"
    path.write_bytes(content)
    with pytest.raises(ElfError, match=problem) as caught:
        ElfFile(str(path))
    assert caught.value.path == str(path)
    assert str(path) in str(caught.value)


def test_what_is_no_file_says_so(tmp_path):
    os.mkfifo(tmp_path / "fifo")  # must not wait for a writer
    (tmp_path / "folder").mkdir()
    for name in ("fifo", "folder", "missing", "nul\0byte"):
        with pytest.raises(ElfError, match=r"regular file|cannot be read"):
            ElfFile(str(tmp_path / name))


def test_a_file_that_shrinks_while_it_is_read_is_an_error(library, tmp_path):
    path = tmp_path / "shrinking.so"
    shutil.copy(library, path)
    with ElfFile(str(path)) as elf:
        os.truncate(path, 700)
        with pytest.raises(ElfError, match="shrank"):
            elf.exported(["SSL_read"])


@pytest.fixture(scope="module")
def originals(library, tmp_path_factory):
    """A file for each way of looking: by symbols, by code, and by Go's table with and without sections."""
    folder = tmp_path_factory.mktemp("originals")
    stripped = compile_library(folder, BORINGSSL, "-s", name="stripped.so")
    go = compile_library(folder, GoLike().source(), "-nostdlib", kind="s", linkage=("-static",), name="go")
    bare = without_section_headers(go, folder / "bare")
    return [path.read_bytes() for path in (library, stripped, go, bare)]


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_no_altered_file_raises_anything_else(originals, tmp_path_factory, data):
    content = bytearray(data.draw(st.sampled_from(originals)))
    for _ in range(data.draw(st.integers(0, 4))):
        # Most of what steers the reader is in the headers and tables at both ends.
        size = len(content)
        place = data.draw(
            st.one_of(*(st.integers(*r) for r in ((0, 1024), (0, size - 1), (size - 4096, size - 1))))
        )
        content[place] = data.draw(st.integers(0, 255))
    length = data.draw(st.one_of(st.just(len(content)), st.integers(0, len(content))))
    path = tmp_path_factory.getbasetemp() / "altered.so"
    path.write_bytes(content[:length])
    try:
        probes_for(str(path))
    except ElfError as error:
        assert error.path == str(path)


@pytest.mark.parametrize("gap", [0, 1, 5, 8])
@pytest.mark.parametrize("needle", [b"needle\0", b"\xba\x01\0\0\0", b"plain", b"\1\0\1\0"])
def test_find_sees_hits_across_chunks_once(tmp_path, needle, gap):
    content = bytearray(b"\2") * (CHUNK_BYTES * 3)
    places = [0, CHUNK_BYTES - gap, 2 * CHUNK_BYTES - gap, len(content) - len(needle)]
    for place in places:
        content[place : place + len(needle)] = needle
    # It begins so, and goes on otherwise.
    content[1000 : 1000 + len(needle)] = needle[:-1] + b"\3"
    path = tmp_path / "data"
    path.write_bytes(content)
    with FileView(str(path)) as view:
        found = sorted(
            offset for offset, _ in view.find([needle, b"longer than any of them"], 0, len(content))
        )
    assert found == sorted(set(places))


def test_a_huge_file_without_the_names_costs_nothing(tmp_path):
    """300 MB, sparse, behind a small library: only what is needed may be read."""
    path = tmp_path / "huge.so"
    shutil.copy(compile_library(tmp_path, "int other(void) { return 1; }", "-s"), path)
    with path.open("r+b") as file:
        file.truncate(300 << 20)
    before = Path("/proc/self/io").read_text()
    assert probes_for(str(path)) is None
    after = Path("/proc/self/io").read_text()
    read = [int(re.search(r"rchar: (\d+)", text)[1]) for text in (before, after)]
    assert read[1] - read[0] < 100_000
