"""What became of every byte that the kernel reported: the sum must come out even, and what is missing is said.

Two accounts, for ciphertext and plaintext are not the same bytes:

- sockets: reported by system calls = captured + suppressed (TLS records) + filtered + mirrored + lost, by reason;
- TLS libraries: returned by read and write functions = captured + filtered + mirrored + lost, by reason.

Mirrored are bytes between two processes of this machine, at the end that is not shown: captured at the other.

Pure values: the counters come from the kernel side, the tally from capture.connections.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from capture.connections import Tally


@dataclass(frozen=True, slots=True)
class Account:
    """Bytes reported, and what became of them. ``lost`` is by reason."""

    reported: int
    captured: int
    suppressed: int
    filtered: int
    mirrored: int
    lost: Mapping[str, int]

    @property
    def lost_bytes(self) -> int:
        """Over all reasons."""
        return sum(self.lost.values())

    @property
    def residue(self) -> int:
        """Bytes that no line explains; 0 if the ledger is right."""
        explained = self.captured + self.suppressed + self.filtered + self.mirrored + self.lost_bytes
        return self.reported - explained


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A process whose TLS was seen and not read."""

    pid: int
    comm: str
    library: str | None
    ciphertext: int


@dataclass(frozen=True, slots=True)
class Ledger:
    """The whole statement at the end of a recording."""

    sockets: Account
    tls: Account
    connections: int
    streams: int
    gap_bytes: int
    events_lost: int
    table_overflows: int
    unreadable: tuple[Unreadable, ...]
    unlisted_addresses: int = 0

    @property
    def lost_bytes(self) -> int:
        """On both accounts."""
        return self.sockets.lost_bytes + self.tls.lost_bytes

    def as_json(self) -> dict[str, object]:
        """For files and machines."""
        return {
            "sockets": _account_json(self.sockets),
            "tls": _account_json(self.tls),
            "connections": self.connections,
            "streams": self.streams,
            "gap_bytes": self.gap_bytes,
            "events_lost": self.events_lost,
            "table_overflows": self.table_overflows,
            "unlisted_addresses": self.unlisted_addresses,
            "unreadable": [
                {"pid": u.pid, "comm": u.comm, "library": u.library, "ciphertext": u.ciphertext}
                for u in self.unreadable
            ],
        }

    def lines(self) -> list[str]:
        """For people."""
        return [
            f"{_count(self.connections, 'connection')}, {_count(self.streams, 'stream')} written",
            _account_line("sockets", "reported by the kernel", self.sockets),
            _account_line("TLS", "returned by TLS libraries", self.tls),
        ]

    def warnings(self) -> list[str]:
        """Everything that is not as the user would take for granted."""
        found = []
        if self.lost_bytes:
            reasons = sorted(
                {reason for account in (self.sockets, self.tls) for reason, n in account.lost.items() if n}
            )
            remedy = " A larger --ring-size loses less." if "ring-full" in reasons else ""
            found.append(
                f"{_bytes(self.lost_bytes)} were lost ({', '.join(reasons)}); "
                f"{_bytes(self.gap_bytes)} of them are gaps in the file.{remedy}"
            )
        if self.events_lost:
            found.append(f"{self.events_lost} events other than data found no room in the ring.")
        if self.table_overflows:
            found.append(
                f"{self.table_overflows} entries found no room in the kernel's tables: some traffic was not seen."
            )
        if self.unlisted_addresses:
            found.append(
                f"{self.unlisted_addresses} addresses of host names were too many: connections to them have no name."
            )
        for account, name in ((self.sockets, "sockets"), (self.tls, "TLS")):
            if account.residue:
                found.append(f"the account of {name} is off by {account.residue} bytes: please report this.")
        found += [
            f"{u.comm} (pid {u.pid}) used TLS that cannot be read"
            f"{f' ({u.library})' if u.library else ''}: {_bytes(u.ciphertext)} of ciphertext were seen."
            for u in self.unreadable
        ]
        return found


def balance(counters: Mapping[str, int], tally: Tally) -> Ledger:
    """Draw up the ledger from the kernel's counters and what arrived."""
    sockets = Account(
        reported=counters["reported_sent"] + counters["reported_received"],
        captured=tally.cleartext
        - tally.never_decided_arrived
        - tally.mirrored_cleartext
        - tally.late_cleartext,
        suppressed=counters["suppressed"],
        filtered=counters["filtered"] + counters["undecided"] + tally.never_decided_arrived,
        mirrored=counters["mirrored"] + tally.mirrored_cleartext,
        lost=_present(
            {
                "ring-full": counters["lost_ring_full"],
                "fault": tally.cleartext_faults,
                "limit": counters["lost_limit"],
                "not-in-user-space": counters["lost_not_in_user_space"],
                "table-full": counters["lost_table_full"],
                "late": tally.late_cleartext,
            }
        ),
    )
    tls = Account(
        reported=counters["plaintext_reported"],
        captured=tally.plaintext
        - tally.unknown_association
        - tally.filtered_plaintext
        - tally.mirrored_plaintext
        - tally.late_plaintext,
        suppressed=0,
        mirrored=counters["plaintext_mirrored"] + tally.mirrored_plaintext,
        filtered=counters["plaintext_filtered"] + tally.filtered_plaintext,
        lost=_present(
            {
                "ring-full": counters["plaintext_ring_full"],
                "fault": tally.plaintext_faults,
                "limit": counters["plaintext_limit"],
                "unknown-association": tally.unknown_association,
                "late": tally.late_plaintext,
            }
        ),
    )
    return Ledger(
        sockets, tls, tally.connections, tally.streams, tally.gaps, counters["events_ring_full"],
        counters["table_full"],
        tuple(Unreadable(pid, comm, lib, n) for (pid, comm, lib), n in tally.unreadable.items()),
        tally.unlisted_addresses,
    )  # fmt: skip


def _present(reasons: Mapping[str, int]) -> dict[str, int]:
    return {reason: n for reason, n in reasons.items() if n}


def _account_json(account: Account) -> dict[str, object]:
    return {
        "reported": account.reported,
        "captured": account.captured,
        "suppressed": account.suppressed,
        "filtered": account.filtered,
        "mirrored": account.mirrored,
        "lost": dict(account.lost),
        "residue": account.residue,
    }


def _account_line(name: str, reported: str, account: Account) -> str:
    parts = [f"{_bytes(account.captured)} captured"]
    if account.suppressed:
        parts.append(f"{_bytes(account.suppressed)} suppressed as ciphertext")
    if account.filtered:
        parts.append(f"{_bytes(account.filtered)} filtered")
    if account.mirrored:
        parts.append(f"{_bytes(account.mirrored)} shown from the other end")
    parts += [f"{_bytes(n)} lost ({reason})" for reason, n in account.lost.items()] or ["none lost"]
    return f"{name}: {_bytes(account.reported)} {reported} = {' + '.join(parts)}"


def _count(n: int, noun: str) -> str:
    return f"{n:,} {noun}{'' if n == 1 else 's'}"


def _bytes(n: int) -> str:
    return f"{n:,} bytes" if n != 1 else "1 byte"
