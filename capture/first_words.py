"""What connections say in the clear before it is known what they speak: kept until TLS or HTTP follows.

Of some protocols, which agree on TLS first (STARTTLS, SOCKS), the kernel side tells the beginning though it is neither.
It belongs to the stream that follows; where none does, nobody asked for it.
"""

from __future__ import annotations

from typing import Final

from capture.events import BytesMoved, Protocol
from capture.tls_hello import may_begin_record

NOT_SHOWN: Final = frozenset({Protocol.UNDECIDED, Protocol.OTHER})
"""Unless all protocols are."""
MAX_BYTES: Final = 16 * 1024 * 1024
"""Of all connections: 4,096 of those that say as much as the kernel side tells of one (MAX_SAID_BEFORE_TLS)."""


class FirstWords:
    """Pieces by connection, in order of their coming."""

    def __init__(self, *, all_protocols: bool = False, limit: int = MAX_BYTES) -> None:
        self._all_protocols = all_protocols
        self._limit = limit
        self._pieces: dict[int, list[BytesMoved]] = {}
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._pieces)

    def keep(self, event: BytesMoved) -> int:
        """How many bytes, of those who came first, have found no room any more."""
        forgotten = 0
        self._pieces.setdefault(event.connection, []).append(event)
        self._bytes += len(event.payload)
        while self._bytes > self._limit:
            forgotten += sum(len(one.payload) for one in self.take(next(iter(self._pieces))))
        return forgotten

    def take(self, connection: int) -> list[BytesMoved]:
        """All of a connection, which are kept no longer."""
        pieces = self._pieces.pop(connection, [])
        self._bytes -= sum(len(one.payload) for one in pieces)
        return pieces

    def take_before_hello(self, connection: int) -> tuple[list[BytesMoved], list[BytesMoved]]:
        """The same, as what came before TLS and what is the beginning of its first record."""
        pieces = self.take(connection)
        begun = next((at for at, one in enumerate(pieces) if may_begin_record(one.payload)), len(pieces))
        return pieces[:begun], pieces[begun:]

    def waits(self, event: BytesMoved) -> bool:
        """Whether to keep a piece: of all protocols only what, with those before it, may be of a record's header."""
        if not self._all_protocols:
            return event.protocol in NOT_SHOWN
        if event.protocol is not Protocol.UNDECIDED:
            return False
        waits = (*self._pieces.get(event.connection, ()), event)
        return may_begin_record(b"".join(one.payload for one in waits if one.direction is event.direction))
