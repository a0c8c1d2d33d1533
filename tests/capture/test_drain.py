"""The thread that empties the ring, on a ring of lists: nothing is lost, memory is bounded, and it ends."""

from __future__ import annotations

import os
import threading
import time

import pytest
from processes import wait_until

from bpf.ring import Batch as RealBatch
from capture import drain
from capture.drain import MAX_QUEUED_BYTES, Drain
from capture.spool import Spool


class Batch:
    def __init__(self, number, size):
        self.buffer = bytes(size)
        self.number = number
        self.starts = []


class Ring:
    """Gives out batches one by one; ``None`` in the list is a moment without any."""

    def __init__(self, batches):
        self.batches = list(batches)
        self.given = 0

    def drain(self):
        if not self.batches:
            return None
        self.given += 1
        return self.batches.pop(0)

    def backlog(self):
        return sum(len(batch.buffer) for batch in self.batches if batch)


class NoSpool:
    """A disk without room."""

    def put(self, batch):
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
            found.append(batch.number)
    return found


def test_a_record_that_is_being_written_at_the_end_is_waited_for():
    """Until then nothing can be read of those behind it either."""
    under_test = Drain(Ring([Batch(1, 10), None, None, Batch(2, 10)]), Spool())
    under_test.stop()
    under_test.start()
    assert taken(under_test, 2) == [1, 2]
    wait_until(lambda: under_test.finished, "the thread to end")


def test_batches_come_in_order_and_all_of_them():
    batches = [item for number in range(50) for item in (Batch(number, 100), None)]
    under_test = Drain(Ring(batches), NoSpool())
    under_test.start()
    assert taken(under_test, 50) == list(range(50))
    under_test.stop()
    wait_until(lambda: under_test.finished, "the thread to end")
    assert under_test.take(0) is None


def test_what_is_in_the_ring_at_the_end_is_taken_too():
    under_test = Drain(Ring(Batch(number, 100) for number in range(20)), NoSpool())
    under_test.stop()
    under_test.start()
    assert not under_test.finished
    assert taken(under_test, 20) == list(range(20))
    wait_until(lambda: under_test.finished, "the thread to end")


def test_memory_is_bounded_and_the_rest_stays_in_the_ring():
    size = MAX_QUEUED_BYTES // 4
    ring = Ring(Batch(number, size) for number in range(12))
    under_test = Drain(ring, NoSpool())
    under_test.start()
    wait_until(lambda: under_test._queued_bytes > MAX_QUEUED_BYTES, "the queue to fill")
    time.sleep(0.05)
    assert under_test._queued_bytes <= MAX_QUEUED_BYTES + size
    assert ring.batches
    under_test.stop()
    assert taken(under_test, 12) == list(range(12))
    wait_until(lambda: under_test.finished, "the thread to end")
    assert under_test._queued_bytes == 0


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


def test_what_memory_has_no_room_for_waits_on_disk_in_order(monkeypatch):
    monkeypatch.setattr(drain, "MAX_QUEUED_BYTES", 1000)
    payloads = [number.to_bytes(4) * 100 for number in range(50)]
    ring = Ring([RealBatch(payload, [number]) for number, payload in enumerate(payloads)])
    spool = Spool()
    under_test = Drain(ring, spool)
    under_test.start()
    wait_until(lambda: not ring.batches, "the ring to be empty although nobody takes")
    assert under_test._spooled > 0
    assert under_test.taken == 0
    found = [under_test.take(1) for _ in payloads]
    assert [batch.buffer for batch in found] == payloads
    assert under_test.taken == sum(map(len, payloads))
    assert [batch.starts for batch in found] == [[number] for number in range(50)]
    assert under_test._spooled == 0
    ring.batches += [RealBatch(payload, []) for payload in payloads]
    wait_until(lambda: not ring.batches, "the ring to be empty again")
    assert [under_test.take(1).buffer for _ in payloads] == payloads
    under_test.stop()
    wait_until(lambda: under_test.finished, "the thread to end")
    spool.close()


def test_the_spool_has_no_name_and_a_limit(monkeypatch):
    spool = Spool()
    entry = spool.put(RealBatch(b"abc", [1, 2]))
    assert os.fstat(spool._file._file.fileno()).st_nlink == 0
    monkeypatch.setattr("capture.spool.MAX_SPOOLED_BYTES", 20)
    assert spool.put(RealBatch(b"abc", [1, 2])) is None
    assert spool.take(entry).buffer == b"abc"
    spool.rewind()
    assert os.fstat(spool._file._file.fileno()).st_size == 0
    assert spool.put(RealBatch(b"abc", [1, 2])) == entry
    spool.close()
