"""Kernel samples, decoded: what happened, as frozen values.

A sample is a record of the ring buffer as events.h lays it out; this module turns one into an event. Layout
comes from the caller (bpf.abi derives it from the header), so nothing here imports the kernel side. Times
become wall-clock nanoseconds by an offset (capture.wall_clock).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, Any
from typing import Protocol as TypingProtocol

from capture import unix_streams

if TYPE_CHECKING:
    import struct
    from collections.abc import Callable, Iterable, Mapping


# A connection that was first seen in a call that shows no descriptor.
_NO_FD = 0xFFFFFFFF
_AF_UNIX, _AF_INET = 1, 2

_End = tuple[bytes, int]


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
    """A process runs or maps a file that was not looked at; ``device`` is the kernel's number.

    ``changed`` is its ctime (ns since 1970), ``size`` in bytes, ``path`` as exec was given it, empty for a mapping.
    ``held`` is whether the process is stopped until it is let go.
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
    | SessionBound
    | SessionJoined
    | SessionEstablished
    | SessionFreed
    | ProgramExecuted
    | NewCodeUsed
    | HostResolved
)


class Layout(TypingProtocol):
    """A struct of events.h."""

    @property
    def names(self) -> tuple[str, ...]:
        """Members in order."""

    @property
    def codec(self) -> struct.Struct:
        """Unpacks to a tuple in that order."""


class Decoder:
    """Decodes samples of one ABI; ``clock_offset`` is nanoseconds to add to their times."""

    def __init__(
        self, layouts: Mapping[str, Layout], constants: Mapping[str, int], clock_offset: int
    ) -> None:
        self.clock_offset = clock_offset
        self._head = layouts["sample"].codec
        self._exec_half = constants["EXEC_TEXT_BYTES"] // 2  # the file's name; the arguments have the other
        self._connection = layouts["connection_sample"]
        self._end = layouts["end_sample"]
        self._name = layouts["name_sample"]
        self._code = layouts["new_code_sample"]
        self._kinds: dict[int, Callable[[bytes, int, tuple[int, ...]], Event]] = {
            constants["SAMPLE_DATA"]: self._data,
            constants["SAMPLE_HELLO"]: self._hello,
            constants["SAMPLE_CONNECTION"]: self._announced,
            constants["SAMPLE_END"]: self._ended,
            constants["SAMPLE_BOUND"]: self._bound,
            constants["SAMPLE_JOINED"]: self._joined,
            constants["SAMPLE_HANDSHAKE"]: self._established,
            constants["SAMPLE_SESSION_END"]: self._freed,
            constants["SAMPLE_EXEC"]: self._executed,
            constants["SAMPLE_NEW_CODE"]: self._new_code,
            constants["SAMPLE_NAME"]: self._resolved,
        }
        # Small enumerations come from tables: calling an IntEnum costs more than the rest of the decoding.
        self._directions = tuple(Direction)
        self._reasons = tuple(Reason)
        self._protocols = tuple(Protocol)

    def decode(self, buffer: bytes, starts: Iterable[int]) -> Iterable[Event]:
        """The events of a batch, in order."""
        unpack, kinds = self._head.unpack_from, self._kinds
        for start in starts:
            head = unpack(buffer, start)
            yield kinds[head[0]](buffer, start, head)

    def _data(self, buffer: bytes, start: int, head: tuple[int, ...], *, hello: bool = False) -> BytesMoved:
        (
            _,
            direction,
            reason,
            protocol,
            captured,
            time,
            connection,
            session,
            position,
            length,
            pid,
            tid,
            lib,
            overlapped,
            answers,
            by_reference,
        ) = head
        begin = start + self._head.size
        return BytesMoved(
            connection, session, time + self.clock_offset, self._directions[direction], position, length,
            buffer[begin : begin + captured], self._reasons[reason], self._protocols[protocol], pid, tid, lib, hello,
            bool(overlapped), bool(by_reference), bool(answers),
        )  # fmt: skip

    def _hello(self, buffer: bytes, start: int, head: tuple[int, ...]) -> BytesMoved:
        return self._data(buffer, start, head, hello=True)

    def _wall(self, time: int) -> int | None:
        return time + self.clock_offset if time else None

    def _announced(self, buffer: bytes, start: int, _head: tuple[int, ...]) -> ConnectionAnnounced:
        m = dict(zip(self._connection.names, self._connection.codec.unpack_from(buffer, start), strict=True))
        local, remote, path = self._ends(m)
        return ConnectionAnnounced(
            connection=m["connection"], time=m["time"] + self.clock_offset, pid=m["tgid"], comm=_text(m["comm"]),
            fd=m["fd"] if m["fd"] != _NO_FD else None, inode=m["inode"], netns=m["netns"],
            local=local[0], local_port=local[1], remote=remote[0], remote_port=remote[1],
            role=Role(m["role"]), protocol=Protocol(m["protocol"]),
            opened=self._wall(m["opened"]), established=self._wall(m["established"]),
            base=(m["base_sent"], m["base_received"]), unix_path=path,
        )  # fmt: skip

    @staticmethod
    def _ends(m: Mapping[str, Any]) -> tuple[_End, _End, str | None]:
        """Local and remote address and port, and the path of a stream of AF_UNIX."""
        if m["family"] == _AF_UNIX:
            name = int.from_bytes(m["local"][:4], "little")
            client = unix_streams.client_address(name)
            ends = (client, unix_streams.SERVER) if m["inode"] == name else (unix_streams.SERVER, client)
            return *ends, unix_streams.path_text(m["path"][: m["path_bytes"]])
        width = 4 if m["family"] == _AF_INET else 16
        return (m["local"][:width], m["local_port"]), (m["remote"][:width], m["remote_port"]), None

    def _ended(self, buffer: bytes, start: int, _head: tuple[int, ...]) -> ConnectionEnded:
        m = dict(zip(self._end.names, self._end.codec.unpack_from(buffer, start), strict=True))
        return ConnectionEnded(
            m["connection"], m["time"] + self.clock_offset,
            self._wall(m["local_fin"]), self._wall(m["peer_fin"]),
            self._wall(m["local_reset"]), self._wall(m["peer_reset"]),
            (m["sent"], m["received"]), m["session"], (m["session_sent"], m["session_received"]),
            Protocol(m["protocol"]),
        )  # fmt: skip

    def _bound(self, _buffer: bytes, _start: int, head: tuple[int, ...]) -> SessionBound:
        return SessionBound(
            head[7], head[6], head[5] + self.clock_offset, head[10], head[12], unwanted=bool(head[8])
        )

    def _joined(self, _buffer: bytes, _start: int, head: tuple[int, ...]) -> SessionJoined:
        direction, time = self._directions[head[1]], head[5] + self.clock_offset
        return SessionJoined(head[7], head[6], head[9], direction, head[8], time)

    def _established(self, _buffer: bytes, _start: int, head: tuple[int, ...]) -> SessionEstablished:
        return SessionEstablished(
            head[7], head[6], head[5] + self.clock_offset, head[8] + self.clock_offset, head[10], head[12]
        )

    def _freed(self, _buffer: bytes, _start: int, head: tuple[int, ...]) -> SessionFreed:
        return SessionFreed(head[7], head[5] + self.clock_offset)

    def _new_code(self, buffer: bytes, start: int, head: tuple[int, ...]) -> NewCodeUsed:
        *_, changed, size, path = self._code.codec.unpack_from(buffer, start)
        # To be opened: as os.fsencode() takes it.
        name = path.split(b"\0", 1)[0].decode("utf-8", "surrogateescape")
        return NewCodeUsed(
            head[10], head[5] + self.clock_offset, head[9], head[8], changed, size, name, bool(head[2])
        )

    def _resolved(self, buffer: bytes, start: int, head: tuple[int, ...]) -> HostResolved:
        *_, name, addresses = self._name.codec.unpack_from(buffer, start)
        return HostResolved(
            head[10], head[5] + self.clock_offset, head[8] + self.clock_offset, _text(name),
            tuple(addresses[at : at + 16] for at in range(0, 16 * head[4], 16)), head[9],
        )  # fmt: skip

    def _executed(self, buffer: bytes, start: int, head: tuple[int, ...]) -> ProgramExecuted:
        at = start + self._head.size
        half = self._exec_half
        file = _text(buffer[at : at + half])
        words = buffer[at + half : at + half + head[4]].split(b"\0")
        return ProgramExecuted(
            head[10], head[5] + self.clock_offset, file, tuple(_text(w) for w in words[:-1] or words)
        )


def _text(raw: bytes) -> str:
    return raw.split(b"\0", 1)[0].decode("utf-8", "backslashreplace")
