"""Kernel events → stream items: connections by id, TLS sessions bound to them, both ends of local ones as one.

Theory of operation
-------------------
The kernel announces a connection before its data, and gives every TLS session (an SSL object's life) an id.
Plaintext carries the session, and the connection as soon as it is known; until then it waits here.

A connection between two processes of this machine is announced twice, with mirrored addresses: two *views*.
One is shown, the client's if it has content, else the server's. Which event comes first is chance, so where the
peer may be local the first content waits a moment for the other end. The rest streams through.

Sans-IO: time comes in with ``tick``, processes and library names through the callables given.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from capture.endpoints import addresses, may_be_local
from capture.events import (
    BytesMoved,
    ConnectionAnnounced,
    ConnectionEnded,
    Event,
    HostResolved,
    ProgramExecuted,
    Protocol,
    Reason,
    SessionBound,
    SessionEstablished,
    SessionFreed,
)
from capture.holes import Holes
from capture.lookups import Lookups
from capture.relays import Relays
from capture.streams import Process, Side, StreamItem
from capture.tally import Tally
from capture.views import Content, State, View

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from capture.endpoints import Address

# How long a client's first content waits for the server to be announced, so that the file names both.
PEER_WINDOW_NS = 20_000_000
# How long a server's waits for a client that was not announced (it may not be recorded at all) …
SERVER_WINDOW_NS = 100_000_000
# … and for the content of one that was: what the server reads, the client has written, but may tell later.
CLIENT_WINDOW_NS = 200_000_000
# How long a TLS connection may be without word of a probe, before its process is asked what it has instead.
PROBE_WINDOW_NS = 10_000_000
# How long a connection that has ended is remembered for its other end, which may read only after the client's
# socket is gone: what the client sent before its FIN waits for a server that is busy.
LINGER_NS = 2_000_000_000
# Beyond this a view is shown without waiting. A busy machine may let a client return from the call that asked only
# when the server has filled the buffers of both sockets with its answer.
MAX_HELD_BYTES = 8 << 20
# Plaintext whose socket is not known yet, over all sessions; the oldest is given up first.
MAX_UNBOUND_BYTES = 16 << 20
# Sessions that are remembered, those of processes that died and freed none too; the first seen goes first. What comes
# of it later says its connection and library itself.
MAX_SESSIONS = 65536

_NOT_SHOWN = frozenset({Protocol.UNDECIDED, Protocol.OTHER})


@dataclass(frozen=True, slots=True)
class Final:
    """A connection's last positions, read from the kernel when the recording ends."""

    moved: tuple[int, int]
    session: int
    session_moved: tuple[int, int]


@dataclass(slots=True)
class _Session:
    connection: int = 0
    library: int = 0
    started: int | None = None
    established: int | None = None
    waiting: list[BytesMoved] = field(default_factory=list)
    waiting_bytes: int = 0


class Connections:
    """All connections of a recording. Every method yields the items that are ready."""

    def __init__(
        self,
        describe: Callable[[int, str], Process],
        library_name: Callable[[int], str | None],
        mirror: Callable[[int, bool], None],
        *,
        all_protocols: bool = False,
        holes: Holes | None = None,
        name_tls: Callable[[int], str | None] = lambda _: None,
        likely_side: Callable[[ConnectionAnnounced], Side | None] = lambda _: None,
    ) -> None:
        self.tally = Tally()
        self._name_tls = name_tls  # whose TLS a process has that no probe reads
        self._relays = Relays()
        self._unexplained: dict[int, View] = {}  # TLS, and no probe has told of it yet
        self._holes = holes or Holes()
        self._describe = describe
        self._library_name = library_name
        self._mirror = (
            mirror  # tells whether a connection's bytes are wanted no more, for its other end is shown
        )
        self._all_protocols = all_protocols
        self._likely_side = likely_side
        self._views: dict[int, View] = {}
        self._by_address: dict[Address, View] = {}
        self._lingering: deque[tuple[int, View]] = (
            deque()
        )  # ended before their other end was announced, oldest first
        self._lookups = Lookups()
        self._sessions: dict[int, _Session] = {}
        self._unbound: dict[int, None] = {}  # sessions with waiting plaintext, oldest first
        self._unbound_bytes = 0
        self._undecided: dict[int, View] = {}  # views with held content
        self._provisional: dict[int, list[BytesMoved]] = {}
        self._waiting_flows: dict[int, View] = {}
        self._now = 0  # the last tick's
        self._handlers: dict[type, Callable[..., Iterator[StreamItem]]] = {
            BytesMoved: self._moved,
            ConnectionAnnounced: self._announced,
            ConnectionEnded: self._ended,
            SessionBound: self._bound,
            SessionEstablished: self._established,
            SessionFreed: self._freed,
            ProgramExecuted: lambda _: iter(()),
            HostResolved: self._resolved,
        }

    def handle(self, event: Event) -> Iterable[StreamItem]:
        """One kernel event, in the ring's order."""
        if type(event) is BytesMoved and not event.hello:
            # The hot path: two look-ups and an item.
            view = self._views.get(event.connection)
            if view is not None and view.state is State.SHOWN:
                item = view.pass_through(event)
                if item is not None:
                    if event.session:
                        self.tally.plaintext += event.length
                    else:
                        self.tally.cleartext += event.length
                    return (item,)
        return self._handlers[type(event)](event)

    @property
    def open_views(self) -> int:
        """Connections that have not ended."""
        return len(self._views)

    def _resolved(self, event: HostResolved) -> Iterator[StreamItem]:
        self.tally.unlisted_addresses += event.more
        self._lookups.resolved(event)
        yield from ()

    # Connections

    def _announced(self, event: ConnectionAnnounced) -> Iterator[StreamItem]:
        view = self._views.get(event.connection)
        if view:
            return
        self.tally.connections += 1
        self.tally.without_address += not event.remote_port and event.unix_path is None
        view = self._views[event.connection] = View(event, self._likely_side(event))
        own, mirrored = addresses(event)
        other = self._by_address.get(mirrored)
        if other and other.other is None:
            view.other, other.other = other, view
            if other.held and other.state is State.HOLDING:
                yield from self._choose(other, view)
        self._by_address[own] = view

    def _moved(self, event: BytesMoved) -> Iterator[StreamItem]:
        if event.session:
            yield from self._plaintext(event)
            return
        view = self._views.get(event.connection)
        if event.hello:
            if view is None:
                return
            view.protocol = Protocol.TLS
            for early in self._provisional.pop(event.connection, ()):
                self.tally.never_decided_arrived += len(early.payload)
                view.tls.feed(early)
            view.tls.feed(event)
            self._relays.note(view)
            if not view.readable:
                self._unexplained[event.connection] = view
            return
        self.tally.cleartext += len(event.payload)
        if event.reason is Reason.FAULT:
            self.tally.cleartext_faults += event.length
        if view is None:
            self.tally.late_cleartext += len(event.payload)
            return
        if event.protocol is Protocol.UNDECIDED and not self._all_protocols:
            self._provisional.setdefault(event.connection, []).append(event)
            return
        view.protocol = event.protocol
        for early in self._provisional.pop(event.connection, ()):
            yield from self._contents(view, view.add(early))
        yield from self._contents(view, view.add(event))
        self._note_waiting(view)

    def _note_waiting(self, view: View) -> None:
        if view.waits:
            self._waiting_flows[view.announced.connection] = view

    def _contents(self, view: View, contents: Iterator[Content]) -> Iterator[StreamItem]:
        for content in self._explained(view, contents):
            if view.state is State.SHOWN:
                self.tally.note_gap(view, content)
                yield from view.give(content)
            elif view.state is State.HIDDEN:
                self._count_mirrored(content)
            else:
                yield from self._hold(view, content)

    def _explained(self, view: View, contents: Iterator[Content]) -> Iterator[Content]:
        """The same, with a reason for each hole, which may be several."""
        for content in contents:
            if content.hole is None:
                yield content
                continue
            session, position = content.hole
            connection = view.announced.connection
            for length, reason in self._holes.reasons(
                connection, session, content.direction, position, content.lost
            ):
                yield replace(content, lost=length, reason=reason, hole=None)

    def _hold(self, view: View, content: Content) -> Iterator[StreamItem]:
        if not view.held:
            # Of a call that has blocked, the content's time is its entry's.
            view.held_since = max(content.time, self._now)
        view.held.append(content)
        view.held_bytes += len(content.data)
        if view.other and view.other.state is State.SHOWN:
            self._hide(view)
        elif view.held_bytes > MAX_HELD_BYTES or not may_be_local(view.announced):
            yield from self._show(view)
        elif view.other:
            yield from self._choose(view, view.other)
        else:
            self._undecided[view.announced.connection] = view

    def _choose(self, view: View, other: View) -> Iterator[StreamItem]:
        """Of two ends the client's, as soon as it has content."""
        client = next((end for end in (view, other) if end.held and end.decide_side() is Side.CLIENT), None)
        if client:
            yield from self._show(client)
        else:
            self._undecided[view.announced.connection] = view

    def _show(self, view: View) -> Iterator[StreamItem]:
        self._undecided.pop(view.announced.connection, None)
        self.tally.streams += 1
        for content in view.held:
            self.tally.note_gap(view, content)
        yield from view.open(self._describe, self._lookups.behind)
        if view.ended:
            yield from view.close(view.ended)
        if view.other and view.other.state is State.HOLDING:
            self._hide(view.other)

    def _hide(self, view: View) -> None:
        self._undecided.pop(view.announced.connection, None)
        view.state = State.HIDDEN
        for content in view.held:
            self._count_mirrored(content)
        view.held, view.held_bytes = [], 0
        if not view.ended:
            self._mirror(view.announced.connection, True)

    def _count_mirrored(self, content: Content) -> None:
        if content.tls:
            self.tally.mirrored_plaintext += len(content.data)
        else:
            self.tally.mirrored_cleartext += len(content.data)

    def _ended(self, event: ConnectionEnded) -> Iterator[StreamItem]:
        view = self._views.pop(event.connection, None)
        if view is None:
            return
        view.ended = event
        if view.protocol is Protocol.UNDECIDED:
            view.protocol = event.protocol
        yield from self._finish(view, Final(event.moved, event.session, event.session_moved), event.time)
        if view.other is None and may_be_local(view.announced):
            self._lingering.append((event.time, view))
        else:
            self._forget_address(view)
        if view.state is State.HIDDEN:
            self._mirror(event.connection, False)
        for session in view.flows:
            self._holes.forget_session(session)
            self._sessions.pop(session, None)
        if view.state is State.SHOWN:
            yield from view.close(event)

    def _forget_address(self, view: View) -> None:
        address, _ = addresses(view.announced)
        if self._by_address.get(address) is view:
            del self._by_address[address]

    def _finish(self, view: View, final: Final, now: int) -> Iterator[StreamItem]:
        """Everything that can still be said of a view's bytes."""
        connection = view.announced.connection
        self._waiting_flows.pop(connection, None)
        for early in self._provisional.pop(connection, ()):
            self.tally.never_decided_arrived += len(early.payload)
        cleartext, plaintext = view.late
        if view.state is State.HIDDEN:
            self.tally.mirrored_cleartext += cleartext
            self.tally.mirrored_plaintext += plaintext
        else:
            self.tally.late_cleartext += cleartext
            self.tally.late_plaintext += plaintext
        if view.protocol in _NOT_SHOWN and not self._all_protocols:
            return  # what did not arrive of it was filtered, not lost
        # Plaintext given out before this call flips the state; what the tail adds must not close twice.
        ended, view.ended = view.ended, None
        yield from self._contents(view, view.finish(final.moved, final.session, final.session_moved, now))
        view.ended = ended
        if view.protocol is Protocol.TLS:
            self._relays.forget(view)
            if not view.readable:
                self._note_unreadable(view, sum(final.moved))
            if view.state is State.HOLDING and not view.held:
                yield from self._show_bare(view)

    def _note_unreadable(self, view: View, ciphertext: int) -> None:
        """TLS without plaintext, unless the other end has it."""
        other = view.other
        if other and (other.readable or (view.side is Side.SERVER and not other.ended)):
            return
        a = view.announced
        if view.relayed:
            self.tally.note_unread(self.tally.relayed, (a.pid, a.comm), ciphertext)
            self._unexplained.pop(a.connection, None)
            return
        self._explain(view)
        self.tally.note_unread(self.tally.unreadable, (a.pid, a.comm, view.tls.library), ciphertext)

    def _show_bare(self, view: View) -> Iterator[StreamItem]:
        """TLS that nothing can be said of but that it was: not readable, or a handshake that came to nothing."""
        other = view.other
        if other and (other.state is not State.HOLDING or other.held or view.side is Side.SERVER):
            return
        if other and other.readable and not view.readable:
            return
        ended, view.ended = view.ended, None
        yield from self._show(view)
        view.ended = ended

    def _explain(self, view: View) -> None:
        self._unexplained.pop(view.announced.connection, None)
        if view.tls.library is None and not view.readable:
            view.tls.library = self._name_tls(view.announced.pid)

    # TLS sessions

    def _session(self, number: int, library: int) -> _Session:
        session = self._sessions.get(number)
        if session is None:
            session = self._sessions[number] = _Session()
            if len(self._sessions) > MAX_SESSIONS:
                self._forget_session(next(iter(self._sessions)))
        session.library = library or session.library
        return session

    def _plaintext(self, event: BytesMoved) -> Iterator[StreamItem]:
        self.tally.plaintext += len(event.payload)
        if event.reason is Reason.FAULT:
            self.tally.plaintext_faults += event.length
        session = self._session(event.session, event.library)
        if event.connection:
            if session.connection != event.connection:
                yield from self._bind(event.session, session, event.connection)
            yield from self._deliver(session, event)
        elif session.connection:
            yield from self._deliver(session, event)
        else:
            session.waiting.append(event)
            session.waiting_bytes += len(event.payload)
            self._unbound[event.session] = None
            self._unbound_bytes += len(event.payload)
            while self._unbound_bytes > MAX_UNBOUND_BYTES:
                self._abandon(next(iter(self._unbound)))

    def _deliver(self, session: _Session, event: BytesMoved) -> Iterator[StreamItem]:
        view = self._views.get(session.connection)
        if view is None:
            # It has ended, or its announcement found no room.
            self.tally.late_plaintext += len(event.payload)
            return
        view.readable = True
        view.tls.library = self._library_name(session.library) or view.tls.library
        yield from self._contents(view, view.add(event))
        self._note_waiting(view)

    def _bind(self, number: int, session: _Session, connection: int) -> Iterator[StreamItem]:
        session.connection = connection
        view = self._views.get(connection)
        if view:
            view.protocol = Protocol.TLS
            view.readable = True
            view.tls.library = self._library_name(session.library) or view.tls.library
            view.tls.established = session.established or view.tls.established
            if view.tls.started is None:
                view.tls.started = session.started
        if number in self._unbound:
            del self._unbound[number]
            self._unbound_bytes -= session.waiting_bytes
            waiting, session.waiting, session.waiting_bytes = session.waiting, [], 0
            for event in waiting:
                yield from self._deliver(session, event)

    def _abandon(self, number: int) -> None:
        self.tally.unknown_association += self._take_waiting(number)

    def _take_waiting(self, number: int) -> int:
        """Give up the plaintext of a session that waits for its connection; its bytes."""
        session = self._sessions[number]
        self._unbound.pop(number, None)
        self._unbound_bytes -= session.waiting_bytes
        given_up = sum(len(event.payload) for event in session.waiting)
        for event in session.waiting:
            self._holes.give_up(number, event.direction, event.position + event.length)
        session.waiting, session.waiting_bytes = [], 0
        return given_up

    def _bound(self, event: SessionBound) -> Iterator[StreamItem]:
        session = self._session(event.session, event.library)
        if event.unwanted:
            self.tally.filtered_plaintext += self._take_waiting(event.session)
        elif session.connection != event.connection:
            yield from self._bind(event.session, session, event.connection)

    def _established(self, event: SessionEstablished) -> Iterator[StreamItem]:
        session = self._session(event.session, event.library)
        session.started, session.established = event.started, event.time
        if event.connection and session.connection != event.connection:
            yield from self._bind(event.session, session, event.connection)
        view = self._views.get(session.connection)
        if view and view.tls.established is None:
            view.tls.established = event.time

    def _freed(self, event: SessionFreed) -> Iterator[StreamItem]:
        self._forget_session(event.session)
        yield from ()

    def _forget_session(self, number: int) -> None:
        if number in self._unbound:
            self._abandon(number)
        self._holes.forget_session(number)
        self._sessions.pop(number, None)

    # Time

    def tick(self, now: int) -> Iterator[StreamItem]:
        """Whatever has waited long enough by ``now`` (wall-clock nanoseconds)."""
        self._now = now
        for view in list(self._undecided.values()):
            if view.state is State.HOLDING and now - view.held_since > _patience(view):
                yield from self._show(view)
        for view in list(self._unexplained.values()):
            if now - view.announced.time > PROBE_WINDOW_NS:
                self._explain(view)
        while self._lingering and now - self._lingering[0][0] > LINGER_NS:
            self._forget_address(self._lingering.popleft()[1])
        for connection, view in list(self._waiting_flows.items()):
            yield from self._contents(view, view.expire(now))
            if not view.waits:
                del self._waiting_flows[connection]

    def finish(self, now: int, finals: Mapping[int, Final]) -> Iterator[StreamItem]:
        """The recording ends; connections stay open. ``finals`` are by connection id."""
        for number in list(self._unbound):
            self._abandon(number)
        for connection, view in list(self._views.items()):
            positions = (0, 0)
            final = finals.get(connection, Final(positions, 0, positions))
            yield from self._finish(view, final, now)
        for view in list(self._undecided.values()):
            if view.state is State.HOLDING:
                yield from self._show(view)
        self._views.clear()


def _patience(view: View) -> int:
    """How long a view waits for its other end (nanoseconds)."""
    if view.other:
        return CLIENT_WINDOW_NS
    return PEER_WINDOW_NS if view.decide_side() is Side.CLIENT else SERVER_WINDOW_NS
