"""TCP segments to each connection's bytes, in order and once (RFC 9293 §3.4, §3.8, §3.10).

Theory of operation. A connection is two halves; a half delivers bytes at ``next`` and keeps what came too
early. Three things end the wait for bytes that a capture lacks: the receiver has acknowledged them, so they
were sent and are not in the capture; too much has piled up behind them; the connection is over. They
become a gap of exact length.

Captures are not quite in order: a segment may be recorded before the bytes that it acknowledges. Such a
segment is *deferred* until those bytes come, or until REORDERING_SEGMENTS or REORDERING_NS have passed, so
that a response never comes before its request.

Our own captures take the short way through ``feed``: every segment is the next one.

Sequence numbers are 32-bit and compared modulo 2^32. This module knows no file, no TLS and no comment.
"""

from __future__ import annotations

from bisect import bisect_right
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

from capture.streams import Endpoint, Side
from exporters.dissection import Segment, path_endpoints, reverse_path
from exporters.segments import ACK, FIN, RST, SYN

if TYPE_CHECKING:
    from collections.abc import Callable

MAX_EARLY_BYTES: Final = 16 * 1024 * 1024
"""Of one half, behind a hole. Linux lets a receive window grow to 6 MiB (tcp_rmem), tuned servers to 16."""
MAX_EARLY_SEGMENTS: Final = 16_384
"""The same 16 MiB in segments of 1 KiB; bounds tiny ones."""
MAX_EARLY_TOTAL_BYTES: Final = 256 * 1024 * 1024
"""Of all connections together."""
REORDERING_SEGMENTS: Final = 32
"""How many segments of a connection a capture may have in the wrong order: a network card's queues are
drained some dozens of packets at a time."""
REORDERING_NS: Final = 20_000_000
"""And for how long: several scheduler ticks of a busy capture."""
MAX_JUMP_BYTES: Final = 1 << 30
"""Sequence numbers further on than the largest window (RFC 7323 §2.2) are another connection's, or damage."""
MAX_CONNECTIONS: Final = 200_000
"""Open ones; then the oldest is ended. A connection without an end costs about 1 KiB."""
MAX_CLOSED_CONNECTIONS: Final = 4096
"""Remembered, so that late retransmissions do not look like new connections."""

_MODULUS: Final = 1 << 32
_MASK: Final = _MODULUS - 1
_HALF: Final = 1 << 31

_WELL_KNOWN_PORTS: Final = 1024
_SERVICE_PORTS: Final = frozenset(
    (1080, 3000, 3128, 5000, 8000, 8008, 8080, 8081, 8088, 8443, 8888, 9000, 9090)
)
"""Ports of HTTP above the well-known ones: the end with one of them is the server, where no SYN tells."""
_CLIENT_STARTS: Final = (
    b"GET ",
    b"POST ",
    b"PUT ",
    b"HEAD ",
    b"DELETE ",
    b"OPTIONS ",
    b"PATCH ",
    b"CONNECT ",
    b"PRI ",
)
_SERVER_STARTS: Final = (b"HTTP/1.",)


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

    def end(self) -> None:
        """Nothing follows, whether it was closed or not."""


class Opening(NamedTuple):
    """A connection as TCP shows it. Without its handshake, both times are those of its first segment."""

    time_ns: int
    established_ns: int
    client: Endpoint
    server: Endpoint
    handshake_seen: bool
    segment: Segment
    """The first segment that was captured, a SYN if there was one."""


class _Half:
    """One direction of a connection. ``next`` is the sequence number of the next byte to be delivered."""

    __slots__ = ("connection", "early", "early_bytes", "finished", "initial", "next", "path", "side")

    def __init__(self, connection: _Connection, path: bytes, side: Side) -> None:
        self.connection = connection
        self.path = path
        self.side = side
        self.next: int | None = None
        self.initial: int | None = None
        self.early: list[Segment] = []
        """Segments behind a hole, by sequence number."""
        self.early_bytes = 0
        self.finished = False


class _Connection:
    """Two halves, the sink of their bytes once there is something to tell, and what is deferred."""

    __slots__ = ("deferred", "first", "halves", "last_ns", "over", "sink", "syn")

    def __init__(self, segment: Segment) -> None:
        self.halves: tuple[_Half, _Half]
        self.first = segment
        self.syn: Segment | None = None
        self.sink: ByteSink | None = None
        self.deferred: list[Segment] = []
        self.last_ns = segment.time_ns
        self.over = False


def _distance(first: int, second: int) -> int:
    """How far ``second`` is ahead of ``first``, from -2^31 to 2^31 - 1."""
    return ((second - first + _HALF) & _MASK) - _HALF


class TcpReassembler:
    """Feeds connections' sinks, which ``open_sink`` makes when a connection has something to tell.

    ``ignored_segments`` counts those that fit nowhere.
    """

    def __init__(self, open_sink: Callable[[Opening], ByteSink]) -> None:
        self._open_sink = open_sink
        self._halves: dict[bytes, _Half] = {}
        self._closed: dict[bytes, None] = {}
        self._early_bytes = 0
        self.ignored_segments = 0

    def feed(self, segment: Segment) -> None:
        """Takes the capture's next segment."""
        half = self._halves.get(segment.path)
        if half is not None and segment.sequence == half.next and not segment.flags & (SYN | FIN | RST):
            connection = half.connection
            sink = connection.sink
            if (
                sink is not None
                and segment.flags & ACK
                and connection.halves[1 - half.side].next == segment.acknowledgement
                and not (half.early or connection.deferred or segment.missing or segment.comments)
            ):
                payload = segment.payload
                if payload:
                    half.next = (segment.sequence + len(payload)) & _MASK
                    connection.last_ns = max(connection.last_ns, segment.time_ns)
                    sink.data(half.side, connection.last_ns, payload)
                return
        self._feed(half, segment)

    def finish(self) -> None:
        """The capture is over: what was waited for does not come."""
        for half in list(self._halves.values()):
            self._end(half.connection)

    # Connections

    def _feed(self, half: _Half | None, segment: Segment) -> None:
        if segment.flags & SYN and not segment.flags & ACK:
            half = self._syn(half, segment)
        elif half is None:
            half = self._first_segment(segment)
        if half is None:
            return
        connection = half.connection
        if segment.flags & SYN:
            self._synchronise(half, segment)
        if segment.flags & RST:
            self._reset(half, segment)
            return
        self._arrive(half, segment)
        if connection.deferred:
            self._resume(connection, segment.time_ns)
        if all(one.finished for one in connection.halves):
            self._end(connection)

    def _syn(self, half: _Half | None, segment: Segment) -> _Half | None:
        """A connection's first segment: new, repeated, or of the next one on the same ports."""
        if half is not None:
            connection = half.connection
            if half.initial == segment.sequence and connection.syn is not None:
                return half
            if connection.sink is not None and connection.sink.goes_on(segment):
                for one in connection.halves:
                    one.next = one.initial = None
                return half
            self._end(connection)
        connection = _Connection(segment)
        connection.syn = segment
        return self._add(connection, segment.path)

    def _first_segment(self, segment: Segment) -> _Half | None:
        """A segment of an unknown connection: its middle, or the answer to a SYN that was not captured."""
        if segment.flags & RST or not (segment.payload or segment.missing or segment.flags & SYN):
            return None
        if segment.path in self._closed and not segment.flags & SYN:
            self.ignored_segments += 1
            return None
        connection = _Connection(segment)
        from_client = not segment.flags & SYN and _from_client(segment)
        client_path = segment.path if from_client else reverse_path(segment.path)
        client = self._add(connection, client_path)
        return client if from_client else connection.halves[1]

    def _add(self, connection: _Connection, client_path: bytes) -> _Half:
        client = _Half(connection, client_path, Side.CLIENT)
        server = _Half(connection, reverse_path(client_path), Side.SERVER)
        connection.halves = (client, server)
        for half in connection.halves:
            self._closed.pop(half.path, None)
            self._halves[half.path] = half
        if len(self._halves) > 2 * MAX_CONNECTIONS:
            self._end(next(iter(self._halves.values())).connection)
        return client

    def _synchronise(self, half: _Half, segment: Segment) -> None:
        """SYN or SYN-ACK: the first byte's sequence number is one more (RFC 9293 §3.4)."""
        if half.initial is None:
            half.initial = segment.sequence
            half.next = (segment.sequence + 1) & _MASK

    def _open(self, connection: _Connection, time_ns: int) -> ByteSink:
        """The connection's sink, made on the first occasion that proves it to be established."""
        if connection.sink is None:
            syn, first = connection.syn, connection.first
            client, server = path_endpoints(connection.halves[0].path)
            connection.sink = self._open_sink(
                Opening(
                    time_ns=first.time_ns,
                    established_ns=time_ns if syn is not None else first.time_ns,
                    client=client,
                    server=server,
                    handshake_seen=syn is not None,
                    segment=first,
                )
            )
        return connection.sink

    def _end(self, connection: _Connection) -> None:
        """Gives up all holes, tells the sink, and forgets the connection."""
        if connection.over:
            return
        self._give_up_all(connection)
        connection.over = True
        for half in connection.halves:
            if self._halves.get(half.path) is half:
                del self._halves[half.path]
                self._closed[half.path] = None
        while len(self._closed) > 2 * MAX_CLOSED_CONNECTIONS:
            del self._closed[next(iter(self._closed))]
        if connection.sink is not None:
            connection.sink.end()

    def _give_up_all(self, connection: _Connection) -> None:
        while connection.deferred:
            self._give_up(connection)
        for half in connection.halves:
            while half.early:
                self._skip_hole(half)

    def _reset(self, half: _Half, segment: Segment) -> None:
        connection = half.connection
        if half.next is not None and abs(_distance(half.next, segment.sequence)) > MAX_JUMP_BYTES:
            self.ignored_segments += 1
            return
        self._give_up_all(connection)
        other = connection.halves[1 - half.side]
        if segment.flags & ACK and other.next is not None and connection.sink is not None:
            lost = _distance(other.next, segment.acknowledgement)
            if 0 < lost <= MAX_JUMP_BYTES:
                self._gap(other, max(connection.last_ns, segment.time_ns), lost, None)
        if connection.sink is not None:
            connection.sink.closed(half.side, max(segment.time_ns, connection.last_ns), reset=True)
        self._end(connection)

    # Acknowledgements

    def _arrive(self, half: _Half, segment: Segment) -> None:
        """A segment in the order of the capture: it waits if it acknowledges bytes that are still to come."""
        connection = half.connection
        if connection.deferred:
            if connection.deferred[0].path == half.path:
                connection.deferred.append(segment)
                return
        elif segment.flags & ACK:
            other = connection.halves[1 - half.side]
            if other.next is None:
                other.next = other.initial = segment.acknowledgement
            elif 0 < _distance(other.next, segment.acknowledgement) <= MAX_JUMP_BYTES:
                connection.deferred.append(segment)
                return
            if other.initial is not None and connection.sink is None and not segment.flags & SYN:
                self._open(connection, segment.time_ns)
        self._accept(half, segment)

    def _resume(self, connection: _Connection, time_ns: int) -> None:
        """Goes on with deferred segments whose acknowledged bytes have come, or are late."""
        while connection.deferred:
            first = connection.deferred[0]
            other = self._halves[reverse_path(first.path)]
            if other.next is not None and _distance(other.next, first.acknowledgement) <= 0:
                del connection.deferred[0]
                self._accept(self._halves[first.path], first)
            elif len(connection.deferred) > REORDERING_SEGMENTS or time_ns - first.time_ns > REORDERING_NS:
                self._give_up(connection)
            else:
                return

    def _give_up(self, connection: _Connection) -> None:
        """The first deferred segment acknowledges bytes that the capture lacks."""
        first = connection.deferred.pop(0)
        half, other = self._halves[first.path], self._halves[reverse_path(first.path)]
        self._open(connection, first.time_ns)
        while other.next is not None:
            lost = _distance(other.next, first.acknowledgement)
            if lost <= 0:
                break
            if other.early:
                self._skip_hole(other, lost)
            else:
                self._gap(other, max(connection.last_ns, first.time_ns), lost, None)
        self._accept(half, first)

    # Bytes

    def _accept(self, half: _Half, segment: Segment) -> None:
        """Delivers a segment's new bytes, or keeps them until the ones before have come."""
        size = len(segment.payload) + segment.missing
        start = (segment.sequence + 1) & _MASK if segment.flags & SYN else segment.sequence
        if not size and not segment.flags & FIN:
            if segment.comments and half.connection.sink is not None:
                half.connection.sink.annotated(segment)
            return
        if half.next is None:
            half.next = half.initial = start
        distance = _distance(half.next, start)
        if abs(distance) > MAX_JUMP_BYTES or half.finished:
            self.ignored_segments += 1 if size else 0
            return
        self._open(half.connection, segment.time_ns)
        if distance > 0:
            self._keep(half, segment, start)
            return
        self._deliver(half, segment, -distance)
        self._deliver_early(half)

    def _deliver(self, half: _Half, segment: Segment, old: int) -> None:
        """Hands on what is new in a segment of which ``old`` bytes have been delivered before."""
        connection = half.connection
        sink = self._open(connection, segment.time_ns)
        captured = len(segment.payload)
        connection.last_ns = time_ns = max(connection.last_ns, segment.time_ns)
        if segment.comments:
            sink.annotated(segment)
        assert half.next is not None  # noqa: S101  (a half that delivers has begun)
        if old < captured:
            data = segment.payload[old:] if old else segment.payload
            half.next = (half.next + len(data)) & _MASK
            sink.data(half.side, time_ns, data)
        lost = captured + segment.missing - max(old, captured)
        if lost > 0:
            self._gap(half, time_ns, lost, segment)
        if segment.flags & FIN and old <= captured + segment.missing and not half.finished:
            half.finished = True
            half.next = (half.next + 1) & _MASK
            sink.closed(half.side, time_ns, reset=False)

    def _gap(self, half: _Half, time_ns: int, length: int, segment: Segment | None) -> None:
        assert half.next is not None  # noqa: S101  (as above)
        half.next = (half.next + length) & _MASK
        half.connection.last_ns = time_ns
        self._open(half.connection, time_ns).gap(half.side, time_ns, length, segment)

    def _keep(self, half: _Half, segment: Segment, start: int) -> None:
        assert half.next is not None  # noqa: S101  (as above)
        following = half.next
        at = bisect_right(
            half.early, _distance(following, start), key=lambda early: _distance(following, _start(early))
        )
        half.early.insert(at, segment)
        self._count_early(half, len(segment.payload))
        while half.early and (
            half.early_bytes > MAX_EARLY_BYTES
            or len(half.early) > MAX_EARLY_SEGMENTS
            or self._early_bytes > MAX_EARLY_TOTAL_BYTES
        ):
            self._skip_hole(half)

    def _deliver_early(self, half: _Half) -> None:
        """Delivers the early segments that the hole before them no longer keeps."""
        delivered = 0
        while delivered < len(half.early):
            assert half.next is not None  # noqa: S101  (as above)
            early = half.early[delivered]
            old = _distance(_start(early), half.next)
            if old < 0:
                break
            delivered += 1
            self._count_early(half, -len(early.payload))
            self._deliver(half, early, old)
        del half.early[:delivered]

    def _count_early(self, half: _Half, size: int) -> None:
        half.early_bytes += size
        self._early_bytes += size

    def _skip_hole(self, half: _Half, limit: int = MAX_JUMP_BYTES) -> None:
        """Declares the bytes before the first early segment lost, at most ``limit`` of them, and goes on."""
        assert half.next is not None  # noqa: S101  (as above)
        segment = half.early[0]
        hole = _distance(half.next, _start(segment))
        if hole > 0:
            lost = min(hole, limit)
            self._gap(half, max(half.connection.last_ns, segment.time_ns), lost, None)
            if lost < hole:
                return
        self._deliver_early(half)


def _start(segment: Segment) -> int:
    return (segment.sequence + 1) & _MASK if segment.flags & SYN else segment.sequence


def _from_client(segment: Segment) -> bool:
    """Whether a connection's first known segment, which is no SYN, was sent by the client."""
    if segment.payload.startswith(_CLIENT_STARTS):
        return True
    if segment.payload.startswith(_SERVER_STARTS):
        return False
    source, destination = path_endpoints(segment.path)
    ranks = [
        (port >= _WELL_KNOWN_PORTS, port not in _SERVICE_PORTS) for port in (source.port, destination.port)
    ]
    if ranks[0] != ranks[1]:
        return ranks[1] < ranks[0]
    return destination.port <= source.port
