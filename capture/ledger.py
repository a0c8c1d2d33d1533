"""What became of every byte that the kernel reported: the sum must come out even, and what is missing is said.

Two accounts, for ciphertext and plaintext are not the same bytes:

- sockets: reported by system calls = captured + suppressed (TLS records) + filtered + mirrored + lost, by reason;
- TLS libraries: returned by read and write functions = captured + filtered + mirrored + lost, by reason.

Mirrored are bytes between two processes of this machine, at the end that is not shown: captured at the other.

Pure values: the counters come from the kernel side, the tally from user space (capture.balance puts them together).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from ipaddress import ip_address
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from capture.streams import Side

# Connections of which nothing is to be seen: as many as people look through. Their number is given anyway.
MAX_IDLE_LISTED = 1000
# Processes whose TLS was not read, each in a line of its own on a terminal; the file lists more.
MAX_SAID_PROCESSES = 20


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
    """A process whose TLS was seen and not read.

    ``late``: it has a library that can be, whose probes came when the process had begun. ``relayed``: it passed on,
    between two others, what it has no keys for, as a proxy that tunnels does. ``direction``: only what it sent, or
    received, was not read. ``begun``: it was read, but perhaps not from its beginning.
    """

    pid: int
    comm: str
    library: str | None
    ciphertext: int
    late: bool = False
    begun: bool = False
    relayed: bool = False
    direction: str | None = None

    def said(self) -> str:
        """For people."""
        seen = f"{_bytes(self.ciphertext)} of ciphertext were seen."
        who = f"{self.comm} (pid {self.pid})"
        if self.relayed:
            return f"{who} relayed TLS of others, which only their own processes show: {seen}"
        if self.direction:
            return f"What {who} {self.direction} by {self.library} was not read, but the other direction was: {seen}"
        if self.late:
            lack = ", and its first bytes may be missing" if self.begun else ""
            return f"{who} used TLS before its probes were in place{lack}: {seen} With --hold programs wait for them."
        return f"{who} used TLS that cannot be read{f' ({self.library})' if self.library else ''}: {seen}"


@dataclass(frozen=True, slots=True)
class Unassociated:
    """A process's TLS whose connection is not known: bytes of plaintext that are on no stream."""

    pid: int
    program: str | None
    library: str | None
    bytes: int

    def said(self) -> str:
        """For people."""
        process = f"pid {self.pid}{f', {self.library}' if self.library else ''}"
        name = f"{self.program.rpartition('/')[2]} ({process})" if self.program else process
        return f"{name}: {_bytes(self.bytes)}"


@dataclass(frozen=True, slots=True)
class Observation:
    """How the recording saw what it accounts for.

    ``counted_below``: the bytes that the kernel reported were counted by its socket layer, whoever moved them,
    not at the exits of the calls that were captured. ``probes`` are places in libraries, ``probe_hits`` calls of
    theirs, ``samples`` records that came out of the ring, ``skipped_runs`` those of programs that were running
    already, which the kernel leaves out, ``unseen_returns`` calls of libraries on switched stacks whose return had no
    probe yet, ``unseen_entries`` calls of theirs that threads were in when the recording began, whose bytes are missing
    and in no account.
    """

    counted_below: bool = True
    probes: int = 0
    samples: int = 0
    skipped_runs: int = 0
    probe_hits: int = 0
    unseen_returns: int = 0
    unseen_entries: int = 0


@dataclass(frozen=True, slots=True)
class TcpTotals:
    """TCP's own sequence numbers, at the end of connections whose beginning was seen, against what calls moved.

    ``unseen`` bytes were moved by calls that were not seen, or by a process that was not recorded; ``excess``
    bytes were seen and not moved: that is a fault of ours.
    """

    connections: int
    unseen_sent: int
    unseen_received: int
    excess: int


@dataclass(frozen=True, slots=True)
class ConnectionLoss:
    """A connection with gaps: bytes by reason."""

    pid: int
    comm: str
    local: str
    remote: str
    lost: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class IdleConnection:
    """A connection that was open before and after the recording, and of which no byte moved in between.

    ``local`` and ``remote`` are addresses with ports; ``side`` is None where neither end is known to be the server.
    """

    pid: int
    comm: str
    fd: int
    local: tuple[bytes, int]
    remote: tuple[bytes, int]
    side: Side | None


@dataclass(frozen=True, slots=True)
class Ledger:
    """The whole statement at the end of a recording. ``as_of_call``: captured bytes that were sent by reference."""

    sockets: Account
    tls: Account
    connections: int
    streams: int
    gap_bytes: int
    events_lost: int
    table_overflows: int
    unreadable: tuple[Unreadable, ...]
    unlisted_addresses: int = 0
    without_address: int = 0
    as_of_call: int = 0
    seen: Observation = Observation()
    tcp: TcpTotals = TcpTotals(0, 0, 0, 0)
    losses: tuple[ConnectionLoss, ...] = ()
    idle: tuple[IdleConnection, ...] = ()
    orphan_bytes: int = 0
    # Of those that were filtered: bytes of neither HTTP nor TLS.
    unrecognised: int = 0
    # Of processes that are not in ``unreadable``: connections, and bytes.
    unlisted_unread: int = 0
    unlisted_ciphertext: int = 0
    unassociated: tuple[Unassociated, ...] = ()
    # Processes by pid and name that used what is not recorded: QUIC, and HTTP on Unix sockets (of chosen processes).
    quic: tuple[tuple[int, str], ...] = ()
    unix_http: tuple[tuple[int, str], ...] = ()

    @property
    def lost_bytes(self) -> int:
        """On both accounts."""
        return self.sockets.lost_bytes + self.tls.lost_bytes

    def as_json(self) -> dict[str, object]:
        """For files and machines."""
        return {
            "sockets": _account_json(self.sockets),
            "tls": _account_json(self.tls),
            "counted_by": "socket-layer" if self.seen.counted_below else "system-calls",
            "tcp_totals": asdict(self.tcp),
            "as_of_call": self.as_of_call,
            "probes": self.seen.probes,
            "probe_hits": self.seen.probe_hits,
            "samples": self.seen.samples,
            "skipped_runs": self.seen.skipped_runs,
            "unseen_returns": self.seen.unseen_returns,
            "unseen_entries": self.seen.unseen_entries,
            "connections": self.connections,
            "connections_without_address": self.without_address,
            "streams": self.streams,
            "gap_bytes": self.gap_bytes,
            "orphan_bytes": self.orphan_bytes,
            "unrecognised": self.unrecognised,
            "events_lost": self.events_lost,
            "table_overflows": self.table_overflows,
            "unlisted_addresses": self.unlisted_addresses,
            "unreadable": [asdict(unreadable) for unreadable in self.unreadable],
            "unlisted_unread": self.unlisted_unread,
            "unlisted_ciphertext": self.unlisted_ciphertext,
            "unassociated": [asdict(unassociated) for unassociated in self.unassociated],
            "quic": [{"pid": pid, "comm": comm} for pid, comm in self.quic],
            "unix_http": [{"pid": pid, "comm": comm} for pid, comm in self.unix_http],
            "losses": [asdict(loss) for loss in self.losses],
            "warnings": self.warnings(),
            "idle": len(self.idle),
            "idle_connections": [_idle_json(connection) for connection in self.idle[:MAX_IDLE_LISTED]],
        }

    def lines(self) -> list[str]:
        """For people."""
        idle = f"; {len(self.idle):,} more were open and moved nothing" if self.idle else ""
        lines = [
            f"{_count(self.connections, 'connection')}, {_count(self.streams, 'stream')} written{idle}",
            _account_line("sockets", self._reported_by, self.sockets),
            _account_line("TLS", "returned by TLS libraries", self.tls, unseen=self.seen.unseen_entries > 0),
        ]
        if self.unrecognised and not self.streams:
            said = f"{_bytes(self.unrecognised)} were of neither HTTP nor TLS"
            lines.append(f"Note: {said}. --protocol all records any protocol over TCP.")
        return lines

    @property
    def _reported_by(self) -> str:
        return "reported by the kernel" if self.seen.counted_below else "returned by system calls"

    def _losses(self) -> Iterator[str]:
        """Bytes that are not in the file."""
        if self.lost_bytes:
            reasons = sorted(
                {reason for account in (self.sockets, self.tls) for reason, n in account.lost.items() if n}
            )
            remedy = " A larger --ring-size loses less." if "ring-full" in reasons else ""
            yield (
                f"{_bytes(self.lost_bytes)} were lost ({', '.join(reasons)}); "
                f"{_bytes(self.gap_bytes)} of them are gaps in the file.{remedy}"
            )
        if self.unassociated:
            most = sorted(self.unassociated, key=lambda unassociated: -unassociated.bytes)
            said = [unassociated.said() for unassociated in most]
            yield f"TLS of no known connection: {'; '.join(_listed(said, 'more processes'))}."
        if self.orphan_bytes:
            yield (
                f"{_bytes(self.orphan_bytes)} came after the end of their connection had been written: "
                "they are not in the file."
            )

    def _unseen_calls(self) -> Iterator[str]:
        """Calls of TLS libraries that were not seen from begin to end: how much they moved, nobody knows."""
        if self.seen.unseen_returns:
            yield (
                f"{self.seen.unseen_returns} calls of TLS functions from coroutines were not seen to return: what they "
                "read or wrote is missing. With --hold programs wait for the probes."
            )
        if n := self.seen.unseen_entries:
            yield (
                f"{_count(n, 'call')} of TLS libraries had begun before the recording, and could not be understood: "
                "what they read or wrote is missing."
            )

    def warnings(self) -> list[str]:
        """Everything that is not as the user would take for granted."""
        found = list(self._losses())
        if self.events_lost:
            found.append(f"{self.events_lost} events other than data found no room in the ring.")
        if self.seen.skipped_runs:
            found.append(
                f"the kernel skipped {self.seen.skipped_runs} runs of programs: some traffic was not seen."
            )
        found += self._unseen_calls()
        if unseen := self.tcp.unseen_sent + self.tcp.unseen_received:
            found.append(
                f"TCP moved {_bytes(unseen)} that no call was seen to move: they are missing in the file, "
                "unless they were urgent."
            )
        if self.tcp.excess:
            found.append(f"{_bytes(self.tcp.excess)} were seen that TCP did not move: please report this.")
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
        return [*found, *self._unread(), *self._unrecorded()]

    def _unrecorded(self) -> Iterator[str]:
        """What is in no stream that is recorded."""
        if self.quic:
            yield (
                f"QUIC (HTTP/3) was used by {_processes(self.quic)}, and is not recorded. Where UDP port 443 is "
                "blocked, programs use TLS over TCP, which is."
            )
        if self.unix_http:
            yield f"HTTP on Unix sockets was spoken by {_processes(self.unix_http)}: --unix records it."

    def _unread(self) -> list[str]:
        """Whose TLS was not read: those with the most of it, and how much there is of others."""
        most = list(self.unreadable)
        if len(most) > MAX_SAID_PROCESSES:
            most.sort(key=lambda unreadable: -unreadable.ciphertext)
        lines = [unreadable.said() for unreadable in most[:MAX_SAID_PROCESSES]]
        rest = most[MAX_SAID_PROCESSES:]
        ciphertext = sum(unreadable.ciphertext for unreadable in rest) + self.unlisted_ciphertext
        if rest or self.unlisted_unread:
            more = f"{len(rest):,} more processes" if rest else "more processes"
            if rest and self.unlisted_unread:
                more = f"more than {more}"
            lines.append(f"{more} used TLS that was not read: {_bytes(ciphertext)} of ciphertext were seen.")
        return lines


def _processes(found: Sequence[tuple[int, str]]) -> str:
    return ", ".join(_listed([f"{comm} (pid {pid})" for pid, comm in found], "more"))


def _listed(found: Sequence[str], more: str) -> list[str]:
    """As many as are said, and how many there are more."""
    rest = len(found) - MAX_SAID_PROCESSES
    return [*found[:MAX_SAID_PROCESSES], *([f"{rest:,} {more}"] if rest > 0 else [])]


def _idle_json(connection: IdleConnection) -> dict[str, object]:
    return {
        "pid": connection.pid,
        "comm": connection.comm,
        "fd": connection.fd,
        "local": end_text(*connection.local),
        "remote": end_text(*connection.remote),
        "side": None if connection.side is None else connection.side.name.lower(),
    }


def end_text(address: bytes, port: int) -> str:
    """``address:port``, with brackets around an IPv6 address (RFC 3986 §3.2.2)."""
    text = str(ip_address(address))
    return f"[{text}]:{port}" if ":" in text else f"{text}:{port}"


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


def _account_line(name: str, reported: str, account: Account, *, unseen: bool = False) -> str:
    """``unseen``: there were more, of which nothing was reported."""
    parts = [f"{_bytes(account.captured)} captured"]
    if account.suppressed:
        parts.append(f"{_bytes(account.suppressed)} suppressed as ciphertext")
    if account.filtered:
        parts.append(f"{_bytes(account.filtered)} filtered")
    if account.mirrored:
        parts.append(f"{_bytes(account.mirrored)} shown from the other end")
    parts += [f"{_bytes(n)} lost ({reason})" for reason, n in account.lost.items()] or [
        "none of them lost" if unseen else "none lost"
    ]
    return f"{name}: {_bytes(account.reported)} {reported} = {' + '.join(parts)}"


def _count(n: int, noun: str) -> str:
    return f"{n:,} {noun}{'' if n == 1 else 's'}"


def _bytes(n: int) -> str:
    return f"{n:,} bytes" if n != 1 else "1 byte"
