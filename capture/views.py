"""One end of a connection, as its process saw it, on the way to being a stream.

A view collects what the handshakes say until the first content comes, then is *opened* (its StreamOpened and
everything held is given out) or *hidden* (the other end, on the same machine, is shown instead). Which of the
two is for capture.connections to decide.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto
from typing import TYPE_CHECKING

from capture.application import Speech, recognise
from capture.events import BytesMoved, ConnectionAnnounced, ConnectionEnded, Direction, Protocol, Role
from capture.flows import Flow, Hole
from capture.streams import (
    Data,
    Endpoint,
    Gap,
    Lookup,
    Process,
    Side,
    StreamClosed,
    StreamItem,
    StreamOpened,
    Tls,
    TlsEnded,
    TlsStarted,
)
from capture.tls_notes import TlsNotes
from capture.unix_streams import server_port

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from capture.tls_hello import Hello

Flows = tuple[Flow[BytesMoved], Flow[BytesMoved]]  # by direction


class State(Enum):
    """Where a view is on its way."""

    HOLDING = auto()  # no content yet, or not decided
    SHOWN = auto()
    HIDDEN = auto()  # the same bytes are shown from the other end


@dataclass(frozen=True, slots=True)
class Content:
    """A piece of one direction, in order: ``data`` captured, then ``lost`` bytes that were not.

    ``hole`` is the TLS session (0: none) and the position of bytes that never came; ``reason`` is empty then.
    ``session`` is the number of the TLS session.
    """

    time: int
    direction: Direction
    data: bytes
    lost: int
    reason: str
    tls: bool
    as_of_call: bool = False
    hole: tuple[int, int] | None = None
    session: int = 0


class View:
    """One end: ``announced`` says which."""

    __slots__ = (
        "_asks_for_tunnel",
        "_senders",
        "_session",
        "_veiled",
        "announced",
        "ended",
        "flows",
        "handshakes",
        "held",
        "held_bytes",
        "held_since",
        "in_tls",
        "inner_hello",
        "inside_tls",
        "likely",
        "other",
        "over",
        "protocol",
        "readable",
        "relayed",
        "side",
        "state",
        "tls",
    )

    def __init__(self, announced: ConnectionAnnounced, likely: Side | None = None) -> None:
        """``likely`` is which end it is, if nothing better tells."""
        self.announced = announced
        self.likely = likely
        self.protocol = announced.protocol
        # Directions in which TLS was last: the socket's own positions count ciphertext, which was never to come.
        self._veiled: set[Direction] = set()
        if announced.protocol is Protocol.TLS:
            self.begin_tls()
        self.state = State.HOLDING
        self.side: Side | None = {Role.CLIENT: Side.CLIENT, Role.SERVER: Side.SERVER}.get(announced.role)
        self.other: View | None = None
        self.tls = TlsNotes()
        self.inside_tls = False  # no connection but a session inside another's plaintext
        self.inner_hello: Hello | None = None  # of the session inside its own
        self.in_tls = False  # whether what was given out last was plaintext of TLS
        self.readable = False  # a probe knows its TLS session, whether or not it carried anything
        self.relayed = (
            False  # its ClientHello came in on another connection of the process, or went out on one
        )
        self.held: list[Content] = []
        self.held_bytes = 0
        self.held_since = 0
        self.over = False  # nothing more will come
        self.ended: ConnectionEnded | None = None
        # By TLS session; 0 is the socket itself.
        self.flows: dict[int, Flows] = {0: (Flow(announced.base[0]), Flow(announced.base[1]))}
        # When the handshakes of its sessions began and ended, as far as that is known.
        self.handshakes: dict[int, tuple[int | None, int | None]] = {}
        self._senders = (Side.CLIENT, Side.SERVER)  # by direction; final when the view is opened
        self._session = 0  # whose plaintext was given out last
        self._asks_for_tunnel = False  # what that began with: another session may come inside it

    def pass_through(self, event: BytesMoved) -> Data | None:
        """The item of a piece that is in order and whole, on an open view: almost every piece. None: use add()."""
        flows = self.flows.get(event.session)
        if flows is None or event.reason or (event.session != 0) != self.in_tls:
            return None
        direction = event.direction
        flow = flows[direction]
        if flow.position != event.position or flow.waits:
            return None
        flow.position += event.length
        return Data(
            self.announced.connection, event.time, self._senders[direction], event.payload, event.by_reference
        )

    def begin_tls(self) -> None:
        """From here on the socket carries TLS."""
        self.protocol = Protocol.TLS
        self._veiled.update(Direction)

    def add(self, event: BytesMoved) -> Iterator[Content]:
        """A piece of cleartext or plaintext; what is in order now."""
        if not event.session and event.direction in self._veiled:
            self._veiled.discard(event.direction)
            for piece in self._flow(event).go_on_at(event.position):
                yield _content(piece, event.direction, event.session)
        for piece in self._flow(event).add(event):
            yield _content(piece, event.direction, event.session)

    def pass_over(self, event: BytesMoved) -> None:
        """A piece of cleartext that is counted elsewhere, and not to be told of."""
        flow = self._flow(event)
        flow.position = max(flow.position, event.position + event.length)

    def give_up(self) -> Iterator[Content]:
        """The cleartext that is held: what is missing before it comes no more."""
        for direction, flow in zip(Direction, self.flows[0], strict=True):
            for piece in flow.give_up():
                yield _content(piece, direction, 0)

    def _flow(self, event: BytesMoved) -> Flow[BytesMoved]:
        flows = self.flows.get(event.session)
        if flows is None:
            flows = self.flows[event.session] = (Flow(0), Flow(0))
        return flows[event.direction]

    @property
    def waits(self) -> bool:
        """Whether a flow holds a piece for one that may still come."""
        return any(flow.waits for _, flow, _ in self._all_flows())

    @property
    def late(self) -> tuple[int, int]:
        """Bytes of cleartext and of plaintext that arrived and are not given out, for their place was taken.

        What is held may yet be one of them: all are known after ``finish``.
        """
        late = [0, 0]
        for _, flow, session in self._all_flows():
            late[session != 0] += flow.late_bytes
        return late[0], late[1]

    def expire(self, now: int) -> Iterator[Content]:
        """Pieces that waited long enough for those before them."""
        for direction, flow, session in self._all_flows():
            for piece in flow.expire(now):
                yield _content(piece, direction, session)

    def finish(
        self, moved: tuple[int, int], session: int, session_moved: tuple[int, int], now: int
    ) -> Iterator[Content]:
        """The end, at these final positions."""
        for direction, flow, number in self._all_flows():
            final = flow.position
            if not number and direction not in self._veiled:
                final = moved[direction]
            for piece in flow.finish(final, now):
                yield _content(piece, direction, number)
        if session and session in self.flows:
            for direction, flow in zip(Direction, self.flows[session], strict=True):
                for piece in flow.finish(session_moved[direction], now):
                    yield _content(piece, direction, session)

    def _all_flows(self) -> Iterator[tuple[Direction, Flow[BytesMoved], int]]:
        for session, flows in self.flows.items():
            yield from ((d, f, session) for d, f in zip(Direction, flows, strict=True))

    # Giving out

    def open(
        self,
        describe: Callable[[int, str], Process],
        look_up: Callable[[int, bytes, int], Lookup | None],
    ) -> Iterator[StreamItem]:
        """The stream's beginning and what was held. From here on the view is shown.

        ``look_up`` takes a process, an address, and when that was connected to.
        """
        self.state = State.SHOWN
        a = self.announced
        first = self.held[0] if self.held else None
        speech = self._first_speech()
        side = self.side = self.decide_side()
        self._senders = (side, side.other)
        local, remote = self._endpoints()
        began = a.opened or self.tls.started or (first.time if first else a.time)
        begins_in_tls = first.tls or self.tls.came_before(first) if first else self.protocol is Protocol.TLS
        self.in_tls = begins_in_tls
        other = self.other.announced if self.other else None
        yield StreamOpened(
            stream=a.connection,
            time_ns=began,
            established_ns=a.established or began,
            client=local if side is Side.CLIENT else remote,
            server=remote if side is Side.CLIENT else local,
            side=side,
            handshake_seen=a.opened is not None,
            process=describe(a.pid, a.comm),
            peer_process=describe(other.pid, other.comm) if other else None,
            fd=a.fd,
            tls=self.tls.describe(speech, first.time if first else None) if begins_in_tls else None,
            lookup=look_up(a.pid, a.remote, began) if self._looks_up(side) else None,
            unix_path=a.unix_path,
            inside_tls=self.inside_tls,
        )
        held, self.held, self.held_bytes = self.held, [], 0
        for content in held:
            yield from self.give(content)
        if self.over:
            yield from self.tell_handshake()

    def give(self, content: Content) -> Iterator[StreamItem]:
        """Items of an open view."""
        stream = self.announced.connection
        sender = self._senders[content.direction]
        if content.session != self._session and content.tls:
            if not self.in_tls:
                self.in_tls = True
                yield TlsStarted(
                    stream, content.time, self.tls.describe(recognise(content.data), content.time)
                )
            elif self._asks_for_tunnel:
                yield TlsStarted(stream, content.time, self._describe_inner(content))
            self._session = content.session
            self._asks_for_tunnel = sender is Side.CLIENT and content.data.startswith(b"CONNECT ")
        elif self.in_tls and not content.tls:
            self.in_tls = False
            self._session = 0
            yield TlsEnded(stream, content.time)
        if content.data:
            yield Data(stream, content.time, sender, content.data, content.as_of_call)
        if content.lost:
            yield Gap(stream, content.time, sender, content.lost, content.reason)

    def tell_handshake(self) -> Iterator[StreamItem]:
        """Nothing more will come: TLS that followed cleartext and was not read, or whose handshake came to nothing."""
        self.over = True
        began = self.tls.started if len(self.flows) == 1 and not self.in_tls else None
        if began is not None and self.state is State.SHOWN and self.protocol is Protocol.TLS:
            self.in_tls = True
            yield TlsStarted(self.announced.connection, began, self.tls.describe(None, None))

    def _describe_inner(self, content: Content) -> Tls:
        """TLS in TLS: its hellos went as the other session's plaintext, of which only the first is told."""
        speech, hello = recognise(content.data), self.inner_hello
        started, established = self.handshakes.get(content.session, (None, None))
        name = hello.server_name if hello is not None else None
        return Tls(self.tls.library, name, speech.alpn if speech else None, started, established)

    def close(self, ended: ConnectionEnded) -> Iterator[StreamItem]:
        """How the connection ended, in order of time."""
        ends = (
            (ended.local_fin, Direction.SENT, False),
            (ended.peer_fin, Direction.RECEIVED, False),
            (ended.local_reset, Direction.SENT, True),
            (ended.peer_reset, Direction.RECEIVED, True),
        )
        seen = sorted((time, reset, direction) for time, direction, reset in ends if time is not None)
        for time, reset, direction in seen:
            final = len(seen) == 1 and direction is Direction.SENT and not reset
            yield StreamClosed(self.announced.connection, time, self._senders[direction], reset, final)

    def _looks_up(self, side: Side) -> bool:
        """Inside a tunnel it is the proxy who looks up the name."""
        return side is Side.CLIENT and self.announced.unix_path is None and not self.inside_tls

    def _endpoints(self) -> tuple[Endpoint, Endpoint]:
        """Local and remote."""
        a = self.announced
        made_up = server_port(self.protocol.name) if a.unix_path is not None else 0
        return Endpoint(a.local, a.local_port or made_up), Endpoint(a.remote, a.remote_port or made_up)

    def _first_speech(self) -> Speech | None:
        """What the first held piece that is recognised speaks."""
        return next((s for s in (recognise(c.data) for c in self.held[:8]) if s), None)

    def decide_side(self) -> Side:
        """Which end this is: connect() or accept() tells; before the recording hello, content, listeners, ports."""
        if self.side is not None:
            return self.side
        if self.tls.client is not None:
            return Side.CLIENT if self.tls.client is Direction.SENT else Side.SERVER
        if self.other and self.other.side:
            return self.other.side.other
        asks = {Speech.HTTP1_REQUEST, Speech.HTTP2_PREFACE}
        for content in self.held[:8]:
            said = recognise(content.data)
            if said in asks or said is Speech.HTTP1_RESPONSE:
                sent = content.direction is Direction.SENT
                return Side.CLIENT if sent == (said in asks) else Side.SERVER
        if self.likely is not None:
            return self.likely
        return Side.SERVER if self.announced.local_port < self.announced.remote_port else Side.CLIENT


def _content(piece: BytesMoved | Hole, direction: Direction, session: int) -> Content:
    tls = session != 0
    if isinstance(piece, Hole):
        hole = (session, piece.position)
        return Content(piece.time, direction, b"", piece.length, "", tls, hole=hole, session=session)
    lost, reason = piece.length - len(piece.payload), piece.reason.word
    return Content(
        piece.time, direction, piece.payload, lost, reason, tls, piece.by_reference, session=session
    )
