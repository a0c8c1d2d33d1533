"""The thread that empties the ring: it copies batches and does nothing that could wait for a parser.

They go to memory (capture.arena); when that is full (a burst, or a machine too busy to write), to a file
(capture.spool); when that can take no more, the ring fills up, and then the kernel side counts what it could not
place: loss is bounded, exact, and never costs memory.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from collections import deque
from typing import TYPE_CHECKING, NamedTuple

from bpf.ring import Batch
from capture.arena import Arena, Extent

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bpf.ring import Ring
    from capture.spool import Spool, Spooled

# What comes faster than it is handled waits in memory up to here, then in a file (capture.spool).
MEMORY_BYTES = 64 << 20
# The ring holds a burst of many times what arrives meanwhile; waking costs about 20 µs.
POLL_INTERVAL_S = 0.003
# It must run whenever the ring fills, however busy the machine: it needs a small part of one processor.
NICE = -15
# How long another thread of ours may compute on while the one that empties the ring wants to (Python's own: 5 ms).
# Each time it comes back from the disk it waits so long, and the ring holds what a fast download brings in 50.
SWITCH_INTERVAL_S = 0.001
# How long the next batch is left to grow after a small one: large batches cost less each.
_GROW_S = 0.001
_SMALL_BYTES = 1 << 18


class Queued(NamedTuple):
    """A batch in memory: its bytes are ``extent``, and ``starts`` are offsets in that."""

    extent: Extent
    starts: list[int]


class Drain:
    """Owns the consumer's end of the ring."""

    def __init__(self, ring: Ring, spool: Spool, memory_bytes: int = MEMORY_BYTES) -> None:
        self._ring = ring
        self._spool = spool
        self._spooled = 0  # entries of the queue that are in the file
        self._arena = Arena(memory_bytes)
        self._queue: deque[Queued | Spooled] = deque()
        self._lent = False  # whether the batch that was handed out last is in memory
        self.taken = 0  # bytes of the ring that were handed out
        self._ready = threading.Condition()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="drain", daemon=True)

    def start(self) -> None:
        """Begin."""
        sys.setswitchinterval(SWITCH_INTERVAL_S)
        self._thread.start()

    def take(self, timeout: float) -> Batch | None:
        """The next batch, waiting at most ``timeout`` seconds. Its buffer has other bytes once the next is taken."""
        with self._ready:
            if self._lent:
                self._arena.free()
                self._lent = False
            if not self._queue and not self._ready.wait_for(lambda: bool(self._queue), timeout):
                return None
            entry = self._queue.popleft()
            self._lent = isinstance(entry, Queued)
        if isinstance(entry, Queued):
            begin, size = entry.extent
            self.taken += size
            return Batch(self._arena.memory, [begin + start for start in entry.starts])
        batch = self._spool.take(entry)
        self.taken += entry.size
        with self._ready:
            self._spooled -= 1
        return batch

    @property
    def reported(self) -> int:
        """Bytes that the kernel side has put into the ring: they are handed out when ``taken`` is as many."""
        return self._ring.produced

    def stop(self) -> None:
        """End the thread when the ring is empty. Nothing may be reporting into it any more."""
        self._stopping.set()

    @property
    def finished(self) -> bool:
        """Whether the thread has ended and the queue is empty."""
        return not self._thread.is_alive() and not self._queue

    def _run(self) -> None:
        with contextlib.suppress(PermissionError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICE)
        while True:
            stopping = self._stopping.is_set()
            size = self._ring.drain(self._keep)
            if size is None:
                # A record that is being written hides those behind it, and will be complete: a program that has begun
                # one cannot but end it.
                if stopping and not self._ring.backlog():
                    return
                time.sleep(POLL_INTERVAL_S)
            elif size < _SMALL_BYTES and not stopping:
                time.sleep(_GROW_S)

    def _keep(self, pieces: Sequence[memoryview], starts: list[int]) -> int:
        """Into memory if there is room; else into the file; else wait, and let the ring fill. How many bytes."""
        size = sum(map(len, pieces))
        while True:
            with self._ready:
                extent = self._arena.reserve(size)
                if not extent and not self._spooled:
                    self._spool.rewind()
            entry: Queued | Spooled | None
            if extent:
                self._arena.write(extent, pieces)
                entry = Queued(extent, starts)
            else:
                entry = self._spool.put(pieces, starts)
            if entry:
                break
            time.sleep(_GROW_S)
        with self._ready:
            self._queue.append(entry)
            self._spooled += not extent
            self._ready.notify()
        return size
