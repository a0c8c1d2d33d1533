"""Of a connection within the machine both ends are announced, and one is shown: which, and when that is known.

The client's is shown if it has content, else the server's. Which event comes first is chance, so where the peer may
be local the first content waits a moment for the other end; the rest streams through.

A program that was started while recording may have said something before its probes were there. If its client's end
lacks that, and the server's has it, the server's is shown. Sans-IO.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from capture.application import HTTP2_PREFACE, Speech, recognise
from capture.endpoints import addresses, may_be_local
from capture.events import Direction
from capture.streams import Side
from capture.views import State

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from capture.endpoints import Address
    from capture.streams import StreamItem
    from capture.tally import Tally
    from capture.views import Content, View

# How long a client's first content waits for the server to be announced, so that the file names both.
PEER_WINDOW_NS = 20_000_000
# How long a server's waits for a client that was not announced (it may not be recorded at all) …
SERVER_WINDOW_NS = 100_000_000
# … and for the content of one that was: what the server reads, the client has written, but may tell later.
CLIENT_WINDOW_NS = 200_000_000
# How long a connection that has ended is remembered for its other end, which may read only after the client's
# socket is gone: what the client sent before its FIN waits for a server that is busy.
LINGER_NS = 2_000_000_000
# Beyond this a view is shown without waiting. A busy machine may let a client return from the call that asked only
# when the server has filled the buffers of both sockets with its answer.
MAX_HELD_BYTES = 8 << 20
# What of two ends is compared: more than HTTP/2's preface, which is all that some clients send first. Of so many
# pieces, for more of them come while it waits, and each asks anew.
COMPARED_BYTES = 64
COMPARED_PIECES = 64
_REQUESTS = frozenset({Speech.HTTP1_REQUEST, Speech.HTTP2_PREFACE})


class TwoEnds:
    """Views that are not shown, or not yet. ``open_view`` gives the beginning of one that is.

    ``mirror`` tells whether a connection's bytes are wanted no more, for its other end is shown.
    """

    def __init__(
        self,
        open_view: Callable[[View], Iterator[StreamItem]],
        mirror: Callable[[int, bool], None],
        tally: Tally,
    ) -> None:
        self._open_view = open_view
        self._mirror = mirror
        self._tally = tally
        self._by_address: dict[Address, View] = {}
        # Ended before their other end was announced, oldest first.
        self._lingering: deque[tuple[int, View]] = deque()
        self._undecided: dict[int, View] = {}  # with held content
        self._now = 0  # the last tick's

    def announced(self, view: View) -> Iterator[StreamItem]:
        """A view more: it may be another's other end."""
        own, mirrored = addresses(view.announced)
        other = self._by_address.get(mirrored)
        if other and other.other is None:
            view.other, other.other = other, view
            if other.held and other.state is State.HOLDING:
                yield from self._choose(other, view)
        self._by_address[own] = view

    def hold(self, view: View, content: Content) -> Iterator[StreamItem]:
        """Content of a view that is neither shown nor hidden."""
        if not view.held:
            # Of a call that has blocked, the content's time is its entry's.
            view.held_since = max(content.time, self._now)
        view.held.append(content)
        view.held_bytes += len(content.data)
        if view.other and view.other.state is State.SHOWN:
            self._hide(view)
        elif view.held_bytes > MAX_HELD_BYTES or not may_be_local(view.announced):
            yield from self.show(view)
        elif view.other:
            yield from self._choose(view, view.other)
        else:
            self._undecided[view.announced.connection] = view

    def show(self, view: View) -> Iterator[StreamItem]:
        """This end it is."""
        self._undecided.pop(view.announced.connection, None)
        self._tally.streams += 1
        for content in view.held:
            self._tally.note_gap(view, content)
        yield from self._open_view(view)
        if view.ended:
            yield from view.close(view.ended)
        if view.other and view.other.state is State.HOLDING:
            self._hide(view.other)

    def show_bare(self, view: View) -> Iterator[StreamItem]:
        """TLS that nothing can be said of but that it was: not readable, or a handshake that came to nothing."""
        other = view.other
        if other and (other.state is not State.HOLDING or other.held or view.side is Side.SERVER):
            return
        if other and other.readable and not view.readable:
            return
        ended, view.ended = view.ended, None
        yield from self.show(view)
        view.ended = ended

    def ended(self, view: View, time: int) -> None:
        """A view's socket is gone."""
        if view.other is None and may_be_local(view.announced):
            self._lingering.append((time, view))
        else:
            self._forget_address(view)
        if view.state is State.HIDDEN:
            self._mirror(view.announced.connection, False)

    def tick(self, now: int) -> Iterator[StreamItem]:
        """Whatever has waited long enough by ``now`` (wall-clock nanoseconds)."""
        if now < self._now:
            self._clock_was_set_back(now)
        self._now = now
        for view in list(self._undecided.values()):
            if view.state is State.HOLDING and now - view.held_since > _patience(view):
                yield from self.show(view)
        while self._lingering and now - self._lingering[0][0] > LINGER_NS:
            self._forget_address(self._lingering.popleft()[1])

    def _clock_was_set_back(self, now: int) -> None:
        """What waits does so from now on."""
        for view in self._undecided.values():
            view.held_since = min(view.held_since, now)
        self._lingering = deque((min(time, now), view) for time, view in self._lingering)

    def finish(self) -> Iterator[StreamItem]:
        """Nothing more will come."""
        for view in list(self._undecided.values()):
            if view.state is State.HOLDING:
                yield from self.show(view)

    def _choose(self, view: View, other: View) -> Iterator[StreamItem]:
        """Of two ends the client's, as soon as it has content, and all that the other has of its beginning."""
        client = next((end for end in (view, other) if end.held and end.decide_side() is Side.CLIENT), None)
        if client is None:
            self._undecided[view.announced.connection] = view
            return
        server = other if client is view else view
        lacks = _lacks_beginning(client, server)
        if lacks is None:
            self._undecided.pop(server.announced.connection, None)
            self._undecided[client.announced.connection] = client
        else:
            yield from self.show(server if lacks else client)

    def _hide(self, view: View) -> None:
        self._undecided.pop(view.announced.connection, None)
        view.state = State.HIDDEN
        for content in view.held:
            self._tally.note_mirrored(content)
        view.held, view.held_bytes = [], 0
        if not view.ended:
            self._mirror(view.announced.connection, True)

    def _forget_address(self, view: View) -> None:
        address, _ = addresses(view.announced)
        if self._by_address.get(address) is view:
            del self._by_address[address]


def _lacks_beginning(client: View, server: View) -> bool | None:
    """Whether the client's end lacks what the server's has; None while the server's is yet to be told of.

    Only where it may, for both have the same bytes if nothing is missing, and either may be told of first.
    """
    if not _may_lack_beginning(client):
        return False
    asked, answered = _beginning(client, Direction.SENT), _beginning(client, Direction.RECEIVED)
    was_asked, has_answered = _beginning(server, Direction.RECEIVED), _beginning(server, Direction.SENT)
    if not was_asked or len(was_asked) < len(asked) or len(has_answered) < len(answered):
        return None
    if asked and was_asked.startswith(asked) and has_answered.startswith(answered):
        return False
    if not _may_lack_beginning(server):
        return True
    if recognise(was_asked) not in _REQUESTS:
        return None if len(was_asked) < len(HTTP2_PREFACE) else False
    return recognise(asked) not in _REQUESTS


def _may_lack_beginning(view: View) -> bool:
    """Whether what is held began in a TLS session whose handshake no probe saw, though its connection is new."""
    first = view.held[0] if view.held else None
    return (
        first is not None
        and first.tls
        and view.announced.opened is not None
        and first.session not in view.handshakes
    )


def _beginning(view: View, direction: Direction) -> bytes:
    """The first bytes of a direction, up to a loss."""
    beginning = b""
    for content in view.held[:COMPARED_PIECES]:
        if content.direction is direction:
            beginning += content.data[:COMPARED_BYTES]
            if content.lost or len(beginning) >= COMPARED_BYTES:
                break
    return beginning[:COMPARED_BYTES]


def _patience(view: View) -> int:
    """How long a view waits for its other end (nanoseconds)."""
    if view.other:
        return CLIENT_WINDOW_NS
    return PEER_WINDOW_NS if view.decide_side() is Side.CLIENT else SERVER_WINDOW_NS
