"""The kernel's times as people's: CLOCK_MONOTONIC plus an offset, which orders events as they happened.

The offset stays as it is while clocks drift, and is measured anew when the wall clock jumps: the machine slept,
which CLOCK_MONOTONIC does not count, or the clock was set.
"""

from __future__ import annotations

import time

# What corrections of the clock add up to within hours, and no sleep is shorter than.
MAX_DRIFT_NS = 500_000_000


class WallClock:
    """``offset`` is nanoseconds to add to a time of CLOCK_MONOTONIC."""

    def __init__(self) -> None:
        self.offset = _measure()

    def now(self) -> int:
        """Nanoseconds since the epoch, on the same scale as events."""
        return time.monotonic_ns() + self.offset

    def adjust(self) -> int:
        """Follow the wall clock if it jumped; by how many nanoseconds, else 0."""
        jump = _measure() - self.offset
        if abs(jump) < MAX_DRIFT_NS:
            return 0
        self.offset += jump
        return jump


def _measure() -> int:
    """The offset, by the reading that was interrupted least: a busy machine may pause us between two clocks."""
    readings = []
    for _ in range(3):
        before, wall, after = time.monotonic_ns(), time.time_ns(), time.monotonic_ns()
        readings.append((after - before, wall - before))
    return min(readings)[1]
