"""When an exchange happened, and how its time divides into the phases of HAR 1.2."""

from __future__ import annotations

import time
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from exporters.har_fields import Json
    from exporters.http.messages import Connection, Exchange

MAX_IDLE_BEFORE_FIRST_REQUEST_NS = 250_000_000
"""A client that has a request sends it when the connection is there: within microseconds, on a busy machine
milliseconds. After a quarter of a second it had opened the connection ahead of need, as browsers do, and the request
did not wait for it: those of Chromium's were used after 0.7 to 0.9 s, and no other client took 0.1 s."""

MAX_IDLE_AFTER_LOOKUP_NS = 1_000_000_000
"""What a client does between the answer and connecting may take longer, such as reading the certificates it trusts."""


@lru_cache(maxsize=64)
def _iso_seconds(seconds: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))


def iso_time(time_ns: int) -> str:
    """ISO 8601 in UTC with microseconds, which is as fine as Chrome reads it."""
    seconds, rest_ns = divmod(time_ns, 1_000_000_000)
    return f"{_iso_seconds(seconds)}.{rest_ns // 1000:06d}Z"


def timings_of(exchange: Exchange) -> tuple[int, Json, float]:
    """When the exchange began (ns), its phases and their sum (ms), as HAR 1.2 has them; -1 is unknown, or none.

    The first request of a connection waits for it: ``dns`` is the look-up of the server's name, ``connect``
    contains ``ssl``, and ``blocked`` is the time between these handshakes and to the request's first byte. On a
    connection that was there, ``blocked`` is 0 and the others are -1. An upload that goes on after the response
    began overlaps it: ``send`` ends there.
    """
    request, response, ended_ns = exchange.request, exchange.response, exchange.ended_ns
    send_ns = wait_ns = receive_ns = 0
    started_ns = answered_ns = ended_ns
    if response is not None:
        started_ns = answered_ns = response.started_ns
        receive_ns = max(ended_ns - answered_ns, 0)
    if request is not None:
        started_ns = request.started_ns
        sent_ns = min(request.ended_ns, answered_ns)
        send_ns, wait_ns = max(sent_ns - started_ns, 0), max(answered_ns - sent_ns, 0)
    blocked, dns, connect, ssl = 0.0, -1.0, -1.0, -1.0
    total_ns = send_ns + wait_ns + receive_ns
    if exchange.number == 0:
        waited = _waited_for_connection(exchange.connection, started_ns)
        if waited is None:
            blocked = 0.0 if exchange.connection.opened.handshake_seen else -1.0
        else:
            began_ns, connect_ns, ssl_ns = waited
            waited_ns = max(started_ns - began_ns, 0)
            connect_ns = min(connect_ns, waited_ns)
            blocked, connect = (waited_ns - connect_ns) / 1e6, connect_ns / 1e6
            ssl = ssl if ssl_ns is None else min(ssl_ns, connect_ns) / 1e6
            total_ns += waited_ns
            started_ns = min(began_ns, started_ns)
            asked_ns, answered_ns = _waited_for_name(exchange.connection, began_ns)
            if asked_ns < began_ns:
                # Between the answer and connect() is no phase's time but the client's own.
                dns, blocked = (answered_ns - asked_ns) / 1e6, blocked + (began_ns - answered_ns) / 1e6
                total_ns += began_ns - asked_ns
                started_ns = min(asked_ns, started_ns)
    phases: Json = {
        "blocked": blocked,
        "dns": dns,
        "connect": connect,
        "ssl": ssl,
        "send": send_ns / 1e6,
        "wait": wait_ns / 1e6,
        "receive": receive_ns / 1e6,
    }
    return started_ns, phases, total_ns / 1e6


def _is_tunnelled(connection: Connection) -> bool:
    return connection.authority is not None or connection.opened.inside_tls


def _waited_for_name(connection: Connection, connected_ns: int) -> tuple[int, int]:
    """When the look-up of the server's name began and ended (ns); ``connected_ns`` twice where nothing waited for it.

    Inside a tunnel it is the proxy who looks up the name.
    """
    lookup = connection.opened.lookup
    if lookup is None or lookup.started_ns is None or lookup.ended_ns is None or _is_tunnelled(connection):
        return connected_ns, connected_ns
    if not 0 <= connected_ns - lookup.ended_ns <= MAX_IDLE_AFTER_LOOKUP_NS:
        return connected_ns, connected_ns
    return lookup.started_ns, lookup.ended_ns


def _waited_for_connection(connection: Connection, sent_ns: int) -> tuple[int, int, int | None] | None:
    """When connecting began, how long TCP's and TLS's handshakes took together, and TLS's alone (ns).

    What the client did between the two is its own time, such as reading the certificates that it trusts. None where
    the first request did not wait for the connection: it was there, or opened ahead of need. Inside a tunnel only TLS
    is new.
    """
    opened, tls = connection.opened, connection.tls
    if not opened.handshake_seen:
        return None
    began_ns, ended_ns = opened.time_ns, opened.established_ns
    connect_ns, ssl_ns = max(ended_ns - began_ns, 0), None
    if tls is not None and tls.started_ns is not None and tls.established_ns is not None:
        ssl_ns, ended_ns = max(tls.established_ns - tls.started_ns, 0), tls.established_ns
        connect_ns += ssl_ns
        if _is_tunnelled(connection):
            began_ns, connect_ns = tls.started_ns, ssl_ns
    elif _is_tunnelled(connection):
        return None
    return None if sent_ns - ended_ns > MAX_IDLE_BEFORE_FIRST_REQUEST_NS else (began_ns, connect_ns, ssl_ns)
