"""A body while it comes in: what was captured, what was lost, and the limit on what is kept."""

from __future__ import annotations

from exporters.http.messages import LOST_TO_LIMIT, NO_BODY, Body, Lost


class BodyBuilder:
    """A body while it comes in."""

    __slots__ = ("_limit", "_lost", "complete", "data", "marks", "size", "wire_bytes")

    def __init__(self, limit: int, marked: bool = False) -> None:
        self.data: bytes | bytearray = b""
        self.wire_bytes = 0
        self.size = 0  # of what was sent so far, the framing not counted
        self.complete = False
        self.marks: list[tuple[int, int]] | None = [] if marked else None
        self._limit = limit
        self._lost: list[Lost] = []

    def add(self, piece: bytes | bytearray, time_ns: int) -> None:
        """``piece`` is the next part of the body."""
        self.wire_bytes += len(piece)
        self.size += len(piece)
        beyond = len(self.data) + len(piece) - self._limit
        if beyond > 0:
            piece = piece[:-beyond]
        if piece and self.marks is not None and (not self.marks or self.marks[-1][1] != time_ns):
            self.marks.append((len(self.data), time_ns))
        if not self.data:
            self.data = bytes(piece)
        else:
            if isinstance(self.data, bytes):
                self.data = bytearray(self.data)
            self.data += piece
        if beyond > 0:
            self._lose(beyond, LOST_TO_LIMIT)

    def lose(self, length: int, reason: str) -> None:
        """The next ``length`` bytes of the body were not captured."""
        self.wire_bytes += length
        self.size += length
        self._lose(length, reason)

    def note_loss(self, lost: Lost) -> None:
        """It has turned out that ``lost`` is missing at a place that has been passed."""
        self.wire_bytes += lost.length
        self.size += lost.length
        self._lost = sorted([*self._lost, lost], key=lambda hole: hole.offset)

    def _lose(self, length: int, reason: str) -> None:
        offset = len(self.data)
        if self._lost and self._lost[-1].offset == offset and self._lost[-1].reason == reason:
            length += self._lost.pop().length
        self._lost.append(Lost(offset, length, reason))

    def build(self, transfer_codings: tuple[bytes, ...] = ()) -> Body:
        """The body as it is now."""
        if not self.wire_bytes and self.complete:
            return NO_BODY
        marks = tuple(self.marks or ())
        return Body(self.data, self.wire_bytes, tuple(self._lost), self.complete, transfer_codings, marks)
