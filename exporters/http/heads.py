"""The heads of HTTP/1 messages: start lines and field sections (RFC 9112 §2 to §5).

Grammar, and where it is left:

    request-line = method SP request-target SP HTTP-version     several spaces are read as one, and spaces in
                                                                the target as part of it, as servers do (§3)
    status-line  = HTTP-version SP status-code SP [reason]      the SP before an absent reason may be absent,
                                                                as many servers leave it out
    field-line   = field-name ":" OWS field-value OWS           space before the colon is dropped (§5.1 has
                                                                proxies do so), obs-fold is unfolded (§5.2)
    line end     = CRLF                                         a bare LF as well (§2.2)

Pure functions from bytes to values; no state.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from exporters import http_starts
from exporters.http.messages import NO_FIELDS, Fields
from exporters.http_starts import KNOWN_METHODS

# Every expression here is linear in its input: neighbouring repetitions that can match the same byte give none
# of it back, and what is searched for anywhere is of limited length, so that no head, however made, costs more
# than its size.
_TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
_REQUEST_LINE = re.compile(rb"(" + _TOKEN + rb") ([^ \t\r\n]+) HTTP/([0-9])\.([0-9])\r?\n")
_STATUS_LINE = re.compile(rb"HTTP/([0-9])\.([0-9])[ \t]+([1-9][0-9]{2})(?:[ \t]([^\r\n]*))?\r?\n")
_FIELD_LINE = re.compile(rb"^(" + _TOKEN + rb"):[ \t]*+([^\r\n]*+)\r?\n", re.MULTILINE)
TOKEN = re.compile(_TOKEN)
_VERSION = re.compile(rb"HTTP/([0-9])\.([0-9])")
_TRAILING_SPACE = re.compile(rb"[ \t]\r?\n")

HEAD_END = re.compile(rb"\n\r?\n")
"""The end of a head's last line and the empty line after it."""

REQUEST_START = re.compile(rb"(?:" + b"|".join(sorted(KNOWN_METHODS)) + rb") [^ \t\r\n]+ HTTP/1\.[01]\r?\n")
RESPONSE_START = re.compile(rb"HTTP/1\.[01] [1-5][0-9]{2}(?: [^\r\n]{0,256}+)?\r?\n")

MAX_PREFIX_BYTES = 20
"""How much of a head tells whether it can be one: longer than any method of KNOWN_METHODS."""

MAX_DOUBTED_LINE_BYTES = 8192
"""Of a request line where a body is expected: what servers take (RFC 9112 §3)."""


def can_begin_request(prefix: bytes, known: bool) -> bool:
    """Whether ``prefix``, of any length, can be the beginning of a request, of a ``known`` method."""
    method, space, _ = prefix.partition(b" ")
    if known:
        return method in KNOWN_METHODS if space else any(name.startswith(method) for name in KNOWN_METHODS)
    return TOKEN.fullmatch(method.rstrip(b"\t")) is not None


def can_begin_response(prefix: bytes) -> bool:
    """Whether ``prefix``, of any length, can be the beginning of a response."""
    return prefix.startswith(http_starts.RESPONSE_START) or http_starts.RESPONSE_START.startswith(prefix)


def begins_request(source: bytes | bytearray, position: int) -> bool | None:
    """Whether a whole request line is at ``position``, of a known method; None where more bytes must tell."""
    if not can_begin_request(bytes(source[position : position + MAX_PREFIX_BYTES]), known=True):
        return False
    if source.find(b"\n", position) < 0 and len(source) - position <= MAX_DOUBTED_LINE_BYTES:
        return None
    return REQUEST_START.match(source, position) is not None


def begins_response(source: bytes | bytearray, position: int) -> bool | None:
    """Whether a response begins at ``position``; None where more bytes must tell."""
    start = bytes(source[position : position + MAX_PREFIX_BYTES])
    return can_begin_response(start + b" ") or (None if can_begin_response(start) else False)


@dataclass(slots=True)
class RequestHead:
    """A request line and its fields; ``version`` as in ``HTTP/1.1``."""

    method: bytes
    target: bytes
    version: str
    fields: Fields


@dataclass(slots=True)
class ResponseHead:
    """A status line and its fields."""

    status: int
    reason: bytes
    version: str
    fields: Fields


_VERSIONS = {(b"1", b"1"): "HTTP/1.1", (b"1", b"0"): "HTTP/1.0"}


def parse_request_head(head: bytes, strict: bool = False) -> RequestHead | None:
    """The request whose head, up to and with the empty line, is ``head``; None where it is malformed."""
    match = _REQUEST_LINE.match(head)
    if match is None:
        return None if strict else _parse_request_head_leniently(head)
    method, target, major, minor = match.groups()
    fields = parse_fields(head, match.end(), strict)
    return _request_head(method, target, _VERSIONS.get((major, minor)), fields)


def _parse_request_head_leniently(head: bytes) -> RequestHead | None:
    end = head.find(b"\n") + 1
    method, _, rest = head[:end].strip().partition(b" ")
    target, _, protocol = rest.strip().rpartition(b" ")
    version = _VERSION.fullmatch(protocol)
    if version is None or not target.strip() or TOKEN.fullmatch(method) is None:
        return None
    return _request_head(
        method, target.strip(), _VERSIONS.get((version[1], version[2])), parse_fields(head, end)
    )


def _request_head(
    method: bytes, target: bytes, version: str | None, fields: Fields | None
) -> RequestHead | None:
    if version is None or fields is None:
        return None
    return RequestHead(method, target, version, fields)


def parse_response_head(head: bytes, strict: bool = False) -> ResponseHead | None:
    """The response whose head, up to and with the empty line, is ``head``; None where it is malformed."""
    match = _STATUS_LINE.match(head)
    if match is None:
        return None
    major, minor, status, reason = match.groups()
    version = _VERSIONS.get((major, minor))
    fields = parse_fields(head, match.end(), strict)
    if version is None or fields is None:
        return None
    return ResponseHead(int(status), (reason or b"").strip(), version, fields)


def parse_fields(section: bytes, start: int = 0, strict: bool = False) -> Fields | None:
    """The field section that begins at ``start`` and ends with an empty line.

    A line that is no field is kept as a name without a value, so that nothing is hidden; with ``strict``, as
    for a head that had to be recognised, the section is None for it.
    """
    pairs = _FIELD_LINE.findall(section, start)
    # Each match is one whole line, so that as many matches as lines (but the empty one) leave nothing unread.
    if len(pairs) != section.count(b"\n", start) - 1:
        return _parse_fields_leniently(section[start:], strict)
    if _TRAILING_SPACE.search(section, start):
        pairs = [(name, value.rstrip(b" \t")) for name, value in pairs]
    return Fields(tuple(pairs)) if pairs else NO_FIELDS


def _parse_fields_leniently(section: bytes, strict: bool) -> Fields | None:
    fields: list[tuple[bytes, list[bytes]]] = []
    for line in section.rstrip(b"\r\n").split(b"\n"):
        content = line.strip(b" \t\r")
        name, colon, value = content.partition(b":")
        name = name.rstrip(b" \t")
        if line[:1] in (b" ", b"\t") and fields:
            fields[-1][1].append(content)
        elif colon and TOKEN.fullmatch(name):
            fields.append((name, [value.strip(b" \t")]))
        elif strict:
            return None
        elif content:
            fields.append((content, [b""]))
    return Fields(tuple((name, b" ".join(filter(None, parts))) for name, parts in fields))


def parse_content_length(value: bytes) -> int | None:
    """The length that a (combined) Content-Length gives; None where its members disagree or are no numbers.

    RFC 9112 §6.3: a list of the same number, as sent by broken proxies, is that number.
    """
    members = {member.strip() for member in value.split(b",")}
    if len(members) != 1:
        return None
    member = members.pop()
    return int(member) if member.isdigit() and len(member) < 19 else None
