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


class HeldItems:
    """Items in the order in which they came; ``bytes`` is how much they hold."""

    __slots__ = ("_items", "bytes")

    def __init__(self) -> None:
        self._items: deque[Held] = deque()
        self.bytes = 0

    def __bool__(self) -> bool:
        return bool(self._items)

    def hold(self, item: Held) -> None:
        """``item`` waits."""
        self._items.append(item)
        self.bytes += len(item.data or b"")

    def hold_all(self, others: HeldItems) -> None:
        """What is left of ``others`` waits behind what does already."""
        self._items.extend(others._items)

    def take(self) -> Held:
        """The item that has waited longest."""
        return self._items.popleft()

    def lose(self, side: Side, time_ns: int, length: int, reason: str) -> None:
        """The next ``length`` bytes of ``side`` are not held, as little as those before them."""
        for index, item in enumerate(self._items):
            if item.side is side and item.data is None and item.reason == reason:
                self._items[index] = item._replace(length=item.length + length)
                return
        self._items.append(Held(side, time_ns, None, length, reason))
