"""Kernel events made by hand, and a recording of them: what capture.connections makes of a sequence."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import TYPE_CHECKING

from capture.connections import Connections
from capture.events import (
    BytesMoved,
    ConnectionAnnounced,
    ConnectionEnded,
    Direction,
    Event,
    Final,
    Protocol,
    Reason,
    Role,
)
from capture.streams import Data, Gap, Process, Side, StreamClosed, StreamItem, StreamOpened, TlsStarted

if TYPE_CHECKING:
    from collections.abc import Iterable

    from capture.tally import Tally
    from capture.unread import TlsNames

START_NS = 1_700_000_000_000_000_000
SECOND_NS = 1_000_000_000
STEP_NS = 1_000
LOOPBACK = bytes([127, 0, 0, 1])
ELSEWHERE = bytes([93, 184, 216, 34])
HERE = bytes([10, 0, 0, 7])
CLIENT_PORT, SERVER_PORT = 40_000, 8_080

REQUEST = b"GET /index.html HTTP/1.1\r\nHost: localhost\r\n\r\n"
RESPONSE = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"


def announced(connection: int, role: Role = Role.CLIENT, **fields: object) -> ConnectionAnnounced:
    """One end of a loopback connection, opened while recording unless ``fields`` say otherwise."""
    ports = (CLIENT_PORT, SERVER_PORT) if role is not Role.SERVER else (SERVER_PORT, CLIENT_PORT)
    event = ConnectionAnnounced(
        connection=connection,
        time=START_NS,
        pid=1000 + connection,
        comm="client" if role is not Role.SERVER else "server",
        fd=5,
        inode=connection,
        netns=1,
        local=LOOPBACK,
        local_port=ports[0],
        remote=LOOPBACK,
        remote_port=ports[1],
        role=role,
        protocol=Protocol.HTTP,
        opened=START_NS,
        established=START_NS,
        base=(0, 0),
    )
    return replace(event, **fields)  # type: ignore[arg-type]  # fields of the event by name


def distant(connection: int, role: Role = Role.CLIENT, **fields: object) -> ConnectionAnnounced:
    """A connection whose other end is on another machine."""
    return announced(connection, role, **{"local": HERE, "remote": ELSEWHERE, **fields})


def moved(
    connection: int, direction: Direction, position: int, payload: bytes, **fields: object
) -> BytesMoved:
    """Bytes that were captured whole, cleartext HTTP unless ``fields`` say otherwise."""
    event = BytesMoved(
        connection=connection,
        session=0,
        time=START_NS + STEP_NS,
        direction=direction,
        position=position,
        length=len(payload),
        payload=payload,
        reason=Reason.NONE,
        protocol=Protocol.HTTP,
        pid=1000 + connection,
        tid=1000 + connection,
        library=0,
        hello=False,
    )
    return replace(event, **fields)  # type: ignore[arg-type]  # fields of the event by name


def plaintext(
    session: int, direction: Direction, position: int, payload: bytes, connection: int = 0, **fields: object
) -> BytesMoved:
    """Bytes of a TLS session, whose connection is not known unless it is given."""
    values = {"session": session, "protocol": Protocol.TLS, "library": 1, **fields}
    return moved(connection, direction, position, payload, **values)


def ended(connection: int, sent: int = 0, received: int = 0, **fields: object) -> ConnectionEnded:
    """The end of a connection after so many bytes on the socket, with a FIN of each end."""
    event = ConnectionEnded(
        connection=connection,
        time=START_NS + 3 * STEP_NS,
        local_fin=START_NS + 2 * STEP_NS,
        peer_fin=START_NS + 2 * STEP_NS + 1,
        local_reset=None,
        peer_reset=None,
        moved=(sent, received),
        session=0,
        session_moved=(0, 0),
        protocol=Protocol.HTTP,
    )
    return replace(event, **fields)  # type: ignore[arg-type]  # fields of the event by name


def in_pieces(
    connection: int, direction: Direction, data: bytes, cuts: Iterable[int], **fields: object
) -> list[BytesMoved]:
    """One direction, cut at these positions."""
    edges = sorted({0, len(data), *(cut for cut in cuts if 0 < cut < len(data))})
    return [moved(connection, direction, start, data[start:end], **fields) for start, end in pairwise(edges)]


@dataclass(slots=True)
class Stream:
    """What came out of one stream. ``sent`` has a hole where bytes were lost: zeros, marked in ``holes``."""

    opened: StreamOpened
    sent: dict[Side, bytes] = field(default_factory=lambda: {Side.CLIENT: b"", Side.SERVER: b""})
    holes: dict[Side, list[tuple[int, int, str]]] = field(
        default_factory=lambda: {Side.CLIENT: [], Side.SERVER: []}
    )
    tls_started: list[TlsStarted] = field(default_factory=list)
    closed: list[StreamClosed] = field(default_factory=list)

    @property
    def both(self) -> tuple[bytes, bytes]:
        """What client and server sent."""
        return self.sent[Side.CLIENT], self.sent[Side.SERVER]

    def take(self, item: StreamItem) -> None:
        """One more item."""
        if isinstance(item, Data):
            assert item.data, "an item without bytes"
            self.sent[item.sender] += item.data
        elif isinstance(item, Gap):
            assert item.length > 0, "a gap without bytes"
            self.holes[item.sender].append((len(self.sent[item.sender]), item.length, item.reason))
            self.sent[item.sender] += bytes(item.length)
        elif isinstance(item, TlsStarted):
            self.tls_started.append(item)
        else:
            assert isinstance(item, StreamClosed)
            self.closed.append(item)


class Recording:
    """A recording of made events. Streams hold the order that capture.streams promises, or it fails."""

    def __init__(self, *, all_protocols: bool = False, tls_names: TlsNames | None = None) -> None:
        self.mirrored: list[tuple[int, bool]] = []
        self.items: list[StreamItem] = []
        self.connections = Connections(
            Process,
            lambda cookie: "libssl.so.3" if cookie else None,
            lambda connection, mirrored: self.mirrored.append((connection, mirrored)),
            all_protocols=all_protocols,
            tls_names=tls_names,
        )

    def feed(self, *events: Event) -> Recording:
        """Events as they come out of the ring."""
        for event in events:
            self.items += self.connections.handle(event)
        return self

    def tick(self, after_ns: int) -> Recording:
        """Time passes, counted from START_NS."""
        self.items += self.connections.tick(START_NS + after_ns)
        return self

    def finish(self, finals: dict[int, Final] | None = None) -> Recording:
        """The recording ends."""
        self.items += self.connections.finish(START_NS + 10 * SECOND_NS, finals or {})
        return self

    @property
    def tally(self) -> Tally:
        """What the connections counted."""
        return self.connections.tally

    @property
    def streams(self) -> list[Stream]:
        """Every stream so far."""
        found: dict[int, Stream] = {}
        for item in self.items:
            if isinstance(item, StreamOpened):
                assert item.stream not in found, "a stream that begins twice"
                found[item.stream] = Stream(item)
            else:
                found[item.stream].take(item)
        return list(found.values())

    @property
    def stream(self) -> Stream:
        """The only stream."""
        (only,) = self.streams
        return only
