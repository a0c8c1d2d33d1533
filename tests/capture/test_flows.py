"""Flows: whatever the order of the pieces, the bytes come out in order; what never came is a hole of exact length."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from capture.flows import MAX_HELD_BYTES, OVERLAP_WINDOW_NS, REORDER_WINDOW_NS, Flow, Hole


@dataclass(frozen=True)
class Part:
    position: int
    data: bytes
    time: int = 0
    overlapped: bool = False
    not_captured: int = 0

    @property
    def payload(self):
        return self.data

    @property
    def length(self):
        return len(self.data) + self.not_captured


def parts_of(data, cuts, base):
    edges = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    return [Part(base + a, data[a:b]) for a, b in pairwise(edges)]


def laid_out(found, base):
    """Each piece and hole at its place; they must follow each other without a seam."""
    at, data, holes = base, b"", []
    for item in found:
        if isinstance(item, Hole):
            assert item.length > 0
            holes.append((at, at + item.length))
            data += bytes(item.length)
        else:
            assert item.position == at
            data += item.data
        at += item.length
    return data, holes


DATA = st.binary(min_size=1, max_size=300).map(lambda b: bytes(max(1, x) for x in b))
CUTS = st.lists(st.integers(0, 300), max_size=12)
BASE = st.integers(0, 1 << 40)


@given(data=DATA, cuts=CUTS, base=BASE, random=st.randoms(use_true_random=False))
def test_any_order_of_any_pieces_gives_the_same_bytes(data, cuts, base, random):
    parts = parts_of(data, cuts, base)
    random.shuffle(parts)
    flow, found = Flow(base), []
    for part in parts:
        found += flow.add(part)
        assert list(flow.expire(REORDER_WINDOW_NS)) == []
    assert laid_out(found, base) == (data, [])
    assert not flow.waits
    assert list(flow.finish(base + len(data), 0)) == []


@given(
    data=DATA,
    cuts=CUTS,
    base=BASE,
    lost=st.sets(st.integers(0, 12)),
    random=st.randoms(use_true_random=False),
)
def test_what_never_comes_is_a_hole_at_its_place(data, cuts, base, lost, random):
    parts = parts_of(data, cuts, base)
    came = [part for number, part in enumerate(parts) if number not in lost]
    random.shuffle(came)
    flow, found = Flow(base), []
    for part in came:
        found += flow.add(part)
    found += flow.finish(base + len(data), 0)
    shown, holes = laid_out(found, base)
    assert len(shown) == len(data)
    expected = bytearray(len(data))
    for part in came:
        expected[part.position - base : part.position - base + part.length] = part.data
    assert shown == bytes(expected)
    # Exactly the lost bytes are inside a hole; the data has no zeros of its own.
    assert sum(end - start for start, end in holes) == expected.count(0)


ANYWHERE = st.lists(
    st.builds(
        Part,
        position=st.integers(-5, 60),
        data=st.binary(max_size=20),
        overlapped=st.booleans(),
        not_captured=st.integers(0, 5),
    ).filter(lambda part: part.length),
    max_size=15,
)


@given(parts=ANYWHERE, ticks=st.sets(st.integers(0, 14)), final=st.integers(0, 100))
def test_what_reaches_into_another_is_given_out_or_counted(parts, ticks, final):
    flow, found = Flow(0), []
    for number, part in enumerate(parts):
        found += flow.add(part)
        if number in ticks:
            found += flow.expire(number * 2 * OVERLAP_WINDOW_NS)
    found += flow.finish(final, 0)
    at = 0
    for item in found:
        assert isinstance(item, Hole) or item.position == at
        at += item.length
    shown = sum(len(item.data) for item in found if isinstance(item, Part))
    assert shown + flow.late_bytes == sum(len(part.data) for part in parts)
    assert (flow._held_bytes, flow.waits) == (0, False)


def test_a_hole_is_declared_only_when_the_window_is_over():
    flow = Flow(0)
    early = Part(5, b"late", time=1_000)
    assert list(flow.add(early)) == []
    assert list(flow.expire(1_000)) == []
    assert list(flow.expire(1_000 + REORDER_WINDOW_NS)) == []
    assert list(flow.expire(1_001 + REORDER_WINDOW_NS)) == [Hole(1_000, 5, 0), early]
    assert flow.position == 9


def test_the_window_is_that_of_the_oldest_that_waits():
    flow = Flow(0)
    list(flow.add(Part(5, b"a", time=0)))
    assert list(flow.expire(0)) == []
    list(flow.add(Part(9, b"b", time=REORDER_WINDOW_NS)))
    assert [type(item) for item in flow.expire(REORDER_WINDOW_NS + 1)] == [Hole, Part, Hole, Part]


@pytest.mark.parametrize("overlapped", [False, True])
def test_the_piece_of_a_call_that_blocked_waits_as_long_as_any(overlapped):
    """Its time is that of the call's entry; what belongs before it may come in the next millisecond."""
    flow, now = Flow(0), 2 * OVERLAP_WINDOW_NS
    late = Part(5, b"late", time=0, overlapped=overlapped)
    list(flow.add(late))
    assert list(flow.expire(now)) == list(flow.expire(now + REORDER_WINDOW_NS)) == []
    early = Part(0, b"early")
    assert list(flow.add(early)) == [early, late]


def test_of_two_pieces_at_one_place_the_second_is_late():
    flow = Flow(0)
    first = Part(5, b"first")
    list(flow.add(first))
    list(flow.add(Part(5, b"second")))
    list(flow.add(Part(7, b"inside")))
    assert list(flow.finish(10, 0)) == [Hole(0, 5, 0), first]
    assert flow.late_bytes == len(b"second" + b"inside")
    assert (flow._held_bytes, flow.waits) == (0, False)


def test_a_piece_that_comes_after_its_hole_is_counted_and_not_shown():
    flow = Flow(0)
    list(flow.add(Part(3, b"abc")))
    list(flow.give_up())
    assert list(flow.add(Part(0, b"xyz"))) == []
    assert flow.late_bytes == 3
    assert [item.data for item in flow.add(Part(6, b"def"))] == [b"def"]


def test_memory_is_bounded_whatever_is_missing():
    flow, size = Flow(0), 1 << 14
    given_out = 0
    for number in range(1, 3 * MAX_HELD_BYTES // size):
        for item in flow.add(Part(number * size, bytes(size))):
            given_out += item.length
        assert flow._held_bytes <= MAX_HELD_BYTES
        assert sum(part.length for part in flow._held.values()) == flow._held_bytes
    assert given_out > MAX_HELD_BYTES


@pytest.mark.parametrize("final", [0, 5])
def test_an_end_at_or_before_what_came_is_no_hole(final):
    flow = Flow(0)
    list(flow.add(Part(0, b"hello")))
    assert list(flow.finish(final, 0)) == []


def test_an_end_beyond_what_came_is_one_hole():
    flow = Flow(100)
    assert list(flow.finish(107, 3)) == [Hole(3, 7, 100)]
    assert list(flow.finish(107, 3)) == []


def test_where_calls_overlap_it_waits_for_the_one_that_has_not_returned():
    flow = Flow(0)
    late = Part(0, bytes(10))
    early = Part(10, bytes(2 * MAX_HELD_BYTES), overlapped=True)
    assert list(flow.add(early)) == []
    assert list(flow.expire(0)) == list(flow.expire(OVERLAP_WINDOW_NS)) == []
    assert list(flow.add(late)) == [late, early]
    assert list(flow.add(Part(flow.position + 1, b"x", overlapped=True))) == []
    assert list(flow.expire(0)) == []
    assert [type(found) for found in flow.expire(OVERLAP_WINDOW_NS + 1)] == [Hole, Part]
