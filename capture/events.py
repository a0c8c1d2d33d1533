"""What the kernel side tells of, as frozen values. Times are wall-clock nanoseconds.

capture.samples makes them of the ring's records.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum


class Direction(IntEnum):
    """As the recorded process sees it."""

    SENT = 0
    RECEIVED = 1


class Protocol(IntEnum):
    """What the first bytes speak."""

    UNDECIDED = 0
    TLS = 1
    HTTP = 2
    OTHER = 3


class Role(IntEnum):
    """Whether connect() or accept() made the socket."""

    UNKNOWN = 0
    CLIENT = 1
    SERVER = 2


class Reason(IntEnum):
    """Why bytes were not captured. ``word`` is how files and the ledger say it."""

    NONE = 0
    RING_FULL = 1
    FAULT = 2
    LIMIT = 3
    NOT_IN_USER_SPACE = 4
    TABLE_FULL = 5
    UNDECIDED = 6
    UNSEEN_RETURN = 7

    @property
    def word(self) -> str:
        """Lower case with hyphens."""
        return self.name.lower().replace("_", "-")


@dataclass(frozen=True, slots=True)
class ConnectionAnnounced:
    """A connection that speaks a wanted protocol; comes before its first data.

    ``unix_path`` is None for TCP; addresses of AF_UNIX are those of capture.unix_streams.
    ``base`` is the position from which each direction is reported. ``opened`` and ``established`` are None
    where they were before the recording.
    """

    connection: int
    time: int
    pid: int
    comm: str
    fd: int | None
    inode: int
    netns: int
    local: bytes
    local_port: int
    remote: bytes
    remote_port: int
    role: Role
    protocol: Protocol
    opened: int | None
    established: int | None
    base: tuple[int, int]
    unix_path: str | None = None


@dataclass(frozen=True, slots=True)
class BytesMoved:
    """Bytes of one direction: ``payload`` was captured, ``length`` moved; ``reason`` says why they differ.

    ``session`` is 0 for cleartext, else the TLS session whose plaintext this is; its ``connection`` may be 0
    while it is not known. ``hello`` marks TLS records of a handshake, as they crossed the socket;
    ``overlapped`` that other calls on the connection were in flight, whose bytes may belong before these;
    ``opposite`` is the position that the other direction had by then, of a hello alone;
    ``answers`` that a write of the session was in flight, which is told of only when it returns, and which these
    may answer; ``by_reference`` that the program could change them between its call and their being sent.
    """

    connection: int
    session: int
    time: int
    direction: Direction
    position: int
    length: int
    payload: bytes
    reason: Reason
    protocol: Protocol
    pid: int
    tid: int
    library: int
    hello: bool
    overlapped: bool = False
    by_reference: bool = False
    answers: bool = False
    opposite: int = 0


@dataclass(frozen=True, slots=True)
class GreetedInside:
    """What a connection's TLS session carries is another session's records: ``payload`` begins the first, a hello."""

    connection: int
    time: int
    payload: bytes


@dataclass(frozen=True, slots=True)
class ConnectionEnded:
    """The socket is gone. Final positions of its bytes, and of its last TLS session's plaintext."""

    connection: int
    time: int
    local_fin: int | None
    peer_fin: int | None
    local_reset: int | None
    peer_reset: int | None
    moved: tuple[int, int]
    session: int
    session_moved: tuple[int, int]
    protocol: Protocol


@dataclass(frozen=True, slots=True)
class Final:
    """A connection's last positions, read from the kernel when the recording ends."""

    moved: tuple[int, int]
    session: int
    session_moved: tuple[int, int]


@dataclass(frozen=True, slots=True)
class SessionBound:
    """A TLS session's records go over this connection. ``unwanted``: nobody asked for it, nor is it announced."""

    session: int
    connection: int
    time: int
    pid: int
    library: int
    unwanted: bool = False


@dataclass(frozen=True, slots=True)
class SessionJoined:
    """What was told of a session is a part of another one, ``whole``: a direction's bytes from ``position`` on."""

    session: int
    connection: int
    whole: int
    direction: Direction
    position: int
    time: int


@dataclass(frozen=True, slots=True)
class SessionEstablished:
    """A TLS handshake function succeeded; ``started`` is when the first of them was entered."""

    session: int
    connection: int
    time: int
    started: int
    pid: int
    library: int


@dataclass(frozen=True, slots=True)
class SessionFreed:
    """The TLS object is gone."""

    session: int
    time: int


@dataclass(frozen=True, slots=True)
class ProgramExecuted:
    """A process runs another program; ``arguments`` may be cut short."""

    pid: int
    time: int
    file: str
    arguments: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class NewCodeUsed:
    """A process runs or maps a file that was not looked at; ``device`` is the kernel's number, ``path`` as exec was
    given it, empty for a mapping, ``changed`` its ctime (ns since 1970), ``size`` in bytes, ``held`` whether the
    process is stopped until it is let go.
    """

    pid: int
    time: int
    device: int
    inode: int
    changed: int
    size: int
    path: str
    held: bool


@dataclass(frozen=True, slots=True)
class ReturnExpected:
    """A call on a switched stack will return to ``address`` in ``memory``; ``held`` as above.

    ``moves_bytes``: it reads or writes, and is no handshake.
    """

    pid: int
    time: int
    address: int
    memory: int
    held: bool
    moves_bytes: bool


@dataclass(frozen=True, slots=True)
class HostResolved:
    """The C library found ``addresses`` (IPv4 as ::ffff:a.b.c.d) for ``name``; ``more`` of them are not listed."""

    pid: int
    time: int
    started: int
    name: str
    addresses: tuple[bytes, ...]
    more: int


Event = (
    ConnectionAnnounced
    | BytesMoved
    | ConnectionEnded
    | GreetedInside
    | SessionBound
    | SessionJoined
    | SessionEstablished
    | SessionFreed
    | ProgramExecuted
    | NewCodeUsed
    | ReturnExpected
    | HostResolved
)
