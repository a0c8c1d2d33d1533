"""One HTTP/1 exchange while it comes in, and how its bodies are framed (RFC 9112 §6.3)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from exporters.http.heads import parse_content_length
from exporters.http.http1_owner import BodyFraming
from exporters.http.layers import MAX_INTERIM
from exporters.http.messages import (
    NO_BODY,
    NO_FIELDS,
    Body,
    Connection,
    Exchange,
    Fields,
    Lost,
    Outcome,
    Request,
    Response,
)

if TYPE_CHECKING:
    from exporters.http.bodies import BodyBuilder
    from exporters.http.heads import RequestHead, ResponseHead

_NO_BODY_STATUS = frozenset((204, 304))
_CONTINUE, _RESET_CONTENT = 100, 205


class Pending:
    """An exchange while it comes in."""

    __slots__ = (
        "head",
        "head_bytes",
        "interim",
        "interim_left_out",
        "lost",
        "notes",
        "number",
        "outcome",
        "request_body",
        "request_ended",
        "request_ended_ns",
        "request_started_ns",
        "request_trailers",
        "response",
        "response_body",
        "response_bytes",
        "response_ended",
        "response_ended_ns",
        "response_started_ns",
        "response_trailers",
    )  # fmt: skip

    def __init__(self, number: int, head: RequestHead | None, times: tuple[int, int], size: int) -> None:
        self.number = number
        self.head = head
        self.head_bytes = size
        self.request_started_ns, self.request_ended_ns = times
        self.request_body: BodyBuilder | None = None
        self.request_trailers = NO_FIELDS
        self.request_ended = head is None
        self.response: ResponseHead | None = None
        self.response_bytes = 0
        self.response_started_ns = self.response_ended_ns = 0
        self.response_body: BodyBuilder | None = None
        self.response_trailers = NO_FIELDS
        self.response_ended = False
        self.interim: list[Response] = []
        self.interim_left_out = 0
        self.notes: tuple[str, ...] = ()
        self.lost: tuple[Lost, ...] = ()
        self.outcome = Outcome.COMPLETE

    @property
    def switches(self) -> bool:
        """What follows the request depends on the response."""
        return self.head is not None and (
            self.head.method == b"CONNECT" or self.head.fields.get(b"upgrade") is not None
        )

    @property
    def awaits_answer(self) -> bool:
        """The request's body is to be sent after 100 (Continue), which has not come (RFC 9110 §10.1.1)."""
        return self.head is not None and (
            b"100-continue" in self.head.fields.tokens(b"expect")
            and not any(interim.status == _CONTINUE for interim in self.interim)
        )

    @property
    def omits_body(self) -> bool:
        """None of the body has come, for the request was answered before."""
        body = self.request_body
        return bool(body is not None and not body.wire_bytes and self.response_ended and self.awaits_answer)

    def omit_body(self) -> None:
        """There is no body, and none that is missing."""
        self.request_body = None
        self.notes += ("its body was not sent: it was answered before",)

    def add_interim(self, head: ResponseHead, times: tuple[int, int], size: int) -> None:
        """A response before the final one (RFC 9110 §15.2)."""
        if len(self.interim) < MAX_INTERIM:
            self.interim.append(Response(head.status, head.reason, head.version, head.fields, *times, size))
        else:
            self.interim_left_out += 1

    def build(self, connection: Connection, ended_ns: int) -> Exchange:
        """The exchange as it is now."""
        notes = self.notes
        if self.interim_left_out:
            notes += (f"{self.interim_left_out} more interim responses are not shown",)
        return Exchange(
            connection,
            self.number,
            self._build_request(),
            self._build_response(),
            self.outcome,
            ended_ns,
            tuple(self.interim),
            self.lost,
            notes=notes,
        )

    def _build_request(self) -> Request | None:
        head = self.head
        if head is None:
            return None
        return Request(
            head.method,
            head.target,
            head.version,
            head.fields,
            self.request_started_ns,
            self.request_ended_ns,
            self.head_bytes,
            _build_body(self.request_body, head.fields),
            self.request_trailers,
        )

    def _build_response(self) -> Response | None:
        head = self.response
        if head is None:
            return None
        return Response(
            head.status,
            head.reason,
            head.version,
            head.fields,
            self.response_started_ns,
            self.response_ended_ns,
            self.response_bytes,
            _build_body(self.response_body, head.fields),
            self.response_trailers,
        )


def _build_body(body: BodyBuilder | None, fields: Fields) -> Body:
    if body is None:
        return NO_BODY
    codings: tuple[bytes, ...] = ()
    if b"transfer-encoding" in fields.index:
        codings = tuple(name for name in fields.tokens(b"transfer-encoding") if name != b"chunked")
    return body.build(codings)


def _transfer_codings(fields: Fields) -> list[bytes]:
    """Those that change how a body is framed: ``identity`` of RFC 2616 §3.6 does not."""
    return [coding for coding in fields.tokens(b"transfer-encoding") if coding != b"identity"]


def request_framing(head: RequestHead) -> int:
    """How a request's body is framed (RFC 9112 §6.3)."""
    codings = _transfer_codings(head.fields)
    if codings:
        return BodyFraming.CHUNKED if codings[-1] == b"chunked" else BodyFraming.UNKNOWN
    length = head.fields.get(b"content-length")
    if length is None:
        return 0
    parsed = parse_content_length(length)
    return BodyFraming.UNKNOWN if parsed is None else parsed


def response_framing(method: bytes | None, head: ResponseHead) -> int:
    """How the body of a response to ``method`` (None where it is unknown) is framed (RFC 9112 §6.3)."""
    status = head.status
    if method == b"CONNECT" and 200 <= status < 300:
        return BodyFraming.SWITCHED
    if method == b"HEAD" or status < 200 or status in _NO_BODY_STATUS:
        return 0
    codings = _transfer_codings(head.fields)
    if codings:
        return BodyFraming.CHUNKED if codings[-1] == b"chunked" else BodyFraming.UNTIL_CLOSE
    length = head.fields.get(b"content-length")
    if length is None and status == _RESET_CONTENT:
        return 0  # it has no content (RFC 9110 §15.3.6), and browsers go on after its head
    parsed = None if length is None else parse_content_length(length)
    return BodyFraming.UNTIL_CLOSE if parsed is None else parsed
