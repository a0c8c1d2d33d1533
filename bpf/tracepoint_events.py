"""Tracepoints by perf events that the kernel lets go in its own time.

The last to close one's event waits for a grace period of RCU, 45 ms, and no two can wait side by side: thirty took a
second of each recording's end. So a map holds them, too (BPF_F_PRESERVE_ELEMS), and the kernel closes what a map
holds on a thread of its own when that is gone. The programs are not the events' but links', and go with those; an event
without one that is switched off does nothing.
"""

from __future__ import annotations

import os
import sys

from bpf import system


class TracepointEvents:
    """Up to ``most`` of them."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._map: int | None = None
        self._events: list[int] = []

    def attach(self, program: int, event_id: int) -> int:
        """Run a program at a tracepoint, on all processors, as long as the link that is returned is open (Linux 5.15).

        Raises OSError.
        """
        if self._map is None:
            self._map = system.create_event_map(self._most)
        event = system.open_tracepoint(event_id)
        index = len(self._events)
        self._events.append(event)
        system.write_map(self._map, index.to_bytes(4, sys.byteorder), event.to_bytes(4, sys.byteorder))
        return system.link_perf_event(program, event)

    def close(self) -> None:
        """Let go of them: not before the links."""
        while self._events:
            event = self._events.pop()
            system.disable_perf_event(event)
            os.close(event)
        if self._map is not None:
            os.close(self._map)
            self._map = None
