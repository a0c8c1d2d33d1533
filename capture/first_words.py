"""What connections say in the clear before it is known what they speak: kept until TLS or HTTP follows.

Of some protocols, which agree on TLS first (STARTTLS, SOCKS), the kernel side tells the beginning though it is neither.
It belongs to the stream that follows, if all of it is there; what does not is counted with what nobody asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from capture.events import BytesMoved, Direction, Protocol
from capture.tls_hello import may_begin_hello, may_begin_record

if TYPE_CHECKING:
    from collections.abc import Sequence

    from capture.tally import Tally

NOT_SHOWN: Final = frozenset({Protocol.UNDECIDED, Protocol.OTHER})
"""Unless all protocols are."""
MAX_BYTES: Final = 16 * 1024 * 1024
"""Of all connections, with what Python takes to keep them."""
PIECE_BYTES: Final = 540
"""What a piece takes beside its payload (measured, each a connection of its own), also one that has none."""
HELLO_START_BYTES: Final = 11
"""How many may_begin_hello() looks at."""


class FirstWords:
    """Pieces by connection, in order of their coming."""

    def __init__(self, tally: Tally, *, all_protocols: bool = False, limit: int = MAX_BYTES) -> None:
        self._tally = tally
        self._all_protocols = all_protocols
        self._limit = limit
        self._pieces: dict[int, list[BytesMoved]] = {}
        self._forgotten: set[int] = set()
        """Connections of which no more are kept: the beginning is gone."""
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._pieces)

    def keep(self, event: BytesMoved) -> Sequence[BytesMoved]:
        """What has found no room: of the connections that came first, and whatever comes of those later."""
        if event.connection in self._forgotten:
            return self._unasked([event])
        self._pieces.setdefault(event.connection, []).append(event)
        self._bytes += _size(event)
        forgotten: list[BytesMoved] = []
        while self._bytes > self._limit:
            oldest = next(iter(self._pieces))
            forgotten += self.take(oldest)
            self._forgotten.add(oldest)
        return self._unasked(forgotten)

    def take(self, connection: int) -> list[BytesMoved]:
        """All of a connection, which are kept no longer."""
        self._forgotten.discard(connection)
        pieces = self._pieces.pop(connection, [])
        self._bytes -= sum(map(_size, pieces))
        return pieces

    def take_last(self, connection: int, protocol: Protocol) -> list[BytesMoved]:
        """The same of one that has ended: what is to be shown. Of TLS without its hello none are known to be whole."""
        pieces = self.take(connection)
        if self._all_protocols and protocol is not Protocol.TLS:
            return pieces
        self._unasked(pieces)
        return []

    def take_before_hello(self, hello: BytesMoved) -> tuple[list[BytesMoved], list[BytesMoved]]:
        """The same, as what came before TLS, if all of it did, and what is the beginning of its first records."""
        pieces = self.take(hello.connection)
        if not pieces:
            return [], []
        begun = _begun(pieces, hello)
        records = set(map(id, begun))
        said = [piece for piece in pieces if id(piece) not in records]
        self._unasked(begun)
        if self._all_protocols or _are_whole(pieces, hello):
            return said, begun
        self._unasked(said)
        return [], begun

    def waits(self, event: BytesMoved) -> bool:
        """Whether to keep a piece: of all protocols only what, with those before it, may be of a record's header."""
        if not self._all_protocols:
            return event.protocol in NOT_SHOWN
        if event.protocol is not Protocol.UNDECIDED:
            return False
        waits = (*self._pieces.get(event.connection, ()), event)
        return may_begin_record(b"".join(one.payload for one in waits if one.direction is event.direction))

    def _unasked(self, pieces: Sequence[BytesMoved]) -> Sequence[BytesMoved]:
        self._tally.never_decided_arrived += sum(len(piece.payload) for piece in pieces)
        return pieces


def _size(piece: BytesMoved) -> int:
    return len(piece.payload) + PIECE_BYTES


def _begun(pieces: list[BytesMoved], hello: BytesMoved) -> list[BytesMoved]:
    """Those that belong to TLS: the beginning of the hello's record, or of the one that it answers.

    A program may read a record's header alone, or byte by byte.
    """
    found: list[BytesMoved] = []
    for direction in Direction:
        own = [piece for piece in pieces if piece.direction is direction]
        is_own = direction is hello.direction
        rest = hello.payload[:HELLO_START_BYTES] if is_own else b""
        continues = is_own and not may_begin_hello(rest)
        for at in range(len(own)):
            begun = b"".join(piece.payload for piece in own[at : at + HELLO_START_BYTES])
            if may_begin_hello(begun + rest) or (continues and may_begin_record(begun)):
                found += own[at:]
                break
    return found


def _are_whole(pieces: list[BytesMoved], hello: BytesMoved) -> bool:
    """Whether nothing is missing from the connection's beginning up to its hello, in either direction."""
    ends = [hello.opposite, hello.opposite]
    ends[hello.direction] = hello.position
    reached = [0, 0]
    for piece in sorted(pieces, key=lambda piece: piece.position):
        if piece.position != reached[piece.direction] or len(piece.payload) != piece.length:
            return False
        reached[piece.direction] += piece.length
    return reached == ends
