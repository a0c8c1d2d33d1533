"""The thread that empties the ring: it copies batches to a queue and does nothing that could wait for a parser.

When the queue is full (a burst, or a machine too busy to write), batches go to a file (capture.spool); when that
can take no more, the ring fills up, and then the kernel side counts what it could not place: loss is bounded,
exact, and never costs memory.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from collections import deque
from typing import TYPE_CHECKING

from capture.spool import Spool, Spooled

if TYPE_CHECKING:
    from bpf.ring import Batch, Ring

# What comes faster than it is handled waits in memory up to here, then in a file (capture.spool).
MAX_QUEUED_BYTES = 64 << 20
# The ring holds a burst of many times what arrives meanwhile; waking costs about 20 µs.
POLL_INTERVAL_S = 0.003
# It must run whenever the ring fills, however busy the machine: it needs a small part of one processor.
NICE = -15
# How long another thread of ours may compute on while the one that empties the ring wants to (Python's own: 5 ms).
# Each time it comes back from the disk it waits so long, and the ring holds what a fast download brings in 50.
SWITCH_INTERVAL_S = 0.001
# How long a batch is left to grow while the queue is not empty: large batches cost less each.
_GROW_S = 0.001


class Drain:
    """Owns the consumer's end of the ring."""

    def __init__(self, ring: Ring, spool: Spool) -> None:
        self._ring = ring
        self._spool = spool
        self._spooled = 0  # entries of the queue that are in the file
        self._queue: deque[Batch | Spooled] = deque()
        self._queued_bytes = 0
        self.taken = 0  # bytes of the ring that were handed out
        self._ready = threading.Condition()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="drain", daemon=True)

    def start(self) -> None:
        """Begin."""
        sys.setswitchinterval(SWITCH_INTERVAL_S)
        self._thread.start()

    def take(self, timeout: float) -> Batch | None:
        """The next batch, waiting at most ``timeout`` seconds."""
        with self._ready:
            if not self._queue and not self._ready.wait_for(lambda: bool(self._queue), timeout):
                return None
            entry = self._queue.popleft()
            if not isinstance(entry, Spooled):
                self._queued_bytes -= len(entry.buffer)
                self.taken += len(entry.buffer)
                return entry
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
            batch = self._ring.drain()
            if batch is None:
                # A record that is being written hides those behind it, and will be complete: a program that has begun
                # one cannot but end it.
                if stopping and not self._ring.backlog():
                    return
                time.sleep(POLL_INTERVAL_S)
                continue
            self._put(batch)
            if len(batch.buffer) < 1 << 18 and not stopping:
                time.sleep(_GROW_S)

    def _put(self, batch: Batch) -> None:
        """Into memory if there is room; else into the file; else wait, and let the ring fill."""
        while self._queued_bytes > MAX_QUEUED_BYTES:
            with self._ready:
                if not self._spooled:
                    self._spool.rewind()
            entry = self._spool.put(batch)
            if entry:
                with self._ready:
                    self._queue.append(entry)
                    self._spooled += 1
                    self._ready.notify()
                return
            time.sleep(_GROW_S)
        with self._ready:
            self._queue.append(batch)
            self._queued_bytes += len(batch.buffer)
            self._ready.notify()
