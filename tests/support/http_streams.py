"""Connections as transcripts: what each side sends, in order, as stream items in any split."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from capture.streams import (
    Data,
    Endpoint,
    Gap,
    Process,
    Side,
    StreamClosed,
    StreamItem,
    StreamOpened,
    Tls,
    TlsStarted,
)
from exporters.http import Exchange, Limits, Notes, exchanges

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

OPENED_NS = 1_700_000_000_000_000_000
STEP_NS = 1_000_000
CURL = Process(4242, "curl", "/usr/bin/curl", "curl --http1.1 https://example.com/")


@dataclass
class Conversation:
    """A connection's items; each step is a millisecond after the one before it."""

    stream: int = 1
    tls: Tls | None = None
    handshake_seen: bool = True
    process: Process | None = CURL
    port: int = 80
    address: bytes = b"\x7f\x00\x00\x01"
    unix_path: str | None = None
    items: list[StreamItem] = field(default_factory=list)
    waited_ns: int = 0

    def __post_init__(self) -> None:
        client = Endpoint(self.address, 50000)
        server = Endpoint(self.address, self.port)
        opened = StreamOpened(
            self.stream,
            OPENED_NS,
            OPENED_NS + STEP_NS,
            client,
            server,
            Side.CLIENT,
            self.handshake_seen,
            self.process,
            tls=self.tls,
            unix_path=self.unix_path,
        )
        self.items.append(opened)

    @property
    def now_ns(self) -> int:
        """The time of the next step."""
        return OPENED_NS + self.waited_ns + (len(self.items) + 1) * STEP_NS

    def waits(self, duration_ns: int) -> Conversation:
        """Nothing is sent for a while."""
        self.waited_ns += duration_ns
        return self

    def client(self, *data: bytes) -> Conversation:
        """The client sends."""
        self.items.append(Data(self.stream, self.now_ns, Side.CLIENT, b"".join(data)))
        return self

    def server(self, *data: bytes) -> Conversation:
        """The server sends."""
        self.items.append(Data(self.stream, self.now_ns, Side.SERVER, b"".join(data)))
        return self

    def gap(self, sender: Side, length: int, reason: str = "ring-full") -> Conversation:
        """The sender's next bytes were not captured."""
        self.items.append(Gap(self.stream, self.now_ns, sender, length, reason))
        return self

    def starts_tls(self, tls: Tls) -> Conversation:
        """TLS begins inside the connection."""
        self.items.append(TlsStarted(self.stream, self.now_ns, tls))
        return self

    def closes(self, sender: Side, reset: bool = False, final: bool = False) -> Conversation:
        """One side closes, or resets; after a ``final`` end there is nothing more."""
        self.items.append(StreamClosed(self.stream, self.now_ns, sender, reset, final))
        return self


def split(items: Iterable[StreamItem], size: int) -> list[StreamItem]:
    """The same bytes in pieces of at most ``size``, at the same times."""
    pieces: list[StreamItem] = []
    for item in items:
        if isinstance(item, Data):
            data = item.data
            pieces += [replace(item, data=data[at : at + size]) for at in range(0, len(data), size)]
        else:
            pieces.append(item)
    return pieces


def read(
    items: Iterable[StreamItem], limits: Limits | None = None, notes: Notes | None = None
) -> list[Exchange]:
    """The exchanges of the items."""
    return list(exchanges(items, limits, notes))


def read_in_splits(items: Sequence[StreamItem], limits: Limits | None = None) -> list[Exchange]:
    """The exchanges of the items, which must be the same whole, byte by byte and in uneven pieces."""
    whole = read(items, limits)
    for size in (1, 2, 7, 1000):
        assert read(split(items, size), limits) == whole, f"in pieces of {size}"
    return whole
