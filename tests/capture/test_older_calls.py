"""Calls that a thread is in already: what is expected of them, and what is counted where too little is known."""

from __future__ import annotations

import errno
import os
import subprocess

import pytest
from compiled import symbols
from processes import running, wait_until

from capture import older_calls
from capture.call_shapes import Call, ProbeSite
from capture.elf import ElfFile
from capture.older_calls import OlderCalls, ProbedFile
from capture.thread_stacks import waiting

# A TLS library's read, as far as anyone can see; when it has returned the program does other things.
SOURCE = """
#include <unistd.h>
__attribute__((noinline, noipa)) int library_read(void *object, char *buffer, int n)
{
    int got = read(0, buffer, n);
    return got + (object == buffer);
}
int main(void)
{
    static char object[8], buffer[16];
    int n = library_read(object, buffer, sizeof(buffer));
    write(1, buffer, n);
    pause();
    return n;
}
"""
NUMBER = 7


class Kernel:
    """The kernel side's tables and probes: what they were told."""

    def __init__(self, *, places=True, meanwhile=lambda: None):
        self.calls, self.reads, self.places, self.released = {}, {}, [], []
        self.seen = set()  # threads whose calls were seen entered
        self._has_places = places
        self._meanwhile = meanwhile

    def expect_older_call(self, call):
        self.calls[call.tid] = call
        self._meanwhile()
        return True

    def expects_older_call(self, call):
        return self.calls.get(call.tid) == call

    def knows_call(self, tid):
        return tid in self.seen

    def drop_older_call(self, call):
        self.calls.pop(call.tid)

    def expect_older_read(self, pid, tid, fd, buffer, *, writes=False):
        self.reads[tid] = (pid, fd, buffer, writes)

    def drop_older_read(self, tid):
        self.reads.pop(tid)

    def older_reads(self):
        return set(self.reads)

    def attach_return_place(self, path, offset, pid):
        if not self._has_places:
            raise OSError(errno.EOPNOTSUPP, "this kernel has no such probes")
        self.places.append((os.stat(path).st_ino, offset, pid))  # noqa: PTH116 - as the kernel resolves it
        return len(self.places)

    def release(self, links):
        self.released += links


@pytest.fixture
def program(tmp_path):
    source, path = tmp_path / "waits.c", tmp_path / "waits"
    source.write_text(SOURCE)
    subprocess.run(["gcc", "-O2", "-fno-pie", "-no-pie", "-o", path, source], check=True, capture_output=True)
    return path


@pytest.fixture
def process(program):
    with running([program], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        wait_until(lambda: (at := waiting(child.pid, child.pid)) and at.call == 0, "the program to read")
        yield child


def look(program, process, kernel):
    """Of the program's function a site, as of a library that is numbered so."""
    with ElfFile(str(program)) as elf:
        entry = elf.offset_of(symbols(program)["library_read"])
        inode = elf.view.inode
    site = ProbeSite(Call.READ_INT, "library_read", entry, entry)
    older = OlderCalls(kernel, kernel)
    older.add(ProbedFile(str(program), inode, NUMBER, ((site, NUMBER),)))
    older.look([process.pid])
    return older


def go_on(process):
    process.stdin.write(b"x")
    process.stdin.flush()
    assert process.stdout.read(1) == b"x"
    wait_until(lambda: (at := waiting(process.pid, process.pid)) and at.call == 34, "the program to pause")


def test_a_call_is_expected_where_it_returns_to(program, process):
    kernel = Kernel()
    older = look(program, process, kernel)
    names = symbols(program)
    (call,) = kernel.calls.values()
    assert (call.pid, call.tid, call.fd, call.shape) == (process.pid, process.pid, 0, "READ_INT")
    assert (call.count, call.library, call.writes, call.done_pointer) == (16, NUMBER, False, 0)
    ((inode, offset, pid),) = kernel.places
    assert (inode, pid) == (program.stat().st_ino, process.pid)
    with ElfFile(str(program)) as elf:
        assert names["main"] < elf.address_of(offset) < names["main"] + 200
    assert kernel.reads == {}
    older.release_ended()
    assert kernel.released == []
    # The kernel side has seen it return.
    kernel.calls.clear()
    older.release_ended()
    older.release_ended()
    assert kernel.released == [1]
    assert older.unseen() == 0


def test_what_cannot_be_probed_is_counted_once_it_has_gone_on(program, process):
    kernel = Kernel(places=False)
    older = look(program, process, kernel)
    assert kernel.calls == {}
    assert kernel.reads[process.pid][1:] == (0, 0, False)
    assert older.unseen() == 0
    go_on(process)
    assert older.unseen() == 1
    # It has entered another, and the kernel side has counted it.
    kernel.reads.clear()
    assert older.unseen() == 0


def test_a_thread_that_goes_on_meanwhile_is_in_no_call(program, process):
    kernel = Kernel(meanwhile=lambda: go_on(process))
    older = look(program, process, kernel)
    assert kernel.places
    assert kernel.calls == kernel.reads == {}
    assert older.unseen() == 0
    older.release_ended()
    assert kernel.released == [1]


def test_what_was_let_go_is_not_looked_for(program, process):
    kernel = Kernel()
    older = look(program, process, kernel)
    kernel.calls.clear()
    older.remove(program.stat().st_ino)
    older.look([process.pid])
    assert kernel.calls == {}


def test_a_call_that_was_seen_entered_is_none_of_these(program, process):
    kernel = Kernel(places=False)
    kernel.seen.add(process.pid)
    older = look(program, process, kernel)
    assert kernel.calls == kernel.reads == {}
    assert older.unseen() == 0


def test_a_thread_that_runs_is_looked_at_again(program, process, monkeypatch):
    asked = []

    def runs_at_first(pid, tid):
        asked.append(tid)
        return waiting(pid, tid) if len(asked) > 2 else None

    monkeypatch.setattr(older_calls, "waiting", runs_at_first)
    kernel = Kernel()
    look(program, process, kernel)
    assert list(kernel.calls) == [process.pid]
