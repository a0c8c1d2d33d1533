"""Memory that is taken and given back in the same order, and used again and again.

What is malloc'ed by the megabyte is mapped anew each time, and the kernel clears every page: of a machine that has not
used its memory yet, which its host gives page by page, that takes longer than the copying, and the ring fills up
meanwhile.
"""

from __future__ import annotations

import mmap
from collections import deque
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable


class Extent(NamedTuple):
    """``size`` bytes from ``offset`` on."""

    offset: int
    size: int


class Arena:
    """``size`` bytes, of which only so many are ever touched as were in use at once, and were not in one piece."""

    def __init__(self, size: int) -> None:
        self._size = size
        self.memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self._view = memoryview(self.memory)
        self._used: deque[Extent] = deque()
        self._next = 0

    def reserve(self, size: int) -> Extent | None:
        """The next extent in a row; None where there is no room for it. Not by two threads at once, nor with free."""
        if not self._used:
            begin, end = 0, self._size
        elif self._next > (oldest := self._used[0].offset):
            begin, end = (self._next, self._size) if self._next + size <= self._size else (0, oldest)
        else:
            begin, end = self._next, oldest
        if begin + size > end:
            return None
        extent = Extent(begin, size)
        self._used.append(extent)
        self._next = begin + size
        return extent

    def write(self, extent: Extent, pieces: Iterable[memoryview]) -> None:
        """Fill an extent."""
        at = extent.offset
        for piece in pieces:
            self._view[at : at + len(piece)] = piece
            at += len(piece)

    def free(self) -> None:
        """Give back the oldest extent."""
        self._used.popleft()
