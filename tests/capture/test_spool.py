"""The file that takes what memory has no room for: first in, first out, and never the disk's last room."""

from __future__ import annotations

import os

import pytest

from capture import spool
from capture.spool import MAX_SPOOLED_BYTES, RESERVED_BYTES, Spool, SpoolFile


@pytest.fixture
def room(monkeypatch):
    """Let the disk have so many free bytes."""

    def set_free(free):
        real = os.fstatvfs

        def fstatvfs(fd):
            fields = list(real(fd))
            fields[0], fields[1], fields[4] = 1, 1, free  # f_bsize, f_frsize, f_bavail
            return os.statvfs_result(fields)

        monkeypatch.setattr(spool.os, "fstatvfs", fstatvfs)

    return set_free


def test_what_is_put_can_be_taken():
    file = SpoolFile()
    places = [file.put(piece) for piece in (b"one", b"", b"three")]
    assert [file.take(offset, size) for offset, size in zip(places, (3, 0, 5), strict=True)] == [
        b"one",
        b"",
        b"three",
    ]
    file.rewind()
    assert file.put(b"anew") == 0
    file.close()


def test_a_batch_comes_back_as_it_was():
    under_test = Spool()
    entry = under_test.put((memoryview(b"rec"), memoryview(b"ords")), [0, 3])
    batch = under_test.take(entry)
    assert (batch.buffer, batch.starts) == (b"records", [0, 3])
    under_test.close()


@pytest.mark.parametrize(
    ("free", "taken"), [(0, False), (RESERVED_BYTES + 9, False), (RESERVED_BYTES + 10, True)]
)
def test_a_disk_keeps_a_reserve_for_everyone_else(room, free, taken):
    room(free)
    file = SpoolFile()
    assert (file.put(bytes(10)) is not None) == taken
    file.close()


def test_a_disk_that_fills_up_meanwhile_is_noticed(room):
    room(RESERVED_BYTES + 100)
    file = SpoolFile()
    assert file.put(bytes(10)) == 0
    room(RESERVED_BYTES + 5)
    assert file.put(bytes(10)) is None
    room(RESERVED_BYTES + 100)
    assert file.put(bytes(10)) == 10
    file.close()


def test_there_is_a_limit_whatever_the_disk_s_size(room):
    room(1 << 60)
    file = SpoolFile()
    file.end = MAX_SPOOLED_BYTES - 5
    assert file.put(bytes(10)) is None
    file.close()
