"""Drains the BPF ring buffer (Documentation/bpf/ringbuf.rst) by mmap: headers first, then one bulk copy.

The producer's side is trusted to be the kernel's: a record is an 8-byte header (length, with BUSY and DISCARD in
the top bits) and its payload, 8-byte aligned. A header's BUSY bit is read before its payload is copied; on x86
loads are not reordered, elsewhere a membarrier keeps them so.

The data area is mapped once, not twice as libbpf does: resident memory counts every mapping. A batch that wraps
is joined from two copies.
"""

from __future__ import annotations

import ctypes
import mmap
import platform
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

Kept = TypeVar("Kept")

PAGE_BYTES = mmap.PAGESIZE
_BUSY, _DISCARD = 1 << 31, 1 << 30
_LENGTH = _DISCARD - 1

# One batch: large enough that its fixed cost vanishes, small enough to be let go of soon.
MAX_BATCH_BYTES = 4 << 20

_SYS_MEMBARRIER_ARM64 = 283
_MEMBARRIER_REGISTER_PRIVATE, _MEMBARRIER_PRIVATE = 16, 8


class Batch:
    """Records copied out of the ring: ``buffer`` (a slice of it is bytes), and where in it each payload begins."""

    __slots__ = ("buffer", "starts")

    def __init__(self, buffer: bytes | mmap.mmap, starts: list[int]) -> None:
        self.buffer = buffer
        self.starts = starts

    def __iter__(self) -> Iterator[int]:
        return iter(self.starts)


def copied(pieces: Sequence[memoryview], starts: list[int]) -> Batch:
    """A batch of its own memory."""
    return Batch(b"".join(pieces), starts)


class Ring:
    """The consumer's end of one ring of ``size`` bytes (a power of two)."""

    def __init__(self, map_fd: int, size: int) -> None:
        self._size = size
        self._position_page = mmap.mmap(map_fd, PAGE_BYTES, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
        self._shared = mmap.mmap(
            map_fd, PAGE_BYTES + size, mmap.MAP_SHARED, mmap.PROT_READ, offset=PAGE_BYTES
        )
        self._consumer = ctypes.c_uint64.from_buffer(self._position_page)
        view = memoryview(self._shared)
        self._producer = view[:8].cast("Q")
        self._data = view[PAGE_BYTES:]
        self._words = self._data.cast("I")
        self._fence = _fence()

    def drain(self, keep: Callable[[Sequence[memoryview], list[int]], Kept]) -> Kept | None:
        """What ``keep`` makes of the next records; None if there are none, or the next is being written.

        It is given one piece of the ring's memory or two, at most MAX_BATCH_BYTES and in order, and where in them each
        payload begins; there is room for others when it returns.
        """
        consumed, produced = self._consumer.value, self._producer[0]
        if consumed == produced:
            return None
        self._fence()
        size, words = self._size, self._words
        begin = consumed % size
        limit = min(produced - consumed, MAX_BATCH_BYTES)
        starts: list[int] = []
        append = starts.append
        at = 0
        while at < limit:
            word = words[((begin + at) % size) >> 2]
            if word & _BUSY:
                break
            if not word & _DISCARD:
                append(at + 8)
            at += ((word & _LENGTH) + 15) & ~7
        if not at:
            return None
        self._fence()
        end = begin + at
        data = self._data
        kept = keep((data[begin:end],) if end <= size else (data[begin:], data[: end - size]), starts)
        self._fence()
        self._consumer.value = consumed + at
        return kept

    @property
    def produced(self) -> int:
        """The position of the next record, those that are being written before it: bytes since the ring was made."""
        return int(self._producer[0])

    def backlog(self) -> int:
        """Bytes that wait in the ring."""
        return int(self._producer[0] - self._consumer.value)

    def close(self) -> None:
        """Unmap."""
        del self._consumer
        for view in (self._words, self._data, self._producer):
            view.release()
        self._shared.close()
        self._position_page.close()


class _Barrier:
    """membarrier(2), for processors that reorder loads."""

    def __init__(self) -> None:
        self._syscall = ctypes.CDLL(None, use_errno=True).syscall
        self._syscall(_SYS_MEMBARRIER_ARM64, _MEMBARRIER_REGISTER_PRIVATE, 0, 0)

    def __call__(self) -> None:
        self._syscall(_SYS_MEMBARRIER_ARM64, _MEMBARRIER_PRIVATE, 0, 0)


def _nothing() -> None:
    """On x86 loads stay in order."""


def _fence() -> Callable[[], None]:
    return _Barrier() if platform.machine() == "aarch64" else _nothing
