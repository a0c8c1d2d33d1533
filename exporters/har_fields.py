"""Parts of a HAR that are parsed out of fields and bodies: cookies, query strings, posted parameters.

HAR 1.2, with the keys that Chrome and Firefox write. Values that are percent-encoded in the message are shown
decoded where they are UTF-8, and as they were sent where they are not.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote_to_bytes

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from exporters.http.messages import FieldPair, Fields

Json = dict[str, Any]

MAX_PARAMETERS = 10_000
"""Of one query string or body: more of them are a body that happens to contain ``&``."""

FILE_VALUE = "(binary)"
"""What Chrome writes for a part that is a file, whatever is in it. Programs that read archives rely on a value."""

_BOUNDARY = re.compile(
    rb";[ \t]*boundary[ \t]*=[ \t]*(?:\"([^\"]{1,200})\"|([^\s;\"]{1,200}))", re.IGNORECASE
)
_DISPOSITION = re.compile(
    rb";[ \t]*(name|filename)(\*?)[ \t]*=[ \t]*(?:\"((?:[^\"\\]|\\.)*)\"|([^\s;]*))", re.IGNORECASE
)
_PART_HEAD_END = re.compile(rb"(\r?)\n\r?\n")
_FOLD = re.compile(rb"\r?\n(?=[ \t])")
_PART_HEADER = re.compile(
    rb"^(content-disposition|content-type)[ \t]*:[ \t]*([^\r\n]*)", re.IGNORECASE | re.M
)

_COOKIE_ATTRIBUTES = {"path": "path", "domain": "domain", "samesite": "sameSite"}
_MONTHS = "janfebmaraprmayjunjulaugsepoctnovdec"
_DATE_DELIMITERS = re.compile(r"[\t -/;-@\[-`{-~]+")
_DATE_TOKENS = {
    "time": re.compile(r"([0-9]{1,2}):([0-9]{1,2}):([0-9]{1,2})(?![0-9])"),
    "day": re.compile(r"([0-9]{1,2})(?![0-9])"),
    "month": re.compile("|".join(re.findall("...", _MONTHS)), re.IGNORECASE | re.ASCII),
    "year": re.compile(r"([0-9]{2,4})(?![0-9])"),
}
_FIRST_YEAR = 1601

_COOKIE_FLAGS = {"httponly": "httpOnly", "secure": "secure"}


def field_text(value: bytes) -> str:
    """A field's name or value: UTF-8 where it is that, ISO 8859-1 otherwise (RFC 9110 §5.5)."""
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value.decode("latin-1")


def shown_fields(fields: Fields, version: str) -> Iterable[FieldPair]:
    """The fields as Chrome shows them: as they were sent, but for what HTTP/2 alone does.

    There a request's cookies come in pieces, to be put together for whoever knows no HTTP/2 (RFC 9113 §8.2.3), and a
    response's status as a field, which is the status already (§8.3.2).
    """
    if version != "HTTP/2":
        return fields.pairs
    pairs = [pair for pair in fields.pairs if pair[0] != b":status"]
    crumbs = [value for name, value in pairs if name == b"cookie"]
    if len(crumbs) > 1:
        first = next(index for index, (name, _) in enumerate(pairs) if name == b"cookie")
        rest = [pair for pair in pairs[first:] if pair[0] != b"cookie"]
        pairs[first:] = [(b"cookie", b"; ".join(crumbs)), *rest]
    return pairs


def parameters(query: str) -> list[Json]:
    """The parameters of a query string or of an application/x-www-form-urlencoded body."""
    if not query:
        return []
    pairs = []
    for pair in query.split("&", MAX_PARAMETERS)[:MAX_PARAMETERS]:
        name, _, value = pair.partition("=")
        if pair:
            pairs.append({"name": _unquote(name), "value": _unquote(value)})
    return pairs


def _unquote(text: str) -> str:
    if "%" not in text:
        return text.replace("+", " ") if "+" in text else text
    try:
        return unquote_to_bytes(text.replace("+", " ")).decode()
    except UnicodeDecodeError:
        return text


def query_of(url: str) -> list[Json]:
    """The parameters of a URL's query (RFC 3986 §3.4)."""
    if "?" not in url:
        return []
    return parameters(url.partition("?")[2].partition("#")[0])


def request_cookies(fields: Fields) -> list[Json]:
    """The cookies that a request sends (RFC 6265 §4.2)."""
    cookies = []
    for value in fields.values(b"cookie"):
        for pair in value.split(b";"):
            name, equals, content = pair.strip().partition(b"=")
            if not equals:  # browsers read a cookie without "=" as a value without a name
                name, content = b"", name
            if name or content:
                cookies.append({"name": field_text(name), "value": field_text(content)})
    return cookies


def response_cookies(fields: Fields, time_ns: int) -> list[Json]:
    """The cookies that a response, received at ``time_ns``, sets (RFC 6265 §5.2)."""
    return [_set_cookie(field_text(value), time_ns) for value in fields.values(b"set-cookie")]


def _set_cookie(text: str, time_ns: int) -> Json:
    pair, *attributes = text.split(";")
    name, equals, value = pair.strip().partition("=")
    if not equals:
        name, value = "", name
    cookie: Json = {"name": name.strip(), "value": value.strip(), "httpOnly": False, "secure": False}
    for attribute in attributes:
        key, _, content = attribute.strip().partition("=")
        key, content = key.strip().lower(), content.strip()
        if key in _COOKIE_ATTRIBUTES:
            cookie[_COOKIE_ATTRIBUTES[key]] = content
        elif key in _COOKIE_FLAGS:
            cookie[_COOKIE_FLAGS[key]] = True
        elif key == "max-age" and re.fullmatch(r"-?[0-9]{1,18}", content):
            cookie["expires"] = _iso(datetime.fromtimestamp(time_ns // 10**9, UTC), int(content))
            cookie["_maxAge"] = int(content)
        elif key == "expires" and "_maxAge" not in cookie:  # RFC 6265 §5.3: Max-Age has precedence
            _set_expiry(cookie, content)
    return cookie


def _iso(start: datetime, seconds: int) -> str:
    try:
        moment = start + timedelta(seconds=seconds)
    except OverflowError:
        moment = datetime.max.replace(tzinfo=UTC) if seconds > 0 else datetime.fromtimestamp(0, UTC)
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def _set_expiry(cookie: Json, date: str) -> None:
    moment = _cookie_date(date)
    if moment is not None:
        cookie["expires"] = _iso(moment, 0)


def _cookie_date(text: str) -> datetime | None:
    """A date as browsers read it (RFC 6265 §5.1.1): the first of each kind of token, in any order; None for none.

    What it says of a time zone is not looked at.
    """
    found: dict[str, tuple[int, ...]] = {}
    for token in _DATE_DELIMITERS.split(text):
        for kind, pattern in _DATE_TOKENS.items():
            if kind not in found and (match := pattern.match(token)):
                numbers = match.groups() if kind != "month" else (_MONTHS.index(match[0].lower()) // 3 + 1,)
                found[kind] = tuple(map(int, numbers))
                break
    try:
        (day,), (month,), (year,) = found["day"], found["month"], found["year"]
        hour, minute, second = found["time"]
        year += 1900 if 70 <= year <= 99 else 2000 if year <= 69 else 0
        return datetime(year, month, day, hour, minute, second, tzinfo=UTC) if year >= _FIRST_YEAR else None
    except (KeyError, ValueError):
        return None


def multipart_parameters(data: bytes | bytearray, content_type: bytes) -> list[Json]:
    """The parts of a multipart/form-data body (RFC 7578); a file's content is not repeated here."""
    boundary = _BOUNDARY.search(content_type)
    if boundary is None:
        return []
    return [part for part in _parts(data, b"--" + (boundary[1] or boundary[2])) if part]


def _parts(data: bytes | bytearray, delimiter: bytes) -> Iterator[Json]:
    position = data.find(delimiter)
    for _ in range(MAX_PARAMETERS):
        start = data.find(b"\n", position) + 1
        following = data.find(b"\n" + delimiter, position + len(delimiter))
        if (
            position < 0
            or not start
            or bytes(data[position + len(delimiter) : position + len(delimiter) + 2]) == b"--"
        ):
            return
        end = following if following >= 0 else len(data)
        yield _part(data, start, end)
        position = following + 1 if following >= 0 else -1


def _part(data: bytes | bytearray, start: int, end: int) -> Json:
    """A part. Its lines may end, and go on, as in Python's email package, which many make bodies with."""
    split = _PART_HEAD_END.search(data, max(start - 2, 0), end)
    if split is None:
        return {}
    part: Json = {}
    head = _FOLD.sub(b"", bytes(data[start : max(split.start(), start)]))
    for key, value in _PART_HEADER.findall(head):
        if key.lower() == b"content-type":
            part["contentType"] = field_text(value.strip())
            continue
        for name, extended, quoted, token in _DISPOSITION.findall(value):
            text = _disposition_text(quoted or token, bool(extended))
            part["name" if name.lower() == b"name" else "fileName"] = text
    if "name" not in part:
        return {}
    if "fileName" in part:
        part["value"] = FILE_VALUE
    else:
        content = bytes(data[split.end() : end]).removesuffix(split[1])
        try:
            part["value"] = content.decode()
        except UnicodeDecodeError:
            part["value"] = FILE_VALUE
            part["comment"] = f"{len(content)} bytes that are not UTF-8"
    return part


def _disposition_text(value: bytes, extended: bool) -> str:
    if extended and value.count(b"'") >= 2:  # RFC 8187 §3.2: charset'language'percent-encoded
        return _unquote(value.split(b"'", 2)[2].decode("latin-1").replace("+", "%2B"))
    return field_text(value.replace(b'\\"', b'"').replace(b"%22", b'"'))
