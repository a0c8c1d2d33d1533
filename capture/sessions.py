"""TLS sessions by the kernel side's number, and their plaintext that waits for a connection.

A session's plaintext may be told of before the socket that it goes over is known. It waits here, within limits, and
is given up with the session. Sans-IO.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from capture.events import BytesMoved, SessionJoined
    from capture.holes import Holes
    from capture.inner_sessions import InnerSessions
    from capture.streams import Process
    from capture.tally import Tally

# Plaintext whose socket is not known yet, over all sessions; the oldest is given up first.
MAX_UNBOUND_BYTES = 16 << 20
# Sessions that are remembered, those of processes that died and freed none too; the first seen goes first. What comes
# of it later says its connection and library itself.
MAX_SESSIONS = 65536


@dataclass(slots=True)
class Session:
    """``connection`` is 0 while it is not known; ``started`` and ``established`` are its handshake's (ns).

    ``program`` is its process's file, asked for where its plaintext waits.
    """

    connection: int = 0
    library: int = 0
    started: int | None = None
    established: int | None = None
    program: str | None = None
    waiting: list[BytesMoved] = field(default_factory=list)
    waiting_bytes: int = 0


class Sessions:
    """All of a recording, ``inner`` being those that may be inside others."""

    def __init__(
        self,
        describe: Callable[[int, str], Process],
        library_name: Callable[[int], str | None],
        holes: Holes,
        inner: InnerSessions,
        tally: Tally,
    ) -> None:
        self._describe = describe
        self._library_name = library_name
        self._holes = holes
        self._inner = inner
        self._tally = tally
        self._all: dict[int, Session] = {}
        self._unbound: dict[int, None] = {}  # with waiting plaintext, oldest first
        self._unbound_bytes = 0

    def __len__(self) -> int:
        return len(self._all)

    def known(self, number: int) -> Session | None:
        """The session of that number, if anything was heard of it."""
        return self._all.get(number)

    def heard_of(self, number: int, library: int) -> Session:
        """The session of that number, a new one if need be; ``library`` is 0 where that is not told."""
        session = self._all.get(number)
        if session is None:
            session = self._all[number] = Session()
            if len(self._all) > MAX_SESSIONS:
                self.forget(next(iter(self._all)))
        session.library = library or session.library
        return session

    def wait(self, session: Session, event: BytesMoved) -> None:
        """Keep plaintext whose connection is not known."""
        self._inner.wrote(event)
        if not session.waiting:
            session.program = self._describe(event.pid, "").exe
        session.waiting.append(event)
        session.waiting_bytes += len(event.payload)
        self._unbound[event.session] = None
        self._unbound_bytes += len(event.payload)
        while self._unbound_bytes > MAX_UNBOUND_BYTES:
            self._abandon(next(iter(self._unbound)))

    def bind(self, number: int, session: Session, connection: int) -> list[BytesMoved]:
        """Its connection is known: what has waited for that."""
        session.connection = connection
        self._inner.forget(number)
        if number not in self._unbound:
            return []
        return self._take(number, session)

    def join(self, event: SessionJoined) -> list[BytesMoved]:
        """A session was a part of another: what has waited, as that one's."""
        session = self._all.pop(event.session, None)
        self._inner.forget(event.session)
        if session is None:
            return []
        return [
            replace(
                moved,
                session=event.whole,
                connection=event.connection,
                position=event.position + moved.position,
            )
            for moved in self._take(event.session, session)
        ]

    def give_up(self, number: int) -> list[BytesMoved]:
        """What has waited of its plaintext, and waits no more."""
        self._inner.forget(number)
        given_up = self._take(number, self._all[number])
        for event in given_up:
            self._holes.give_up(number, event.direction, event.position + event.length)
        return given_up

    def forget(self, number: int) -> None:
        """It has ended."""
        if number in self._unbound:
            self._abandon(number)
        self._holes.forget_session(number)
        self._all.pop(number, None)

    def finish(self) -> None:
        """No connection will be told of any more."""
        for number in list(self._unbound):
            self._abandon(number)

    def _abandon(self, number: int) -> None:
        session, given_up = self._all[number], self.give_up(number)
        if plaintext := sum(len(event.payload) for event in given_up):
            process = (given_up[0].pid, session.program, self._library_name(session.library))
            self._tally.note_unassociated(process, plaintext)

    def _take(self, number: int, session: Session) -> list[BytesMoved]:
        self._unbound.pop(number, None)
        self._unbound_bytes -= session.waiting_bytes
        waiting, session.waiting, session.waiting_bytes = session.waiting, [], 0
        return waiting
