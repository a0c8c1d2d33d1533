"""Blocks of several streams, in order of time."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from exporters.time_order import MAX_HELD_BYTES, PIECE_BYTES, TimeOrder


def numbered(time_ns: int, number: int) -> bytes:
    return b"%d %d\n" % (time_ns, number)


def written(pieces: list[bytes]) -> list[tuple[int, ...]]:
    return [tuple(map(int, line.split())) for line in b"".join(pieces).splitlines()]


@given(st.lists(st.one_of(st.none(), st.integers(0, 30)), max_size=60))
def test_nothing_is_lost_and_equal_times_keep_their_order(script: list[int | None]) -> None:
    """A script of times, and of None, where the order is settled."""
    pieces: list[bytes] = []
    order = TimeOrder(pieces.append)
    for number, time_ns in enumerate(script):
        if time_ns is None:
            order.settle()
        else:
            order.put(time_ns, numbered(time_ns, number))
    order.flush()
    expected = sorted((time_ns, number) for number, time_ns in enumerate(script) if time_ns is not None)
    found = written(pieces)
    assert sorted(found) == expected
    for time_ns in {time_ns for time_ns, _ in expected}:
        numbers = [number for each, number in found if each == time_ns]
        assert numbers == sorted(numbers)
    if None not in script:
        assert found == expected


def test_what_comes_within_two_settles_is_in_order() -> None:
    pieces: list[bytes] = []
    order = TimeOrder(pieces.append)
    order.put(50, numbered(50, 0))
    order.settle()
    assert pieces == []
    order.put(20, numbered(20, 1))
    order.put(70, numbered(70, 2))
    order.settle()
    assert written(pieces) == [(20, 1), (50, 0)]
    order.settle()
    assert written(pieces) == [(20, 1), (50, 0), (70, 2)]


def test_a_load_is_not_collected() -> None:
    pieces: list[bytes] = []
    order = TimeOrder(pieces.append)
    block = bytes(10_000)
    for time_ns in range(3 * MAX_HELD_BYTES // len(block)):
        order.put(time_ns, block)
    assert sum(map(len, pieces)) > 2 * MAX_HELD_BYTES - len(block)
    assert max(map(len, pieces)) < PIECE_BYTES + len(block)
