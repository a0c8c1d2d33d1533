"""What kind of resource an exchange is, in the words of Chrome's network panel (``_resourceType``).

Fetch Metadata's destination tells exactly where a browser sent it (Sec-Fetch-Dest); otherwise the media type.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from exporters.remembered import remembered

if TYPE_CHECKING:
    from exporters.http.messages import Exchange, Request

DESTINATIONS = {
    b"audio": "media",
    b"document": "document",
    b"embed": "other",
    b"empty": "fetch",
    b"font": "font",
    b"frame": "document",
    b"iframe": "document",
    b"image": "image",
    b"manifest": "manifest",
    b"report": "other",
    b"script": "script",
    b"serviceworker": "script",
    b"sharedworker": "script",
    b"style": "stylesheet",
    b"track": "texttrack",
    b"video": "media",
    b"worker": "script",
    b"xslt": "stylesheet",
}
"""Fetch: request destinations, and the network panel's name for each."""

MEDIA_TYPES = (
    (re.compile(rb"text/html|application/xhtml\+xml"), "document"),
    (re.compile(rb"text/css"), "stylesheet"),
    (re.compile(rb"(text|application)/(x-)?(java|ecma)script"), "script"),
    (re.compile(rb"image/"), "image"),
    (re.compile(rb"(font/|application/(x-)?font|application/vnd\.ms-fontobject)"), "font"),
    (re.compile(rb"(audio|video)/|application/(vnd\.apple\.mpegurl|dash\+xml)"), "media"),
    (re.compile(rb"text/vtt"), "texttrack"),
    (re.compile(rb"application/manifest\+json"), "manifest"),
    (
        re.compile(rb"application/(.*\+)?(json|xml)|text/(json|xml|plain)|application/(grpc|x-protobuf)"),
        "fetch",
    ),
)
"""Without a destination JSON is ``fetch``: the network panel, left to itself, would call it a script."""


POSTED_TYPES = {b"text/ping": "ping", b"application/csp-report": "csp-violation-report"}
"""By what is sent: hyperlink auditing (HTML §4.6.4) and Content Security Policy. What sendBeacon() sends is not told
apart from what fetch() does."""

ANSWERED_TYPES = {b"text/event-stream": "eventsource", b"application/wasm": "wasm"}
"""By what is answered, whatever asked for it."""


def media_type(content_type: bytes | None) -> bytes:
    """A Content-Type in lower case, without its parameters (RFC 9110 §8.3.1)."""
    return (content_type or b"").partition(b";")[0].strip().lower()


def resource_type(exchange: Exchange) -> str:
    """The network panel's name for the kind of ``exchange``."""
    request, response = exchange.request, exchange.response
    if exchange.socket_messages is not None:
        return "websocket"
    kind = media_type(response.fields.get(b"content-type")) if response is not None else b""
    asked = _by_what_is_asked(request) if request is not None else None
    if asked is not None:
        return asked
    if kind in ANSWERED_TYPES:
        return ANSWERED_TYPES[kind]
    wanted = _by_who_asks(request) if request is not None else None
    return wanted or _by_media_type(kind)


def _by_what_is_asked(request: Request) -> str | None:
    """What is a kind of its own, whatever is answered."""
    if request.asks_for_websocket:
        return "websocket"
    if request.method == b"OPTIONS" and request.fields.get(b"access-control-request-method"):
        return "preflight"
    return POSTED_TYPES.get(media_type(request.fields.get(b"content-type")))


def _by_who_asks(request: Request) -> str | None:
    if (request.fields.get(b"x-requested-with") or b"").lower() == b"xmlhttprequest":
        return "xhr"
    return DESTINATIONS.get(request.fields.get(b"sec-fetch-dest") or b"")


@remembered(512)
def _by_media_type(kind: bytes) -> str:
    return next((name for pattern, name in MEDIA_TYPES if pattern.match(kind)), "other")
