"""TLS connections of which no plaintext was seen, or none of one direction, or perhaps not the first of it: whose they
are, and what is said of them.

Not of what a process only passes on between two others, nor of what its other end, on the same machine, was read at.
Sans-IO.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from capture.events import Direction
from capture.relays import Relays
from capture.streams import Side
from capture.views import State

if TYPE_CHECKING:
    from capture.events import BytesMoved
    from capture.tally import Tally
    from capture.views import View

# How long a TLS connection may be without word of a probe, before its process is asked what it has instead.
PROBE_WINDOW_NS = 10_000_000

# What a client's side of a handshake ends with: key exchange, Finished and their records (RFC 8446 §4.4.4, RFC 5246
# §7.4.7), without certificates. A process may end before its library says that it is done.
MAX_FINISH_BYTES = 160
# More than the handshakes of one end take (certificates of 2 KB, in chains of a few; tickets, key updates), and than
# records of one byte that are padded to a cipher's blocks: what is above both had content.
MAX_HANDSHAKES_BYTES = 1 << 14
MAX_RECORD_EXPANSION = 100
# What a program may have received and not decrypted when it gives a response up after its head: asyncio goes on until a
# BIO in memory holds 256 KiB, with 256 KiB at a time; curl and Node have 64 KiB.
MAX_READ_AHEAD_BYTES = 1 << 19


class TlsNames(Protocol):
    """Tells whose TLS a process has that no probe reads."""

    def see(self, pid: int) -> None:
        """A process talks TLS; it may be asked about when it has ended."""

    def name(self, pid: int) -> str | None:
        """Whose TLS it has, None if that is not known."""


class NoTlsNames:
    """Knows none."""

    def see(self, pid: int) -> None:
        """Nothing."""

    def name(self, pid: int) -> str | None:
        """None."""
        return None


class UnreadConnections:
    """All of a recording. ``names`` is asked whose TLS they are."""

    def __init__(self, names: TlsNames, tally: Tally) -> None:
        self._names = names
        self._tally = tally
        self._relays = Relays()
        self._unexplained: dict[int, View] = {}  # no probe has told of it yet
        self.readable_pids: set[int] = set()  # whose TLS is read; there are only so many pids

    def began(self, view: View) -> None:
        """A hello was seen."""
        self._relays.note(view)
        if not view.readable:
            self._unexplained[view.announced.connection] = view
            if view.announced.pid not in self.readable_pids:
                self._names.see(view.announced.pid)

    def carried(self, view: View, event: BytesMoved) -> None:
        """A piece of a connection's plaintext begins with HELLO_START."""
        self._relays.carried(view, event)

    def ended(self, view: View, moved: tuple[int, int]) -> None:
        """A TLS connection is over, at these positions: count it if it was not read."""
        self._relays.forget(view)
        most = MAX_FINISH_BYTES if view.announced.pid in self.readable_pids else 0
        if view.tls.came_to_nothing(moved, most) and not view.readable:
            self._unexplained.pop(view.announced.connection, None)
        elif not view.readable:
            self._note(view, sum(moved))
        elif view.state is not State.HIDDEN:
            self._note_one_way(view, moved)
            a = view.announced
            if a.opened is not None and not view.handshakes:
                self._tally.note_begun((a.pid, a.comm), sum(moved))

    def tick(self, now: int) -> None:
        """Ask while the processes are still there."""
        for view in list(self._unexplained.values()):
            if now - view.announced.time > PROBE_WINDOW_NS:
                self._explain(view)

    def _note(self, view: View, ciphertext: int) -> None:
        other = view.other
        if other and (other.readable or (view.side is Side.SERVER and not other.ended)):
            return
        a = view.announced
        if view.relayed:
            self._tally.note_unread(self._tally.relayed, (a.pid, a.comm), ciphertext)
            self._unexplained.pop(a.connection, None)
            return
        self._explain(view)
        self._tally.note_unread(self._tally.unreadable, (a.pid, a.comm, view.tls.library), ciphertext)

    def _note_one_way(self, view: View, moved: tuple[int, int]) -> None:
        """Count a direction whose records no probe explains: its library has a way that is not known here."""
        a = view.announced
        for direction in Direction:
            ciphertext = moved[direction] - view.flows[0][direction].position
            plaintext = sum(flows[direction].position for session, flows in view.flows.items() if session)
            ahead = MAX_READ_AHEAD_BYTES if plaintext and direction is Direction.RECEIVED else 0
            if ciphertext > MAX_HANDSHAKES_BYTES + MAX_RECORD_EXPANSION * plaintext + ahead:
                process = (a.pid, a.comm, view.tls.library, direction)
                self._tally.note_unread(self._tally.one_way, process, ciphertext)

    def _explain(self, view: View) -> None:
        self._unexplained.pop(view.announced.connection, None)
        if view.tls.library is None and not view.readable:
            view.tls.library = self._names.name(view.announced.pid)
