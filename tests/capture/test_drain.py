"""The thread that empties the ring, on a ring of lists: nothing is lost, memory is bounded, and it ends."""

from __future__ import annotations

import os
import threading
import time

import pytest
from processes import wait_until

from capture import drain
from capture.drain import MEMORY_BYTES, Drain
from capture.spool import Spool

HEADER = b"header"


def batch(number, size=100):
    """A batch of one record."""
    return HEADER + number.to_bytes(4) * ((size - len(HEADER)) // 4), [len(HEADER)]


def number_of(batch):
    (start,) = batch.starts
    return int.from_bytes(batch.buffer[start : start + 4])


class Ring:
    """Gives out batches one by one, each in two pieces; ``None`` in the list is a moment without any."""

    def __init__(self, batches):
        self.batches = list(batches)

    def drain(self, keep):
        kept = None
        if self.batches:
            if self.batches[0]:
                data, starts = self.batches[0]
                kept = keep((memoryview(data)[:8], memoryview(data)[8:]), starts)
            self.batches.pop(0)
        return kept

    def backlog(self):
        return sum(len(batch[0]) for batch in self.batches if batch)


class NoSpool:
    """A disk without room."""

    def put(self, pieces, starts):
        return None

    def rewind(self):
        """Nothing to give back."""


@pytest.fixture(autouse=True)
def this_thread_is_not_hurried(monkeypatch):
    monkeypatch.setattr(drain.os, "setpriority", lambda *_: None)


def taken(under_test, count):
    found = []
    end = time.monotonic() + 10
    while len(found) < count and time.monotonic() < end:
        batch = under_test.take(0.1)
        if batch:
            found.append(number_of(batch))
    return found


def test_a_record_that_is_being_written_at_the_end_is_waited_for():
    """Until then nothing can be read of those behind it either."""
    under_test = Drain(Ring([batch(1), None, None, batch(2)]), Spool())
    under_test.stop()
    under_test.start()
    assert taken(under_test, 2) == [1, 2]
    wait_until(lambda: under_test.finished, "the thread to end")


def test_batches_come_in_order_and_all_of_them():
    batches = [item for number in range(50) for item in (batch(number), None)]
    under_test = Drain(Ring(batches), NoSpool())
    under_test.start()
    assert taken(under_test, 50) == list(range(50))
    under_test.stop()
    wait_until(lambda: under_test.finished, "the thread to end")
    assert under_test.take(0) is None


def test_what_is_in_the_ring_at_the_end_is_taken_too():
    under_test = Drain(Ring(batch(number) for number in range(20)), NoSpool())
    under_test.stop()
    under_test.start()
    assert not under_test.finished
    assert taken(under_test, 20) == list(range(20))
    wait_until(lambda: under_test.finished, "the thread to end")


def test_memory_is_bounded_and_the_rest_stays_in_the_ring():
    ring = Ring(batch(number, MEMORY_BYTES // 4) for number in range(12))
    under_test = Drain(ring, NoSpool())
    under_test.start()
    wait_until(lambda: len(ring.batches) == 8, "the memory to fill")
    time.sleep(0.05)
    assert len(ring.batches) == 8
    under_test.stop()
    assert taken(under_test, 12) == list(range(12))
    wait_until(lambda: under_test.finished, "the thread to end")


def test_a_batch_stays_as_it_is_until_the_next_is_taken():
    """Its memory is not given to one that is waiting for room."""
    ring = Ring(batch(number, 400) for number in range(4))
    under_test = Drain(ring, NoSpool(), 1000)
    under_test.start()
    wait_until(lambda: len(ring.batches) == 2, "the memory to fill")
    first = under_test.take(1)
    time.sleep(0.05)
    assert number_of(first) == 0
    assert len(ring.batches) == 2
    assert taken(under_test, 3) == [1, 2, 3]
    under_test.stop()
    wait_until(lambda: under_test.finished, "the thread to end")


def test_who_keeps_up_uses_the_same_memory_again():
    """Memory that was never touched is dear: a batch then takes longer to copy than the ring to fill."""
    under_test = Drain(Ring([]), NoSpool())
    places = set()
    for number in range(50):
        data, starts = batch(number, MEMORY_BYTES // 20)
        under_test._keep((memoryview(data),), starts)
        places |= set(under_test.take(0).starts)
        assert under_test.take(0) is None
    assert places == {len(HEADER)}


def test_without_a_batch_it_waits_no_longer_than_told():
    under_test = Drain(Ring([]), NoSpool())
    under_test.start()
    began = time.monotonic()
    assert under_test.take(0.05) is None
    assert time.monotonic() - began > 0.04
    under_test.stop()
    wait_until(lambda: under_test.finished, "the thread to end")


def test_it_does_not_keep_the_program_from_ending():
    under_test = Drain(Ring([]), NoSpool())
    under_test.start()
    (thread,) = [thread for thread in threading.enumerate() if thread.name == "drain"]
    assert thread.daemon
    under_test.stop()
    thread.join(5)
    assert not thread.is_alive()


def test_what_memory_has_no_room_for_waits_on_disk_in_order():
    ring = Ring([batch(number, 400) for number in range(50)])
    spool = Spool()
    under_test = Drain(ring, spool, 1000)
    under_test.start()
    wait_until(lambda: not ring.batches, "the ring to be empty although nobody takes")
    assert under_test._spooled > 0
    assert under_test.taken == 0
    assert taken(under_test, 50) == list(range(50))
    assert under_test.taken == sum(len(batch(number, 400)[0]) for number in range(50))
    assert under_test._spooled == 0
    ring.batches += [batch(number, 400) for number in range(50, 100)]
    wait_until(lambda: not ring.batches, "the ring to be empty again")
    assert taken(under_test, 50) == list(range(50, 100))
    under_test.stop()
    wait_until(lambda: under_test.finished, "the thread to end")
    spool.close()


def test_the_spool_has_no_name_and_a_limit(monkeypatch):
    spool = Spool()
    pieces = (memoryview(b"ab"), memoryview(b"c"))
    entry = spool.put(pieces, [1, 2])
    assert os.fstat(spool._file._file.fileno()).st_nlink == 0
    monkeypatch.setattr("capture.spool.MAX_SPOOLED_BYTES", 20)
    assert spool.put(pieces, [1, 2]) is None
    assert spool.take(entry).buffer == b"abc"
    spool.rewind()
    assert os.fstat(spool._file._file.fileno()).st_size == 0
    assert spool.put(pieces, [1, 2]) == entry
    spool.close()
