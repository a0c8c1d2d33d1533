"""What HTTP says, apart from how it was said: exchanges, messages, fields and bodies (RFC 9110).

The same values come out of every version of HTTP. Bytes stay bytes, times are integer nanoseconds since the
epoch, unknown is None, and what was lost is a Lost beside what was captured, never filler. This module knows
no framing, no clock and no HAR.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from capture.streams import Process, StreamOpened, Tls

FieldPair = tuple[bytes, bytes]

LOST_TO_LIMIT = "body-limit"
"""Reason of a Lost whose bytes were captured, and left out because the body is larger than the limit."""

_LAST_COUNTS = b"content-type"
"""Of several, browsers take the last one (Fetch: extract a MIME type): joined they would be no media type."""


class Fields:
    """A header or trailer section: (name, value) pairs in the order and the case in which they were sent."""

    __slots__ = ("_index", "pairs")

    def __init__(self, pairs: tuple[FieldPair, ...] = ()) -> None:
        self.pairs = pairs
        self._index: dict[bytes, bytes] | None = None

    def __iter__(self) -> Iterator[FieldPair]:
        return iter(self.pairs)

    def __len__(self) -> int:
        return len(self.pairs)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Fields) and self.pairs == other.pairs

    def __hash__(self) -> int:
        return hash(self.pairs)

    def __repr__(self) -> str:
        return f"Fields({self.pairs!r})"

    @property
    def index(self) -> Mapping[bytes, bytes]:
        """The combined value of each field by its name in lower case (RFC 9110 §5.2: joined by commas).

        Of Content-Type, which is no list, the last value.
        """
        if self._index is None:
            index = {name.lower(): value for name, value in self.pairs}
            if len(index) < len(self.pairs):
                values: dict[bytes, list[bytes]] = {}
                for name, value in self.pairs:
                    values.setdefault(name.lower(), []).append(value)
                index = {name: b", ".join(each) for name, each in values.items() if name != _LAST_COUNTS}
                if _LAST_COUNTS in values:
                    index[_LAST_COUNTS] = values[_LAST_COUNTS][-1]
            self._index = index
        return self._index

    def get(self, name: bytes) -> bytes | None:
        """The combined value of the field ``name`` (in lower case), None where it was not sent."""
        index = self._index
        return self.index.get(name) if index is None else index.get(name)

    def values(self, name: bytes) -> list[bytes]:
        """Every value of the field ``name`` (in lower case) by itself, as Set-Cookie needs it."""
        if name not in self.index:
            return []
        return [value for candidate, value in self.pairs if candidate.lower() == name]

    def tokens(self, name: bytes) -> list[bytes]:
        """The members of a comma-separated list in lower case, without their parameters (RFC 9110 §5.6.1)."""
        combined = self.index.get(name)
        if not combined:
            return []
        members = (member.split(b";", 1)[0].strip().lower() for member in combined.split(b","))
        return [member for member in members if member]


NO_FIELDS = Fields()


@dataclass(frozen=True, slots=True)
class Lost:
    """``length`` bytes that were sent after the first ``offset`` captured ones, and that are not there.

    Not ``exact``: so many at most, for they may have been another message's.
    """

    offset: int
    length: int
    reason: str
    exact: bool = True


@dataclass(frozen=True, slots=True)
class Body:
    """A message's content as it was sent, without the framing around it (chunks, frames).

    ``data`` holds the captured bytes, content codings still applied, with nothing in the place of what is
    ``lost``. ``wire_bytes`` is what the body took on the wire, framing and lost bytes included. ``complete``
    says that the end of the body was seen. ``transfer_codings`` are those beside chunked, in the order in
    which they were applied (RFC 9112 §7). ``marks`` tells when the bytes from an offset on arrived, as
    (offset, ns), for the media types that are sequences of messages. ``doubts`` are places where up to so many bytes
    may be missing besides: which stream of a connection has lost them is not known.
    """

    data: bytes | bytearray = b""
    wire_bytes: int = 0
    lost: tuple[Lost, ...] = ()
    complete: bool = True
    transfer_codings: tuple[bytes, ...] = ()
    marks: tuple[tuple[int, int], ...] = ()
    doubts: tuple[Lost, ...] = ()

    @property
    def size(self) -> int:
        """How many bytes were sent of it, the framing not counted."""
        return len(self.data) + sum(lost.length for lost in self.lost)

    @property
    def lost_bytes(self) -> int:
        """How many bytes of the body were sent and not captured."""
        return sum(lost.length for lost in self.lost if lost.reason != LOST_TO_LIMIT) if self.lost else 0

    @property
    def omitted_bytes(self) -> int:
        """How many bytes of the body were captured and are not in ``data`` because of the limit."""
        return sum(lost.length for lost in self.lost if lost.reason == LOST_TO_LIMIT) if self.lost else 0


NO_BODY = Body()


@dataclass(frozen=True, slots=True)
class Request:
    """A request. ``method`` or ``target`` is None where it was sent before the recording, or was lost.

    ``started_ns`` is the time of its first byte and ``ended_ns`` that of its last. ``head_bytes`` is the size
    of the start line and the header section with the empty line after it; of HTTP/2, of the frames that
    carried them. ``protocol`` is HTTP/2's :protocol (RFC 8441).
    """

    method: bytes | None
    target: bytes | None
    version: str
    fields: Fields
    started_ns: int
    ended_ns: int
    head_bytes: int | None = None
    body: Body = NO_BODY
    trailers: Fields = NO_FIELDS
    scheme: bytes | None = None
    authority: bytes | None = None
    protocol: bytes | None = None

    @property
    def asks_for_websocket(self) -> bool:
        """Whether it was granted or refused (RFC 6455 §4.1, RFC 8441 §5)."""
        return (self.protocol or self.fields.get(b"upgrade") or b"").lower() == b"websocket"


@dataclass(frozen=True, slots=True)
class Response:
    """A response, final or interim; ``status`` is None where it is unknown. Times and sizes: see Request."""

    status: int | None
    reason: bytes
    version: str
    fields: Fields
    started_ns: int
    ended_ns: int
    head_bytes: int | None = None
    body: Body = NO_BODY
    trailers: Fields = NO_FIELDS


class Outcome(Enum):
    """How an exchange ended."""

    COMPLETE = "complete"
    CLOSED = "the connection was closed"
    RESET = "the connection was reset"
    CANCELLED = "the stream was reset"
    LOST = "bytes were lost"
    MALFORMED = "the message is malformed"
    UNFINISHED = "the recording ended"


@dataclass(frozen=True, slots=True)
class Connection:
    """What carried an exchange: a connection, or what runs inside a CONNECT tunnel through it.

    ``authority`` is the tunnel's target. ``tls`` is the session whose plaintext the exchange is.
    """

    opened: StreamOpened
    tls: Tls | None
    authority: bytes | None = None

    @property
    def process(self) -> Process | None:
        """The process that was recorded."""
        return self.opened.process


@dataclass(frozen=True, slots=True)
class WebSocketMessage:
    """A message or a control frame; ``from_client`` says who sent it. ``data`` is unmasked and inflated.

    ``problem`` says why it is not all there: ``lost_bytes`` were lost, ``omitted_bytes`` were captured and are over the
    limit, or it cannot be inflated, and ``data`` is as it was sent.
    """

    time_ns: int
    from_client: bool
    opcode: int
    data: bytes
    lost_bytes: int = 0
    problem: str | None = None
    omitted_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Exchange:
    """A request and its response; either is None where it was not captured.

    ``number`` counts the exchanges of a connection from 0. ``stream_id`` is HTTP/2's. ``interim`` are the 1xx
    responses. ``lost`` are bytes of heads, that is of messages of which nothing can be shown, and all that a WebSocket
    lost; their offsets are in what the same side has sent of it. ``socket_messages`` are those of a WebSocket, None
    for all else.
    """

    connection: Connection
    number: int
    request: Request | None
    response: Response | None
    outcome: Outcome
    ended_ns: int
    interim: tuple[Response, ...] = ()
    lost: tuple[Lost, ...] = ()
    stream_id: int | None = None
    pushed: bool = False
    priority: str | None = None
    socket_messages: tuple[WebSocketMessage, ...] | None = None
    notes: tuple[str, ...] = field(default=())

    @property
    def started_ns(self) -> int:
        """The time of the first byte that was captured of it."""
        if self.request is not None:
            return self.request.started_ns
        return self.response.started_ns if self.response is not None else self.ended_ns

    @property
    def lost_bytes(self) -> int:
        """How many bytes of both messages were sent and are not there, as far as it is certain."""
        total = sum(lost.length for lost in self.lost if lost.exact) if self.lost else 0
        for message in (self.request, self.response):
            if message is not None:
                total += message.body.lost_bytes
        return total
