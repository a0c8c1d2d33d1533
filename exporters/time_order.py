"""Blocks of a capture, put in order of time, as a sniffer would have written them.

A connection's packets are known when something is known of the connection: its SYN when its first bytes come, the bytes
of a TLS session when its socket is known. What other connections do meanwhile comes before it. So blocks wait: what was
put before one ``settle`` is handed on at the next. Under a load that makes more than ``MAX_HELD_BYTES`` between two of
them, the older half goes first. What comes later still is out of order in the file, but never within its stream.

Blocks in, pieces of a file out: this module reads no clock, and knows no format.
"""

from __future__ import annotations

from bisect import bisect_right
from operator import itemgetter
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

MAX_HELD_BYTES: Final = 16 << 20
"""A recording that writes as much in half a second makes 100 GB an hour."""
BLOCK_BYTES: Final = 128
"""What a block takes in memory beside its bytes."""
PIECE_BYTES: Final = 256 * 1024
"""Blocks are joined and handed on in pieces of about this size: large enough that the sink's cost vanishes, small
against the recorder's memory."""

_time = itemgetter(0)


class TimeOrder:
    """Hands blocks on to ``write``, in order of time as far as they waited for each other."""

    __slots__ = ("_held", "_held_bytes", "_settled_ns", "_write", "newest_ns")

    def __init__(self, write: Callable[[bytes], object]) -> None:
        self._write = write
        self._held: list[tuple[int, bytes]] = []
        self._held_bytes = 0
        self._settled_ns = 0
        self.newest_ns = 0
        """The newest time so far; ``_settled_ns`` is what it was when it was last settled."""

    def put(self, time_ns: int, block: bytes) -> None:
        """Takes a block; those of one time stay in their order."""
        self._held.append((time_ns, block))
        self.newest_ns = max(self.newest_ns, time_ns)
        self._held_bytes += len(block) + BLOCK_BYTES
        if self._held_bytes > MAX_HELD_BYTES:
            self._held.sort(key=_time)
            self._hand_on(len(self._held) // 2 + 1)

    def settle(self) -> None:
        """Hands on what is no newer than the newest block was at the last call."""
        self._held.sort(key=_time)
        self._hand_on(bisect_right(self._held, self._settled_ns, key=_time))
        self._settled_ns = self.newest_ns

    def flush(self) -> None:
        """Hands on everything."""
        self._held.sort(key=_time)
        self._hand_on(len(self._held))

    def _hand_on(self, count: int) -> None:
        """The first blocks."""
        ready = [block for _, block in self._held[:count]]
        del self._held[:count]
        size = sum(map(len, ready))
        self._held_bytes -= size + BLOCK_BYTES * count
        # As many at once as have that size in the mean.
        step = 1 + PIECE_BYTES * count // (size + 1)
        for at in range(0, count, step):
            self._write(b"".join(ready[at : at + step]))
