"""Which protocol a connection speaks: a row per protocol, by ALPN or by its first bytes.

The sniffing layer stands in front of every connection, and of what runs inside a tunnel. It holds items until
the first bytes of either side decide, then steps aside. What is no HTTP is dropped at its first line.
"""

from __future__ import annotations

import re
from collections import deque
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

from capture.streams import Side
from exporters.http.h2_sync import HEADER_BYTES, FrameType, find_frames, plausible
from exporters.http.heads import REQUEST_START, RESPONSE_START, TOKEN
from exporters.http.http1 import Http1Layer
from exporters.http.http2 import Http2Layer
from exporters.http.messages import Connection, Outcome
from exporters.http.ws_sync import JoinedWebSocketLayer
from exporters.http.ws_sync import find_frames as find_socket_frames
from exporters.http_starts import HTTP2_PREFACE as PREFACE

if TYPE_CHECKING:
    from collections.abc import Callable

    from capture.streams import Tls
    from exporters.http.layers import Context, Layer

MAX_SNIFFED_BYTES = 64 * 1024
"""How long a first line may be before it is taken for something else."""

MAX_MAGIC_BYTES = 64
"""How much of a direction tells what it is where its first line does not: more than HTTP/2's preface."""

MAX_EMPTY_LINES_BYTES = 8
"""Before a request: servers ignore one (RFC 9112 §2.2), of those that old clients send behind a form."""

_FIRST_LINE = re.compile(TOKEN.pattern + rb"[ \t][^\r\n]*HTTP/1\.[0-9][ \t]*\r?\n")


# What a client may say before the protocol: haproxy's PROXY protocol (version 1's line, version 2's signature), and
# the greeting of a SOCKS proxy (version 5: RFC 1928 §3; version 4's CONNECT).
_PREAMBLE = re.compile(
    rb"PROXY (TCP[46]|UNKNOWN)[^\r\n]*\r\n|\r\n\r\n\0\r\nQUIT\n|\x05[\x01-\x0f]|\x04\x01.{6}", re.DOTALL
)
_SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
_BEGINNING_OF_SOCKS = re.compile(rb"\x05|\x04(\x01.{0,5})?", re.DOTALL)


FOUND = -1
"""What a row's ``find`` returns when a message begins."""


class Verdict(Enum):
    """Whether a direction's first bytes are a protocol's."""

    YES = "yes"
    NO = "no"
    MORE = "more bytes needed"


@dataclass(frozen=True, slots=True)
class Protocol:
    """A row: ``alpn`` identifiers, ``recognise`` by a side's first bytes, and the layer that reads it.

    ``find`` looks for the beginning of a message anywhere in a side's bytes: from the place that it returned
    the last time, when there were as many bytes as its last argument says; FOUND where there is one.
    """

    name: str
    alpn: frozenset[str]
    recognise: Callable[[Side, bytes], Verdict]
    find: Callable[[Side, bytearray, int, int], int]
    layer: Callable[[Context, Connection, bool], Layer]


def _recognise_http1(side: Side, start: bytes) -> Verdict:
    if side is Side.SERVER:
        if start.startswith(b"HTTP/1."):
            return Verdict.YES
        return Verdict.MORE if b"HTTP/1.".startswith(start) else Verdict.NO
    start = start[:MAX_EMPTY_LINES_BYTES].lstrip(b"\r\n") + start[MAX_EMPTY_LINES_BYTES:]
    if _FIRST_LINE.match(start):
        return Verdict.YES
    method, _, rest = start.partition(b" ")
    if (start and TOKEN.fullmatch(method) is None) or b"\n" in rest or len(start) > MAX_SNIFFED_BYTES:
        return Verdict.NO
    return Verdict.MORE


def _recognise_http2(side: Side, start: bytes) -> Verdict:
    if side is Side.CLIENT:
        if start.startswith(PREFACE):
            return Verdict.YES
        return Verdict.MORE if PREFACE.startswith(start) else Verdict.NO
    # RFC 9113 §3.4: a server begins with SETTINGS, which by itself may be something else.
    settings = len(start) < HEADER_BYTES or (start[3] == FrameType.SETTINGS and plausible(start, 0) > 0)
    return Verdict.MORE if settings else Verdict.NO


def _recognise_preamble(side: Side, start: bytes) -> Verdict:
    if side is Side.SERVER:
        return Verdict.NO
    if _PREAMBLE.match(start):
        return Verdict.YES
    begins = _SIGNATURE.startswith(start) or _BEGINNING_OF_SOCKS.fullmatch(start)
    return Verdict.MORE if begins else Verdict.NO


def _find_http1(side: Side, data: bytearray, place: int, seen: int) -> int:
    if seen < MAX_MAGIC_BYTES and _recognise_http1(side, bytes(data[:MAX_MAGIC_BYTES])) is Verdict.YES:
        return FOUND
    newline = data.rfind(b"\n", seen)
    if newline < 0:
        return place
    pattern = REQUEST_START if side is Side.CLIENT else RESPONSE_START
    return FOUND if pattern.search(data, place, newline + 1) else newline + 1


def _find_http2(side: Side, data: bytearray, place: int, seen: int) -> int:
    if data.startswith(PREFACE):
        return FOUND
    place, believed = find_frames(data, place, boundary=place == 0)
    return FOUND if believed else place


def _recognise_websocket(side: Side, start: bytes) -> Verdict:
    """No connection begins as one: HTTP/1 or HTTP/2 becomes it."""
    return Verdict.NO


def _find_websocket(side: Side, data: bytearray, place: int, seen: int) -> int:
    place, believed = find_socket_frames(side, data, place, seen)
    return FOUND if believed else place


PROTOCOLS = (
    Protocol("HTTP/2", frozenset(("h2",)), _recognise_http2, _find_http2, Http2Layer),
    Protocol("HTTP/1", frozenset(("http/1.1", "http/1.0")), _recognise_http1, _find_http1, Http1Layer),
    Protocol("WebSocket", frozenset(), _recognise_websocket, _find_websocket, JoinedWebSocketLayer),
)


class OpaqueLayer:
    """A connection that is not HTTP: nothing of it is kept."""

    def data(self, sender: Side, time_ns: int, data: bytes) -> None:
        """See Layer."""

    def gap(self, sender: Side, time_ns: int, length: int, reason: str, *, exact: bool = True) -> None:
        """See Layer."""

    def tls_started(self, time_ns: int, tls: Tls) -> None:
        """See Layer."""

    def closed(self, sender: Side, time_ns: int) -> None:
        """See Layer."""

    def finish(self, time_ns: int, outcome: Outcome) -> None:
        """See Layer."""


class SniffingLayer:
    """Decides by the first bytes, then hands everything to the layer of the protocol.

    A connection of which the beginning is missing is decided by what is recognised inside it; until then only
    the last bytes of each side are kept, for nothing of what is before can be read in any protocol. So is a TLS
    session that does not begin like any protocol: its probes may have come after its first bytes. So is what
    begins with what is said to a proxy or by one.
    """

    def __init__(self, context: Context, connection: Connection, joined: bool) -> None:
        self._context = context
        self._connection = connection
        self._joined = joined = joined or (connection.tls is not None and connection.tls.joined)
        self._start = (bytearray(), bytearray())
        self._times: tuple[deque[tuple[int, int]], ...] = (deque(), deque())  # of _start, where joined
        self._places = ([0] * len(PROTOCOLS), [0] * len(PROTOCOLS))
        self._held: list[tuple[Side, int, bytes]] = []
        self._late = False
        self._layer: Layer | None = None
        alpn = connection.tls.alpn if connection.tls is not None else None
        for protocol in PROTOCOLS:
            if alpn in protocol.alpn:
                self._layer = protocol.layer(context, connection, joined)

    def data(self, sender: Side, time_ns: int, data: bytes) -> None:
        """See Layer."""
        if self._layer is not None:
            self._layer.data(sender, time_ns, data)
            return
        start = self._start[sender]
        if self._joined:
            start += data
            self._times[sender].append((len(data), time_ns))
            self._decide_joined(sender, len(data))
            return
        self._held.append((sender, time_ns, data))
        start += data[: MAX_SNIFFED_BYTES + 1 - len(start)]
        if len(start) <= MAX_MAGIC_BYTES or b"\n" in data or len(start) > MAX_SNIFFED_BYTES:
            self._decide(sender, bytes(start))

    def gap(self, sender: Side, time_ns: int, length: int, reason: str, *, exact: bool = True) -> None:
        """See Layer."""
        if self._layer is not None:
            self._layer.gap(sender, time_ns, length, reason, exact=exact)
            return
        if not self._joined:
            self._join()
            self.gap(sender, time_ns, length, reason, exact=exact)
            return
        self._context.notes.skipped_bytes += len(self._start[sender])
        for each in self._start[sender], self._times[sender]:
            each.clear()
        self._places[sender][:] = [0] * len(PROTOCOLS)

    @property
    def is_opaque(self) -> bool:
        """Whether there is nothing to be read, nor to be missed."""
        return isinstance(self._layer, OpaqueLayer)

    def tls_started(self, time_ns: int, tls: Tls) -> None:
        """See Layer: a new plaintext begins, in the place of what there was or inside it."""
        if self._layer is not None and not self.is_opaque:
            self._layer.tls_started(time_ns, tls)
            return
        self.finish(time_ns, Outcome.CLOSED)
        connection = Connection(self._connection.opened, tls, self._connection.authority)
        self._layer = SniffingLayer(self._context, connection, False)

    def closed(self, sender: Side, time_ns: int) -> None:
        """See Layer."""
        if self._layer is not None:
            self._layer.closed(sender, time_ns)

    def finish(self, time_ns: int, outcome: Outcome) -> None:
        """See Layer."""
        if self._layer is not None:
            self._layer.finish(time_ns, outcome)
        else:
            self._context.notes.streams_not_http += self._late
            self._context.notes.skipped_bytes += sum(map(len, self._start))
        self._held.clear()

    def _decide(self, side: Side, start: bytes) -> None:
        verdicts = []
        for protocol in PROTOCOLS:
            verdict = protocol.recognise(side, start)
            if verdict is Verdict.YES:
                self._take(protocol.layer)
                return
            verdicts.append(verdict)
        before = _recognise_preamble(side, start)
        if Verdict.MORE in (before, *verdicts) and len(start) <= MAX_SNIFFED_BYTES:
            return
        if start[:2] == b"\x16\x03":  # a TLS record of handshake type (RFC 8446 §5.1)
            self._context.notes.streams_encrypted += 1
        elif self._connection.tls is not None or before is Verdict.YES:
            self._late = True
            self._join()
            return
        else:
            self._context.notes.streams_not_http += 1
        self._take(lambda context, connection, joined: OpaqueLayer())

    def _take(self, layer: Callable[[Context, Connection, bool], Layer]) -> None:
        self._layer = layer(self._context, self._connection, self._joined)
        for sender, time_ns, data in self._held:
            self._layer.data(sender, time_ns, data)
        self._forget_start()

    def _forget_start(self) -> None:
        """What was kept to decide by: a connection may be open for long."""
        self._held.clear()
        for start, times in zip(self._start, self._times, strict=True):
            start.clear()
            times.clear()

    def _join(self) -> None:
        """From now on as if the beginning were missing."""
        self._joined = True
        self._start = (bytearray(), bytearray())
        held, self._held = self._held, []
        for sender, time_ns, data in held:
            self.data(sender, time_ns, data)

    def _decide_joined(self, side: Side, new: int) -> None:
        window, places = self._start[side], self._places[side]
        for index, protocol in enumerate(PROTOCOLS):
            places[index] = protocol.find(side, window, places[index], len(window) - new)
            if places[index] == FOUND:
                self._layer = layer = protocol.layer(self._context, self._connection, True)
                for sender in (side.other, side):
                    position = 0
                    for length, time_ns in self._times[sender]:
                        layer.data(sender, time_ns, bytes(self._start[sender][position : position + length]))
                        position += length
                self._forget_start()
                return
        if len(window) > 2 * MAX_SNIFFED_BYTES:
            surplus = len(window) - MAX_SNIFFED_BYTES
            self._context.notes.skipped_bytes += surplus
            del window[:surplus]
            places[:] = [max(place - surplus, 1) for place in places]
            self._forget_times(self._times[side], surplus)

    def _forget_times(self, times: deque[tuple[int, int]], surplus: int) -> None:
        while surplus:
            length, time_ns = times.popleft()
            if length > surplus:
                times.appendleft((length - surplus, time_ns))
            surplus -= min(length, surplus)
