"""What answers a write comes after it, though it may be told of before it.

A Go program writes and reads on goroutines of their own. A write is told of when it returns, and by then the peer may
have answered and another goroutine have returned with that. The kernel side marks what was received while a write of
the session was in flight: it waits here for the next write that is told of, with all that is received after it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from capture.events import BytesMoved, ConnectionEnded, Direction, SessionFreed

if TYPE_CHECKING:
    from collections.abc import Iterator

    from capture.events import Event

# A write that takes longer waits for room, not for the processor.
ANSWER_WINDOW_NS = 100_000_000


class Answers:
    """Events that wait for an earlier write of their session."""

    def __init__(self) -> None:
        self._waiting: dict[int, list[BytesMoved]] = {}  # by session
        self._now = 0  # the last time that was asked

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def in_order(self, event: Event) -> Iterator[Event]:
        """What is to be handled now that this event has come."""
        if type(event) is ConnectionEnded:
            for session in self._of(event):
                yield from self.give_up(session)
        elif type(event) is SessionFreed:
            yield from self.give_up(event.session)
        elif type(event) is BytesMoved and event.session:
            waiting = self._waiting.get(event.session)
            if event.direction is Direction.RECEIVED and (event.answers or waiting):
                self._waiting.setdefault(event.session, []).append(event)
                return
            yield event
            # Several may be in flight: those that the next one answers may be marked too, and it comes soon.
            if waiting and event.direction is Direction.SENT:
                yield from self.give_up(event.session)
            return
        yield event

    def _of(self, end: ConnectionEnded) -> list[int]:
        """Waiting sessions of a connection: its end names only the last, pieces say where they belong once it is known.

        A session inside another's plaintext, whose pieces never say, is a connection of its own number.
        """
        own = (end.session, end.connection)
        return [
            session
            for session, waiting in self._waiting.items()
            if session in own or waiting[-1].connection == end.connection
        ]

    def give_up(self, session: int) -> Iterator[BytesMoved]:
        """All that waits in a session."""
        yield from self._waiting.pop(session, ())

    def expire(self, now: int) -> Iterator[BytesMoved]:
        """What has waited long enough by ``now`` (nanoseconds), or until the clock was set back."""
        was_set_back, self._now = now < self._now, now
        for session, events in list(self._waiting.items()):
            if was_set_back or now - events[0].time > ANSWER_WINDOW_NS:
                yield from self.give_up(session)

    def finish(self) -> Iterator[BytesMoved]:
        """Everything."""
        for session in list(self._waiting):
            yield from self.give_up(session)
