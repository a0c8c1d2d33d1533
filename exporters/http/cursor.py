"""The unread bytes of one direction: read where they are, kept only where a reader needs more to go on."""

from __future__ import annotations

from abc import ABC, abstractmethod


class Cursor(ABC):
    """Feeds a reader; ``_rest`` is what it could not use yet, and the reader may clear it."""

    def __init__(self) -> None:
        self._rest = bytearray()

    @property
    def unread(self) -> int:
        """How many bytes wait for more."""
        return len(self._rest)

    def _feed(self, time_ns: int, data: bytes) -> None:
        if self._rest:
            self._rest += data
            used = self._consume(self._rest, time_ns)
            if self._rest:  # empty after a loss of synchronisation
                del self._rest[:used]
        else:
            used = self._consume(data, time_ns)
            if used < len(data):
                self._rest += data[used:] if used else data

    @abstractmethod
    def _consume(self, source: bytes | bytearray, time_ns: int) -> int:
        """Read what can be read of ``source``; how many bytes need not be seen again."""
