"""What kind of resource an exchange is, in the words of Chrome's network panel (``_resourceType``).

Fetch Metadata's destination tells exactly where a browser sent it (Sec-Fetch-Dest); otherwise the media type.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from exporters.http.messages import Exchange

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
    (re.compile(rb"text/event-stream"), "eventsource"),
    (re.compile(rb"text/vtt"), "texttrack"),
    (re.compile(rb"application/manifest\+json"), "manifest"),
    (re.compile(rb"application/wasm"), "wasm"),
    (
        re.compile(rb"application/(.*\+)?(json|xml)|text/(json|xml|plain)|application/(grpc|x-protobuf)"),
        "fetch",
    ),
)
"""Without a destination JSON is ``fetch``: the network panel, left to itself, would call it a script."""


def resource_type(exchange: Exchange) -> str:
    """The network panel's name for the kind of ``exchange``."""
    request, response = exchange.request, exchange.response
    if request is not None:
        if (request.protocol or request.fields.get(b"upgrade") or b"").lower() == b"websocket":
            return "websocket"
        if request.method == b"OPTIONS" and request.fields.get(b"access-control-request-method"):
            return "preflight"
    kind = (response.fields.get(b"content-type") or b"").lower() if response is not None else b""
    if kind.startswith(b"text/event-stream"):
        return "eventsource"
    destination = request.fields.get(b"sec-fetch-dest") if request is not None else None
    if destination is not None and destination in DESTINATIONS:
        return DESTINATIONS[destination]
    return _by_media_type(kind)


@lru_cache(maxsize=512)
def _by_media_type(kind: bytes) -> str:
    return next((name for pattern, name in MEDIA_TYPES if pattern.match(kind)), "other")
