"""The ring's records, decoded to events.

A sample is a record of the ring buffer as events.h lays it out. Layout comes from the caller (bpf.abi derives it from
the header), so nothing here imports the kernel side. Times become wall-clock nanoseconds by an offset
(capture.wall_clock).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from typing import Protocol as TypingProtocol

from capture import unix_streams
from capture.events import (
    BytesMoved,
    ConnectionAnnounced,
    ConnectionEnded,
    Direction,
    Event,
    GreetedInside,
    HostResolved,
    NewCodeUsed,
    ProgramExecuted,
    Protocol,
    Reason,
    ReturnExpected,
    Role,
    SessionBound,
    SessionEstablished,
    SessionFreed,
    SessionJoined,
)

if TYPE_CHECKING:
    import struct
    from collections.abc import Callable, Iterable, Mapping

# A connection that was first seen in a call that shows no descriptor.
_NO_FD = 0xFFFFFFFF
_AF_UNIX, _AF_INET = 1, 2

_End = tuple[bytes, int]


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
            constants["SAMPLE_INNER_HELLO"]: self._greeted_inside,
            constants["SAMPLE_CONNECTION"]: self._announced,
            constants["SAMPLE_END"]: self._ended,
            constants["SAMPLE_BOUND"]: self._bound,
            constants["SAMPLE_JOINED"]: self._joined,
            constants["SAMPLE_HANDSHAKE"]: self._established,
            constants["SAMPLE_SESSION_END"]: self._freed,
            constants["SAMPLE_EXEC"]: self._executed,
            constants["SAMPLE_NEW_CODE"]: self._new_code,
            constants["SAMPLE_RETURN_PLACE"]: self._return_expected,
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

    def _greeted_inside(self, buffer: bytes, start: int, head: tuple[int, ...]) -> GreetedInside:
        begin = start + self._head.size
        return GreetedInside(head[6], head[5] + self.clock_offset, buffer[begin : begin + head[4]])

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
            # Where the client is gone, its server's end has only itself to be named by.
            is_client = m["inode"] == name and m["role"] != Role.SERVER
            ends = (client, unix_streams.SERVER) if is_client else (unix_streams.SERVER, client)
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

    def _return_expected(self, _buffer: bytes, _start: int, head: tuple[int, ...]) -> ReturnExpected:
        return ReturnExpected(
            head[10], head[5] + self.clock_offset, head[8], head[9], bool(head[2]), bool(head[1])
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
