"""One TCP connection as its segments show it: two halves, and what is to be thought of a segment on its ports.

Reads nothing and hands out nothing: that is for ``exporters.tcp_reassembly``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from capture.streams import Side
from exporters.dissection import reverse_path
from exporters.segments import ACK, SYN
from exporters.tcp_halves import MAX_UNANSWERED_BYTES, Half, distance

if TYPE_CHECKING:
    from exporters.dissection import Segment
    from exporters.tcp_halves import Backlog
    from exporters.tcp_reassembly import ByteSink


class Connection:
    """Two halves, the sink of their bytes once there is something to tell, and what is deferred."""

    __slots__ = ("client", "deferred", "first", "last_ns", "over", "server", "sink")

    def __init__(self, client_path: bytes, first: Segment, backlog: Backlog) -> None:
        self.client = Half(client_path, Side.CLIENT, backlog)
        self.server = Half(reverse_path(client_path), Side.SERVER, backlog)
        self.first = first
        self.sink: ByteSink | None = None
        self.deferred: list[Segment] = []
        """Segments of one half that acknowledge what the other lacks."""
        self.last_ns = first.time_ns
        self.over = False

    def halves(self, path: bytes) -> tuple[Half, Half]:
        """The half of this path, and the other one."""
        if path == self.client.path:
            return self.client, self.server
        return self.server, self.client

    def ready(self, segment: Segment) -> bool:
        """Whether all that a segment acknowledges has come."""
        _, other = self.halves(segment.path)
        return not (segment.flags & ACK and other.missing_until(segment.acknowledgement))

    @property
    def syn_seen(self) -> bool:
        return self.first.flags & (SYN | ACK) == SYN

    def is_answered_anew(self, segment: Segment) -> bool:
        """Whether a SYN-ACK is that of the next connection on the same ports, whose SYN was not captured."""
        initial = self.halves(segment.path)[0].initial
        # A socket that is connected to itself answers on the very path that it asks on.
        if initial is None or not segment.flags & SYN or self.client.path == self.server.path:
            return False
        return abs(distance(initial, segment.sequence)) > MAX_UNANSWERED_BYTES

    def is_stale(self, half: Half, segment: Segment) -> bool:
        """Whether a segment comes from a server that still knows the connection before, on the same ports.

        Then it does not acknowledge the SYN, and the client discards it (RFC 9293 §3.10.7.3, RFC 5961 §4).
        """
        if half is not self.server or half.next is not None or segment.flags & (SYN | ACK) != ACK:
            return False
        return self.syn_seen and not self.client.may_begin_with(segment.acknowledgement)
