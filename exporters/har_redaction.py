"""What a HAR does not tell: credentials, by default, and whatever else the user names.

Works on entries, after they are made, so that every format that is made of entries is redacted alike. The names
of what is redacted stay, and REDACTED stands for the values. An entry's headers may be shared with other
entries: they are replaced, never changed.
"""

from __future__ import annotations

import base64
import json
import re
from functools import lru_cache
from typing import TYPE_CHECKING

from exporters.command_redaction import redacted_command

if TYPE_CHECKING:
    from collections.abc import Iterable

    from exporters.har_fields import Json

REDACTED = "(redacted)"
"""Stands for a value: visible, and no value of anything."""

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
        "x-api-key",
        "x-auth-token",
        "x-csrf-token",
        "x-xsrf-token",
        "x-amz-security-token",
        "x-goog-api-key",
    )
)
"""What Chrome's sanitised export leaves out, and other fields that carry the same."""

_URL_HEADERS = frozenset((":path", "referer", "location", "content-location"))
_WITH_JSON = re.compile("json|event-stream", re.IGNORECASE)
_USER_INFO = re.compile(r"(?<=://)[^/?#]*@")


class Redaction:
    """What is redacted: header fields, and parameters, form and JSON fields by their names."""

    def __init__(self, headers: frozenset[str], names: frozenset[str]) -> None:
        self._redacted_headers = headers
        self._names = names
        # The same names come again and again; whether they are to be looked at is decided once.
        self._concerns = lru_cache(maxsize=4096)(self._header_concerns)

    @classmethod
    def of(cls, sensitive: bool = False, names: Iterable[str] = ()) -> Redaction:
        """Credentials unless ``sensitive``, and what is called one of ``names``, wherever it is."""
        chosen = frozenset(name.lower() for name in names)
        return cls(chosen if sensitive else CREDENTIAL_HEADERS | chosen, chosen)

    def __call__(self, entry: Json) -> Json:
        """``entry`` as it may be shown; it is changed, but for what it may share with other entries."""
        if not self._redacted_headers:
            return entry
        request, response = entry["request"], entry["response"]
        self._message(request)
        self._message(response)
        request["url"] = self._url(request["url"])
        if "_target" in request:
            request["_target"] = self._url(request["_target"])
        response["redirectURL"] = self._url(response["redirectURL"])
        if self._names:
            request["queryString"] = self._pairs(request["queryString"], self._names)
            if "postData" in request:
                request["postData"] = self._posted(request["postData"])
            response["content"] = self._content(response["content"], response["content"]["mimeType"])
            self._messages(entry)
        return entry

    def command_line(self, text: str) -> str:
        """A command line without the secrets in its arguments."""
        return redacted_command(text, REDACTED, self._names) if self._redacted_headers else text

    def _message(self, message: Json) -> None:
        message["headers"] = self._headers(message["headers"])
        if "_trailers" in message:
            message["_trailers"] = self._headers(message["_trailers"])
        for interim in message.get("_interim", ()):
            interim["headers"] = self._headers(interim["headers"])
        if message["cookies"]:
            named = self._names
            if not self._redacted_headers.isdisjoint(("cookie", "set-cookie")):
                named = frozenset(cookie["name"].lower() for cookie in message["cookies"])
            message["cookies"] = self._pairs(message["cookies"], named)

    def _headers(self, headers: list[Json]) -> list[Json]:
        concerns = self._concerns
        return [self._header(header) if concerns(header["name"]) else header for header in headers]

    def _header_concerns(self, name: str) -> bool:
        lower = name.lower()
        return lower in self._redacted_headers or lower in _URL_HEADERS

    def _header(self, header: Json) -> Json:
        if header["name"].lower() in self._redacted_headers:
            return {**header, "value": REDACTED}
        return {**header, "value": self._url(header["value"])}

    def _pairs(self, pairs: list[Json], names: frozenset[str]) -> list[Json]:
        return [
            {**pair, "value": REDACTED} if pair["name"].lower() in names and "value" in pair else pair
            for pair in pairs
        ]

    def _url(self, url: str) -> str:
        """A URL, without the password that may be in it, and with its named parameters redacted."""
        if "@" in url:
            url = _USER_INFO.sub(f"{REDACTED}@", url)
        if not self._names or "?" not in url:
            return url
        start, _, query = url.partition("?")
        query, mark, fragment = query.partition("#")
        return f"{start}?{self._form(query)}{mark}{fragment}"

    def _form(self, text: str) -> str:
        """URL-encoded pairs, as they were sent but for the values."""
        return "&".join(
            f"{name}={REDACTED}" if equals and name.lower() in self._names else pair
            for pair in text.split("&")
            for name, equals, _ in (pair.partition("="),)
        )

    def _posted(self, posted: Json) -> Json:
        params = posted.get("params")
        if params is None:
            return self._content(posted, posted["mimeType"])
        redacted = self._pairs(params, self._names)
        posted = {**posted, "params": redacted}
        if redacted == params:
            return posted
        if posted["mimeType"].lower().startswith("multipart/") or "encoding" in posted:
            # Parts, and bytes, would have to be put together again: their parameters say what there was.
            del posted["text"]
            posted.pop("encoding", None)
            posted["comment"] = "the text is left out, because a part of it is redacted"
            return posted
        return {**posted, "text": self._form(posted["text"])}

    def _content(self, content: Json, mime_type: str) -> Json:
        """JSON with its named fields redacted, also of several documents in a row, as events are."""
        text = content.get("text")
        if text is None or _WITH_JSON.search(mime_type) is None:
            return content
        if content.get("encoding") == "base64":
            shown = base64.b64decode(text).decode("latin-1").replace("\0", "").lower()
            if any(name in shown for name in self._names):
                return {
                    **content,
                    "text": REDACTED,
                    "encoding": "",
                    "comment": "its charset cannot be redacted in part",
                }
            return content
        redacted = self.json_text(text)
        return content if redacted == text else {**content, "text": redacted}

    def _messages(self, entry: Json) -> None:
        """The JSON inside of WebSocket messages and events."""
        for key in ("_webSocketMessages", "_eventSourceMessages"):
            for message in entry.get(key, ()):
                message["data"] = self.json_text(message["data"])

    def json_text(self, text: str) -> str:
        """``text`` with the values of named JSON fields replaced, and nothing else changed."""
        pattern = _key_pattern(self._names)
        decoder = json.JSONDecoder()
        pieces: list[str] = []
        position = 0
        for key in pattern.finditer(text):
            if key.start() < position:
                continue  # inside a value that was replaced
            try:
                end = decoder.raw_decode(text, key.end())[1]
            except (ValueError, RecursionError):
                end = len(text)  # a value that is cut off: what is left of it goes as well
            pieces += (text[position : key.end()], json.dumps(REDACTED))
            position = end
        return "".join((*pieces, text[position:]))


def _key_pattern(names: frozenset[str]) -> re.Pattern[str]:
    alternatives = "|".join(re.escape(name) for name in sorted(names))
    return re.compile(rf'"(?:{alternatives})"\s*:\s*', re.IGNORECASE)


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
