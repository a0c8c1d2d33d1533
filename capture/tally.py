"""What user space adds to the kernel's counters: bytes that arrived, and what became of them, for capture.ledger."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from capture.events import ConnectionAnnounced, Direction
    from capture.views import Content, View

# In the ledger, by connection: who loses on more has a problem that this many show.
MAX_LISTED_LOSSES = 1000
# Likewise processes whose TLS was not read: short-lived ones come by the thousand.
MAX_LISTED_PROCESSES = 1000

K = TypeVar("K")


@dataclass(slots=True)
class Loss:
    """A connection that has gaps in the file: bytes by reason."""

    announced: ConnectionAnnounced
    lost: dict[str, int] = field(default_factory=dict)


@dataclass(slots=True)
class Tally:
    """What this side of the ring adds to the kernel's counters, in bytes unless it says otherwise."""

    connections: int = 0  # announced
    without_address: int = 0  # connections of which no other end is known
    streams: int = 0  # shown
    cleartext: int = 0  # arrived
    plaintext: int = 0  # arrived
    cleartext_faults: int = 0
    plaintext_faults: int = 0
    mirrored_cleartext: int = 0  # arrived, and are shown from the other end
    mirrored_plaintext: int = 0
    never_decided_arrived: int = 0  # cleartext of connections that then spoke TLS, or nothing that was wanted
    unknown_association: int = 0
    # The same, as far as MAX_LISTED_PROCESSES: (pid, program or None, library or None) → bytes
    unassociated: dict[tuple[int, str | None, str | None], int] = field(default_factory=dict)
    filtered_plaintext: int = 0  # of connections that the user did not ask for
    gaps: int = 0  # bytes shown as lost
    late_cleartext: int = 0  # arrived after their place was declared a hole, or their connection's end
    late_plaintext: int = 0
    unlisted_addresses: int = 0  # of host names, more than there is room for
    # Connections that lost bytes, as far as MAX_LISTED_LOSSES.
    losses: dict[int, Loss] = field(default_factory=dict)
    # (pid, comm, library or None) → bytes of TLS that no probe could read
    unreadable: dict[tuple[int, str, str | None], int] = field(default_factory=dict)
    # The same of TLS that was read, and whose handshake no probe saw: (pid, comm) → bytes of ciphertext
    begun: dict[tuple[int, str], int] = field(default_factory=dict)
    # (pid, comm) → bytes of TLS that the process passed on, between two others
    relayed: dict[tuple[int, str], int] = field(default_factory=dict)
    # (pid, comm, library, direction) → bytes of TLS of which only the other direction was read
    one_way: dict[tuple[int, str, str | None, Direction], int] = field(default_factory=dict)
    # The same of processes beyond MAX_LISTED_PROCESSES.
    unlisted_unread: int = 0  # connections
    unlisted_ciphertext: int = 0

    def note_unread(self, processes: dict[K, int], process: K, ciphertext: int) -> None:
        """TLS of a process that was not read: add to ``unreadable`` or ``relayed``."""
        if process in processes or len(processes) < MAX_LISTED_PROCESSES:
            processes[process] = processes.get(process, 0) + ciphertext
        else:
            self.unlisted_unread += 1
            self.unlisted_ciphertext += ciphertext

    def note_begun(self, process: tuple[int, str], ciphertext: int) -> None:
        """A connection that was read, but perhaps not from its beginning."""
        if process in self.begun or len(self.begun) < MAX_LISTED_PROCESSES:
            self.begun[process] = self.begun.get(process, 0) + ciphertext

    def note_unassociated(self, process: tuple[int, str | None, str | None], plaintext: int) -> None:
        """Plaintext of a process's session whose connection is not known."""
        self.unknown_association += plaintext
        if process in self.unassociated or len(self.unassociated) < MAX_LISTED_PROCESSES:
            self.unassociated[process] = self.unassociated.get(process, 0) + plaintext

    def note_mirrored(self, content: Content) -> None:
        """What is shown from the other end."""
        if content.tls:
            self.mirrored_plaintext += len(content.data)
        else:
            self.mirrored_cleartext += len(content.data)

    def note_gap(self, view: View, content: Content) -> None:
        """What of a connection is shown as lost."""
        if not content.lost:
            return
        self.gaps += content.lost
        connection = view.announced.connection
        loss = self.losses.get(connection)
        if loss is None:
            if len(self.losses) >= MAX_LISTED_LOSSES:
                return
            loss = self.losses[connection] = Loss(view.announced)
        loss.lost[content.reason] = loss.lost.get(content.reason, 0) + content.lost
