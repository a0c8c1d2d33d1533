"""TCP segments to each connection's bytes, in order and once (RFC 9293 §3.4, §3.8, §3.10).

Theory of operation. A connection is two halves, which put their bytes in order and keep what came too early
(``exporters.tcp_halves``). Three things end the wait for bytes that a capture lacks: the receiver has
acknowledged them, so they were sent and are not in the capture; too much has piled up behind them; the
connection is over. They become a gap of exact length.

Captures are not quite in order: a segment may be recorded before the bytes that it acknowledges. Such a
segment is *deferred* until those bytes come, or until REORDERING_SEGMENTS or REORDERING_NS have passed, so
that a response never comes before its request. Nor does a request come before the response that its client had
read: what came early is handed out only when what it acknowledges has been, also after a hole was given up.

Our own captures take the short way through ``feed``: every segment is the next one.

This module knows no file, no TLS and no comment.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

from exporters.dissection import Segment, path_endpoints, reverse_path
from exporters.first_sender import is_from_client
from exporters.segments import ACK, FIN, RST, SYN
from exporters.tcp_connection import Connection
from exporters.tcp_halves import (
    MAX_JUMP_BYTES,
    SEQUENCE_MASK,
    Backlog,
    Half,
    Piece,
    distance,
    first_byte,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from capture.streams import Endpoint, Side

REORDERING_SEGMENTS: Final = 32
"""How many segments of a connection a capture may have in the wrong order: a network card's queues are
drained some dozens of packets at a time."""
REORDERING_NS: Final = 20_000_000
"""And for how long: several scheduler ticks of a busy capture."""
MAX_CONNECTIONS: Final = 200_000
"""Open ones; then the oldest is ended. A connection without an end costs about 1 KiB."""
MAX_CLOSED_CONNECTIONS: Final = 4096
"""Remembered, so that late retransmissions do not look like new connections, nor what a second capture, whose clock
is late, has of the same ones in a file that was merged."""


class ByteSink(Protocol):
    """What a connection's bytes are delivered to."""

    def annotated(self, segment: Segment) -> None:
        """The next bytes come from a segment with comments."""

    def goes_on(self, segment: Segment) -> bool:
        """Whether a SYN on the same ports is of this connection, with new sequence numbers."""

    def data(self, sender: Side, time_ns: int, data: bytes) -> None:
        """The next bytes of ``sender``."""

    def gap(self, sender: Side, time_ns: int, length: int, segment: Segment | None) -> None:
        """The next ``length`` bytes are lost: cut from ``segment``, or None where no segment has them."""

    def closed(self, sender: Side, time_ns: int, *, reset: bool) -> None:
        """FIN or RST."""

    def end(self, gone_ns: int | None) -> None:
        """Nothing follows. ``gone_ns``: when the last came of a connection that is over, though no FIN or RST tells."""


class Opening(NamedTuple):
    """A connection as TCP shows it. Without its handshake, both times are those of its first segment."""

    time_ns: int
    established_ns: int
    client: Endpoint
    server: Endpoint
    handshake_seen: bool
    segment: Segment
    """The first segment that was captured, a SYN if there was one."""


class TcpReassembler:
    """Feeds connections' sinks, which ``open_sink`` makes when a connection has something to tell.

    ``ignored_segments`` counts those that fit nowhere.
    """

    def __init__(self, open_sink: Callable[[Opening], ByteSink]) -> None:
        self._open_sink = open_sink
        self._connections: OrderedDict[bytes, Connection] = OrderedDict()
        """By the paths of both halves. In a dict, the oldest of many is behind all that were removed."""
        self._closed: OrderedDict[bytes, int | None] = OrderedDict()
        """The first sequence numbers of those that were established, for a SYN that was refused comes again."""
        self._backlog = Backlog()
        self.ignored_segments = 0

    def feed(self, segment: Segment) -> None:
        """Takes the capture's next segment."""
        connection = self._connections.get(segment.path)
        if connection is not None and segment.flags & (SYN | FIN | RST | ACK) == ACK:
            half, other = connection.halves(segment.path)
            sink = connection.sink
            if (
                sink is not None
                and segment.sequence == half.next
                and segment.acknowledgement == other.next
                and not (
                    half.early or other.early or connection.deferred or segment.missing or segment.comments
                )
            ):
                payload = segment.payload
                if payload and half.finished:
                    self.ignored_segments += 1
                elif payload:
                    half.next = (segment.sequence + len(payload)) & SEQUENCE_MASK
                    connection.last_ns = max(connection.last_ns, segment.time_ns)
                    sink.data(half.side, connection.last_ns, payload)
                return
        self._feed(connection, segment)

    def finish(self) -> None:
        """The capture is over: what was waited for does not come."""
        for connection in list(self._connections.values()):
            self._end(connection)

    # Connections

    def _feed(self, connection: Connection | None, segment: Segment) -> None:
        connection = self._connection_of(connection, segment)
        if connection is None:
            return
        half, other = connection.halves(segment.path)
        if connection.is_stale(half, segment):
            self.ignored_segments += 1
            return
        if segment.flags & SYN:
            half.begin(segment.sequence, segment.sequence + 1)
        if segment.flags & RST:
            self._reset(connection, segment)
            return
        self._arrive(connection, segment)
        if connection.deferred:
            self._resume(connection, segment.time_ns)
        if half.finished and other.finished:
            self._end(connection)

    def _connection_of(self, connection: Connection | None, segment: Segment) -> Connection | None:
        """The connection that a segment belongs to; ``connection`` has the same ports, and may be an earlier one."""
        if segment.flags & SYN and self._closed.get(segment.path) == segment.sequence:
            self.ignored_segments += 1  # a repetition: no number is used again so soon
            return None
        if segment.flags & (SYN | ACK) == SYN:
            return self._syn(connection, segment)
        if connection is not None and connection.is_answered_anew(segment):
            self._end(connection, gone=True)
            connection = None
        return connection or self._first_segment(segment)

    def _syn(self, connection: Connection | None, segment: Segment) -> Connection:
        """A connection's first segment: new, repeated, or of the next one on the same ports."""
        if connection is not None:
            half, other = connection.halves(segment.path)
            # Where the SYN comes late, what came before it has told the number of the first byte.
            if half.initial == (segment.sequence + (not connection.syn_seen)) & SEQUENCE_MASK:
                return connection
            if connection.sink is not None and connection.sink.goes_on(segment):
                half.begin_again()
                other.begin_again()
                return connection
            self._end(connection, gone=True)
        return self._add(segment.path, segment)

    def _first_segment(self, segment: Segment) -> Connection | None:
        """A segment of an unknown connection: its middle, or the answer to a SYN that was not captured."""
        if segment.flags & RST or not (segment.payload or segment.missing or segment.flags & SYN):
            return None
        if segment.path in self._closed and not segment.flags & SYN:
            self.ignored_segments += 1
            return None
        from_client = not segment.flags & SYN and is_from_client(segment)
        return self._add(segment.path if from_client else reverse_path(segment.path), segment)

    def _add(self, client_path: bytes, first: Segment) -> Connection:
        connection = Connection(client_path, first, self._backlog)
        for half in (connection.client, connection.server):
            self._closed.pop(half.path, None)
            self._connections[half.path] = connection
        if len(self._connections) > 2 * MAX_CONNECTIONS:
            self._end(next(iter(self._connections.values())), gone=True)
        return connection

    def _open(self, connection: Connection, time_ns: int) -> ByteSink:
        """The connection's sink, made on the first occasion that proves it to be established."""
        if connection.sink is None:
            first = connection.first
            client, server = path_endpoints(connection.client.path)
            connection.sink = self._open_sink(
                Opening(
                    time_ns=first.time_ns,
                    established_ns=time_ns if connection.syn_seen else first.time_ns,
                    client=client,
                    server=server,
                    handshake_seen=connection.syn_seen,
                    segment=first,
                )
            )
        return connection.sink

    def _end(self, connection: Connection, *, gone: bool = False) -> None:
        """Gives up all holes, tells the sink, and forgets the connection. ``gone``: its end was not captured."""
        if connection.over:
            return
        self._give_up_all(connection)
        connection.over = True
        for half in (connection.client, connection.server):
            self._connections.pop(half.path, None)
            self._closed[half.path] = half.initial if connection.sink is not None else None
        while len(self._closed) > 2 * MAX_CLOSED_CONNECTIONS:
            del self._closed[next(iter(self._closed))]
        if connection.sink is not None:
            connection.sink.end(connection.last_ns if gone else None)

    def _reset(self, connection: Connection, segment: Segment) -> None:
        half, other = connection.halves(segment.path)
        if not half.is_plausible(segment.sequence):
            self.ignored_segments += 1
            return
        self._give_up_all(connection)
        if connection.sink is not None:
            connection.last_ns = max(segment.time_ns, connection.last_ns)
            if segment.flags & ACK:
                self._skip(connection, other, segment.acknowledgement)
            connection.sink.closed(half.side, connection.last_ns, reset=True)
        self._end(connection)

    # Acknowledgements

    def _arrive(self, connection: Connection, segment: Segment) -> None:
        """A segment in the order of the capture: it waits if it acknowledges bytes that are still to come."""
        if connection.deferred:
            if connection.deferred[0].path == segment.path:
                connection.deferred.append(segment)
                return
        elif segment.flags & ACK:
            half, other = connection.halves(segment.path)
            other.begin(segment.acknowledgement, segment.acknowledgement)
            if not connection.ready(segment):
                half.begin(segment.sequence, first_byte(segment))
                connection.deferred.append(segment)
                return
            if not segment.flags & SYN:
                self._open(connection, segment.time_ns)
        self._accept(connection, segment)

    def _resume(self, connection: Connection, time_ns: int) -> None:
        """Goes on with deferred segments whose acknowledged bytes have come, or are late."""
        while connection.deferred:
            first = connection.deferred[0]
            if connection.ready(first):
                del connection.deferred[0]
                self._accept(connection, first)
            elif len(connection.deferred) > REORDERING_SEGMENTS or time_ns - first.time_ns > REORDERING_NS:
                self._give_up(connection)
            else:
                return

    def _give_up(self, connection: Connection) -> None:
        """The first deferred segment acknowledges bytes that the capture lacks."""
        first = connection.deferred[0]
        _, other = connection.halves(first.path)
        self._open(connection, first.time_ns)
        connection.last_ns = max(connection.last_ns, first.time_ns)
        self._skip(connection, other, first.acknowledgement)
        # What was skipped may have waited for it: then it has been handed on.
        if connection.deferred and connection.deferred[0] is first:
            del connection.deferred[0]
            self._accept(connection, first)
        self._release(connection)

    def _skip(self, connection: Connection, half: Half, acknowledgement: int) -> None:
        """What was acknowledged was sent: bytes before that are lost, if they have not come."""
        while missing := half.missing_until(acknowledgement):
            if half.next_is_early:
                self._skip_what_is_awaited(connection, half.early[0])
            self._deliver(connection, half, half.skip_hole(missing, connection.ready))

    def _skip_what_is_awaited(self, connection: Connection, early: Segment) -> None:
        """Of the other half: what keeps back ``early``. What was captured of that is deferred, if not early, too."""
        _, other = connection.halves(early.path)
        for segment in [one for one in connection.deferred if one.payload and one.path == other.path]:
            if distance(first_byte(segment), early.acknowledgement) > 0:
                if not connection.ready(segment):
                    return
                connection.deferred.remove(segment)
                self._deliver(connection, other, other.take(segment, connection.ready))
        while (missing := other.missing_until(early.acknowledgement)) and not other.next_is_early:
            self._deliver(connection, other, other.skip_hole(missing, connection.ready))

    def _give_up_all(self, connection: Connection) -> None:
        while True:
            while connection.deferred:
                self._give_up(connection)
            halves = [half for half in (connection.client, connection.server) if half.early]
            if not halves:
                return
            half = min(halves, key=lambda half: half.early[0].time_ns)
            self._deliver(connection, half, half.skip_hole(MAX_JUMP_BYTES, connection.ready))
            self._release(connection)

    def _release(self, connection: Connection) -> None:
        """Goes on with early segments that the other half kept back; the first one that it still does is deferred."""
        halves = (connection.client, connection.server)
        while pieces := [
            (half, half.early_pieces(connection.ready)) for half in halves if half.next_is_early
        ]:
            for half, released in pieces:
                self._deliver(connection, half, released)
            if not any(released for _, released in pieces):
                break
        for half in halves:
            if half.next_is_early and not connection.deferred:
                connection.deferred.append(half.pop_early())

    # Bytes

    def _accept(self, connection: Connection, segment: Segment) -> None:
        """Delivers what a segment makes available."""
        size = len(segment.payload) + segment.missing
        half, _ = connection.halves(segment.path)
        if not size and not segment.flags & FIN:
            if segment.comments and connection.sink is not None:
                connection.sink.annotated(segment)
            return
        if half.finished or not half.is_plausible(segment.sequence):
            self.ignored_segments += 1 if size else 0
            return
        self._open(connection, segment.time_ns)
        self._deliver(connection, half, half.take(segment, connection.ready))
        self._release(connection)

    def _deliver(self, connection: Connection, half: Half, pieces: list[Piece]) -> None:
        """Hands pieces on; times of a connection never go back."""
        sink, side = self._open(connection, connection.last_ns), half.side
        for hole, segment, old, behind_end in pieces:
            if segment is None:
                sink.gap(side, connection.last_ns, hole, None)
                continue
            connection.last_ns = time_ns = max(connection.last_ns, segment.time_ns)
            captured = len(segment.payload)
            self.ignored_segments += behind_end and captured + segment.missing > 0
            if segment.comments:
                sink.annotated(segment)
            if old < captured:
                sink.data(side, time_ns, segment.payload[old:] if old else segment.payload)
            lost = captured + segment.missing - max(old, captured)
            if lost > 0:
                sink.gap(side, time_ns, lost, segment)
            if segment.flags & FIN and old <= captured + segment.missing:
                sink.closed(side, time_ns, reset=False)
