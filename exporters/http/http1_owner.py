"""What a reader of one HTTP/1 direction needs to know of the other: the contract with its owner."""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from capture.streams import Side
    from exporters.http.messages import Lost


class BodyFraming(IntEnum):
    """How a message's body ends, where it is not a length (which is 0 or more)."""

    CHUNKED = -1
    UNTIL_CLOSE = -2
    SWITCHED = -3
    UNKNOWN = -4


class State(IntEnum):
    """What the next byte of a direction is; see http1_reader."""

    HEAD = 0
    LENGTH = 1
    UNTIL_CLOSE = 2
    CHUNK_SIZE = 3
    CHUNK_DATA = 4
    CHUNK_END = 5
    TRAILERS = 6
    RESYNC = 7
    SWITCHED = 8
    SKIP = 9
    DOUBT = 10


class Turn(IntEnum):
    """Whether a message may begin now."""

    GO = 0
    WAIT = 1
    REFUSE = 2


class Owner(Protocol):
    """Who joins the two directions."""

    def turn(self, side: Side, synchronising: bool) -> Turn:
        """May ``side`` begin a message?"""

    def message_began(self, side: Side, head: bytes, times: tuple[int, int], strict: bool) -> int | None:
        """``side`` sent a head; how its body is framed (BodyFraming, or a length), None where it is malformed."""

    def message_ended(self, side: Side, time_ns: int) -> None:
        """The message that began last is complete."""

    def sync_lost(self, side: Side, time_ns: int, lost: Lost | None) -> None:
        """Where ``side``'s messages begin and end is no longer known: bytes are lost, or malformed (None)."""

    def switched_data(self, side: Side, time_ns: int, data: bytes) -> None:
        """``side`` sent ``data`` in another protocol."""

    def switched_gap(self, side: Side, time_ns: int, length: int, reason: str, exact: bool) -> None:
        """``side`` sent ``length`` bytes, or up to so many, in another protocol, which were not captured."""
