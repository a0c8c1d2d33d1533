"""Where libraries have the records that they hand to the program: in Debian's own, and in code made for it."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from compiled import LIBGNUTLS, compile_library

from capture import record_places
from capture.call_shapes import Call
from capture.elf import ElfFile

LIBRARIES = Path("/usr/lib/x86_64-linux-gnu")
MBEDTLS, WOLFSSL = LIBRARIES / "libmbedtls.so.14", LIBRARIES / "libwolfssl.so.35"

# A library of wolfSSL's kind.
SETS = "void wolfSSL_SSLSetIOSend(struct session *s, int (*f)(void *, char *, int)) { if (s) s->send = f; }\n"
SESSION = """
struct session { char others[200]; int (*send)(void *, char *, int), (*receive)(void *, char *, int);
                 char *record; unsigned left, from; void *whose; };
"""
SENDS = """
__attribute__((noinline)) int {name}(struct session *s)
{{
    while (s->left) {{
        int n = s->{called}(s->whose, s->record + s->from, s->left);
        if (n < 0) return n;
        s->left -= n, s->from += n;
    }}
    return 0;
}}
"""


def find(path: Path, handing: record_places.Handing) -> record_places.RecordPlace | None:
    with ElfFile(str(path)) as elf:
        return record_places.find(elf, handing, elf.functions(handing.names))


def test_gnutls() -> None:
    """What gets a record off the queue is called by what makes them, and by gnutls_record_uncork."""
    found = find(LIBGNUTLS, record_places.GNUTLS)
    assert found is not None
    assert (found.call, found.symbol.name) == (Call.RECORD_QUEUED, "gnutls_io_write_flush")
    (offset,) = found.offsets
    discards = subprocess.run(
        ["gdb", "--batch", "-ex", "disassemble gnutls_record_discard_queued", str(LIBGNUTLS)],
        capture_output=True, text=True, check=False,
    ).stdout  # fmt: skip
    assert not discards or f"$0x{offset:x},%rdi" in discards or f"0x{offset:x}(%rdi)" in discards


@pytest.mark.skipif(not MBEDTLS.exists(), reason="MBEDTLS 2.28 IS NOT INSTALLED")
def test_mbedtls_as_its_headers_have_it(tmp_path: Path) -> None:
    source = tmp_path / "offsets.c"
    words = ", ".join(f"(int)offsetof(mbedtls_ssl_context, {word})" for word in ("out_hdr", "out_left"))
    source.write_text(
        "#include <mbedtls/ssl.h>\n#include <stddef.h>\n#include <stdio.h>\n"
        f'int main(void) {{ printf("%d %d", {words}); return 0; }}\n'
    )
    subprocess.run(["gcc", "-o", str(tmp_path / "offsets"), str(source)], check=True)
    said = subprocess.run([str(tmp_path / "offsets")], capture_output=True, text=True, check=True).stdout
    found = find(MBEDTLS, record_places.MBEDTLS)
    assert found is not None
    assert (found.call, found.offsets) == (Call.RECORD_BEFORE, tuple(map(int, said.split())))


@pytest.mark.skipif(not WOLFSSL.exists(), reason="WOLFSSL 5.5 IS NOT INSTALLED")
def test_wolfssl() -> None:
    found = find(WOLFSSL, record_places.WOLFSSL)
    assert found is not None
    assert (found.call, found.symbol.name) == (Call.RECORD_BEHIND, "wolfSSL_SendBuffered")
    assert found.offsets[1] - found.offsets[0] == 12, "a pointer, a length, and how much of it was sent"


@pytest.mark.parametrize("flags", [("-O1",), ("-O2",), ("-O3",), ("-Os",)])
def test_what_calls_it_is_found_without_a_name(tmp_path: Path, flags: tuple[str, ...]) -> None:
    source = SESSION + SETS + SENDS.format(name="hands_on", called="send")
    source += SENDS.format(name="takes", called="receive")
    library = compile_library(tmp_path, source, *flags, "-s", "-fvisibility=default")
    found = find(library, record_places.WOLFSSL)
    assert found is not None
    assert (found.call, found.offsets) == (Call.RECORD_BEHIND, (216, 228))
    with ElfFile(str(library)) as elf:
        assert found.symbol.address == elf.functions(["hands_on"])["hands_on"].address


@pytest.mark.parametrize(
    "source",
    [
        SETS + SENDS.format(name="takes", called="receive"),
        SETS + SENDS.format(name="one", called="send") + SENDS.format(name="other", called="send"),
        SETS.replace("s->send = f", "s->send = 0") + SENDS.format(name="one", called="send"),
        SETS
        + SENDS.format(name="one", called="send").replace("s->record + s->from", '"what is no part of it"'),
    ],
    ids=["nobody", "two", "not kept", "not of the object"],
)
def test_in_doubt_nothing_is_found(tmp_path: Path, source: str) -> None:
    assert find(compile_library(tmp_path, SESSION + source, "-s"), record_places.WOLFSSL) is None
