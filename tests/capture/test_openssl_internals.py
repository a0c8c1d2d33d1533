"""The proof of OpenSSL's internal functions: on the real library, and on small ones that break steps."""

from __future__ import annotations

import subprocess

import pytest
from compiled import LIBSSL, compile_library, symbols

from capture.elf import ElfFile
from capture.openssl_internals import WANTED, find_internals

# What OpenSSL's ssl_lib.c and bio_ssl.c come to. Each macro takes one step of the proof away.
SOURCE = """
#include <stddef.h>
#define NOIPA __attribute__((noipa))
#define HIDDEN NOIPA __attribute__((visibility("hidden")))
extern int rand(void);
HIDDEN int ssl_read_internal(void *s, void *buf, size_t num, size_t *done) { *done = num; return rand(); }
#ifdef WITH_FLAGS
#define FLAGS , 0
HIDDEN int ssl_write_internal(void *s, const void *buf, size_t num, unsigned long flags, size_t *done)
{ *done = num; return rand(); }
#else
#define FLAGS
HIDDEN int ssl_write_internal(void *s, const void *buf, size_t num, size_t *done)
{ *done = num; return rand(); }
#endif
HIDDEN int other(void *s, void *buf, size_t num, size_t *done) { *done = num; return rand(); }

int SSL_read(void *s, void *buf, int num)
{
#ifdef NO_OUT_POINTER
    static size_t done;
#else
    size_t done;
#endif
    if (num < 0) { rand(); return -1; }
#ifdef RESULT_IGNORED
    ssl_read_internal(s, buf, num, &done);
    return done;
#else
    int ret = ssl_read_internal(s, buf, num, &done);
    if (ret > 0) ret = done;
    return ret;
#endif
}
int SSL_read_ex(void *s, void *buf, size_t num, size_t *done)
{
#ifdef EXTENDED_CALLS_OTHER
    int ret = other(s, buf, num, done);
#else
    int ret = ssl_read_internal(s, buf, num, done);
#endif
#ifdef EXTENDED_CALLS_TWO
    if (ret == 7) ret = other(s, buf, num, done);
#endif
    return ret < 0 ? 0 : ret;
}
int SSL_peek(void *s, void *buf, int num)
{
    size_t done;
#ifdef PEEK_READS
    int ret = ssl_read_internal(s, buf, num, &done);
#else
    int ret = other(s, buf, num, &done);
#endif
    return ret > 0 ? (int)done : ret;
}
int SSL_write(void *s, const void *buf, int num)
{
    size_t done;
    if (num < 0) { rand(); return -1; }
    int ret = ssl_write_internal(s, buf, num FLAGS, &done);
    return ret > 0 ? (int)done : ret;
}
#ifdef WITH_FLAGS
int SSL_write_ex2(void *s, const void *buf, size_t num, unsigned long flags, size_t *done)
{ int ret = ssl_write_internal(s, buf, num, flags, done); return ret < 0 ? 0 : ret; }
NOIPA int SSL_write_ex(void *s, const void *buf, size_t num, size_t *done)
{ return SSL_write_ex2(s, buf, num, 0, done); }
#else
int SSL_write_ex(void *s, const void *buf, size_t num, size_t *done)
{ int ret = ssl_write_internal(s, buf, num, done); return ret < 0 ? 0 : ret; }
#endif

#ifdef WITH_BIO
#ifndef BIO_TYPE
#define BIO_TYPE 0x207
#endif
NOIPA static int bio_write(void *b, const char *buf, size_t num, size_t *done)
{ int ret = ssl_write_internal(b, buf, num FLAGS, done); return rand() + ret; }
NOIPA static int bio_read(void *b, char *buf, size_t num, size_t *done)
#ifdef BIO_READS_OTHERWISE
{ int ret = other(b, buf, num, done); return rand() + ret; }
#else
{ int ret = ssl_read_internal(b, buf, num, done); return rand() + ret; }
#endif
static struct method { int type; const char *name; void *slots[8]; } method =
    {BIO_TYPE, "ssl", {bio_write, NULL, bio_read}};
const struct method *BIO_f_ssl(void) { return &method; }
void set_type(int type) { method.type = type; }
#endif
"""


def internals(path):
    with ElfFile(str(path)) as elf:
        return find_internals(elf, elf.functions(WANTED))


def compiled(folder, *macros):
    return compile_library(folder, SOURCE, *(f"-D{macro}" for macro in macros))


def test_debians_libssl_is_proven():
    found = internals(LIBSSL)
    assert (found.read.out_argument, found.write.out_argument) == (4, 4)
    # No symbols say so, but the calls do: each has these callers and the filter BIO's function.
    text = subprocess.run(["objdump", "-d", LIBSSL], check=True, capture_output=True, text=True).stdout
    for function, callers in (
        (found.read, {"SSL_read", "SSL_read_ex"}),
        (found.write, {"SSL_write", "SSL_write_ex"}),
    ):
        blocks = [b for b in text.split("\n\n") if f"call   {function.address:x} <" in b]
        names = {b.split("<", 1)[1].split("@", 1)[0].split(">", 1)[0] for b in blocks}
        assert callers <= names
        assert not {n for n in names if "peek" in n}


@pytest.mark.parametrize("flags", [(), ("WITH_FLAGS",)], ids=["to 3.2", "from 3.3"])
@pytest.mark.parametrize("bio", [(), ("WITH_BIO",)], ids=["no filter BIO", "filter BIO"])
@pytest.mark.parametrize("stripped", [False, True])
def test_small_libraries_are_proven(tmp_path, flags, bio, stripped):
    path = compiled(tmp_path, *flags, *bio)
    names = symbols(path)
    if stripped:
        subprocess.run(["strip", path], check=True)
    found = internals(path)
    assert found.read.address == names["ssl_read_internal"]
    assert found.write.address == names["ssl_write_internal"]
    assert found.read.out_argument == 4
    assert found.write.out_argument == (5 if flags else 4)


@pytest.mark.parametrize(
    "macros",
    [
        ("NO_OUT_POINTER",),
        ("RESULT_IGNORED",),
        ("EXTENDED_CALLS_OTHER",),
        ("EXTENDED_CALLS_TWO",),
        ("PEEK_READS",),
        ("WITH_BIO", "BIO_READS_OTHERWISE"),
        ("WITH_BIO", "BIO_TYPE=0x407"),
    ],
    ids=" ".join,
)
def test_each_broken_step_is_doubt(tmp_path, macros):
    assert internals(compiled(tmp_path, *macros)) is None


def test_a_symbol_elsewhere_is_doubt(tmp_path):
    path = compiled(tmp_path)
    moved = tmp_path / "moved.so"
    renamed = ["--redefine-sym", "ssl_read_internal=x", "--redefine-sym", "other=ssl_read_internal"]
    subprocess.run(["objcopy", *renamed, path, moved], check=True)
    assert internals(path) is not None
    assert internals(moved) is None


def test_inlined_internals_are_doubt(tmp_path):
    source = SOURCE.replace(
        "#define HIDDEN NOIPA", "#define HIDDEN inline __attribute__((always_inline)) static //"
    )
    assert internals(compile_library(tmp_path, source)) is None
