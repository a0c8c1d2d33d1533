"""Pieces of a few bytes, joined to what a sniffer would have seen of them: one packet.

A program that reads byte by byte makes a Data item of each byte, for a call is what is recorded; on the wire they came
together. A packet of its own for each takes 130 times the room, Wireshark puts such a message together in quadratic
time, and it calls a chunked body malformed whose last CR and LF come apart.

So do the blocks of one call (writev, sendmsg), which have the same time: of a request whose first line comes in two
packets Wireshark shows nothing, unless its port is one of HTTP's. So does a message of which a program reads the first
bytes alone, as one that asks which protocol a client speaks. Empty lines do not begin a message: SIP's are
keep-alives, and Wireshark shows nothing of what is behind them in a packet.

What follows within ``JOIN_NS`` is joined, and has the time of its first byte: pieces of a few bytes, and behind them
one that is larger. Of a stream, nothing passes what waits; another stream's items do, by as much as that at most. Items
in, items out: this module reads no clock.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from capture.streams import Data, Side, StreamItem
from exporters.http_starts import REQUEST_STARTS

if TYPE_CHECKING:
    from collections.abc import Callable

SMALL_BYTES: Final = 16
"""The largest piece that waits: above what is read of a length, a type or a byte of a line; below a message."""
LINE_BYTES: Final = 1024
"""The largest piece without the end of a line that waits for more of its call."""
JOIN_NS: Final = 1_000_000
"""How long the first waits for more: a hundred calls of a program that is recorded, and nothing that a person sees."""
MAX_BYTES: Final = 4096
"""So much waits at most: 4,096 of one byte are one call in four thousand, and less than a record."""

_LINE_ENDS: Final = (b"\r", b"\n")


@dataclass(slots=True)
class _Waiting:
    sender: Side
    time_ns: int
    until_ns: int
    data: bytearray


class SmallPieces:
    """Hands items on to ``write``, small ones of one sender as one."""

    __slots__ = ("_waiting", "_write")

    def __init__(self, write: Callable[[StreamItem], None]) -> None:
        self._write = write
        self._waiting: dict[int, _Waiting] = {}
        """By stream; those that have waited longest come first."""

    def write(self, item: StreamItem) -> None:
        """Takes an item. Data may hold a memoryview, which is not kept."""
        if type(item) is Data and not item.as_of_call:
            size = len(item.data)
            small = size <= SMALL_BYTES
            if (
                small
                or (size <= LINE_BYTES and b"\n" not in bytes(item.data))
                or (self._waiting and (self._is_of_its_call(item) or self._is_waited_for(item)))
            ):
                self._let_go_of_old(item.time_ns)
                self._join(item, small)
                return
        if self._waiting:
            self._let_go_of_old(item.time_ns)
            self._let_go(item.stream)
        self._write(item)

    def flush(self) -> None:
        """Hands on what waits."""
        for stream in tuple(self._waiting):
            self._let_go(stream)

    def _is_of_its_call(self, item: Data) -> bool:
        """What waits of the stream is a block of the same call, and they are a packet together."""
        waiting = self._waiting.get(item.stream)
        return (
            waiting is not None
            and waiting.time_ns == item.time_ns
            and waiting.sender is item.sender
            and len(waiting.data) + len(item.data) <= MAX_BYTES
        )

    def _is_waited_for(self, item: Data) -> bool:
        """What waits of the stream is less than a message, and the item came soon enough."""
        waiting = self._waiting.get(item.stream)
        return (
            waiting is not None
            and waiting.sender is item.sender
            and len(waiting.data) < MAX_BYTES
            and item.time_ns <= waiting.until_ns
            and not (_is_empty_lines(waiting.data) and item.data[:1] not in _LINE_ENDS)
        )

    def _join(self, item: Data, small: bool) -> None:
        waiting = self._waiting.get(item.stream)
        if waiting is not None and not (self._is_of_its_call(item) or self._is_waited_for(item)):
            self._let_go(item.stream)
            waiting = None
        if waiting is None:
            data = bytearray(item.data)
            waits = small or data.startswith(REQUEST_STARTS)
            until_ns = item.time_ns + JOIN_NS if waits else item.time_ns
            self._waiting[item.stream] = _Waiting(item.sender, item.time_ns, until_ns, data)
        else:
            waiting.data += item.data
            if not small:
                # A message, or the rest of one: what follows is the next, but for that of the same call.
                waiting.until_ns = waiting.time_ns

    def _let_go_of_old(self, now_ns: int) -> None:
        for stream, waiting in tuple(self._waiting.items()):
            if waiting.until_ns >= now_ns:
                return
            if waiting.data.endswith(b"\r") and len(waiting.data) < MAX_BYTES:
                # Its LF is what Wireshark must not be shown apart.
                waiting.until_ns = now_ns + JOIN_NS
                self._waiting[stream] = self._waiting.pop(stream)
            else:
                self._let_go(stream)

    def _let_go(self, stream: int) -> None:
        waiting = self._waiting.pop(stream, None)
        if waiting is not None:
            self._write(Data(stream, waiting.time_ns, waiting.sender, bytes(waiting.data)))


def _is_empty_lines(data: bytearray) -> bool:
    """SIP's keep-alive, or what separates messages: in one packet with it Wireshark does not see the next one."""
    return data.endswith(b"\n") and not data.strip(b"\r\n")
