"""TLS that no probe reads: named by the files that a process maps."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from compiled import compile_library
from processes import running, wait_until

from capture.events import ProgramExecuted
from capture.process_names import ProcessNames
from capture.unreadable_tls import MIN_BYTES, UnreadableTls, unreadable_by_content

if TYPE_CHECKING:
    from collections.abc import Iterator

SLEEP = shutil.which("sleep")


@contextlib.contextmanager
def run(program: Path) -> Iterator[subprocess.Popen[bytes]]:
    """The program's process, once its own code runs."""
    with running([program, "60"]) as process:
        # Its executable is the program already when exec has not mapped its code yet.
        code, maps = f" .*x.* {re.escape(str(program.resolve()))}$", Path(f"/proc/{process.pid}/maps")
        wait_until(lambda: re.search(code, maps.read_text(), re.MULTILINE), "the program to run")
        yield process


def named(program: Path) -> str | None:
    """What the program's process is found to have."""
    with run(program) as process:
        return UnreadableTls().name(process.pid)


def copy_of_sleep(path: Path, extra: bytes = b"") -> Path:
    path.write_bytes(Path(str(SLEEP)).read_bytes() + bytes(MIN_BYTES) + extra)
    path.chmod(0o755)
    return path


@pytest.mark.parametrize(
    ("extra", "name"),
    [
        (
            b"/home/ci/.cargo/registry/src/index.crates.io-6f17d22bba15001f/rustls-0.23.41/src/conn.rs\0",
            "rustls 0.23.41",
        ),
        (
            b"/root/.cargo/git/checkouts/rustls-958e799a46fff5cd/5ce0417/rustls/src/quic.rs\0"
            b"/root/.cargo/registry/src/index.crates.io-1949cf8c6b5b557f/rustls-webpki-0.103.16/src/time.rs\0",
            "rustls",
        ),
        (
            b"/build/vendor/rustls/src/quic.rs\0/cargo/registry/src/index/rustls-0.23.45/src/quic.rs\0",
            "rustls 0.23.45",
        ),
        (
            b"external/rules_rust++crate+vendor__tokio-rustls-0.26.4/src/client.rs\0"
            b"external/rules_rust++crate+vendor__rustls-0.23.46/src/verify.rs\0",
            "rustls 0.23.46",
        ),
        (b"external/crates__tokio-rustls-0.26.4/src/client.rs\0", None),
        (b"tls-1.5.8-6Ejz73TE0mR3vf51KXkUFQ:Network.TLS.Types.TLS13\0", "Haskell's tls 1.5.8"),
        (b"main:Network.TLS.Mine\0https://docs.rs/tokio-rustls/src/\0", None),
        (b"see https://github.com/rustls/rustls-ffi\0", None),
        (b"/rustls-", None),
        (b"", None),
    ],
)
def test_compiled_ones_by_what_their_compilers_leave(tmp_path, extra, name):
    assert named(copy_of_sleep(tmp_path / "client", extra)) == name


@pytest.mark.parametrize(
    ("report", "name"),
    [
        (r"../../vendor/boringssl/ssl/ssl_lib.cc", "BoringSSL without symbols"),
        (r"ssl/ssl_lib.c", "OpenSSL without symbols"),
        (r"_gnutls_recv_int", "GnuTLS without symbols"),
        (r"my_gnutls_recv_int", None),
    ],
)
def test_libraries_that_were_not_found_by_their_error_reports(tmp_path, report, name):
    """As the GnuTLS of static programs that were stripped: ffmpeg's builds, say."""
    source = f'const char report[] = "first\\0{report}"; int main(void) {{ return 0; }}'
    path = compile_library(tmp_path, source, name="program", linkage=())
    subprocess.run(["strip", path], check=True)
    path.write_bytes(path.read_bytes() + bytes(MIN_BYTES))
    assert unreadable_by_content(str(path)) == name


def test_a_library_that_is_read_is_not_named():
    gnutls = sorted(Path("/usr/lib/x86_64-linux-gnu").glob("libgnutls.so.*.*"))[0]
    assert b"_gnutls_recv_int\0" in gnutls.read_bytes()
    assert unreadable_by_content(str(gnutls)) is None


def test_others_by_their_files(tmp_path):
    assert named(copy_of_sleep(tmp_path / "beam.smp")) == "Erlang's ssl"
    assert named(copy_of_sleep(tmp_path / "beamer")) is None


def test_a_process_that_has_ended_is_remembered(tmp_path):
    names = UnreadableTls()
    program = copy_of_sleep(tmp_path / "libjvm.so")
    with run(program) as process:
        assert names.name(process.pid) == "Java's JSSE"
    assert names.name(process.pid) == "Java's JSSE"
    ended = subprocess.Popen(["true"])
    ended.wait()
    assert names.name(ended.pid) is None
    assert names.name(os.getpid()) is None


def test_a_process_that_ends_before_it_is_asked_about_is_known_by_what_it_was_seen_to_map(tmp_path):
    """A client whose TLS is in a library of its own, and that is over in a tenth of a second."""
    names = UnreadableTls(lambda pid: "/usr/bin/python3")
    library = tmp_path / "libbearssl.so.6"
    shutil.copy(str(SLEEP), library)
    for program in (copy_of_sleep(tmp_path / "client", b"/x/rustls-0.23.41/src/conn.rs"), library):
        with run(program) as process:
            names.see(process.pid)
        assert names.name(process.pid) == ("rustls 0.23.41" if program != library else "BearSSL")


def test_a_file_that_could_not_be_read_is_read_the_next_time(tmp_path):
    """The path of a deleted file, or of a container's, is its process's, and goes with it."""
    names = UnreadableTls()
    program = copy_of_sleep(tmp_path / "client", b"/x/rustls-0.23.41/src/conn.rs")
    with run(program) as first, run(program) as second:
        program.unlink()
        names.see(first.pid)
        first.kill()
        first.wait()
        assert names.name(first.pid) is None
        assert names.name(second.pid) == "rustls 0.23.41"


@pytest.mark.parametrize(
    ("name", "library"), [("beam.smp", "Erlang's ssl"), ("java", "Java's JSSE"), ("sh", None)]
)
def test_a_process_that_ended_before_it_was_asked_is_known_by_its_program(tmp_path, name, library):
    """On a busy machine, events are late."""
    program = copy_of_sleep(tmp_path / name)
    executed = ProcessNames()
    executed.executed(ProgramExecuted(7, 1, str(program), (str(program), "60")))
    ended = subprocess.Popen(["true"])
    ended.wait()
    assert UnreadableTls(lambda pid: executed.program(7)).name(ended.pid) == library
    assert UnreadableTls(lambda pid: "/no/such/file").name(ended.pid) is None


def test_a_process_that_has_let_go_of_its_memory_is_known_by_its_program(tmp_path):
    """Of one that ends, /proc has a name and no files, for as long as nobody has waited for it."""
    program = copy_of_sleep(tmp_path / "java")
    ending = subprocess.Popen(["true"])
    wait_until(lambda: not Path(f"/proc/{ending.pid}/maps").read_bytes(), "the process to end")
    assert UnreadableTls(lambda pid: str(program)).name(ending.pid) == "Java's JSSE"
    ending.wait()
