"""What a waiting thread's function was called with, in code as compilers make it of several ways to call."""

from __future__ import annotations

import re
import subprocess

import pytest
from compiled import LIBC
from processes import running, wait_until

from capture import x86
from capture.call_arguments import Caller
from capture.call_frames import RETURN_ADDRESS, frame_rules
from capture.elf import ElfFile
from capture.thread_stacks import ProcessMemory, waiting

# Prints where the function is and what it is called with, and waits in it.
SOURCE = r"""
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
#define KEPT __attribute__((noinline, noipa))
struct object { char *buffer; long n; long (*read)(void *, void *, long, long *); };

KEPT long library_read(void *object, void *buffer, long n, long *done)
{
    char byte;
    long got = read(0, &byte, 1);
    *done = got + (object == buffer) + n;
    return got;
}

static char fixed[64];
KEPT void told(void *object, void *buffer, long n, long *done)
{
    printf("%p %p %p 0x%lx %p\n", (void *)library_read, object, buffer, n, (void *)done);
    fflush(stdout);
}

KEPT long through(void *object, void *buffer, long n, long *done) { return library_read(object, buffer, n, done) + 1; }
KEPT long jumps(long n, void *buffer, void *object, long *done) { return library_read(object, buffer, n, done); }

int main(int count, char **arguments)
{
    long done = 0, result;
    char local[128];
    struct object *object = malloc(sizeof(*object));
    object->buffer = count > 5 ? fixed : local;
    object->n = 40 + count;
    object->read = library_read;
#if defined(CONSTANTS)
    told(object, fixed, 64, &done);
    result = library_read(object, fixed, 64, &done);
#elif defined(FIELDS)
    told(object, object->buffer, object->n, &done);
    result = library_read(object, object->buffer, object->n, &done);
#elif defined(POINTER)
    told(object, local, sizeof(local), &done);
    result = object->read(object, local, sizeof(local), &done);
#elif defined(THROUGH)
    told(object, local, 100, &done);
    result = through(object, local, 100, &done);
#elif defined(JUMPS)
    told(object, local, 100, &done);
    result = jumps(100, local, object, &done);
#elif defined(CHOSEN)
    char *chosen = count > 3 ? fixed : getenv("HOME") ? local : fixed + 8;
    told(object, chosen, count > 2 ? 10 : 20, &done);
    result = library_read(object, chosen, count > 2 ? 10 : 20, &done);
#elif defined(LOOPS)
    for (result = 0; result < 4; result++) {
        told(object, local + result * 8, 8, &done);
        if (library_read(object, local + result * 8, 8, &done) < 1)
            break;
    }
#endif
    return result + done + local[count] + fixed[count];
}
"""
ARGUMENTS = (x86.RDI, x86.RSI, x86.RDX, x86.RCX)
OPTIONS = (
    "-O0",
    "-O1",
    "-O2",
    "-Os",
    "-O2 -fno-omit-frame-pointer",
    "-O2 -fno-pie -no-pie",
    "-O3 -fcf-protection=none",
)
# How many arguments are known of it at least, whatever the compiler makes of it.
WAYS = {"CONSTANTS": 4, "FIELDS": 4, "POINTER": 4, "THROUGH": 4, "JUMPS": 0, "CHOSEN": 0, "LOOPS": 1}


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("way", WAYS)
def test_arguments(tmp_path, way, options):
    source, program = tmp_path / "calls.c", tmp_path / "calls"
    source.write_text(SOURCE)
    subprocess.run(["gcc", *options.split(), f"-D{way}", "-o", program, source], check=True)
    with running([program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        # Of a loop the second time: what is kept from before does not count.
        if way == "LOOPS":
            process.stdout.readline()
            process.stdin.write("x")
            process.stdin.flush()
        function, *expected = (int(word, 16) for word in process.stdout.readline().split())
        at = wait_until(lambda: (it := waiting(process.pid, process.pid)) and it.call == 0 and it, "the read")
        with ProcessMemory(process.pid) as memory:
            frames, whole = memory.frames(at)
            callers = [Caller(memory, frames, index) for index in range(1, len(frames))]
            assert whole
            called = [caller for caller in callers if caller.target() == function]
            if way == "JUMPS" and not called:
                # It has jumped there: what its caller gave it is another function's.
                return
            (caller,) = called
            found = [caller.argument(register) for register in ARGUMENTS]
        assert all(value in (None, right) for value, right in zip(found, expected, strict=True))
        assert sum(value is not None for value in found) >= WAYS[way]


def test_a_thread_that_went_on_has_waited_again(tmp_path):
    def reads():
        return (it := waiting(process.pid, process.pid)) and it.call == 0 and it

    with running(["cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        before = wait_until(reads, "cat to read")
        assert waiting(process.pid, process.pid) == before
        print("line", file=process.stdin, flush=True)
        assert process.stdout.readline() == "line\n"
        after = wait_until(reads, "cat to read again")
        assert after != before
        assert not after.is_elsewhere(before)
    assert waiting(process.pid, process.pid) is None


def test_rules_agree_with_readelf():
    """Wherever the rules change in the C library."""
    command = ["readelf", "--debug-dump=frames-interp", LIBC]
    # It may miss files of debugging symbols, and fails then.
    text = subprocess.run(command, check=False, capture_output=True, text=True).stdout
    names = {f"r{number}": number for number in range(8, 16)}
    names |= {"rbx": x86.RBX, "rbp": x86.RBP, "rsp": x86.RSP, "ra": RETURN_ADDRESS}
    checked = 0
    with ElfFile(str(LIBC)) as elf:
        for block in text.split("\n\n"):
            title, columns, *lines = (*block.splitlines(), "", "")
            # What is of assembly has rules of its own.
            if " FDE " not in title or not names.keys() >= set(columns.split()[2:]):
                continue
            for line in filter(None, lines):
                place, cfa, *cells = line.split()
                found = re.fullmatch(r"(rsp|rbp)([+-]\d+)", cfa)
                if not found or not all(re.fullmatch(r"c[+-]\d+|u", cell) for cell in cells):
                    break
                saved = {
                    names[column]: int(cell[1:])
                    for column, cell in zip(columns.split()[2:], cells, strict=True)
                    if cell != "u"
                }
                rules = frame_rules(elf, int(place, 16))
                assert rules is not None
                assert (rules.register, rules.offset, rules.saved) == (names[found[1]], int(found[2]), saved)
                checked += 1
    assert checked > 1000
