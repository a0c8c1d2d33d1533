"""Why bytes never came: for each hole in a flow, what the kernel side noted of it, and otherwise what is left.

A record that finds no room in the ring leaves no word either: a hole of which nothing is noted is one of those,
unless the ring never was full. Then what is missing only comes later than it was waited for.

Sans-IO: the notes and the ring's losses come through the callables given.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from typing import TYPE_CHECKING

from capture.events import Direction, Reason

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from capture.views import Content

UNKNOWN_ASSOCIATION = "unknown-association"
LATE = "late"

# Connection (0 where there is a session), session, direction: where its positions count.
FlowKey = tuple[int, int, int]
# What is noted: of which flow, from which position on how many bytes, for which reason.
Note = tuple[FlowKey, int, int, Reason]


class Holes:
    """What is known of holes. ``noted`` counts what there is to read, ``notes`` reads it all."""

    def __init__(
        self,
        noted: Callable[[], int] = lambda: 0,
        notes: Callable[[], Iterable[Note]] = tuple,
        ring_was_full: Callable[[], bool] = lambda: True,
    ) -> None:
        self._count = noted
        self._read = notes
        self._ring_was_full = ring_was_full
        self._lost = False
        self._seen = 0
        self._notes: dict[FlowKey, dict[int, tuple[int, str]]] = {}
        self._given_up: dict[FlowKey, int] = defaultdict(int)

    def give_up(self, session: int, direction: Direction, end: int) -> None:
        """Plaintext up to the position ``end`` was thrown away: nothing told where it belongs."""
        key = (0, session, direction)
        self._given_up[key] = max(self._given_up[key], end)

    def forget_session(self, session: int) -> None:
        """The session has ended."""
        for direction in Direction:
            self._given_up.pop((0, session, direction), None)

    def explained(self, connection: int, contents: Iterable[Content]) -> Iterator[Content]:
        """The same, with a reason for each hole, which may be several."""
        for content in contents:
            if content.hole is None:
                yield content
                continue
            session, position = content.hole
            for length, reason in self.reasons(
                connection, session, content.direction, position, content.lost
            ):
                yield replace(content, lost=length, reason=reason, hole=None)

    def reasons(
        self, connection: int, session: int, direction: Direction, position: int, length: int
    ) -> Iterator[tuple[int, str]]:
        """A hole as parts, in order: (bytes, reason)."""
        key = (0 if session else connection, session, int(direction))
        at, end = position, position + length
        given_up = min(end, self._given_up.get(key, 0))
        if given_up > at:
            yield given_up - at, UNKNOWN_ASSOCIATION
            at = given_up
        for start, (n, word) in sorted(self._of(key).items()):
            first, last = max(start, at), min(start + n, end)
            if last <= first:
                continue
            if first > at:
                yield first - at, self._unnoted()
            yield last - first, word
            at = last
        if at < end:
            yield end - at, self._unnoted()

    def _of(self, key: FlowKey) -> dict[int, tuple[int, str]]:
        count = self._count()
        if count != self._seen:
            self._seen = count
            self._notes = {}
            for flow, position, length, reason in self._read():
                self._notes.setdefault(flow, {})[position] = (length, reason.word)
        return self._notes.get(key, {})

    def _unnoted(self) -> str:
        self._lost = self._lost or self._ring_was_full()
        return Reason.RING_FULL.word if self._lost else LATE
