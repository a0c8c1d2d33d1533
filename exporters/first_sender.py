"""Whether the first segment that is known of a connection, which is no SYN, was sent by its client."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from exporters.dissection import path_endpoints
from exporters.http_starts import HTTP2_PREFACE, REQUEST_STARTS, RESPONSE_START

if TYPE_CHECKING:
    from exporters.dissection import Segment

_WELL_KNOWN_PORTS: Final = 1024
_SERVICE_PORTS: Final = frozenset(
    (1080, 3000, 3128, 5000, 8000, 8008, 8080, 8081, 8088, 8443, 8888, 9000, 9090)
)
"""Ports of HTTP above the well-known ones: the end with one of them is the server, where no SYN tells."""
_CLIENT_STARTS: Final = (*REQUEST_STARTS, HTTP2_PREFACE[:4])
_SERVER_STARTS: Final = (RESPONSE_START,)


def is_from_client(segment: Segment) -> bool:
    """By how it begins, or by its ports."""
    if segment.payload.startswith(_CLIENT_STARTS):
        return True
    if segment.payload.startswith(_SERVER_STARTS):
        return False
    source, destination = path_endpoints(segment.path)
    ranks = [
        (port >= _WELL_KNOWN_PORTS, port not in _SERVICE_PORTS) for port in (source.port, destination.port)
    ]
    if ranks[0] != ranks[1]:
        return ranks[1] < ranks[0]
    return destination.port <= source.port
