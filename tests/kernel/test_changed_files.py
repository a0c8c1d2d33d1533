"""Files that are written over in place while they have probes, or have been looked at."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from clients import curl_command
from compiled import LIBSSL
from recording import entries, record, record_command, response_sha256

if TYPE_CHECKING:
    from servers import Servers

pytestmark = pytest.mark.kernel

# A TLS library's functions, one after the other.
PROBED = r"""
#define FUNCTION(name) __attribute__((noinline)) long name(long a, void *b, int n) \
    { for (volatile int i = 0; i < n; i++) a += i; return a; }
FUNCTION(SSL_read) FUNCTION(SSL_write) FUNCTION(SSL_do_handshake) FUNCTION(SSL_free) FUNCTION(SSL_new)
int usleep(unsigned);
int main() { usleep(200000); return SSL_read(0, 0, 2) + SSL_write(0, 0, 2) - 2; }
"""
# Adds up constants that fill its code: a breakpoint anywhere in it changes the sum, or ends the program.
SUMMING = r"""
#include <stdio.h>
int main()
{
    unsigned long sum = 0;
    __asm__(".rept 8192; movabs $0x0101010101010101, %%rcx; add %%rcx, %0; .endr" : "+r"(sum) : : "rcx");
    return sum != 8192 * 0x0101010101010101UL;
}
"""


def compiled(folder: Path, name: str, source: str) -> Path:
    """A program of this C."""
    program = folder / name
    command = ["gcc", "-O1", "-no-pie", "-x", "c", "-", "-o", str(program)]
    subprocess.run(command, input=source, check=True, text=True)
    return program


def overwrite(source: Path | str, target: Path) -> None:
    """As cp does onto a file that is there: the inode stays."""
    with Path(source).open("rb") as old, target.open("wb") as new:
        shutil.copyfileobj(old, new)


@pytest.mark.parametrize("hold", ["--hold", "--no-hold"])
def test_a_program_written_over_in_place_runs_as_it_is(tmp_path: Path, hold: str) -> None:
    probed, summing = compiled(tmp_path, "probed", PROBED), compiled(tmp_path, "summing", SUMMING)
    program = tmp_path / "program"
    shutil.copy(probed, program)
    with record(tmp_path / "a.pcapng", hold, "-u", "root", "--comm", "program") as recording:
        for _ in range(5):
            overwrite(probed, program)
            assert subprocess.run([program], check=False).returncode == 0
            overwrite(summing, program)
            assert subprocess.run([program], check=False).returncode == 0
        assert recording.stop().returncode == 0


def test_a_library_written_over_another_is_read(servers: Servers, tmp_path: Path) -> None:
    library = tmp_path / "libssl.so.3"
    shutil.copy("/bin/true", library)
    library.chmod(0o755)
    replaced = f"{library}; cat {LIBSSL} > {library}"
    curl = " ".join(map(str, curl_command(servers, servers.url("https", "/bytes/257"), "-o", os.devnull)))
    path = tmp_path / "a.pcapng"
    done = record_command(path, ["sh", "-c", f"{replaced}; LD_LIBRARY_PATH={tmp_path} {curl}"])
    assert done.returncode == 0, done.stderr
    (entry,) = entries(path)
    assert response_sha256(entry) in [h["value"] for h in entry["response"]["headers"]]
