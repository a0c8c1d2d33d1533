"""One exchange as an entry of a HAR 1.2 log, as Chrome's network panel would have written it.

Fields that HAR has no name for begin with an underscore; where Chrome has one it is Chrome's. What is not
known is -1 for a number, as HAR has it, and for a method or a URL a placeholder that ``_unknown`` names.
HAR's camel case begins here: nothing of it is known to exporters.http.
"""

from __future__ import annotations

import base64
from functools import lru_cache
from typing import TYPE_CHECKING

from capture.streams import Side
from exporters.har_fields import (
    Json,
    field_text,
    multipart_parameters,
    parameters,
    query_of,
    request_cookies,
    response_cookies,
    shown_fields,
)
from exporters.har_streams import describe_streams
from exporters.har_timings import iso_time, timings_of
from exporters.http.content import Content, charset_of, decode_content, has_controls, readable_type, text_of
from exporters.http.messages import LOST_TO_LIMIT, Outcome
from exporters.http.urls import address_text, exchange_url, unusable_target
from exporters.remembered import MAX_REMEMBERED_BYTES
from exporters.resource_types import resource_type

if TYPE_CHECKING:
    from collections.abc import Iterable

    from capture.streams import Process
    from exporters.http.messages import Body, Exchange, FieldPair, Fields, Lost, Request, Response

UNKNOWN_METHOD = "UNKNOWN"
"""Stands for a method that was not captured."""

NO_MIME_TYPE = "x-unknown"
"""What Chrome writes where there is no Content-Type."""

_HTTP_VERSIONS = {"HTTP/2": "HTTP/2.0"}
_REDIRECTS = frozenset((301, 302, 303, 307, 308))
_BODYLESS = frozenset(("GET", "HEAD", "CONNECT", "OPTIONS", "TRACE", UNKNOWN_METHOD))


def entry_of(exchange: Exchange, decoded_limit: int) -> Json:
    """The HAR entry of ``exchange``; at most ``decoded_limit`` bytes of each decoded body."""
    started_ns, timings, total = timings_of(exchange)
    opened = exchange.connection.opened
    entry: Json = {
        "startedDateTime": iso_time(started_ns),
        "time": total,
        "request": _request(exchange, decoded_limit),
        "response": _response(exchange, decoded_limit),
        "cache": {},
        "timings": timings,
        "serverIPAddress": address_text(opened.server),
        "connection": str(opened.server.port),
        "_connectionId": str(opened.stream),
        "_resourceType": resource_type(exchange),
    }
    if exchange.priority is not None:
        entry["_priority"] = exchange.priority
    if exchange.stream_id is not None:
        entry["_streamId"] = exchange.stream_id
    if exchange.pushed:
        entry["_wasPushed"] = True
    describe_streams(entry, exchange, decoded_limit)
    _describe_process(entry, exchange)
    _describe_end(entry, exchange)
    return entry


# Messages.


def _header(pair: FieldPair) -> Json:
    """One header; the same ones come again and again, so that they are made once. Not to be changed."""
    name, value = pair
    return {"name": field_text(name), "value": field_text(value)}


# Not by `remembered`: of each header it would ask in Python what is asked below in passing.
_remembered_header = lru_cache(maxsize=4096)(_header)


def _headers(fields: Fields, version: str) -> list[Json]:
    return [
        _remembered_header(pair) if len(pair[0]) + len(pair[1]) <= MAX_REMEMBERED_BYTES else _header(pair)
        for pair in shown_fields(fields, version)
    ]


def _version(version: str) -> str:
    return _HTTP_VERSIONS.get(version, version)


def _request(exchange: Exchange, limit: int) -> Json:
    request = exchange.request
    url = exchange_url(exchange)
    if request is None:
        version = exchange.response.version if exchange.response is not None else ""
        return {
            "method": UNKNOWN_METHOD,
            "url": url,
            "httpVersion": _version(version),
            "cookies": [],
            "headers": [],
            "queryString": [],
            "headersSize": -1,
            "bodySize": -1,
            "_unknown": ["method", "url"],
            "comment": "the request was not recorded",
        }
    result: Json = {
        "method": UNKNOWN_METHOD if request.method is None else field_text(request.method),
        "url": url,
        "httpVersion": _version(request.version),
        "cookies": request_cookies(request.fields),
        "headers": _headers(request.fields, request.version),
        "queryString": query_of(url),
        "headersSize": -1 if request.head_bytes is None else request.head_bytes,
        # A WebSocket's is what its client sent: it has no body.
        "bodySize": request.body.wire_bytes if exchange.socket_messages is not None else request.body.size,
    }
    unknown = [name for name, value in (("method", request.method), ("url", request.target)) if value is None]
    if unknown:
        result["_unknown"] = unknown
    if (unusable := unusable_target(request)) is not None:
        result["_target"] = field_text(unusable)
    if request.trailers:
        result["_trailers"] = _headers(request.trailers, request.version)
    if request.body.data or (request.body.wire_bytes and result["method"] not in _BODYLESS):
        _describe_body(result, request.body, decoded := decode_content(request.body, request.fields, limit))
        result["postData"] = _post_data(request, decoded)
    elif request.body.lost or not (request.body.complete or result["method"] == "CONNECT"):
        _describe_body(result, request.body, Content(b""))
    return result


def _post_data(request: Request, content: Content) -> Json:
    kind = request.fields.get(b"content-type") or b""
    data = content.data
    posted: Json = {"mimeType": field_text(kind)}
    if content.codings:
        posted["_codings"] = list(content.codings)
    text = text_of(data, kind)
    if text is None:
        posted["text"] = base64.b64encode(data).decode("ascii")
        posted["encoding"] = "base64"  # as HAR has it for responses; 1.2 forgot that requests can be binary
        _name_charset(posted, kind, data)
    else:
        posted["text"] = text
    lowered = kind.lower()
    is_form = lowered.startswith(b"application/x-www-form-urlencoded")  # or what curl sends as one
    if is_form and (text is not None or not has_controls(data)):
        posted["params"] = parameters(field_text(bytes(data)).strip("\r\n"))
    elif lowered.startswith(b"multipart/form-data"):
        posted["params"] = multipart_parameters(data, kind)
    return posted


def _response(exchange: Exchange, limit: int) -> Json:
    response = exchange.response
    if response is None:
        return {
            "status": 0,
            "statusText": "",
            "httpVersion": "",
            "cookies": [],
            "headers": [],
            "content": {"size": 0, "mimeType": NO_MIME_TYPE},
            "redirectURL": "",
            "headersSize": -1,
            "bodySize": -1,
            "_transferSize": 0,
            "_error": f"no response: {exchange.outcome.value}",
        }
    body = response.body
    decoded = decode_content(body, response.fields, limit)
    result: Json = {
        "status": response.status or 0,
        "statusText": field_text(response.reason),
        "httpVersion": _version(response.version),
        "cookies": response_cookies(response.fields, response.started_ns),
        "headers": _headers(response.fields, response.version),
        "content": _content(response, decoded),
        "redirectURL": field_text(response.fields.get(b"location") or b""),
        "headersSize": -1 if response.head_bytes is None else response.head_bytes,
        "bodySize": body.wire_bytes,
        "_transferSize": sum(head.head_bytes or 0 for head in (*exchange.interim, response))
        + body.wire_bytes,
    }
    if response.status is None:
        result["_unknown"] = ["status"]
    if response.trailers:
        result["_trailers"] = _headers(response.trailers, response.version)
    if exchange.interim:
        result["_interim"] = [_interim(interim) for interim in exchange.interim]
    _describe_body(result, body, decoded)
    if _failed(exchange, response):
        result["_error"] = f"incomplete: {exchange.outcome.value}"
    return result


def _failed(exchange: Exchange, response: Response) -> bool:
    """Whether devtools would show the exchange as failed. Whoever follows a redirect may give up its body.

    Of an upload that was refused, the answer is whole, however its connection ended.
    """
    if exchange.outcome in (Outcome.CANCELLED, Outcome.CLOSED) and response.status in _REDIRECTS:
        return b"location" not in response.fields.index
    return not response.body.complete or exchange.outcome is Outcome.MALFORMED


def _interim(response: Response) -> Json:
    return {
        "status": response.status or 0,
        "statusText": field_text(response.reason),
        "headers": _headers(response.fields, response.version),
        "time": iso_time(response.started_ns),
    }


def _content(response: Response, decoded: Content) -> Json:
    kind = response.fields.get(b"content-type") or b""
    data, body = decoded.data, response.body
    size = len(data) if decoded.codings else len(data) + body.lost_bytes + body.omitted_bytes
    content: Json = {"size": size, "mimeType": field_text(kind) or NO_MIME_TYPE}
    if decoded.codings:
        content["compression"] = size - body.wire_bytes  # of bodySize, as Chrome counts
        content["_codings"] = list(decoded.codings)
    if not data:
        return content
    text = text_of(data, kind)
    if text is None:
        content["text"] = base64.b64encode(data).decode("ascii")
        content["encoding"] = "base64"
        content["mimeType"] = field_text(readable_type(kind)) or NO_MIME_TYPE
        _name_charset(content, kind, data)
    else:
        content["text"] = text
    return content


def _name_charset(content: Json, kind: bytes, data: bytes | bytearray) -> None:
    charset = charset_of(kind, data)
    if charset is not None:
        content["_charset"] = charset


# What is missing.


def _describe_body(message: Json, body: Body, decoded: Content) -> None:
    """Tell on a request or a response what its body lacks."""
    comments = []
    if body.lost:
        message["_lostRanges"] = _ranges(body.lost)
    if body.lost_bytes:
        message["_lostBytes"] = body.lost_bytes
        reasons = ", ".join(sorted({lost.reason for lost in body.lost if lost.reason != LOST_TO_LIMIT}))
        comments.append(f"truncated: {body.lost_bytes} bytes lost ({reasons})")
    if body.omitted_bytes:
        message["_omittedBytes"] = body.omitted_bytes
        comments.append(f"cut: {body.omitted_bytes} bytes are over the limit and were left out")
    if body.doubts:
        message["_doubtfulRanges"] = _doubtful(body.doubts)
    if not body.complete:
        message["_complete"] = False
        comments.append(f"the body's end was not seen; {len(body.data)} bytes of it were")
    if decoded.problem is not None:
        message["_decodingProblem"] = decoded.problem
        comments.append(decoded.problem)
    if comments:
        message["comment"] = "; ".join(comments)


def _ranges(lost: Iterable[Lost]) -> list[Json]:
    """Where the holes are: after how many bytes that are there (before decoding), how long, and why."""
    return [{"offset": hole.offset, "length": hole.length, "reason": hole.reason} for hole in lost]


def _doubtful(lost: Iterable[Lost]) -> list[Json]:
    """The same of losses that may have been elsewhere."""
    return [{"offset": doubt.offset, "atMost": doubt.length, "reason": doubt.reason} for doubt in lost]


_LOSSES = (
    (True, "_lostRanges", _ranges, "", "lost"),
    (False, "_doubtfulRanges", _doubtful, "up to ", "may be missing"),
)
"""Losses of an exchange: whether they are exact, the field, what it has, and how they are told."""


def _describe_end(entry: Json, exchange: Exchange) -> None:
    comments = list(exchange.notes)
    lost = exchange.lost_bytes
    if lost:
        entry["_lostBytes"] = lost
    for exact, key, described, most, fate in _LOSSES:
        found = [hole for hole in exchange.lost if hole.exact == exact]
        if found:
            entry[key] = described(found)
            reasons = ", ".join(sorted({hole.reason for hole in found}))
            total = sum(hole.length for hole in found)
            comments.append(f"{most}{total} bytes of its messages {fate} ({reasons})")
    if exchange.outcome is not Outcome.COMPLETE:
        entry["_outcome"] = exchange.outcome.value
        comments.append(f"not complete: {exchange.outcome.value}")
    if comments:
        entry["comment"] = "; ".join(comments)


def _process(process: Process) -> Json:
    described: Json = {"pid": process.pid, "comm": process.comm}
    if process.exe is not None:
        described["exe"] = process.exe
    return described


def _describe_process(entry: Json, exchange: Exchange) -> None:
    """Who held the recorded end of the connection, and who the other end where that is local."""
    opened, tls = exchange.connection.opened, exchange.connection.tls
    entry["_clientAddress"] = address_text(opened.client)
    entry["_clientPort"] = opened.client.port
    if opened.unix_path is not None:
        entry["_unixSocket"] = opened.unix_path
    if opened.process is not None:
        entry["_pid"] = opened.process.pid
        entry["_comm"] = opened.process.comm
        entry["_side"] = opened.side.name.lower()
        if opened.process.exe is not None:
            entry["_exe"] = opened.process.exe
    if opened.peer_process is not None:
        entry["_peerPid"] = opened.peer_process.pid
        entry["_peerComm"] = opened.peer_process.comm
    client = opened.process if opened.side is Side.CLIENT else opened.peer_process
    if client is not None:
        entry["_initiator"] = {"type": "other", "_process": _process(client)}
    if tls is not None and tls.library is not None:
        entry["_tlsLibrary"] = tls.library
