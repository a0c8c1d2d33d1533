"""Draining, on a ring in memory with the kernel's layout: order, wrap-around, records that are being written."""

from __future__ import annotations

import mmap
import os
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bpf import ring
from bpf.ring import MAX_BATCH_BYTES, Ring, copied

PAGE = mmap.PAGESIZE
BUSY, DISCARD = 1 << 31, 1 << 30


class Producer:
    """The kernel's end: consumer page, producer page, data (Documentation/bpf/ringbuf.rst)."""

    def __init__(self, size, start=0):
        self.size = size
        self.fd = os.memfd_create("ring")
        os.ftruncate(self.fd, 2 * PAGE + size)
        self.memory = mmap.mmap(self.fd, 2 * PAGE + size)
        self._put(0, start)
        self._put(PAGE, start)

    def _put(self, at, value):
        struct.pack_into("<Q", self.memory, at, value)

    def _get(self, at):
        return struct.unpack_from("<Q", self.memory, at)[0]

    @property
    def consumed(self):
        return self._get(0)

    @property
    def free(self):
        return self.size - (self._get(PAGE) - self.consumed)

    def write(self, payload, flags=0):
        """A record; its position, or None where there is no room."""
        whole = (len(payload) + 8 + 7) & ~7
        if whole > self.free:
            return None
        position = self._get(PAGE)
        record = struct.pack("<II", len(payload) | flags, 0) + payload
        for offset, byte in enumerate(record):
            self.memory[2 * PAGE + (position + offset) % self.size] = byte
        self._put(PAGE, position + whole)
        return position

    def settle(self, position, flags=0):
        """A record that was being written is done."""
        at = 2 * PAGE + position % self.size
        (word,) = struct.unpack_from("<I", self.memory, at)
        struct.pack_into("<I", self.memory, at, word & ~BUSY | flags)

    def close(self):
        self.memory.close()
        os.close(self.fd)


@pytest.fixture
def pair():
    opened = []

    def make(size=PAGE, start=0):
        producer = Producer(size, start)
        consumer = Ring(producer.fd, size)
        opened.extend((consumer, producer))
        return producer, consumer

    yield make
    for end in opened:
        end.close()


def payloads(batch, lengths):
    """The records of a batch, whose lengths the caller knows (a sample says its own)."""
    return [batch.buffer[start : start + length] for start, length in zip(batch, lengths, strict=True)]


def test_an_empty_ring_gives_nothing(pair):
    _, consumer = pair()
    assert consumer.drain(copied) is None
    assert consumer.backlog() == 0


def test_records_come_in_order_and_make_room(pair):
    producer, consumer = pair()
    records = [bytes([number]) * number for number in range(1, 30)]
    for record in records:
        producer.write(record)
    backlog = consumer.backlog()
    assert consumer.produced == backlog
    batch = consumer.drain(copied)
    assert len(batch.buffer) == backlog
    assert payloads(batch, map(len, records)) == records
    assert producer.consumed == backlog
    assert consumer.backlog() == 0


def test_what_was_discarded_is_left_out(pair):
    producer, consumer = pair()
    producer.write(b"one")
    producer.write(b"not", DISCARD)
    producer.write(b"two")
    assert payloads(consumer.drain(copied), (3, 3)) == [b"one", b"two"]


def test_there_is_no_room_for_others_while_records_are_being_kept(pair):
    """They are read in place: what a disk takes needs no copy in between."""
    producer, consumer = pair(PAGE, PAGE - 64)
    producer.write(b"x" * 200)

    def keep(pieces, starts):
        assert producer.consumed == PAGE - 64
        assert starts == [8]
        assert [len(piece) for piece in pieces] == [64, 208 - 64]
        return b"".join(pieces)[8:]

    assert consumer.drain(keep) == b"x" * 200
    assert producer.consumed == PAGE - 64 + 208


def test_only_discarded_records_still_make_room(pair):
    producer, consumer = pair()
    producer.write(b"not", DISCARD)
    batch = consumer.drain(copied)
    assert list(batch) == []
    assert consumer.backlog() == 0


def test_nothing_passes_a_record_that_is_being_written(pair):
    producer, consumer = pair()
    producer.write(b"one")
    busy = producer.write(b"two", BUSY)
    producer.write(b"three")
    assert payloads(consumer.drain(copied), (3,)) == [b"one"]
    assert consumer.drain(copied) is None
    assert producer.consumed == busy
    assert consumer.produced == busy + consumer.backlog()
    producer.settle(busy)
    assert payloads(consumer.drain(copied), (3, 5)) == [b"two", b"three"]


def test_one_that_is_discarded_when_it_is_done(pair):
    producer, consumer = pair()
    busy = producer.write(b"two", BUSY)
    assert consumer.drain(copied) is None
    producer.settle(busy, DISCARD)
    assert list(consumer.drain(copied)) == []


@pytest.mark.parametrize("start", [PAGE - 8, PAGE - 16, PAGE - 64, (1 << 40) + PAGE - 24])
def test_a_record_across_the_end_is_whole(pair, start):
    producer, consumer = pair(PAGE, start)
    records = [bytes(range(100)), b"after", b"x" * 700]
    for record in records:
        producer.write(record)
    assert payloads(consumer.drain(copied), map(len, records)) == records


def test_a_full_ring(pair):
    producer, consumer = pair()
    record = b"y" * 120
    count = 0
    while producer.write(record) is not None:
        count += 1
    assert count == PAGE // 128
    assert payloads(consumer.drain(copied), [120] * count) == [record] * count
    assert producer.write(record) is not None


def test_a_batch_has_a_limit(pair, monkeypatch):
    monkeypatch.setattr(ring, "MAX_BATCH_BYTES", 256)
    producer, consumer = pair()
    for number in range(20):
        producer.write(bytes([number]) * 56)
    sizes = []
    while (batch := consumer.drain(copied)) is not None:
        sizes.append(len(batch.buffer))
        assert payloads(batch, [56] * (len(batch.buffer) // 64))
    assert sizes == [256] * 5
    assert MAX_BATCH_BYTES >= 1 << 20


class Story:
    """What is written, what must come of it, and what has come."""

    def __init__(self, start):
        self.producer = Producer(PAGE, start)
        self.consumer = Ring(self.producer.fd, PAGE)
        self.expected, self.busy, self.found = [], [], []

    def write(self, payload, flags):
        if self.producer.write(payload, flags) is not None and not flags:
            self.expected.append(payload)

    def begin(self, payload):
        position = self.producer.write(payload, BUSY)
        if position is not None:
            self.busy.append((position, len(self.expected)))
            self.expected.append(payload)

    def settle(self, flags=0):
        if self.busy:
            position, place = self.busy.pop()
            self.producer.settle(position, flags)
            self.expected[place] = None if flags else self.expected[place]

    def drain(self):
        batch = self.consumer.drain(copied)
        for at in batch or ():
            (length,) = struct.unpack_from("<I", batch.buffer, at - 8)
            self.found.append(batch.buffer[at : at + (length & (DISCARD - 1))])

    def close(self):
        self.consumer.close()
        self.producer.close()


@given(
    operations=st.lists(
        st.one_of(
            st.tuples(st.just("write"), st.binary(max_size=300), st.sampled_from([0, DISCARD])),
            st.tuples(st.just("drain")),
            st.tuples(st.just("begin"), st.binary(max_size=50)),
            st.tuples(st.just("settle"), st.sampled_from([0, DISCARD])),
        ),
        max_size=60,
    ),
    start=st.integers(0, 1 << 20).map(lambda n: n * 8),
)
@settings(max_examples=80, deadline=None)
def test_whatever_happens_all_records_come_once_and_in_order(operations, start):
    story = Story(start)
    try:
        for kind, *details in operations:
            getattr(story, kind)(*details)
        while story.busy:
            story.settle()
        story.drain()
        assert story.found == [payload for payload in story.expected if payload is not None]
    finally:
        story.close()


def test_closing_lets_go_of_the_memory(pair):
    producer = Producer(PAGE)
    consumer = Ring(producer.fd, PAGE)
    consumer.close()
    producer.close()
