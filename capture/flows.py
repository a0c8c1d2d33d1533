"""One direction of bytes put in order by position: pieces in, pieces and holes out.

Pieces come almost always in order, for the ring keeps the order in which they were reserved. Two threads on
one socket can swap; a record that found no room never comes. From the outside the two look alike, so a piece
that comes early waits a moment for what may still come before it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import Iterator

# How long a hole may be a piece that another thread is still writing into the ring.
REORDER_WINDOW_NS = 100_000_000
# Bytes kept in that time, a direction: on a stream that is this busy a swap would long have been undone.
MAX_HELD_BYTES = 1 << 20
# Where calls overlap, a hole may be bytes of one that has not returned: it waits for as long as the peer does not
# read, and the others get on meanwhile. Three threads in calls of 300 kB were 4 MiB and seconds apart.
OVERLAP_WINDOW_NS = 30_000_000_000
MAX_OVERLAP_BYTES = 16 << 20


class Piece(Protocol):
    """What a flow orders."""

    @property
    def position(self) -> int:
        """Of its first byte."""

    @property
    def length(self) -> int:
        """In bytes, captured or not."""

    @property
    def payload(self) -> bytes:
        """What was captured of it."""

    @property
    def time(self) -> int:
        """Nanoseconds."""

    @property
    def overlapped(self) -> bool:
        """Whether what belongs before it may come much later."""


P = TypeVar("P", bound=Piece)


@dataclass(frozen=True, slots=True)
class Hole:
    """``length`` bytes from ``position`` on that never came, noticed at ``time``."""

    time: int
    length: int
    position: int


class Flow(Generic[P]):
    """Orders the pieces of one direction from position ``base`` on."""

    __slots__ = ("_held", "_held_bytes", "_overlapped", "_waiting_since", "late_bytes", "position")

    def __init__(self, base: int) -> None:
        self.position = base
        self.late_bytes = 0  # captured, of pieces whose place was a hole already, or another's
        self._held: dict[int, P] = {}
        self._held_bytes = 0
        # When it was first looked at, not the piece's time: of a call that has blocked, that is its entry's.
        self._waiting_since: int | None = None
        self._overlapped = False  # whether a piece that is held is

    def add(self, piece: P) -> Iterator[P | Hole]:
        """What is in order now that this piece has come."""
        if piece.position == self.position:
            self.position += piece.length
            yield piece
            if self._held:
                yield from self._consecutive()
        elif piece.position > self.position:
            if piece.position in self._held:
                self.late_bytes += len(piece.payload)
                return
            if not self._held:
                self._waiting_since = None
                self._overlapped = False
            self._overlapped |= piece.overlapped
            self._held[piece.position] = piece
            self._held_bytes += piece.length
            if self._held_bytes > (MAX_OVERLAP_BYTES if self._overlapped else MAX_HELD_BYTES):
                yield from self.give_up()
        else:
            # Its place was already declared a hole: too late to be shown in order.
            self.late_bytes += len(piece.payload)

    def expire(self, now: int) -> Iterator[P | Hole]:
        """What has waited long enough."""
        if not self._held:
            return
        window = OVERLAP_WINDOW_NS if self._overlapped else REORDER_WINDOW_NS
        # A clock that is set back says nothing of how long it has waited.
        if self._waiting_since is None or now < self._waiting_since:
            self._waiting_since = now
        elif now - self._waiting_since > window:
            yield from self.give_up()

    def give_up(self) -> Iterator[P | Hole]:
        """Everything that is held, with holes for what is missing before it."""
        for position in sorted(self._held):
            piece = self._held.pop(position)
            self._held_bytes -= piece.length
            if position < self.position:
                self.late_bytes += len(piece.payload)  # what came before it reaches into it
                continue
            if position > self.position:
                yield Hole(piece.time, position - self.position, self.position)
            self.position = position + piece.length
            yield piece

    def go_on_at(self, position: int) -> Iterator[P | Hole]:
        """What is held; up to ``position`` is nothing that belongs here."""
        yield from self.give_up()
        self.position = max(position, self.position)

    def finish(self, final: int, now: int) -> Iterator[P | Hole]:
        """The end: everything up to the position ``final``, which the kernel says was reached."""
        yield from self.give_up()
        if final > self.position:
            yield Hole(now, final - self.position, self.position)
            self.position = final

    @property
    def waits(self) -> bool:
        """Whether something is held."""
        return bool(self._held)

    def _consecutive(self) -> Iterator[P]:
        while (piece := self._held.pop(self.position, None)) is not None:
            self.position += piece.length
            self._held_bytes -= piece.length
            yield piece
