"""Kernel events → stream items: connections by id, TLS sessions bound to them, both ends of local ones as one.

Theory of operation
-------------------
The kernel announces a connection before its data, and gives every TLS session (an SSL object's life) an id.
Plaintext carries the session, and the connection as soon as it is known; until then it waits here.

A connection between two processes of this machine is announced twice, with mirrored addresses: two *views*, of which
one is shown (capture.two_ends). Sessions have a module of their own (capture.sessions), and so has what is said of TLS
that nothing was read of (capture.unread).

Sans-IO: time comes in with ``tick``, processes and library names through the callables given.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from capture.answers import Answers
from capture.events import (
    BytesMoved,
    ConnectionAnnounced,
    ConnectionEnded,
    Event,
    Final,
    GreetedInside,
    HostResolved,
    ProgramExecuted,
    Protocol,
    Reason,
    SessionBound,
    SessionEstablished,
    SessionFreed,
    SessionJoined,
)
from capture.first_words import NOT_SHOWN, FirstWords
from capture.holes import Holes
from capture.inner_sessions import InnerSessions
from capture.lookups import Lookups
from capture.relays import HELLO_START
from capture.sessions import Sessions
from capture.tally import Tally
from capture.tls_hello import HelloReader
from capture.two_ends import TwoEnds
from capture.unread import NoTlsNames, UnreadConnections
from capture.views import Content, State, View

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from capture.sessions import Session
    from capture.streams import Process, Side, StreamItem
    from capture.unread import TlsNames

# How long a session may go on without its socket. Of many that are never freed the process has ended.
MAX_READING_ON_NS = 200_000_000


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
        tls_names: TlsNames | None = None,
        likely_side: Callable[[ConnectionAnnounced], Side | None] = lambda _: None,
        probed_since: Callable[[int], int] = lambda _: 0,
    ) -> None:
        self.tally = Tally()
        self._holes = holes or Holes()
        self._library_name = library_name
        self._probed_since = probed_since
        self._lookups = Lookups()
        self._ends = TwoEnds(lambda view: view.open(describe, self._lookups.behind), mirror, self.tally)
        self._unread = UnreadConnections(tls_names or NoTlsNames(), self.tally)
        self._inner = InnerSessions()
        self._sessions = Sessions(describe, library_name, self._holes, self._inner, self.tally)
        self._answers = Answers()
        self._all_protocols = all_protocols
        self._likely_side = likely_side
        self._views: dict[int, View] = {}
        # connection → sessions inside its own, which have views of their own
        self._carried: dict[int, list[int]] = {}
        self._first_words = FirstWords(self.tally, all_protocols=all_protocols)
        self._waiting_flows: dict[int, View] = {}
        self._ending: dict[int, ConnectionEnded] = {}  # their sessions have not
        self._handlers: dict[type, Callable[..., Iterator[StreamItem]]] = {
            BytesMoved: self._moved,
            ConnectionAnnounced: self._announced,
            ConnectionEnded: self._ended,
            GreetedInside: self._greeted_inside,
            SessionBound: self._bound,
            SessionJoined: self._joined,
            SessionEstablished: self._established,
            SessionFreed: self._freed,
            ProgramExecuted: lambda _: iter(()),
            HostResolved: self._resolved,
        }

    def handle(self, event: Event) -> Iterable[StreamItem]:
        """One kernel event, in the ring's order."""
        if self._answers or (type(event) is BytesMoved and event.answers):
            return [item for one in self._answers.in_order(event) for item in self._handle(one)]
        return self._handle(event)

    def _handle(self, event: Event) -> Iterable[StreamItem]:
        if type(event) is BytesMoved and not event.hello:
            # The hot path: two look-ups and an item.
            view = self._views.get(event.connection)
            if view is not None and view.state is State.SHOWN:
                item = view.pass_through(event)
                if item is not None:
                    if not event.session:
                        self.tally.cleartext += event.length
                        return (item,)
                    self.tally.plaintext += event.length
                    if event.payload[:2] == HELLO_START:
                        self._unread.carried(view, event)
                    if event.pid in self._inner.writers:
                        return (item, *self._carry(event))
                    return (item,)
        return self._handlers[type(event)](event)

    def _resolved(self, event: HostResolved) -> Iterator[StreamItem]:
        self.tally.unlisted_addresses += event.more
        self._lookups.resolved(event)
        yield from ()

    # Connections

    def _announced(self, event: ConnectionAnnounced) -> Iterator[StreamItem]:
        if event.connection in self._views:
            return
        self.tally.connections += 1
        self.tally.without_address += not event.remote_port and event.unix_path is None
        view = self._views[event.connection] = View(event, self._likely_side(event))
        yield from self._ends.announced(view)

    def _moved(self, event: BytesMoved) -> Iterator[StreamItem]:
        if event.session:
            yield from self._plaintext(event)
            return
        view = self._views.get(event.connection)
        if event.hello:
            if view is not None:
                yield from self._greeted(view, event)
            return
        self.tally.cleartext += len(event.payload)
        if event.reason is Reason.FAULT:
            self.tally.cleartext_faults += event.length
        if view is None:
            self.tally.late_cleartext += len(event.payload)
            return
        if self._first_words.waits(event):
            for forgotten in self._first_words.keep(event):
                if forgotten.connection in self._views:
                    self._views[forgotten.connection].pass_over(forgotten)
            return
        view.protocol = event.protocol
        for early in self._first_words.take(event.connection):
            yield from self._contents(view, view.add(early))
        yield from self._contents(view, view.add(event))
        self._note_waiting(view)

    def _greeted(self, view: View, hello: BytesMoved) -> Iterator[StreamItem]:
        said, begun = self._first_words.take_before_hello(hello)
        for early in said:
            yield from self._contents(view, view.add(early))
        yield from self._contents(view, view.give_up())
        view.begin_tls()
        for record in (*begun, hello):
            view.tls.feed(record)
        self._unread.began(view)

    def _greeted_inside(self, event: GreetedInside) -> Iterator[StreamItem]:
        view = self._views.get(event.connection)
        if view is not None:
            view.inner_hello = HelloReader().feed(event.payload)
        yield from ()

    def _note_waiting(self, view: View) -> None:
        if view.waits:
            self._waiting_flows[view.announced.connection] = view

    def _contents(self, view: View, contents: Iterator[Content]) -> Iterator[StreamItem]:
        for content in self._holes.explained(view.announced.connection, contents):
            if view.state is State.SHOWN:
                self.tally.note_gap(view, content)
                yield from view.give(content)
            elif view.state is State.HIDDEN:
                self.tally.note_mirrored(content)
            else:
                yield from self._ends.hold(view, content)

    def _ended(self, event: ConnectionEnded) -> Iterator[StreamItem]:
        """Its sessions may go on: with BIOs in memory, what has come is read when the socket is closed."""
        view = self._views.get(event.connection)
        if view is not None and any(map(self._sessions.known, view.flows)):
            self._ending[event.connection] = event
        else:
            yield from self._end(event)

    def _end(self, event: ConnectionEnded) -> Iterator[StreamItem]:
        self._ending.pop(event.connection, None)
        for number in self._carried.pop(event.connection, ()):
            yield from self._end_carried(number, event.time)
        view = self._views.pop(event.connection, None)
        if view is None:
            return
        view.ended = event
        if view.protocol is Protocol.UNDECIDED:
            view.protocol = event.protocol
        yield from self._finish(view, Final(event.moved, event.session, event.session_moved), event.time)
        self._ends.ended(view, event.time)
        for session in view.flows:
            self._sessions.forget(session)
        if view.state is State.SHOWN:
            yield from view.close(event)

    def _finish(self, view: View, final: Final, now: int) -> Iterator[StreamItem]:
        """Everything that can still be said of a view's bytes."""
        connection = view.announced.connection
        self._waiting_flows.pop(connection, None)
        undecided = self._first_words.take_last(connection, view.protocol)
        # What did not arrive of the others was filtered, not lost.
        if view.protocol not in NOT_SHOWN or self._all_protocols:
            # Plaintext given out before this call flips the state; what the tail adds must not close twice.
            ended, view.ended = view.ended, None
            for early in undecided:
                yield from self._contents(view, view.add(early))
            yield from self._contents(view, view.finish(final.moved, final.session, final.session_moved, now))
            view.ended = ended
        cleartext, plaintext = view.late
        if view.state is State.HIDDEN:
            self.tally.mirrored_cleartext += cleartext
            self.tally.mirrored_plaintext += plaintext
        else:
            self.tally.late_cleartext += cleartext
            self.tally.late_plaintext += plaintext
        if view.protocol is Protocol.TLS:
            self._unread.ended(view, final.moved)
            if view.state is State.HOLDING and not view.held:
                yield from self._ends.show_bare(view)
            else:
                yield from view.tell_handshake()

    # TLS sessions

    def _plaintext(self, event: BytesMoved) -> Iterator[StreamItem]:
        self.tally.plaintext += len(event.payload)
        if event.reason is Reason.FAULT:
            self.tally.plaintext_faults += event.length
        session = self._sessions.heard_of(event.session, event.library)
        if event.connection:
            if session.connection not in (event.connection, event.session):
                yield from self._bind(event.session, session, event.connection)
            yield from self._deliver(session, event)
            yield from self._carry(event)
        elif session.connection:
            yield from self._deliver(session, event)
        else:
            self._sessions.wait(session, event)

    def _deliver(self, session: Session, event: BytesMoved) -> Iterator[StreamItem]:
        view = self._views.get(session.connection)
        if view is None:
            # It has ended, or its announcement found no room.
            self.tally.late_plaintext += len(event.payload)
            return
        view.readable = True
        view.tls.library = self._library_name(session.library) or view.tls.library
        if event.payload[:2] == HELLO_START:
            self._unread.carried(view, event)
        yield from self._contents(view, view.add(event))
        self._note_waiting(view)

    def _bind(self, number: int, session: Session, connection: int) -> Iterator[StreamItem]:
        view = self._views.get(connection)
        if view:
            view.begin_tls()
            view.readable = True
            self._unread.readable_pids.add(view.announced.pid)
            view.tls.library = self._library_name(session.library) or view.tls.library
            view.tls.established = session.established or view.tls.established
            if view.tls.started is None:
                view.tls.started = session.started
            if session.established is not None:
                view.handshakes[number] = (session.started, session.established)
            elif not view.handshakes:
                view.tls.read_from(self._probed_since(session.library))
        for event in self._sessions.bind(number, session, connection):
            yield from self._deliver(session, event)

    def _carry(self, event: BytesMoved) -> Iterator[StreamItem]:
        """What a session wrote may be the records of others: these get views of their own, as if they had a socket."""
        outer = self._views.get(event.connection)
        if outer is None:
            return
        for number in list(self._inner.carried_by(event)):
            session = self._sessions.known(number)
            if session is None or session.connection:
                continue
            began = session.started
            # Without the outer one's beginning this may be older than the recording too.
            if began is None and outer.announced.opened is not None:
                began = session.waiting[0].time if session.waiting else event.time
            announced = replace(
                outer.announced,
                connection=number,
                protocol=Protocol.TLS,
                opened=began,
                established=began,
                base=(0, 0),
            )
            view = self._views[number] = View(announced, outer.side)
            view.inside_tls = True
            self._carried.setdefault(event.connection, []).append(number)
            yield from self._bind(number, session, number)

    def _end_carried(self, number: int, time: int) -> Iterator[StreamItem]:
        """A session inside another's has ended, or the one around it has."""
        positions = (0, 0)
        yield from self.handle(
            ConnectionEnded(number, time, time, None, None, None, positions, 0, positions, Protocol.TLS)
        )

    def _bound(self, event: SessionBound) -> Iterator[StreamItem]:
        session = self._sessions.heard_of(event.session, event.library)
        if event.unwanted:
            given_up = self._sessions.give_up(event.session)
            self.tally.filtered_plaintext += sum(len(moved.payload) for moved in given_up)
        elif session.connection not in (event.connection, event.session):
            yield from self._bind(event.session, session, event.connection)

    def _joined(self, event: SessionJoined) -> Iterator[StreamItem]:
        whole = self._sessions.heard_of(event.whole, 0)
        if not whole.connection:
            yield from self._bind(event.whole, whole, event.connection)
        for moved in self._sessions.join(event):
            yield from self._deliver(whole, moved)

    def _established(self, event: SessionEstablished) -> Iterator[StreamItem]:
        session = self._sessions.heard_of(event.session, event.library)
        session.started, session.established = event.started, event.time
        if event.connection and session.connection not in (event.connection, event.session):
            yield from self._bind(event.session, session, event.connection)
        view = self._views.get(session.connection)
        if view:
            view.handshakes[event.session] = (event.started, event.time)
            view.tls.joined = False
            if view.tls.established is None:
                view.tls.established = event.time

    def _freed(self, event: SessionFreed) -> Iterator[StreamItem]:
        session = self._sessions.known(event.session)
        if session and session.connection == event.session:
            yield from self._end_carried(event.session, event.time)
        self._sessions.forget(event.session)
        if session and (end := self._ending.get(session.connection)):
            yield from self._ended(end)

    # Time

    def tick(self, now: int) -> Iterator[StreamItem]:
        """Whatever has waited long enough by ``now`` (wall-clock nanoseconds)."""
        for event in self._answers.expire(now):
            yield from self._handle(event)
        # Either way, for the clock may have been set back.
        for end in [end for end in self._ending.values() if abs(now - end.time) > MAX_READING_ON_NS]:
            yield from self._end(end)
        yield from self._ends.tick(now)
        self._unread.tick(now)
        for connection, view in list(self._waiting_flows.items()):
            yield from self._contents(view, view.expire(now))
            if not view.waits:
                del self._waiting_flows[connection]

    def finish(self, now: int, finals: Mapping[int, Final]) -> Iterator[StreamItem]:
        """The recording ends; connections stay open. ``finals`` are by connection id."""
        for event in self._answers.finish():
            yield from self._handle(event)
        for end in list(self._ending.values()):
            yield from self._end(end)
        self._sessions.finish()
        for connection, view in list(self._views.items()):
            final = finals.get(connection, Final((0, 0), 0, (0, 0)))
            yield from self._finish(view, final, now)
        yield from self._ends.finish()
        self._views.clear()
