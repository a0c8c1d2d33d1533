"""Ends that wait in the kernel's table: they found no room in the ring, or a call was still writing.

The ring is in order, the table is beside it. So an end that is found there is told when everything is handled that was
in the ring by then: bytes of the connection may wait in the ring, in the queue and on the disk for seconds. And it is
not told while a write to its session has not returned, for what that wrote is seen when it returns.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bpf.tables import OpenConnection, Tables
    from capture.drain import Drain

# The socket is gone, so the write returns when its goroutine next runs; one whose process was killed never does.
MAX_WRITE_S = 10.0


class LateEnds:
    """Finds them, and knows when each may be told."""

    def __init__(self, tables: Tables, drain: Drain) -> None:
        self._tables = tables
        self._drain = drain
        self._pending = 0  # the kernel side's count when the table was last read
        self._found: Sequence[OpenConnection] = ()
        self._position = 0  # in the ring: what is before it was reported before they were found
        # By connection: when a write was first seen to be in flight.
        self._written_since: dict[int, float] = {}

    def look(self, now: float) -> None:
        """Find what has come to the table; ``now`` is time.monotonic()'s."""
        pending = self._tables.counter("ends_pending")
        if self._found or (pending == self._pending and not self._written_since):
            return
        self._pending = pending
        late = list(self._tables.late_ends())
        since = {c.connection: self._written_since.get(c.connection, now) for c in late if c.written_to}
        self._written_since = {n: began for n, began in since.items() if now - began < MAX_WRITE_S}
        self._found = [c for c in late if c.connection not in self._written_since]
        self._position = self._drain.reported

    def take(self) -> Sequence[OpenConnection]:
        """Those that may be told now."""
        if self._drain.taken < self._position:
            return ()
        found, self._found = self._found, ()
        return found
