"""The ring's records, decoded to events.

A sample is a record of the ring buffer as events.h lays it out. Layout comes from the caller (bpf.abi derives it from
the header), so nothing here imports the kernel side. Times become wall-clock nanoseconds by an offset
(capture.wall_clock).
"""

from __future__ import annotations

from dataclasses import replace
from mmap import mmap
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
# What slices to bytes.
Buffer = bytes | mmap


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
        self._sample = layouts["sample"]
        self._unpack = self._sample.codec.unpack_from  # of the samples that there are most of
        self._payload = self._sample.codec.size  # where it begins
        self._exec_half = constants["EXEC_TEXT_BYTES"] // 2  # the file's name; the arguments have the other
        self._connection = layouts["connection_sample"]
        self._end = layouts["end_sample"]
        self._name = layouts["name_sample"]
        self._code = layouts["new_code_sample"]
        self._kinds: dict[int, Callable[[Buffer, int], Event]] = {
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

    def decode(self, buffer: Buffer, starts: Iterable[int]) -> Iterable[Event]:
        """The events of a batch, in order."""
        kinds = self._kinds
        for start in starts:
            yield kinds[buffer[start]](buffer, start)  # the kind is the first member of each

    def _data(self, buffer: Buffer, start: int, *, hello: bool = False) -> BytesMoved:
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
        ) = self._unpack(buffer, start)
        begin = start + self._payload
        return BytesMoved(
            connection, session, time + self.clock_offset, self._directions[direction], position, length,
            buffer[begin : begin + captured], self._reasons[reason], self._protocols[protocol], pid, tid, lib, hello,
            bool(overlapped), bool(by_reference), bool(answers),
        )  # fmt: skip

    def _hello(self, buffer: Buffer, start: int) -> BytesMoved:
        event = self._data(buffer, start, hello=True)
        return replace(event, library=0, opposite=event.library)

    def _greeted_inside(self, buffer: Buffer, start: int) -> GreetedInside:
        m = _members(self._sample, buffer, start)
        begin = start + self._payload
        return GreetedInside(m["connection"], self._time(m), buffer[begin : begin + m["captured"]])

    def _time(self, m: Mapping[str, int]) -> int:
        return m["time"] + self.clock_offset

    def _wall(self, time: int) -> int | None:
        return time + self.clock_offset if time else None

    def _announced(self, buffer: Buffer, start: int) -> ConnectionAnnounced:
        m = _members(self._connection, buffer, start)
        local, remote, path = self._ends(m)
        return ConnectionAnnounced(
            connection=m["connection"], time=self._time(m), pid=m["tgid"], comm=_text(m["comm"]),
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

    def _ended(self, buffer: Buffer, start: int) -> ConnectionEnded:
        m = _members(self._end, buffer, start)
        return ConnectionEnded(
            m["connection"], self._time(m),
            self._wall(m["local_fin"]), self._wall(m["peer_fin"]),
            self._wall(m["local_reset"]), self._wall(m["peer_reset"]),
            (m["sent"], m["received"]), m["session"], (m["session_sent"], m["session_received"]),
            Protocol(m["protocol"]),
        )  # fmt: skip

    def _bound(self, buffer: Buffer, start: int) -> SessionBound:
        m = _members(self._sample, buffer, start)
        return SessionBound(
            m["session"],
            m["connection"],
            self._time(m),
            m["tgid"],
            m["library"],
            unwanted=bool(m["position"]),
        )

    def _joined(self, buffer: Buffer, start: int) -> SessionJoined:
        m = _members(self._sample, buffer, start)
        direction = self._directions[m["direction"]]
        return SessionJoined(
            m["session"], m["connection"], m["length"], direction, m["position"], self._time(m)
        )

    def _established(self, buffer: Buffer, start: int) -> SessionEstablished:
        m = _members(self._sample, buffer, start)
        started = m["position"] + self.clock_offset
        return SessionEstablished(
            m["session"], m["connection"], self._time(m), started, m["tgid"], m["library"]
        )

    def _freed(self, buffer: Buffer, start: int) -> SessionFreed:
        m = _members(self._sample, buffer, start)
        return SessionFreed(m["session"], self._time(m))

    def _new_code(self, buffer: Buffer, start: int) -> NewCodeUsed:
        m = _members(self._code, buffer, start)
        # To be opened: as os.fsencode() takes it.
        path = m["path"].split(b"\0", 1)[0].decode("utf-8", "surrogateescape")
        return NewCodeUsed(
            m["tgid"], self._time(m), m["length"], m["position"], m["changed"], m["size"], path,
            bool(m["reason"]),
        )  # fmt: skip

    def _return_expected(self, buffer: Buffer, start: int) -> ReturnExpected:
        m = _members(self._sample, buffer, start)
        return ReturnExpected(
            m["tgid"], self._time(m), m["position"], m["length"], bool(m["reason"]), bool(m["direction"])
        )

    def _resolved(self, buffer: Buffer, start: int) -> HostResolved:
        m = _members(self._name, buffer, start)
        addresses = m["addresses"]
        return HostResolved(
            m["tgid"], self._time(m), m["position"] + self.clock_offset, _text(m["name"]),
            tuple(addresses[at : at + 16] for at in range(0, 16 * m["captured"], 16)), m["length"],
        )  # fmt: skip

    def _executed(self, buffer: Buffer, start: int) -> ProgramExecuted:
        m = _members(self._sample, buffer, start)
        at, half = start + self._payload, self._exec_half
        words = buffer[at + half : at + half + m["captured"]].split(b"\0")
        return ProgramExecuted(
            m["tgid"], self._time(m), _text(buffer[at : at + half]), tuple(map(_text, words[:-1] or words))
        )


def _members(layout: Layout, buffer: Buffer, start: int) -> dict[str, Any]:
    """A struct by the names of its members; what some of them mean in a sample of each kind, events.h says."""
    return dict(zip(layout.names, layout.codec.unpack_from(buffer, start), strict=True))


def _text(raw: bytes) -> str:
    return raw.split(b"\0", 1)[0].decode("utf-8", "backslashreplace")
