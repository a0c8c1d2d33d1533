"""Functions whose first instructions take no probe: assemblers fill up with prefixes before a branch."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

import pytest
from compiled import compile_library
from processes import running
from recording import STOP_SECONDS, record

from capture.tls_libraries import probes_for

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.kernel

# s2n's functions, where nothing but the prologue matters: each says that it moved all bytes. The second of them
# calls another of its kind, which is the same bytes once more.
PROGRAM = """
#include <stdio.h>
__asm__(".text\\n"
    ".macro filled name, inner=\\n"
    ".globl \\\\name\\n.type \\\\name, @function\\n.p2align 4\\n\\\\name:\\n"
    "cs push %r12\\n.byte 0x2e\\ncs push %rbx\\nsub $8, %rsp\\nmov %rdx, %r12\\n"
    "test %rdi, %rdi\\nje 1f\\n"
    ".ifnb \\\\inner\\ncall \\\\inner\\n.endif\\n"
    "mov %r12, %rax\\nadd $8, %rsp\\npop %rbx\\npop %r12\\nret\\n"
    "1: xor %eax, %eax\\nadd $8, %rsp\\npop %rbx\\npop %r12\\nret\\n"
    ".size \\\\name, .-\\\\name\\n.endm\\n"
    "filled s2n_send\\nfilled s2n_recv, s2n_send\\nfilled s2n_connection_free\\nfilled s2n_negotiate\\n");
long s2n_send(void *, const void *, long, int *), s2n_recv(void *, void *, long, int *);
int s2n_connection_free(void *), s2n_negotiate(void *, int *);

int main(void)
{
    char buffer[100];
    int blocked, connection;

    puts("ready");
    fflush(stdout);
    getchar();
    for (int i = 0; i < 7; i++)
        s2n_send(&connection, buffer, 10, &blocked);
    s2n_send(NULL, buffer, 10, &blocked);
    s2n_recv(&connection, buffer, 3, &blocked);
    s2n_negotiate(&connection, &blocked);
    return s2n_connection_free(&connection) > 100;
}
"""


def test_each_call_counts(tmp_path: Path) -> None:
    program = compile_library(tmp_path, PROGRAM, name="program", linkage=())
    found = probes_for(str(program))
    assert found
    assert found.library == "s2n-tls"
    assert found.notes == ()
    assert all(site.pushed for site in found.sites if site.symbol.startswith("s2n"))
    with running([program], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin
        assert process.stdout
        assert process.stdout.readline() == b"ready\n"
        with record(tmp_path / "filled.pcapng", "-p", process.pid) as recording:
            process.stdin.close()
            process.wait(STOP_SECONDS)
    done = recording.finished
    assert done
    assert "no probes" not in done.stderr
    # A write inside a read is a write of its own (bpf/tls.bpf.h).
    assert "TLS: 76 bytes returned by TLS libraries" in done.stderr
