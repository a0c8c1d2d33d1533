"""Memory that is given back in order: extents in use never overlap, keep their bytes, and fill it but for a rest."""

from __future__ import annotations

from collections import deque

from hypothesis import given
from hypothesis import strategies as st

from capture.arena import Arena

SIZE = 1000


@given(st.lists(st.one_of(st.integers(1, SIZE + 1), st.none()), max_size=200))
def test_what_is_in_use_keeps_its_bytes_whatever_comes_and_goes(steps: list[int | None]) -> None:
    """A number reserves so many bytes, None gives the oldest back."""
    arena = Arena(SIZE)
    used: deque[tuple[int, bytes]] = deque()
    for step, size in enumerate(steps):
        if size is None:
            if used:
                arena.free()
                used.popleft()
            continue
        extent = arena.reserve(size)
        if extent is None:
            # Where nothing is in use there is room for all that fits.
            assert used or size > SIZE
            continue
        assert extent.size == size
        data = bytes([step % 256]) * size
        arena.write(extent, (memoryview(data[:1]), memoryview(data[1:])))
        used.append((extent.offset, data))
        assert sum(len(data) for _, data in used) <= SIZE
        for offset, kept in used:
            assert arena.memory[offset : offset + len(kept)] == kept


def test_room_at_the_beginning_is_used_when_there_is_none_at_the_end() -> None:
    arena = Arena(100)
    first, second = arena.reserve(40), arena.reserve(40)
    assert (first, second) == ((0, 40), (40, 40))
    assert arena.reserve(30) is None
    arena.free()
    assert arena.reserve(40) == (0, 40)
    assert arena.reserve(1) is None
    arena.free()
    assert arena.reserve(40) == (40, 40)


def test_the_end_is_filled_to_the_last_byte() -> None:
    arena = Arena(100)
    assert [arena.reserve(50), arena.reserve(50)] == [(0, 50), (50, 50)]
    assert arena.reserve(1) is None
    arena.free()
    assert arena.reserve(50) == (0, 50)
    assert arena.reserve(1) is None
