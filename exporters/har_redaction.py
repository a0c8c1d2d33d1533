"""What a HAR does not tell: credentials, by default, and whatever else the user names.

Works on entries, after they are made, so that every format that is made of entries is redacted alike. The names
of what is redacted stay, and REDACTED stands for the values. An entry's headers may be shared with other
entries: they are replaced, never changed.
"""

from __future__ import annotations

import base64
import re
from typing import TYPE_CHECKING

from exporters.command_redaction import redacted_command
from exporters.http.hpack import UNKNOWN
from exporters.http.websocket import Opcode
from exporters.remembered import remembered
from exporters.text_redaction import REDACTED, NamedValues, without_passwords

if TYPE_CHECKING:
    from collections.abc import Iterable

    from exporters.har_fields import Json

CREDENTIAL_HEADERS = frozenset(
    (
        "authorization",
        "cookie",
        "set-cookie",
        "proxy-authorization",
        "authentication-info",
        "proxy-authentication-info",
        "www-authenticate",
        "proxy-authenticate",
    )
)
"""What Chrome's sanitised export leaves out, and the other fields of RFC 9110 §11 that carry the same."""

_CREDENTIAL_NAME = re.compile(
    r"token$|secret|passw|jwt|bearer|csrf|xsrf|cookie2$|^dpop$|authori[sz]ation|auth$|authentication$"
    r"|session[-_]?id$"
    r"|(?:^|[-_])(?:api|access|auth|subscription|private|account|functions)[-_]?key$|^apikey$",
    re.IGNORECASE,
)
"""Fields that are called what credentials are: X-Vault-Token, X-Api-Key, X-CSRFToken, Mcp-Session-Id."""

_URL_HEADERS = frozenset(
    (
        ":path", ":authority", "host", "origin", "referer", "location", "content-location", "link", "refresh"
    )
)  # fmt: skip
_NAME = re.compile(r":?[!#$%&'*+\-.^_`|~0-9A-Za-z]*")
_NOT_RECORDED = UNKNOWN.decode()

MAX_PROTOCOL_CHARACTERS = 40
"""Of a WebSocket's subprotocol. Longer ones are tokens: where a browser sets no field, programs put them there."""


class Redaction:
    """What is redacted: header fields, and parameters, form and JSON fields by their names."""

    def __init__(self, sensitive: bool, names: frozenset[str]) -> None:
        self._sensitive = sensitive
        self._names = names
        self._values = NamedValues(names)
        # The same names come again and again; whether they are to be looked at is decided once.
        self._concerns = remembered(4096)(self._header_concerns)

    @classmethod
    def of(cls, sensitive: bool = False, names: Iterable[str] = ()) -> Redaction:
        """Credentials unless ``sensitive``, and what is called one of ``names``, wherever it is."""
        return cls(sensitive, frozenset(name.lower() for name in names))

    def __call__(self, entry: Json) -> Json:
        """``entry`` as it may be shown; it is changed, but for what it may share with other entries."""
        if self._sensitive and not self._names:
            return entry
        request, response = entry["request"], entry["response"]
        self._message(request)
        self._message(response)
        request["url"] = self._values.url(request["url"])
        if "_target" in request:
            request["_target"] = self._values.url(request["_target"])
        response["redirectURL"] = self._values.url(response["redirectURL"])
        request["queryString"] = [_without_passwords(pair) for pair in request["queryString"]]
        if self._names:
            request["queryString"] = self._pairs(request["queryString"], self._names)
            if "postData" in request:
                request["postData"] = self._posted(request["postData"])
            response["content"] = self._content(response["content"], response["content"]["mimeType"])
            self._messages(entry)
            if "_grpc" in entry and entry["_grpc"]["message"] is not None:
                entry["_grpc"]["message"] = self._values.text(entry["_grpc"]["message"])
        return entry

    def command_line(self, text: str) -> str:
        """A command line without the secrets in its arguments."""
        return text if self._sensitive and not self._names else redacted_command(text, REDACTED, self._names)

    def _message(self, message: Json) -> None:
        message["headers"] = self._headers(message["headers"])
        if "_trailers" in message:
            message["_trailers"] = self._headers(message["_trailers"])
        for interim in message.get("_interim", ()):
            interim["headers"] = self._headers(interim["headers"])
        if message["cookies"]:
            named = self._names
            if not self._sensitive or not self._names.isdisjoint(("cookie", "set-cookie")):
                named = frozenset(cookie["name"].lower() for cookie in message["cookies"])
            message["cookies"] = self._pairs(message["cookies"], named)

    def _headers(self, headers: list[Json]) -> list[Json]:
        concerns = self._concerns
        return [self._header(header) if concerns(header["name"]) else header for header in headers]

    def _header_concerns(self, name: str) -> bool:
        lower = name.lower()
        if self._names or self._is_credential(lower):
            return True
        return lower in _URL_HEADERS or lower == "sec-websocket-protocol"

    def _is_credential(self, name: str) -> bool:
        if name in self._names:
            return True
        if self._sensitive:
            return False
        known = name in CREDENTIAL_HEADERS or _CREDENTIAL_NAME.search(name) is not None
        return (known and not name.startswith(":")) or _NAME.fullmatch(name) is None

    def _header(self, header: Json) -> Json:
        name, value = header["name"], header["value"]
        lower = name.lower()
        if not self._is_credential(lower):
            shown = self._header_value(lower, value)
            return header if shown == value else {**header, "value": shown}
        if name == _NOT_RECORDED:
            return header if value == _NOT_RECORDED else {**header, "value": REDACTED}
        # A line that is no field may have a secret anywhere but in what looks like a name.
        start = _NAME.match(name)
        return {**header, "name": name if start is None else start[0], "value": REDACTED}

    def _header_value(self, name: str, value: str) -> str:
        if name == "sec-websocket-protocol" and not self._sensitive:
            return _protocols(value)
        if name in ("cookie", "set-cookie"):
            return self._values.pairs(value, ";")
        return self._values.url(value) if name in _URL_HEADERS else self._values.text(value)

    def _pairs(self, pairs: list[Json], names: frozenset[str]) -> list[Json]:
        return [self._pair(pair, names) for pair in pairs]

    def _pair(self, pair: Json, names: frozenset[str]) -> Json:
        if "value" not in pair:
            return pair
        if pair["name"].lower() in names:
            return {**pair, "value": REDACTED}
        text = self._values.text  # what is no pair is read as a name without a value
        return {**pair, "name": text(pair["name"]), "value": text(pair["value"])}

    def _posted(self, posted: Json) -> Json:
        kind = posted["mimeType"].lower()
        params = posted.get("params")
        if params is None or not kind.startswith("multipart/"):
            if params is not None:
                posted = {**posted, "params": self._pairs(params, self._names)}
            return self._content(posted, kind)
        redacted = self._pairs(params, self._names)
        named = any(part["name"].lower() in self._names for part in params)
        if not named and redacted == params and not self._tells(_text_of(posted)):
            return posted
        # Parts would have to be put together again: their parameters say what there was.
        posted = {**posted, "params": redacted}
        del posted["text"]
        posted.pop("encoding", None)
        posted["comment"] = "the text is left out, because a part of it is redacted"
        return posted

    def _content(self, content: Json, mime_type: str) -> Json:
        """A form, or else any text, since JSON is sent under many names, with its named fields redacted."""
        text = content.get("text")
        if text is None:
            return content
        form = mime_type.lower().startswith("application/x-www-form-urlencoded")
        if content.get("encoding") != "base64":
            redacted = self._values.pairs(text, "&") if form else self._values.text(text)
            return content if redacted == text else {**content, "text": redacted}
        if form:
            shown = base64.b64decode(text).decode("latin-1")
            redacted = base64.b64encode(self._values.pairs(shown, "&").encode("latin-1")).decode("ascii")
            return {**content, "text": redacted}
        if not self._tells(_text_of(content)):
            return content
        comment = "its charset cannot be redacted in part"
        return {**content, "text": REDACTED, "encoding": "", "comment": comment}

    def _tells(self, text: str) -> bool:
        """Whether there is something to be redacted in ``text``."""
        return self._values.text(text) != text

    def _messages(self, entry: Json) -> None:
        """What WebSocket messages and events say."""
        for message in entry.get("_eventSourceMessages", ()):
            message["data"] = self._values.text(message["data"])
        for message in entry.get("_webSocketMessages", ()):
            if message["opcode"] == Opcode.TEXT and "encoding" not in message:
                message["data"] = self._values.text(message["data"])
            elif self._tells(_text_of({"text": message["data"], "encoding": "base64"})):
                message["data"] = REDACTED


def _without_passwords(pair: Json) -> Json:
    shown = without_passwords(pair["value"])
    return pair if shown == pair["value"] else {**pair, "value": shown}


def _text_of(content: Json) -> str:
    """What may be JSON in a content, also in UTF-16 or among other bytes."""
    text: str = content["text"]
    if content.get("encoding") != "base64":
        return text
    return base64.b64decode(text).decode("latin-1").replace("\0", "")


def _protocols(value: str) -> str:
    members = (member.strip() for member in value.split(","))
    return ", ".join(REDACTED if len(member) > MAX_PROTOCOL_CHARACTERS else member for member in members)


def without_bodies(entry: Json) -> Json:
    """The entry with the sizes and types of bodies and messages, and not what they say."""
    request, response = entry["request"], entry["response"]
    content = {key: value for key, value in response["content"].items() if key not in ("text", "encoding")}
    if "text" in response["content"]:
        content["comment"] = "left out (--no-bodies)"
    entry = {**entry, "response": {**response, "content": content}}
    if "postData" in request:
        posted = {"mimeType": request["postData"]["mimeType"], "comment": "left out (--no-bodies)"}
        entry["request"] = {**request, "postData": {**posted, "text": ""}}
    for key in ("_webSocketMessages", "_eventSourceMessages"):
        if key in entry:
            entry[key] = [{**message, "data": ""} for message in entry[key]]
    return entry
