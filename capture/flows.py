"""One direction of bytes put in order by position: pieces in, pieces and holes out.

Pieces come almost always in order, for the ring keeps the order in which they were reserved. Two threads on
one socket can swap; a record that found no room never comes. So a piece from the thread that sent the one
before it proves a hole at once, and any other waits a moment for what may still come.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

# How long a hole may be a piece that another thread is still writing into the ring.
REORDER_WINDOW_NS = 200_000_000
# Pieces kept in that time, a direction: beyond it, a busy stream has a hole, not a swap.
MAX_HELD_PIECES = 256


class Piece(Protocol):
    """What a flow orders."""

    @property
    def position(self) -> int:
        """Of its first byte."""

    @property
    def length(self) -> int:
        """In bytes, captured or not."""

    @property
    def time(self) -> int:
        """Nanoseconds."""

    @property
    def tid(self) -> int:
        """The thread it came from."""


P = TypeVar("P", bound=Piece)


@dataclass(frozen=True, slots=True)
class Hole:
    """``length`` bytes that never came, noticed at ``time``."""

    time: int
    length: int


class Flow(Generic[P]):
    """Orders the pieces of one direction from position ``base`` on."""

    __slots__ = ("_held", "_last_tid", "_waiting_since", "late_bytes", "next")

    def __init__(self, base: int) -> None:
        self.next = base
        self.late_bytes = 0
        self._held: dict[int, P] = {}
        self._last_tid = 0
        self._waiting_since = 0

    def add(self, piece: P) -> Iterator[P | Hole]:
        """What is in order now that this piece has come."""
        if piece.position == self.next:
            yield self._pass(piece)
            if self._held:
                yield from self._consecutive()
        elif piece.position > self.next:
            if not self._held:
                self._waiting_since = piece.time
            self._held[piece.position] = piece
            if piece.tid == self._last_tid or len(self._held) > MAX_HELD_PIECES:
                yield from self.give_up()
        else:
            # Its place was already declared a hole: too late to be shown in order.
            self.late_bytes += piece.length

    def expire(self, now: int) -> Iterator[P | Hole]:
        """What has waited long enough."""
        if self._held and now - self._waiting_since > REORDER_WINDOW_NS:
            yield from self.give_up()

    def give_up(self) -> Iterator[P | Hole]:
        """Everything that is held, with holes for what is missing before it."""
        while self._held:
            first = min(self._held)
            yield Hole(self._held[first].time, first - self.next)
            self.next = first
            yield from self._consecutive()

    def finish(self, final: int, now: int) -> Iterator[P | Hole]:
        """The end: everything up to the position ``final``, which the kernel says was reached."""
        yield from self.give_up()
        if final > self.next:
            yield Hole(now, final - self.next)
            self.next = final

    @property
    def waits(self) -> bool:
        """Whether something is held."""
        return bool(self._held)

    def _pass(self, piece: P) -> P:
        self.next += piece.length
        self._last_tid = piece.tid
        return piece

    def _consecutive(self) -> Iterator[P]:
        while (piece := self._held.pop(self.next, None)) is not None:
            yield self._pass(piece)
