"""The rows: which files match which, with what probes, and that the table itself is sound."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
from compiled import LIBCRYPTO, LIBGNUTLS, LIBM, LIBSSL, compile_library, symbols

from capture import name_lookups
from capture.boringssl import UNEXPORTED
from capture.call_shapes import Call, Returns
from capture.elf import ElfFile
from capture.file_view import ElfError
from capture.golang import GO_FUNCTIONS
from capture.tls_libraries import TLS_LIBRARIES, may_hold_tls, probes_for

NODE = Path("/usr/bin/node")


def definitions(names):
    return "\n".join(f"int {name}(int x) {{ return x + {i}; }}" for i, name in enumerate(names))


def test_openssl_is_probed_at_its_internals():
    found = probes_for(str(LIBSSL))
    package = subprocess.run(
        ["dpkg-query", "-W", "-f${Version}", "libssl3"], check=True, capture_output=True, text=True
    )
    assert found.library == "OpenSSL " + package.stdout.split("-")[0]
    assert found.level == "internal"
    assert found.notes == ()
    assert {(site.call, site.symbol) for site in found.sites} == {
        (Call.READ_INTERNAL, "ssl_read_internal"),
        (Call.WRITE_EX, "ssl_write_internal"),
        (Call.WRITE_FILE, "SSL_sendfile"),
        (Call.HANDSHAKE, "SSL_do_handshake"),
        (Call.HANDSHAKE, "SSL_connect"),
        (Call.HANDSHAKE, "SSL_accept"),
        (Call.FREE, "SSL_free"),
        (Call.FREE, "SSL_clear"),
    }


@pytest.mark.parametrize("path", [LIBSSL, LIBCRYPTO, LIBGNUTLS, NODE], ids=lambda p: p.name)
def test_sites_are_near_the_functions_that_nm_lists(path):
    if not path.exists():
        pytest.skip(f"no {path.name} here")
    judged = symbols(path, "-D")
    if path == NODE and "SSL_read" not in judged:
        pytest.skip("this Node takes OpenSSL from the distribution's library")
    found = probes_for(str(path))
    with ElfFile(str(path)) as elf:
        for site in found.sites:
            if site.symbol in judged:
                assert 0 <= site.entry_offset - elf.offset_of(judged[site.symbol]) <= 32
            assert site.return_offset == (
                site.entry_offset if site.call.returns is Returns.URETPROBE else None
            )
    assert len({site.entry_offset for site in found.sites}) == len(found.sites)


def test_gnutls_and_its_version():
    found = probes_for(str(LIBGNUTLS))
    assert re.fullmatch(r"GnuTLS 3\.\d+\.\d+", found.library)
    assert {"gnutls_record_recv", "gnutls_record_send", "gnutls_handshake"} <= {s.symbol for s in found.sites}


def test_a_library_without_tls_has_no_probes():
    assert probes_for(str(LIBM)) is None


@pytest.mark.parametrize("row", TLS_LIBRARIES, ids=lambda row: row.name)
def test_each_row_matches_by_symbols_under_any_name(tmp_path, row):
    path = compile_library(tmp_path, definitions({*row.anchors, *row.functions}), name="plugin.bin")
    found = probes_for(str(path))
    assert found.library == row.name
    assert {(s.symbol, s.call) for s in found.sites} == set(row.functions.items())
    assert found.level == "exports"


def test_boringssl_without_what_nobody_calls_is_told_by_its_sources(tmp_path):
    source = definitions(["SSL_read", "SSL_write"])
    text = '\nconst char *file(void) { return "/build/src/ssl/ssl_lib.%s"; }'
    for extension, library in (("cc", "BoringSSL"), ("c", "OpenSSL")):
        path = compile_library(tmp_path, source + text % extension, name=extension)
        assert probes_for(str(path)).library == library


def test_a_static_program_matches_by_symtab(tmp_path):
    source = (
        definitions(["SSL_read", "SSL_write", "BIO_read", "BIO_write"]) + "\nint main(void) { return 0; }"
    )
    path = compile_library(tmp_path, source, name="program", linkage=("-static",))
    with ElfFile(str(path)) as elf:
        assert elf.exported(["SSL_read"]) == {}
    found = probes_for(str(path))
    assert found.library == "OpenSSL"
    assert {s.call for s in found.sites} == {Call.READ_INT, Call.WRITE_INT, Call.BIO_WRITE}
    subprocess.run(["strip", path], check=True)
    assert probes_for(str(path)) is None


def test_the_version_is_the_files_own_or_its_companions(tmp_path):
    text = 'const char *version(void) { return "OpenSSL 9.8.7x 1 Jan 2030"; }'
    compile_library(tmp_path, text, "-Wl,-soname,libcrypto-1234.so.9", name="libcrypto-1234.so.9")
    source = definitions(["SSL_read", "SSL_write"])
    linked = compile_library(
        tmp_path, source, "-Wl,--no-as-needed", str(tmp_path / "libcrypto-1234.so.9"), name="libssl-1.so"
    )
    assert probes_for(str(linked)).library == "OpenSSL 9.8.7x"
    assert probes_for(str(compile_library(tmp_path, source + text, name="both"))).library == "OpenSSL 9.8.7x"
    (tmp_path / "libcrypto-1234.so.9").write_bytes(b"no library")
    assert probes_for(str(linked)).library == "OpenSSL"


def test_what_a_program_says_of_other_versions_is_not_its_own(tmp_path):
    """frida has the text of Node's options before the version of its OpenSSL."""
    source = (
        definitions(["SSL_read", "SSL_write"])
        + """
    const char *option(void) { return "works around what was added in OpenSSL 0.9.6d."; }
    const char *version(void) { return "OpenSSL 9.8.7x 1 Jan 2030"; }
    """
    )
    path = compile_library(tmp_path, source, "-fno-merge-constants", "-fno-toplevel-reorder")
    content = path.read_bytes()
    assert content.index(b"OpenSSL 0.9.6d") < content.index(b"OpenSSL 9.8.7x")
    assert probes_for(str(path)).library == "OpenSSL 9.8.7x"


def test_an_imitation_over_gnutls_is_not_openssl():
    wrapper = Path("/lib/x86_64-linux-gnu/libgnutls-openssl.so.27")
    if not wrapper.exists():
        pytest.skip("no libgnutls-openssl27 here")
    # Its SSL_read calls gnutls_record_recv: probed too, every byte would come twice.
    assert probes_for(str(wrapper)) is None


def test_folded_functions_are_probed_once(tmp_path):
    source = """
    int SSL_read(void *s, void *b, int n) { return n; }
    int SSL_write(void *s, const void *b, int n) __attribute__((alias("SSL_read")));
    int SSL_connect(void *s) { return 1; }
    int SSL_accept(void *s) __attribute__((alias("SSL_connect")));
    """
    found = probes_for(str(compile_library(tmp_path, source)))
    assert [(s.symbol, s.call) for s in found.sites] == [
        ("SSL_read", Call.READ_INT),
        ("SSL_connect", Call.HANDSHAKE),
    ]
    assert found.notes == ("SSL_write shares its code with SSL_read and is not probed",)


def test_odd_files_are_one_named_error(tmp_path):
    path = tmp_path / "text"
    path.write_text("hello")
    with pytest.raises(ElfError, match="not an ELF file"):
        probes_for(str(path))


@pytest.mark.parametrize(
    "name",
    [
        "libssl.so.3",
        "libssl.so.1.1",
        "libssl-8bd944e8.so.3",
        "libssl3.so",
        "libcrypto.so.3",
        "libgnutls.so.30",
        "libnspr4.so",
        "libmbedtls.so.14",
        "libwolfssl.so.35",
        "libs2n.so.1",
    ],
)
def test_usual_names_are_preselected(name):
    assert may_hold_tls(name)


@pytest.mark.parametrize("name", ["libc.so.6", "libssh2.so.1", "libssl.conf", "notlibssl.so.3"])
def test_other_names_are_not(name):
    assert not may_hold_tls(name)


def test_each_call_shape_is_used_and_peeks_never_are():
    used = {call for row in TLS_LIBRARIES for call in row.functions.values()}
    elsewhere = {
        *GO_FUNCTIONS.values(),
        *name_lookups.FUNCTIONS.values(),
        *UNEXPORTED.values(),
        Call.READ_INTERNAL,
    }
    elsewhere |= {Call.GO_READ_SPILLED, Call.COPY}  # what is found of calls that are older than the recording
    elsewhere |= {Call.RUSTLS_READ, Call.RUSTLS_WRITE, Call.RUSTLS_WRITE_CHUNKS}  # by patterns of names
    elsewhere |= {Call.RECORD_BEFORE, Call.RECORD_BEHIND, Call.RECORD_QUEUED}  # by what the program sets
    assert used | elsewhere == set(Call)
    assert not [name for row in TLS_LIBRARIES for name in row.functions if "peek" in name]
