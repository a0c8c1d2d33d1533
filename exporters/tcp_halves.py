"""One direction of a TCP connection: which bytes of a segment are new, and what came too early (RFC 9293 §3.4).

Sequence numbers are 32-bit and compared modulo 2^32. A half hands out pieces, in order and without overlap. What
is kept is handed out when it is ``ready``, as the caller sees it; of the other direction, of times and of who wants the
bytes a half knows nothing.
"""

from __future__ import annotations

from bisect import bisect_right
from typing import TYPE_CHECKING, Final, NamedTuple

from exporters.segments import FIN, SYN

if TYPE_CHECKING:
    from collections.abc import Callable

    from capture.streams import Side
    from exporters.dissection import Segment

MAX_EARLY_BYTES: Final = 16 * 1024 * 1024
"""Of one half, behind a hole. Linux lets a receive window grow to 6 MiB (tcp_rmem), tuned servers to 16."""
MAX_EARLY_SEGMENTS: Final = 16_384
"""The same 16 MiB in segments of 1 KiB; bounds tiny ones."""
MAX_EARLY_TOTAL_BYTES: Final = 256 * 1024 * 1024
"""Of all halves that share a Backlog: 16 connections that are each as bad as one can be."""
MAX_UNANSWERED_BYTES: Final = 1 << 16
"""Behind a SYN: a window without a scale (RFC 7323 §2.2), which only an answer to the SYN agrees on."""
MAX_JUMP_BYTES: Final = 1 << 30
"""Sequence numbers further on than the largest window (RFC 7323 §2.2) are another connection's, or damage."""

SEQUENCE_MASK: Final = (1 << 32) - 1
_HALF: Final = 1 << 31


def distance(first: int, second: int) -> int:
    """How far ``second`` is ahead of ``first``, from -2^31 to 2^31 - 1."""
    return ((second - first + _HALF) & SEQUENCE_MASK) - _HALF


def first_byte(segment: Segment) -> int:
    """The sequence number of the payload's first byte: a SYN takes one for itself."""
    return (segment.sequence + 1) & SEQUENCE_MASK if segment.flags & SYN else segment.sequence


class Piece(NamedTuple):
    """``hole`` lost bytes; or a segment of which ``old`` bytes were handed out before, or all are ``behind_end``."""

    hole: int
    segment: Segment | None
    old: int = 0
    behind_end: bool = False


class Backlog:
    """How many early bytes several halves hold together."""

    __slots__ = ("bytes",)

    def __init__(self) -> None:
        self.bytes = 0


class Half:
    """``next`` is the sequence number of the next byte to be handed out; None before anything is known."""

    __slots__ = ("_backlog", "early", "early_bytes", "finished", "initial", "next", "path", "side")

    def __init__(self, path: bytes, side: Side, backlog: Backlog) -> None:
        self._backlog = backlog
        self.path = path
        self.side = side
        self.next: int | None = None
        self.initial: int | None = None
        """The first sequence number that was known: a SYN's, or where the capture begins."""
        self.early: list[Segment] = []
        """Segments behind a hole, by sequence number and arrival."""
        self.early_bytes = 0
        self.finished = False

    def begin(self, initial: int, following: int) -> None:
        """Sets out from a SYN or an acknowledgement, unless that has happened."""
        if self.next is None:
            self.initial, self.next = initial, following & SEQUENCE_MASK

    def begin_again(self) -> None:
        """New sequence numbers are to come."""
        self.next = self.initial = None

    def missing_until(self, acknowledgement: int) -> int:
        """How many bytes the other side acknowledges that have not come; 0 for an implausible number."""
        if self.next is None:
            return 0
        missing = distance(self.next, acknowledgement)
        return missing if 0 < missing <= MAX_JUMP_BYTES else 0

    def may_begin_with(self, acknowledgement: int) -> bool:
        """Whether what answers the SYN can acknowledge so much: the SYN, and what was sent without an answer."""
        return (
            self.initial is not None and 0 < distance(self.initial, acknowledgement) <= MAX_UNANSWERED_BYTES
        )

    def is_plausible(self, sequence: int) -> bool:
        """Whether a segment with this number can belong here."""
        return self.next is None or abs(distance(self.next, sequence)) <= MAX_JUMP_BYTES

    def take(self, segment: Segment, ready: Callable[[Segment], bool]) -> list[Piece]:
        """The pieces that a segment with payload or FIN makes available: none, if it came too early.

        So it did if it is not ``ready``. Early segments behind it follow as long as they are.
        """
        start = first_byte(segment)
        self.begin(start, start)
        ahead = distance(self._next(), start)
        if ahead > 0 or not ready(segment):
            return self._keep(segment, ahead)
        return [self._advance(segment, -ahead), *self.early_pieces(ready)]

    def skip_hole(self, limit: int, ready: Callable[[Segment], bool]) -> list[Piece]:
        """Gives up the bytes before the first early segment, or ``limit`` of them, and goes on.

        Where no bytes are lacking, that segment itself is no longer kept back.
        """
        hole = distance(self._next(), first_byte(self.early[0])) if self.early else limit
        if hole > 0:
            lost = min(hole, limit)
            self.next = (self._next() + lost) & SEQUENCE_MASK
            return [Piece(lost, None), *self.early_pieces(ready)]
        return [self._advance(self.pop_early(), -hole), *self.early_pieces(ready)]

    def early_pieces(self, ready: Callable[[Segment], bool]) -> list[Piece]:
        """The early segments that no hole keeps back any more, up to the first that is not ``ready``."""
        pieces: list[Piece] = []
        for segment in self.early:
            old = distance(first_byte(segment), self._next())
            if old < 0 or not ready(segment):
                break
            self._count_early(-len(segment.payload))
            pieces.append(self._advance(segment, old))
        del self.early[: len(pieces)]
        return pieces

    @property
    def next_is_early(self) -> bool:
        """Whether no hole keeps back the first early segment."""
        return bool(self.early) and distance(first_byte(self.early[0]), self._next()) >= 0

    def pop_early(self) -> Segment:
        """The first early segment, which is kept no longer."""
        segment = self.early.pop(0)
        self._count_early(-len(segment.payload))
        return segment

    def _next(self) -> int:
        assert self.next is not None  # noqa: S101  (nothing comes early or is lost before the beginning)
        return self.next

    def _advance(self, segment: Segment, old: int) -> Piece:
        size = len(segment.payload) + segment.missing
        if self.finished:
            return Piece(0, segment, size + 1, behind_end=True)
        self.next = (self._next() + max(0, size - old)) & SEQUENCE_MASK
        if segment.flags & FIN and old <= size:
            self.finished = True
            self.next = (self.next + 1) & SEQUENCE_MASK
        return Piece(0, segment, old)

    def _keep(self, segment: Segment, ahead: int) -> list[Piece]:
        following = self._next()
        at = bisect_right(self.early, ahead, key=lambda early: distance(following, first_byte(early)))
        self.early.insert(at, segment)
        self._count_early(len(segment.payload))
        pieces: list[Piece] = []
        while self.early and (
            self.early_bytes > MAX_EARLY_BYTES
            or len(self.early) > MAX_EARLY_SEGMENTS
            or self._backlog.bytes > MAX_EARLY_TOTAL_BYTES
        ):
            pieces += self.skip_hole(MAX_JUMP_BYTES, _always)
        return pieces

    def _count_early(self, size: int) -> None:
        self.early_bytes += size
        self._backlog.bytes += size


def _always(segment: Segment) -> bool:
    return True
