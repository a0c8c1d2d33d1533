"""Functions that were taken for a TLS library's by their code, and turn out to be others."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

import pytest
from boringssl_like import SOURCE
from compiled import compile_library
from processes import running
from recording import STOP_SECONDS, record

from capture.tls_libraries import probes_for

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.kernel

# It writes 10 bytes, then is told that of 10 bytes so many were written, then writes 10 bytes again.
PROGRAM = """
#include <stdio.h>
#include <stdlib.h>
static int answer;
static int write_some(struct ssl *ssl, const void *buffer, int length) { return answer; }
static int shake(struct ssl *ssl) { return 1; }
static int read_none(struct ssl *ssl) { return 0; }
static const struct method METHOD = {write_some, read_none};
__asm__(".text\\n.zero 300000\\n");

__attribute__((constructor)) static void run(int argc, char **argv)
{
    static struct state state;
    static struct ssl ssl = {.method = &METHOD, .do_handshake = shake, .s3 = &state};
    char buffer[10] = "something";
    const int answers[] = {10, atoi(argv[1]), 10};

    puts("ready");
    fflush(stdout);
    getchar();
    for (int i = 0; i < 3; i++) {
        answer = answers[i];
        SSL_write(&ssl, buffer, sizeof(buffer));
    }
    SSL_read(&ssl, buffer, argc);
}
"""


@pytest.mark.parametrize(("second", "told"), [(10, 30), (11, 10)])
def test_a_probe_is_believed_as_long_as_it_is_plausible(tmp_path: Path, second: int, told: int) -> None:
    program = compile_library(tmp_path, SOURCE + PROGRAM, name="program", linkage=("-no-pie",))
    subprocess.run(["strip", program], check=True)
    found = probes_for(str(program))
    assert found
    assert found.level == "located"
    with running([program, second], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin
        assert process.stdout
        assert process.stdout.readline() == b"ready\n"
        with record(tmp_path / "distrust.pcapng", "-p", process.pid) as recording:
            process.stdin.close()
            process.wait(STOP_SECONDS)
    done = recording.finished
    assert done
    assert f"TLS: {told} bytes returned by TLS libraries" in done.stderr
    assert (f"Warning: {program}: its BoringSSL returned what none of its kind returns" in done.stderr) == (
        told == 10
    )
