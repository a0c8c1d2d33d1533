"""TLS libraries found without symbols: in real files whose symbols are then the truth, and in small ones."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from boringssl_like import SOURCE
from compiled import FIXED_ADDRESS, LIBC, LIBCRYPTO, LIBGNUTLS, LIBSSL, SHARED, compile_library, symbols

from capture import boringssl, openssl_static
from capture.call_shapes import Call
from capture.code_search import CodeSearch
from capture.elf import ElfError, ElfFile
from capture.file_view import FileView
from capture.located_libraries import locate
from capture.openssl_internals import WANTED, find_internals
from capture.tls_libraries import probes_for

UNWIND = {
    "unwind tables": (),
    "no unwind tables": ("-fno-asynchronous-unwind-tables", "-Wl,--no-eh-frame-hdr"),
}
LINKED = {"position independent": SHARED, "fixed address": FIXED_ADDRESS}
LIBSSL_STATIC = Path("/usr/lib/x86_64-linux-gnu/libssl.a")
ANDROID = Path("/usr/lib/x86_64-linux-gnu/android/libssl.so.0")
CHROMIUM = Path("/usr/lib/chromium/chromium")

PROGRAM = """
#include <openssl/ssl.h>
int main(int argc, char **argv)
{
    SSL *ssl = SSL_new(SSL_CTX_new(TLS_method()));
    size_t done;
    SSL_set_fd(ssl, argc);
    if (SSL_connect(ssl) == 1 && SSL_write(ssl, argv[0], 1) + SSL_write_ex(ssl, argv[0], 1, &done) > 1)
        return SSL_read(ssl, argv[0], 1) + SSL_read_ex(ssl, argv[0], 1, &done) + SSL_peek(ssl, argv[0], 1);
    return SSL_shutdown(ssl);
}
"""


def compiled(folder, *flags, linkage=SHARED):
    """The fixture, and its functions' addresses by name."""
    path = compile_library(folder, SOURCE, *flags, linkage=linkage)
    names = symbols(path)
    subprocess.run(["strip", path], check=True)
    return path, names


def located(path):
    with ElfFile(str(path)) as elf:
        return {symbol.name: symbol.address for symbol in boringssl.locate(CodeSearch(elf))}


def named(names, *wanted):
    return {name: names[name] for name in wanted}


@pytest.mark.parametrize("unwind", UNWIND.values(), ids=UNWIND)
@pytest.mark.parametrize("linked", LINKED.values(), ids=LINKED)
@pytest.mark.parametrize("tree", [(), ("-DOLD",), ("-DPEEK_CALLED",)], ids=["new", "old", "peek called"])
def test_boringssl_is_found(tmp_path, unwind, linked, tree):
    path, names = compiled(tmp_path, *unwind, *tree, linkage=linked)
    expected = named(names, "SSL_read", "SSL_write", "SSL_do_handshake", "BIO_write")
    assert located(path) == expected


@pytest.mark.parametrize("linked", LINKED.values(), ids=LINKED)
def test_a_read_that_only_forwards(tmp_path, linked):
    """Mono has BoringSSL of 2016. Two such instructions are a function by the unwind table alone.

    Nor are BIO_read and BIO_write more than that.
    """
    path, names = compiled(tmp_path, "-DOLD", "-DFORWARDING", linkage=linked)
    expected = named(names, "SSL_read", "SSL_write", "SSL_do_handshake")
    assert located(path) == expected | {"BIO_write": names["bio_io"]}


@pytest.mark.parametrize("unwind", UNWIND.values(), ids=UNWIND)
@pytest.mark.parametrize("linked", LINKED.values(), ids=LINKED)
def test_boringssl_is_found_where_errors_lack_the_argument_that_nobody_uses(tmp_path, unwind, linked):
    """As in programs that newer versions of Bun make, Claude Code and OpenCode among them: linked as one."""
    path, names = compiled(tmp_path, "-DDROPPED", *unwind, linkage=linked)
    assert located(path) == {}, "by the arguments of other builds"
    with ElfFile(str(path)) as elf:
        found = locate(elf)
    assert found is not None
    assert found.name == "BoringSSL"
    wanted = named(names, "SSL_read", "SSL_write", "SSL_do_handshake", "BIO_write")
    assert {symbol.name: symbol.address for symbol in found.functions} == wanted


def test_a_fork_that_writes_vectors(tmp_path):
    path, names = compiled(tmp_path, "-DVECTORED", "-DNO_BIO")
    assert located(path) == named(names, "SSL_read", "SSL_write", "SSL_do_handshake") | {
        "SSL_write (vectored)": names["write_vectors"]
    }
    assert Call.WRITE_VECTORS in {site.call for site in probes_for(str(path)).sites}


def test_an_error_sites_numbers_are_those_that_its_call_is_given(tmp_path):
    """As in Chromium 66: the numbers of the site before are nearer, but behind them its code jumps away."""
    source = r"""
        .section .rodata
    file: .string "ssl/ssl_lib.cc"
        .text
    sites:
        lea file(%rip), %rcx
        mov $16, %edi
        xor %esi, %esi
        mov $194, %edx
        mov $1065, %r8d
        jmp report
        lea file(%rip), %rcx
        mov $16, %edi
        xor %esi, %esi
        mov $226, %edx
        mov $1060, %r8d
    report:
        call elsewhere
        mov $111, %edx
        mov $1055, %r8d
        lea file(%rip), %rcx
        call elsewhere
    elsewhere:
        ret
    """
    path = compile_library(tmp_path, source, "-nostdlib", kind="s")
    with ElfFile(str(path)) as elf:
        search = CodeSearch(elf)
        text = symbols(path)["sites"]
        sites = search.error_sites(text, text + 200, search.strings(b"ssl/ssl_lib.cc"))
    assert [(site.reason, site.line) for site in sites] == [(194, 1065), (226, 1060), (111, 1055)]


@pytest.mark.parametrize("macro", ["TWO_WRITES", "PEEK_CONSUMES"])
def test_two_candidates_are_none(tmp_path, macro):
    path, _ = compiled(tmp_path, f"-D{macro}")
    assert located(path) == {}
    assert probes_for(str(path)) is None


def test_what_opens_records_is_read_where_there_is_no_one_ssl_read(tmp_path):
    """As in browsers that are optimised as a whole; else SSL_read is taken, which says what the program has read."""
    path, names = compiled(tmp_path, "-DOPENS", "-DPEEK_CONSUMES")
    found = located(path)
    assert "SSL_read" not in found
    assert found["tls_open_app_data"] == names["tls_open_app_data"]
    calls = {site.call for site in probes_for(str(path)).sites}
    assert {Call.READ_OPENED, Call.WRITE_INT} <= calls
    whole, _ = compiled(tmp_path, "-DOPENS")
    assert "SSL_read" in located(whole)
    assert "tls_open_app_data" not in located(whole)


def test_the_probes_of_a_located_library(tmp_path):
    path, names = compiled(tmp_path)
    found = probes_for(str(path))
    assert (found.library, found.level) == ("BoringSSL", "located")
    with ElfFile(str(path)) as elf:
        places = {site.symbol: site.entry_offset - elf.offset_of(names[site.symbol]) for site in found.sites}
    assert {site.symbol: site.call for site in found.sites} == {
        "SSL_read": Call.READ_INT,
        "SSL_write": Call.WRITE_INT,
        "SSL_do_handshake": Call.HANDSHAKE,
        "BIO_write": Call.BIO_WRITE,
    }
    assert all(0 <= place <= 32 for place in places.values())


def test_symbols_go_first(tmp_path):
    path = compile_library(tmp_path, SOURCE)
    assert probes_for(str(path)).level == "exports"


@pytest.mark.parametrize("path", [LIBC, LIBCRYPTO, LIBGNUTLS], ids=lambda p: p.name)
def test_other_libraries_have_none(path):
    with ElfFile(str(path)) as elf:
        assert locate(elf) is None


def test_debians_openssl_without_looking_at_its_symbols():
    with ElfFile(str(LIBSSL)) as elf:
        found, internals = openssl_static.locate(CodeSearch(elf))
        truth = elf.exported(symbol.name for symbol in found)
        assert {s.name: s.address for s in found} == {name: s.address for name, s in truth.items()}
        assert {"SSL_read", "SSL_write", "SSL_do_handshake"} == set(truth)
        assert internals == find_internals(elf, elf.functions(WANTED))


@pytest.mark.skipif(not LIBSSL_STATIC.exists(), reason="no libssl.a here (Debian's libssl-dev)")
@pytest.mark.parametrize("linked", [("-static",), ("-static-pie",)], ids=" ".join)
def test_a_stripped_static_program(tmp_path, linked):
    source = tmp_path / "program.c"
    source.write_text(PROGRAM)
    path = tmp_path / "program"
    command = ["gcc", "-O2", "-w", *linked, "-o", path, source, "-lssl", "-lcrypto"]
    # libcrypto's use of dlopen and getaddrinfo makes the linker warn.
    subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
    names = symbols(path)
    with ElfFile(str(path)) as elf:
        proven = find_internals(elf, elf.functions(WANTED))
    subprocess.run(["strip", path], check=True)
    with ElfFile(str(path)) as elf:
        found, internals = openssl_static.locate(CodeSearch(elf))
    assert internals == proven is not None
    truth = names | {"BIO_write": names["bio_write_intern"]}
    assert {s.name: s.address for s in found} == {s.name: truth[s.name] for s in found}
    assert {"SSL_read", "SSL_write", "BIO_write"} <= {s.name for s in found}
    probes = probes_for(str(path))
    assert probes.level == "located"
    assert probes.library == "OpenSSL"  # its version's text is in an object that nothing wanted
    assert {Call.READ_INTERNAL, Call.BIO_WRITE} <= {site.call for site in probes.sites}


def test_a_places_bytes_are_not_taken_for_an_instruction(tmp_path):
    """At fixed addresses, where a name's address may also be a number: the distance to it begins as one does (0xba)."""
    source = r"""
        .section .rodata
    file: .string "ssl/ssl_lib.c"
        .org 0x100
    read: .string "SSL_read"
        .org 0x200
    write: .string "SSL_write"
        .text
        .cfi_startproc
    SSL_read:
        mov $read, %edx
        mov $2000, %esi
        mov $file, %edi
        call elsewhere
    elsewhere:
        ret
        .cfi_endproc
        .org 0x130
        .cfi_startproc
    SSL_write:
        .skip 15, 0x90
        lea write(%rip), %rdx
        mov $2121, %esi
        lea file(%rip), %rdi
        call elsewhere
        ret
        .cfi_endproc
    """
    places = ("-Wl,--section-start=.rodata=0x500000,--section-start=.text=0x401000,-e,0x401000", "-static")
    path = compile_library(tmp_path, source, "-nostdlib", *places, kind="s", linkage=FIXED_ADDRESS)
    with ElfFile(str(path)) as elf:
        assert elf.read_at(0x40113F, 4) == b"\x48\x8d\x15\xba"
        found, _ = openssl_static.locate(CodeSearch(elf))
    assert {symbol.name: symbol.address for symbol in found} == {"SSL_read": 0x401000, "SSL_write": 0x401130}


@pytest.mark.skipif(not ANDROID.exists(), reason="no android-libboringssl here")
def test_androids_boringssl_without_looking_at_its_symbols():
    names = symbols(ANDROID, "-D")
    assert located(ANDROID) == named(names, "SSL_read", "SSL_write")


@pytest.mark.skipif(not CHROMIUM.exists(), reason="no Chromium here")
def test_chromium():
    found = probes_for(str(CHROMIUM))
    assert (found.library, found.level) == ("BoringSSL", "located")
    assert {site.symbol for site in found.sites} == {
        "SSL_read",
        "SSL_write",
        "SSL_do_handshake",
        "BIO_write",
        "getaddrinfo",  # its own, around that of the C library
    }


@pytest.mark.skipif(not CHROMIUM.exists(), reason="no Chromium here")
def test_all_of_a_browsers_code_is_searched_once(monkeypatch):
    searched = []
    find = FileView.find

    def counting(view, needles, offset, length):
        searched.append((offset, length))
        return find(view, needles, offset, length)

    monkeypatch.setattr(FileView, "find", counting)
    with ElfFile(str(CHROMIUM)) as elf:
        assert locate(elf)
        (code,) = (segment for segment in elf.segments if segment.executable)
    inside = [n for offset, n in searched if code.offset <= offset < code.offset + code.size]
    assert code.size <= sum(inside) < code.size * 1.5


def test_strings_begin_after_a_nul_or_unprintable_bytes(tmp_path):
    source = r"""
    const char after_nul[] = "build/ssl_lib.c";
    const struct { unsigned char before[3]; char name[16]; } packed = {{0, 1, 200}, "build/ssl_lib.c"};
    """
    path = compile_library(tmp_path, source)
    out = subprocess.run(["nm", path], check=True, capture_output=True, text=True).stdout
    places = {line.split()[2]: int(line.split()[0], 16) for line in out.splitlines() if " R " in line}
    with ElfFile(str(path)) as elf:
        found = CodeSearch(elf).strings(b"ssl_lib.c")
    assert {places["after_nul"], places["packed"] + 3} <= found


def test_a_cut_off_file_is_the_one_error(tmp_path):
    path, _ = compiled(tmp_path)
    with ElfFile(str(path)) as elf:
        code = next(segment for segment in elf.segments if segment.executable)
    os.truncate(path, code.offset + code.size - 200)
    with ElfFile(str(path)) as elf, pytest.raises(ElfError, match="truncated"):
        locate(elf)
