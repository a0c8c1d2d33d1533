"""Kernel side → drain → connections → exporter: what handles the events of one recording.

When it is started and stopped is capture.recorder's business, but for the order of the end: the kernel side is
told to stop, what it has reported is drained, then counters and last positions are read, so that they describe
the same moment.
"""

from __future__ import annotations

import contextlib
import os
import threading
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from bpf import abi, unrecorded
from bpf.probes import Probes
from bpf.ring import Ring
from bpf.tables import Choice, Tables
from capture.balance import balance
from capture.connections import Connections
from capture.drain import Drain
from capture.events import ConnectionEnded, Final, ProgramExecuted, Protocol, Reason
from capture.holes import Holes
from capture.late_ends import LateEnds
from capture.ledger import Ledger, Observation
from capture.new_code import NewCode
from capture.older_calls import OlderCalls
from capture.older_connections import wanted_processes
from capture.process_names import ProcessNames
from capture.processes import descendants
from capture.samples import Decoder
from capture.spool import Spool
from capture.switched_stacks import SwitchedStacks
from capture.tls_probes import TlsFiles, TlsProbes
from capture.unreadable_tls import UnreadableTls
from capture.wall_clock import WallClock

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from bpf.program import Kernel
    from bpf.tables import OpenConnection
    from capture.command import Command
    from capture.events import ConnectionAnnounced, Event
    from capture.holes import Note
    from capture.older_connections import OlderConnections
    from capture.outbox import Outbox
    from capture.streams import Side, StreamItem
    from capture.targets import Selection, Targets
    from capture.tls_probes import Look

DEFAULT_RING_BYTES = 32 << 20
# The largest power of two that a map's size, of 32 bits, can be.
MAX_RING_BYTES = 1 << 31
# How often things that wait for time, not for events, are looked at.
TICK_INTERVAL_S = 0.02
# How long an end that found no room in the ring may wait to be told.
SWEEP_INTERVAL_S = 2.0
# How often ends that the kernel does not tell of (AF_UNIX, MPTCP) are looked for, and of how many connections: that
# takes a hundredth of a processor. Where there are more, an end is found later.
LOOK_INTERVAL_S = 0.5
MAX_LOOKS = 500
# At the recording's end, in a twentieth of a second.
MAX_LAST_LOOKS = 10_000
# Where processors are short, a recorder that is as patient as what it records loses: what it takes is little,
# and what it misses never comes back.
NICE = -10


@dataclass(frozen=True, slots=True)
class Plan:
    """What to record, and for how long."""

    targets: Targets
    command: tuple[str, ...] = ()
    duration_s: float | None = None
    ring_bytes: int = DEFAULT_RING_BYTES
    hold: bool = False
    unix: bool = False
    below: bool = True
    stdout_is_taken: bool = False


@dataclass(frozen=True, slots=True)
class Exporter:
    """Where stream items go, to leave by ``outbox``. ``finish`` takes the ledger."""

    outbox: Outbox
    write: Callable[[StreamItem], None]
    flush: Callable[[], None]
    finish: Callable[[Ledger], None]


class Pipeline:
    """Kernel side → drain → connections → exporter, for one compiled kernel side."""

    def __init__(
        self, kernel: Kernel, files: TlsFiles, older: OlderConnections, plan: Plan, exporter: Exporter
    ) -> None:
        header = abi.header()
        self._plan = plan
        self._exporter = exporter
        self._older = older
        self.tables = Tables(kernel)
        self._probes = Probes(kernel)
        self._older_calls = OlderCalls(self.tables, self._probes)
        self._tls = TlsProbes(self._probes, self.tables, self._older_calls)
        self._stacks = SwitchedStacks(self.tables, self._probes)
        self._new_code = NewCode(self.tables, files, self._tls, self._stacks, self._older_calls)
        self._names = ProcessNames()
        self._clock = WallClock()
        self._warnings: list[str] = []
        if kernel.below.lengths and not kernel.reads_pages:
            self._warnings.append(
                "What sendfile and splice send, and some of what io_uring receives, is lost, though counted: to read "
                "pages that no program maps needs CAP_SYS_ADMIN."
            )
        self._decoder = Decoder(header.layouts, header.constants, self._clock.offset)
        self._connections = Connections(
            self._names.describe,
            self._tls.library_name,
            self.tables.mirror,
            all_protocols="all" in plan.targets.protocols,
            holes=Holes(self._holes_noted, self._holes, self._ring_was_full),
            tls_names=UnreadableTls(self._names.program),
            likely_side=self._likely_side,
            probed_since=lambda library: self._tls.probed_since(library) + self._clock.offset,
        )
        self._cgroups = (0, 0)
        self._next_sweep = self._next_look = 0.0
        # The time up to which events were handled: while they queue, the clock on the wall says nothing of them.
        self._now = self._clock.now()
        self._spool = Spool()
        self._counted_below = kernel.below.lengths
        self._kernel = kernel
        self._samples = 0
        self._drain = Drain(Ring(kernel.table("ring").map_fd, plan.ring_bytes), self._spool)
        self._late_ends = LateEnds(self.tables, self._drain)

    def _likely_side(self, event: ConnectionAnnounced) -> Side | None:
        return self._older.side(
            event.netns, event.local_port, event.remote_port, local=event.local == event.remote
        )

    def attach(self, looks: Sequence[Look], command: Command | None) -> None:
        """Put all probes in place."""
        if command:
            self.tables.choose_pid(command.pid, Choice.WANTED)
        targets = self._plan.targets
        self._cgroups = (
            self._choose(targets.wanted, Choice.WANTED),
            self._choose(targets.excluded, Choice.EXCLUDED),
        )
        self._probes.attach_tracepoints()
        self._tls.attach(looks)

    def take_warnings(self) -> Sequence[str]:
        """What the user should know, once."""
        warnings = [*self._warnings]
        for source in (self._tls, self._stacks, self._new_code):
            warnings += source.take_warnings()
        self._warnings = []
        return warnings

    @property
    def can_hold(self) -> bool:
        """Whether there is who lets held processes go on."""
        return self._new_code.lets_go

    def _choose(self, selection: Selection, choice: Choice) -> int:
        tables = self.tables
        for choose, values in (
            (tables.choose_pid, selection.pids),
            (tables.choose_uid, selection.uids),
            (tables.choose_port, selection.ports),
        ):
            for value in values:
                choose(value, choice)
        for comm in selection.comms:
            tables.choose_comm(comm, choice)
        for hosts in selection.hosts:
            tables.choose_hosts(hosts.network_address.packed, hosts.prefixlen, choice)
        return tables.choose_cgroups(selection.cgroups, choice)

    def start(self, *, with_command: bool) -> None:
        """Let the kernel side report."""
        flags = set(self._plan.targets.flags(with_command=with_command))
        self._drain.start()
        self._new_code.start()
        with contextlib.suppress(PermissionError):
            os.setpriority(os.PRIO_PROCESS, 0, NICE)
        self.tables.hold(on=self._plan.hold)
        self.tables.set(os.getpid(), flags, self._cgroups)
        followed = self._follow() if self._plan.targets.follow else set()
        if not with_command:
            # From now on what is entered is seen.
            self._older_calls.look({*wanted_processes(self._plan.targets), *followed})

    def _follow(self) -> set[int]:
        """Choose the children that chosen processes have: the kernel side follows those that are born from now on.

        Returns the children of wanted processes.
        """
        followed: set[int] = set()
        targets = self._plan.targets
        named = {*targets.wanted.pids, *targets.excluded.pids}
        for selection, choice in ((targets.wanted, Choice.WANTED), (targets.excluded, Choice.EXCLUDED)):
            known: set[int] = set()
            while new := descendants(selection.pids) - named - known:
                for pid in new:
                    self.tables.choose_pid(pid, choice)
                known |= new
            if choice is Choice.WANTED:
                followed = known
        return followed

    def step(self, seconds: float) -> bool:
        """Handle the next batch; False if none comes within so many seconds."""
        batch = self._drain.take(seconds)
        if batch is None:
            self._now = self._clock.now()
            return False
        self._samples += len(batch.starts)
        write, handle = self._exporter.write, self._connections.handle
        event: Event | None = None
        for event in self._decoder.decode(batch.buffer, batch.starts):
            for item in handle(event):
                write(item)
            if type(event) is ProgramExecuted:
                self._names.executed(event)
        if event is not None:
            # A call that has blocked tells when it began.
            self._now = max(self._now, event.time)
        return True

    def tick(self, now: float) -> None:
        """What waits for time."""
        if jump := self._clock.adjust():
            self._decoder.clock_offset = self._clock.offset
            self._now += jump
            self._warnings.append(
                f"The wall clock jumped by {jump / 1e9:+,.1f} s; from here on times are by the new one."
            )
        self._write(self._connections.tick(self._now))
        if now >= self._next_sweep:
            self._next_sweep = now + SWEEP_INTERVAL_S
            self._late_ends.look(now)
            self.tables.find_missed_ends(MAX_LOOKS)
            self._tls.distrust(self.tables.distrusted())
            self._older_calls.release_ended()
        self._tell_late_ends()
        if now >= self._next_look:
            self._next_look = now + LOOK_INTERVAL_S
            self.tables.find_ends(MAX_LOOKS)

    def _holes_noted(self) -> int:
        return self.tables.counter("holes_noted")

    def _holes(self) -> Iterator[Note]:
        for flow, position, length, reason in self.tables.holes():
            yield flow, position, length, Reason(reason)

    def _ring_was_full(self) -> bool:
        return any(
            self.tables.counter(name)
            for name in ("lost_ring_full", "plaintext_ring_full", "events_ring_full")
        )

    def _tell_late_ends(self) -> None:
        for c in self._late_ends.take():
            self._write(self._connections.handle(self._missed_end(c, self._clock.now())))
            self.tables.drop_ended(c.key, c.connection)

    def end(self) -> Ledger:
        """Stop reporting, take what was reported, and draw up the ledger."""
        self.tables.find_ends(MAX_LAST_LOOKS)
        self.tables.find_missed_ends(MAX_LAST_LOOKS)
        self.tables.set(0, ())
        self._new_code.stop()
        skipped = self._kernel.skipped_runs() + self._probes.skipped_runs()
        self._tls.distrust(self.tables.distrusted())
        detaching = threading.Thread(target=self._detach_and_drain)
        detaching.start()
        outbox = self._exporter.outbox
        outbox.end()
        while not self._drain.finished:
            if outbox.full:
                outbox.wait(TICK_INTERVAL_S)
            else:
                self.step(TICK_INTERVAL_S)
        finals: dict[int, Final] = {}
        for c in self.tables.connections():
            finals[c.connection] = Final(c.moved, c.session, c.session_moved)
            if c.ended:
                self._write(self._connections.handle(self._missed_end(c, self._clock.now())))
        self._write(self._connections.finish(self._clock.now(), finals))
        counters = self.tables.counters()
        counters["unseen_entries"] += self._older_calls.unseen()
        sent, received = self.tables.unfinished()
        counters["reported_sent"] += sent
        counters["reported_received"] += received
        probes = self._probes.attached
        seen = Observation(self._counted_below, probes, self._samples, skipped)
        ledger = replace(
            balance(counters, self._connections.tally, seen, self._new_code.late),
            idle=self._older.idle(),
            quic=unrecorded.users(self._kernel, "QUIC"),
            unix_http=unrecorded.users(self._kernel, "UNIX"),
        )
        self._exporter.finish(ledger)
        detaching.join()
        return ledger

    def _detach_and_drain(self) -> None:
        """When the probes are gone no program runs any more that had begun before it was told to stop (a grace period
        of RCU): what it reports is in the ring.
        """
        try:
            self._probes.detach()
        finally:
            self._drain.stop()

    def detach(self) -> None:
        """Let go of all probes; nothing is reported from now on."""
        self.tables.set(0, ())
        self._new_code.stop()
        self._probes.detach()
        self._spool.close()

    def _missed_end(self, c: OpenConnection, now: int) -> ConnectionEnded:
        """The end of a connection that found no room in the ring."""
        local_fin, peer_fin, local_reset, peer_reset = (
            time + self._clock.offset if time else None
            for time in (c.local_fin, c.peer_fin, c.local_reset, c.peer_reset)
        )
        return ConnectionEnded(
            c.connection, now, local_fin, peer_fin, local_reset, peer_reset,
            c.moved, c.session, c.session_moved, Protocol.UNDECIDED,
        )  # fmt: skip

    def _write(self, items: Iterable[StreamItem]) -> None:
        for item in items:
            self._exporter.write(item)
