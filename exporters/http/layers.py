"""What the parsers of one connection share: the shape of a layer, and the context that they report to.

A *layer* reads both directions of one plaintext connection, or of what runs inside another layer: HTTP/1 is
a layer, what follows a CONNECT is a layer inside it, a WebSocket another. A layer gets the stream's items,
never waits for anything, and emits exchanges as they end. What a layer cannot read costs that layer only, and
is counted in Notes.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

    from capture.streams import Side, Tls
    from exporters.http.messages import Connection, Exchange, Outcome

MIB = 1024 * 1024

MAX_INTERIM = 1000
"""Responses before the final one that are kept of an exchange. Servers send one or two."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What a reader holds in memory at most, each with the reason for the number.

    ``body_bytes``: of one body; what is beyond is counted. 256 MiB is larger than what people look at in
    devtools (Chromium refuses strings over 512 MiB), and several of them still fit in memory.
    ``decoded_bytes``: of one body when its content codings are undone: the decompression bomb limit.
    ``head_bytes``: of one head. Chromium accepts 256 KiB, servers 8 to 100 KiB.
    ``waiting_bytes``: of one direction that waits for the other, because a response came before its request
    or because the answer to CONNECT or Upgrade decides what the bytes are. A client that sends 16 MiB before
    it has its answer does not wait for one.
    ``outstanding``: requests without a response on one connection. No client pipelines as many; a connection
    of which one direction is not captured would collect them for ever.
    ``half_closed``: connections of which one side has closed, as where the other's end is not recorded.
    ``socket_bytes``: of the messages of one WebSocket, inflated.
    """

    body_bytes: int = 256 * MIB
    decoded_bytes: int = 256 * MIB
    head_bytes: int = 256 * 1024
    waiting_bytes: int = 16 * MIB
    outstanding: int = 1000
    half_closed: int = 4096
    socket_bytes: int = 64 * MIB


@dataclass(slots=True)
class Notes:
    """What could not be read, in numbers, for the summary at the end."""

    streams: int = 0
    streams_not_http: int = 0
    streams_encrypted: int = 0
    exchanges: int = 0
    unfinished: int = 0
    requests_not_seen: int = 0
    malformed: int = 0
    resynchronised: int = 0
    skipped_bytes: int = 0
    lost_bytes: int = 0

    def as_dict(self) -> dict[str, int]:
        """The numbers by name, without those that are zero."""
        return {row.name: value for row in fields(self) if (value := getattr(self, row.name))}


class Layer(Protocol):
    """Reads both directions of a connection, or of a connection inside another."""

    def data(self, sender: Side, time_ns: int, data: bytes) -> None:
        """``sender`` sent ``data``."""

    def gap(self, sender: Side, time_ns: int, length: int, reason: str, *, exact: bool = True) -> None:
        """``sender`` sent ``length`` bytes that were not captured; or, if not ``exact``, up to so many."""

    def tls_started(self, time_ns: int, tls: Tls) -> None:
        """From here on the bytes are the plaintext of a TLS session inside this layer."""

    def closed(self, sender: Side, time_ns: int) -> None:
        """``sender`` will send nothing more."""

    def finish(self, time_ns: int, outcome: Outcome) -> None:
        """Nothing more comes from either side; ``outcome`` is that of exchanges that have not ended."""


@dataclass(slots=True)
class Context:
    """What every layer of a reader shares.

    ``emit`` takes an exchange that has ended. ``open_layer`` makes the layer for a connection of which
    nothing has been read; with ``joined`` its beginning is missing.
    """

    emit: Callable[[Exchange], None]
    limits: Limits
    notes: Notes
    open_layer: Callable[[Context, Connection, bool], Layer]
