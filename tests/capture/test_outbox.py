"""The capture's way out: in order, whole, and never waiting for a reader."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time

import pytest

from capture import outbox
from capture.outbox import Outbox
from capture.output_file import OutputFile, WriteError

PIECES = [bytes([number]) * 300_000 for number in range(100)]
WHOLE = b"".join(PIECES)


class Behind:
    """An output by descriptor."""

    name, option, begun = "it", "-w", True

    def __init__(self, fd):
        self.file = os.fdopen(fd, "wb", closefd=False)


@pytest.fixture(params=["pipe", "pipe that cannot be opened again", "socket"])
def ends(request, monkeypatch):
    """Where to read, and where to write."""
    if request.param == "socket":
        pair = socket.socketpair()
        reading, writing = (end.detach() for end in pair)
    else:
        reading, writing = os.pipe()
    if "cannot" in request.param:
        monkeypatch.setattr(outbox.os, "open", open_but_not_again)
    ends = [reading, writing]
    yield ends
    os.close(writing)
    os.close(ends[0])


def open_but_not_again(path, *arguments, really=os.open):
    if str(path).startswith("/proc"):
        raise OSError
    return really(path, *arguments)


@pytest.fixture
def short_grace(monkeypatch):
    monkeypatch.setattr(outbox, "GRACE_S", 0.2)


def read_all(fd, found):
    while len(found) < len(WHOLE) and (data := os.read(fd, 1 << 16)):
        found += data


@pytest.mark.parametrize("in_memory", [0, 1_000_000, 1 << 30])
def test_what_a_slow_reader_gets_is_whole_and_in_order(ends, monkeypatch, in_memory):
    monkeypatch.setattr(outbox, "MAX_BYTES_IN_MEMORY", in_memory)
    found = bytearray()
    with Outbox(Behind(ends[1])) as under_test:
        for piece in PIECES[:60]:
            under_test.write(piece)
        assert under_test.pending, "nobody reads yet"
        thread = threading.Thread(target=read_all, args=(ends[0], found))
        thread.start()
        for piece in PIECES[60:]:
            under_test.write(piece)
            under_test.wait(0.001)
        under_test.end()
        under_test.finish()
        thread.join()
        assert bytes(found) == WHOLE
        assert not under_test.undelivered


def test_a_descriptor_that_others_share_goes_on_blocking(ends):
    with Outbox(Behind(ends[1])) as under_test:
        under_test.write(PIECES[0])
        assert os.get_blocking(ends[1])


def test_a_reader_that_takes_nothing_is_given_up_after_the_end(ends, short_grace):
    with Outbox(Behind(ends[1])) as under_test:
        for piece in PIECES:
            under_test.write(piece)
        under_test.wait(0.3)
        assert not under_test.undelivered, "the recording goes on"
        under_test.end()
        under_test.finish()
        got = len(os.read(ends[0], 1 << 20))
        while got + under_test.undelivered < len(WHOLE):
            got += len(os.read(ends[0], 1 << 20))
        assert got + under_test.undelivered == len(WHOLE)
        before = under_test.undelivered
        under_test.write(b"late")
        assert under_test.undelivered == before + 4


def test_who_is_in_a_hurry_waits_for_no_reader(ends):
    with Outbox(Behind(ends[1])) as under_test:
        under_test.write(PIECES[0] * 10)
        under_test.hurry()
        under_test.end()
        under_test.finish()
        assert under_test.undelivered


def test_a_reader_that_has_gone_is_no_error(ends):
    with Outbox(Behind(ends[1])) as under_test:
        under_test.write(PIECES[0] * 10)
        os.close(ends[0])
        ends[0] = os.open(os.devnull, os.O_RDONLY)
        under_test.wait(1)
        assert under_test.reader_gone
        assert not under_test.pending
        under_test.write(PIECES[1])
        under_test.finish()


def test_it_is_full_when_memory_and_disk_are(ends, monkeypatch):
    monkeypatch.setattr(outbox, "MAX_BYTES_IN_MEMORY", 1_000_000)
    monkeypatch.setattr("capture.spool.MAX_SPOOLED_BYTES", 1_000_000)
    with Outbox(Behind(ends[1])) as under_test:
        written = 0
        while not under_test.full:
            under_test.write(PIECES[written % 100])
            written += 1
            assert written < 20
        assert written > 6


def test_a_file_that_takes_no_more_is_named():
    with (
        OutputFile("/dev/full", "-w") as file,
        Outbox(file) as under_test,
        pytest.raises(WriteError, match=r"Writing /dev/full failed \(No space left on device\).* -w"),
    ):
        under_test.write(b"x")


SCRIPT = """
import signal
from capture.output_file import OutputFile
signal.signal(signal.SIGALRM, lambda *_: None)
signal.setitimer(signal.ITIMER_REAL, 0.05, 0.05)
file = OutputFile("-", "-o")
file.begin()
for _ in range(4):
    file.file.write(bytes(1 << 20))
file.file.flush()
signal.setitimer(signal.ITIMER_REAL, 0)
"""


def test_stdout_is_whole_without_python_s_buffer():
    # A signal ends a write in the middle; the reader pauses so that one does.
    with subprocess.Popen([sys.executable, "-u", "-c", SCRIPT], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        found = len(process.stdout.read(1))
        time.sleep(0.3)
        found += len(process.stdout.read())
    assert process.returncode == 0
    assert found == 4 << 20
