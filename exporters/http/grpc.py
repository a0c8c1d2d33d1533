"""gRPC and gRPC-Web calls: the method, the messages in both bodies, and how the call ended.

PROTOCOL-HTTP2.md and PROTOCOL-WEB.md of the gRPC project. A message is a flag byte, a length of four bytes, and
the message; in gRPC-Web a frame with the highest bit set holds the trailers, and the -text form is base64.
"""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import unquote

from exporters.http.heads import parse_fields
from exporters.http.messages import NO_FIELDS, Fields

if TYPE_CHECKING:
    from exporters.http.messages import Exchange, Request, Response

STATUS_NAMES = (
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
)
"""By number: statuscodes.md of the gRPC project."""

MAX_LISTED_MESSAGES = 10_000
"""Of one direction of a call: a stream may go on for days."""

MAX_STATUS_DIGITS = 9
"""gRPC's codes go to 16; a server may send any number, and Python turns not any text of digits into one."""

_COMPRESSED, _TRAILERS = 0x01, 0x80
_PREFIX_BYTES = 5


@dataclass(frozen=True, slots=True)
class GrpcMessage:
    """One message: its size as it was sent, and whether it is compressed."""

    size: int
    compressed: bool


@dataclass(frozen=True, slots=True)
class GrpcCall:
    """A call. ``status`` is None where it was not sent or not captured.

    ``complete`` says that the messages are all there: neither a loss nor a limit cut them short.
    """

    service: str
    method: str
    status: int | None
    message: str
    request_messages: tuple[GrpcMessage, ...]
    response_messages: tuple[GrpcMessage, ...]
    complete: bool

    @property
    def status_name(self) -> str | None:
        """The status as gRPC names it."""
        if self.status is None:
            return None
        return STATUS_NAMES[self.status] if 0 <= self.status < len(STATUS_NAMES) else "UNKNOWN"


def call_of(exchange: Exchange) -> GrpcCall | None:
    """The call that ``exchange`` is; None where it is none."""
    request, response = exchange.request, exchange.response
    kinds = [_kind(message) for message in (request, response)]
    if not any(kind.startswith(b"application/grpc") for kind in kinds):
        return None
    asked, ask_complete, _ = _messages(request)
    answered, answer_complete, web_trailers = _messages(response)
    status, text = _status(response, web_trailers)
    path = (request.target or b"") if request is not None else b""
    service, _, method = path.decode("latin-1").split("?", 1)[0].strip("/").rpartition("/")
    return GrpcCall(service, method, status, text, asked, answered, ask_complete and answer_complete)


def _kind(message: Request | Response | None) -> bytes:
    return (message.fields.get(b"content-type") or b"").lower() if message is not None else b""


def _messages(message: Request | Response | None) -> tuple[tuple[GrpcMessage, ...], bool, Fields]:
    """The messages of a body, whether they are all there, and the trailers among them (gRPC-Web)."""
    if message is None:
        return (), False, NO_FIELDS
    body = message.body
    data = body.data[: body.lost[0].offset] if body.lost else body.data
    complete = body.complete and not body.lost
    if b"grpc-web-text" in _kind(message):
        data, whole = _decode_text(bytes(data))
        complete = complete and whole
    found: list[GrpcMessage] = []
    trailers, position = NO_FIELDS, 0
    while position + _PREFIX_BYTES <= len(data) and len(found) < MAX_LISTED_MESSAGES:
        flags, size = data[position], int.from_bytes(data[position + 1 : position + _PREFIX_BYTES], "big")
        position += _PREFIX_BYTES
        if flags & _TRAILERS:
            trailers = parse_fields(bytes(data[position : position + size]) + b"\r\n") or NO_FIELDS
        else:
            found.append(GrpcMessage(size, bool(flags & _COMPRESSED)))
        position += size
    return tuple(found), complete and position == len(data), trailers


def _decode_text(data: bytes) -> tuple[bytes, bool]:
    """The base64 pieces of a gRPC-Web text body, each of which may have its own padding."""
    decoded, position = [], 0
    while position + 4 <= len(data):
        end = data.find(b"=", position)
        end = (
            len(data) - (len(data) - position) % 4
            if end < 0
            else position + -(-(end + 1 - position) // 4) * 4
        )
        try:
            decoded.append(base64.b64decode(data[position:end], validate=True))
        except binascii.Error:
            return b"".join(decoded), False
        position = end
    return b"".join(decoded), position == len(data)


def _status(response: Response | None, web_trailers: Fields) -> tuple[int | None, str]:
    """Where it is looked for: trailers, those of gRPC-Web, the head of a response without messages."""
    if response is None:
        return None, ""
    for fields in (response.trailers, web_trailers, response.fields):
        status = fields.get(b"grpc-status")
        if status is not None:
            message = unquote((fields.get(b"grpc-message") or b"").decode("latin-1"))
            return (int(status) if status.isdigit() and len(status) <= MAX_STATUS_DIGITS else None), message
    return None, ""
