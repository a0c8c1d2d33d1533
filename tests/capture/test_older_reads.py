"""Threads that wait in a TLS library's read, as the kernel shows them, and where they will copy what they return."""

from __future__ import annotations

import re
import subprocess
import sys
from array import array
from pathlib import Path

import pytest
from compiled import LIBSSL
from processes import running, wait_until

from capture import older_calls, older_reads, thread_stacks
from capture.call_shapes import Call, ProbeSite
from capture.elf import AARCH64, ElfFile
from capture.older_reads import find_older_reads
from capture.thread_stacks import waiting

# A handshake over a pair, each end in a thread of its own; then one end waits in read, the other's thread sleeps.
WAITER = """
import socket, ssl, sys, threading
certificate, key = sys.argv[1:]
ours, theirs = socket.socketpair()
server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
server.load_cert_chain(certificate, key)
client = ssl.create_default_context(cafile=certificate)
def serve():
    connection = server.wrap_socket(theirs, server_side=True)
    print(theirs.fileno(), connection.fileno(), threading.get_native_id(), flush=True)
    connection.recv(100)
threading.Thread(target=serve, daemon=True).start()
connection = client.wrap_socket(ours, server_hostname="localhost")
sys.stdin.read()
"""


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    folder = tmp_path_factory.mktemp("certificate")
    names = [folder / "cert.pem", folder / "key.pem"]
    options = [
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-nodes",
        "-days",
        "2",
        "-subj",
        "/CN=localhost",
    ]
    options += ["-addext", "subjectAltName=DNS:localhost", "-out", names[0], "-keyout", names[1]]
    command = ["openssl", "req", *options]
    subprocess.run(command, check=True, capture_output=True)
    return names


def calls_of_memcpy(path):
    """The addresses of calls of memcpy and memmove, by objdump."""
    text = subprocess.run(
        ["objdump", "-d", "--no-show-raw-insn", path], check=True, capture_output=True, text=True
    ).stdout
    found = re.findall(r"^ *([0-9a-f]+):\s+call +[0-9a-f]+ <(?:memcpy|memmove)@plt>", text, re.MULTILINE)
    return {int(place, 16) for place in found}


def waiters(pid):
    """The process's waiting threads."""
    tids = [int(entry.name) for entry in Path(f"/proc/{pid}/task").iterdir()]
    return {pid: {tid: at for tid in tids if (at := waiting(pid, tid))}}


def test_a_thread_that_waits_for_a_record(certificate):
    command = [sys.executable, "-c", WAITER, *certificate]
    with running(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        _, fd, tid = map(int, process.stdout.readline().split())
        maps = Path(f"/proc/{process.pid}/maps").read_text()
        # Another build of Python brings its own.
        path = next(line.split()[-1] for line in maps.splitlines() if "libssl" in line)
        inode = Path(path).stat().st_ino
        found = wait_until(
            lambda: (it := find_older_reads(path, inode, waiters(process.pid))).reads and it,
            "the thread to wait",
        )
        (read,) = found.reads
        assert (read.pid, read.tid, read.fd) == (process.pid, tid, fd)
        assert read.buffer
        with ElfFile(path) as elf:
            places = {elf.address_of(offset) for offset in found.copies}
        assert places
        assert places <= calls_of_memcpy(path)
        threads = waiters(process.pid)
        assert find_older_reads(path, inode + 1, threads).reads == ()
    assert find_older_reads(path, inode, threads).reads == ()


class Counting:
    """What the kernel side is told to count; it is asked for no probe."""

    def __init__(self):
        self.reads = []

    def knows_call(self, _tid):
        return False

    def expect_older_read(self, *read, writes=False):
        self.reads.append((*read, writes))


def signed(stack):
    """What is on a stack, with a signature in each word."""

    def with_signatures(pid, at):
        words = array("Q", stack(pid, at))
        return array("Q", (word | 0x2A << 48 for word in words)).tobytes()

    return with_signatures


def test_on_arm64_a_thread_that_waits_is_counted(certificate, monkeypatch):
    """Its callers' code is not understood, nor the library's that copies; and return addresses may be signed."""
    monkeypatch.setattr(older_reads, "_stack", signed(older_reads._stack))
    monkeypatch.setattr(thread_stacks.x86, "MACHINE", AARCH64)
    monkeypatch.setattr(older_reads, "X86_64", None)
    command = [sys.executable, "-c", WAITER, *certificate]
    with running(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        _, fd, tid = map(int, process.stdout.readline().split())
        maps = Path(f"/proc/{process.pid}/maps").read_text()
        path = next(line.split()[-1] for line in maps.splitlines() if "libssl" in line)
        wait_until(lambda: (at := waiting(process.pid, tid)) and at.call == 0, "the thread to wait")
        buffer = waiting(process.pid, tid).arguments[1]
        kernel = Counting()
        older = older_calls.OlderCalls(kernel, kernel)
        site = ProbeSite(Call.READ_INT, "SSL_read", 0, 0)
        older.add(older_calls.ProbedFile(path, Path(path).stat().st_ino, 1, ((site, 1),)))
        older.look([process.pid])
    assert kernel.reads == [(process.pid, tid, fd, buffer, False)]


def test_imported_functions():
    with ElfFile(str(LIBSSL)) as elf:
        (place,) = elf.imports(["memcpy"])
        assert elf.imports(["memcpy", "no_such_function"]) == {place}
        assert elf.imports([]) == frozenset()
    text = subprocess.run(["readelf", "-rW", LIBSSL], check=True, capture_output=True, text=True).stdout
    assert re.search(rf"^0*{place:x} .* memcpy@", text, re.MULTILINE)
