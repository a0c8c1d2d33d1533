"""rustls in a file: found by the names that compilers have made up for two of its methods."""

from __future__ import annotations

import subprocess

import pytest
from compiled import compile_library, symbols
from rustls_like import NAMES, NEW, OLD, compile_program

from capture.call_shapes import Call
from capture.doctor import examine_processes
from capture.probe_catalog import ProbeCatalog
from capture.tls_libraries import probes_for

READ, WRITE, WRITE_CHUNKS = Call.RUSTLS_READ, Call.RUSTLS_WRITE, Call.RUSTLS_WRITE_CHUNKS
PATH = "/root/.cargo/registry/src/index.crates.io-6f17d22bba15001f/rustls-0.23.41/src/record_layer.rs"
BAZEL_PATH = "external/rules_rust++crate+crates_vendor__rustls-0.23.41/src/record_layer.rs"
# As they are in programs of 2022 to 2026.
LEGACY = "_ZN{}_$LT$rustls..{}..{}$u20$as$u20$rustls..{}cipher..Message{}$GT$7{}17h0123456789abcdefE".format
DECRYPT = LEGACY(9, "crypto..ring..tls12", "GcmMessageDecrypter", "crypto..", "Decrypter", "decrypt")
ENCRYPT = LEGACY(9, "crypto..ring..tls12", "GcmMessageEncrypter", "crypto..", "Encrypter", "encrypt")


def calls_of(tmp_path, *names, text=""):
    """The shapes by name that are found in a library with functions of these names."""
    functions = "".join(
        f'void f{n}(void) __asm__("{name}"); void f{n}(void) {{}}\n' for n, name in enumerate(names)
    )
    source = f'{functions}const char *path(void) {{ return "{text}"; }}'
    found = probes_for(str(compile_library(tmp_path, source)))
    return found and {site.symbol: site.call for site in found.sites}


@pytest.mark.parametrize(("layout", "write"), [(OLD, WRITE), (NEW, WRITE_CHUNKS)])
def test_both_manglings_are_understood(tmp_path, layout, write):
    program = compile_program(tmp_path, layout)
    found = probes_for(str(program))
    names = NAMES[layout]
    assert {site.symbol: site.call for site in found.sites} == {names["SEAL"]: write, names["OPEN"]: READ}
    assert all(site.symbol in symbols(program) for site in found.sites)
    assert (found.library, found.level, found.notes) == ("rustls", "exports", ())


@pytest.mark.parametrize(
    "seals",
    [
        ENCRYPT,
        f"{ENCRYPT}.llvm.16867135286640092513",
        LEGACY(99, "tls12..cipher", "GcmMessageEncrypter", "", "Encrypter", "encrypt"),
        "_RNvXs_NtCsoQnBik7RE6_14other_provider3keyNtB4_6SealerNtNtNtCs1_6rustls6crypto6cipher"
        "16MessageEncrypter7encrypt",
    ],
)
def test_a_key_of_any_make_counts(tmp_path, seals):
    assert calls_of(tmp_path, seals, DECRYPT) == {seals: WRITE, DECRYPT: READ}


@pytest.mark.parametrize(
    ("version", "write"), [("0.22.4", WRITE), ("0.23.0", WRITE_CHUNKS), (None, WRITE_CHUNKS)]
)
@pytest.mark.parametrize("path", [PATH, BAZEL_PATH])
def test_a_message_is_of_several_slices_since_0_23(tmp_path, version, write, path):
    """0.22 has the method that tells it from older ones, and one slice."""
    length = ENCRYPT.replace("7encrypt17h", "21encrypted_payload_len17h")
    text = path.replace("0.23.41", version) if version else ""
    assert calls_of(tmp_path, ENCRYPT, length, DECRYPT, text=text) == {ENCRYPT: write, DECRYPT: READ}


@pytest.mark.parametrize(
    "seals",
    [
        # No key yet, the key of another crate, another method, and a function in the method.
        LEGACY(99, "crypto..cipher", "InvalidMessageEncrypter", "crypto..", "Encrypter", "encrypt"),
        ENCRYPT.replace("$u20$rustls..", "$u20$notrustls.."),
        ENCRYPT.replace("7encrypt", "12encrypt_what"),
        ENCRYPT.replace("7encrypt", "7encrypt28_$u7b$$u7b$closure$u7d$$u7d$"),
        "_RNvXs_NtCsoQnBik7RE6_5other16MessageEncrypter7encrypt",
    ],
)
def test_half_a_connection_is_not_read(tmp_path, seals):
    assert calls_of(tmp_path, seals, DECRYPT) is None


def test_the_version_is_in_the_paths_of_its_source(tmp_path):
    functions = "".join(
        f'void f{n}(void) __asm__("{name}"); void f{n}(void) {{}}'
        for n, name in enumerate((ENCRYPT, DECRYPT))
    )
    source = f'{functions}\nconst char *path(void) {{ return "{PATH}"; }}'
    assert probes_for(str(compile_library(tmp_path, source))).library == "rustls 0.23.41"


def test_a_stripped_one_is_named_and_said_not_to_be_read(tmp_path):
    source = f'char room[2 << 20] = {{1}};\nconst char *path(void) {{ return "{PATH}"; }}'
    library = compile_library(tmp_path, source)
    subprocess.run(["strip", library], check=True)
    (finding,) = examine_processes(str(library), ProbeCatalog())
    assert (finding.library, finding.probes) == ("rustls 0.23.41", None)
    assert "no symbols" in finding.missed
