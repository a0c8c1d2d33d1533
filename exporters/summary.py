"""HTTP exchanges as lines for people: ``plaintap show``.

Columns have fixed widths, so that lines come out as exchanges end. In a terminal the URL gets what is left of
the line; elsewhere it is never cut. What a peer sent is shown with control characters escaped: a capture must
not write to a terminal's title, or move its cursor.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from exporters.har_entry import UNKNOWN_METHOD
from exporters.har_fields import field_text
from exporters.http.messages import Outcome
from exporters.http.urls import exchange_url
from exporters.printable import printable

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from exporters.http.messages import Exchange

PROCESS_COLUMNS = 22
"""A comm has 15 bytes at most, a pid 7 digits."""

MIN_URL_COLUMNS = 24
"""Narrower terminals wrap: a URL of which nothing is left says nothing."""

_FIXED = f"{{:<12}}  {{:<{PROCESS_COLUMNS}}}  {{:<7}}  {{:>6}}  {{:>8}}  {{:>8}}  {{:>9}}  "
_HEADINGS = ("TIME", "PROCESS", "METHOD", "STATUS", "SENT", "RECEIVED", "DURATION")
_UNITS = ("B", "K", "M", "G", "T")


def lines(exchanges: Iterable[Exchange], columns: int | None = None) -> Iterator[str]:
    """A heading and a line per exchange; ``columns`` is the width of the terminal, if it is one."""
    yield _line(_HEADINGS, "URL", columns)
    for exchange in exchanges:
        yield exchange_line(exchange, columns)


def exchange_line(exchange: Exchange, columns: int | None = None) -> str:
    """The line of one exchange."""
    request, response, process = exchange.request, exchange.response, exchange.connection.process
    method = UNKNOWN_METHOD if request is None or request.method is None else field_text(request.method)
    cells = (
        _clock(exchange.started_ns),
        "-" if process is None else f"{process.comm}[{process.pid}]",
        method,
        "-" if response is None or response.status is None else str(response.status),
        "-" if request is None else size_text(request.body.wire_bytes),
        "-" if response is None else size_text(response.body.wire_bytes),
        duration_text(exchange.ended_ns - exchange.started_ns),
    )
    url = exchange_url(exchange)
    path = exchange.connection.opened.unix_path
    if path is not None:
        url += f"  (unix socket {path})" if path else "  (pair of sockets)"
    lost = exchange.lost_bytes
    if lost:
        url += f"  (truncated: {lost} bytes lost)"
    elif exchange.outcome is not Outcome.COMPLETE:
        url += f"  ({exchange.outcome.value})"
    return _line(cells, url, columns)


def _line(cells: tuple[str, ...], url: str, columns: int | None) -> str:
    fixed = _FIXED.format(*map(printable, cells))
    url = printable(url)
    if columns is not None:
        room = max(columns - len(fixed), MIN_URL_COLUMNS)
        if len(url) > room:
            url = url[: room - 1] + "…"
    return fixed + url


def _clock(time_ns: int) -> str:
    local = time.strftime("%H:%M:%S", time.localtime(time_ns // 10**9))
    return f"{local}.{time_ns // 10**6 % 1000:03d}"


def size_text(size: float) -> str:
    """A number of bytes in at most six characters; a K is 1024."""
    for unit in _UNITS:
        if size < 1000 or unit == _UNITS[-1]:
            break
        size /= 1024
    return f"{size:.0f} {unit}" if unit == "B" or size >= 100 else f"{size:.1f} {unit}"


def duration_text(duration_ns: int) -> str:
    """A duration in milliseconds, or in seconds from ten of them on."""
    duration_ns = max(duration_ns, 0)
    if duration_ns < 10**10:
        return f"{duration_ns / 1e6:.1f} ms"
    return f"{duration_ns / 1e9:.1f} s"
