"""What waits in one layer until the other direction decides what it is: a CONNECT's answer, a response's request."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from capture.streams import Side


class Held(NamedTuple):
    """Bytes, or (``data`` is None) a loss: of ``length`` bytes, or of up to so many if it is not ``exact``."""

    side: Side
    time_ns: int
    data: bytes | None
    length: int = 0
    reason: str = ""
    exact: bool = True


MAX_HELD_ITEMS = 65_536
"""16 MiB in pieces of 256 bytes, far smaller than what a busy peer sends. Of one byte each, they would take a
hundred times as much memory as they say."""


class HeldItems:
    """Items in the order in which they came."""

    __slots__ = ("_bytes", "_items")

    def __init__(self) -> None:
        self._items: deque[Held] = deque()
        self._bytes = 0

    def __bool__(self) -> bool:
        return bool(self._items)

    def hold(self, item: Held) -> None:
        """``item`` waits."""
        self._items.append(item)
        self._bytes += len(item.data or b"")

    def put_back(self, others: HeldItems) -> None:
        """``others``, which are the rest of what was taken last, wait before all."""
        self._items.extendleft(reversed(others._items))
        self._bytes += others._bytes

    def take(self) -> Held:
        """The item that has waited longest."""
        item = self._items.popleft()
        self._bytes -= len(item.data or b"")
        return item

    def has_no_room(self, size: int, limit_bytes: int) -> bool:
        """Whether ``size`` bytes more would be too many, or one more item."""
        return self._bytes + size > limit_bytes or len(self._items) >= MAX_HELD_ITEMS

    def lose(self, side: Side, time_ns: int, length: int, reason: str) -> None:
        """The next ``length`` bytes of ``side`` are not held, as little as those before them."""
        # From the end: what is lost so comes behind all that is held, of which there may be a lot.
        for back, item in enumerate(reversed(self._items), 1):
            if item.side is not side:
                continue
            if item.data is not None:
                break
            if item.reason == reason:
                self._items[-back] = item._replace(length=item.length + length)
                return
        self._items.append(Held(side, time_ns, None, length, reason))
