"""Wires a recording together: kernel side → drain → connections → packets → file.

Two threads: one empties the ring (capture.drain), this one does everything else. The order of starting and
stopping is what makes the promises: probes are in place before ``Recording`` is printed and before a command
runs; at the end the kernel side is told to stop, what it has reported is drained, then counters and last
positions are read, so that they describe the same moment.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from bpf import abi
from bpf.probes import Probes
from bpf.program import Kernel
from bpf.ring import Ring
from bpf.tables import Tables
from capture.command import Command
from capture.connections import Connections, Final
from capture.drain import Drain
from capture.errors import PlaintapError
from capture.events import ConnectionEnded, Decoder, ProgramExecuted, Protocol
from capture.ledger import Ledger, balance
from capture.process_names import ProcessNames
from capture.tls_probes import TlsProbes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from types import FrameType

    from capture.streams import StreamItem
    from capture.targets import Targets

DEFAULT_RING_BYTES = 32 << 20
# The file on disk is at most this much behind.
FLUSH_INTERVAL_S = 0.5
# How often things that wait for time, not for events, are looked at.
TICK_INTERVAL_S = 0.02
# After an exec, when the libraries that it maps are looked for: the loader takes a moment.
_LIBRARY_LOOKS_S = (0.0, 0.02, 0.1, 0.5, 2.0)
# Where processors are short, a recorder that is as patient as what it records loses: what it takes is little,
# and what it misses never comes back.
NICE = -10
# How long calls in flight may still report after the kernel side was told to stop.
_SETTLE_S = 0.005


@dataclass(frozen=True, slots=True)
class Plan:
    """What to record, and for how long."""

    targets: Targets
    command: tuple[str, ...] = ()
    duration_s: float | None = None
    ring_bytes: int = DEFAULT_RING_BYTES
    all_protocols: bool = False


@dataclass(frozen=True, slots=True)
class Exporter:
    """Where stream items go. ``finish`` takes the ledger."""

    write: Callable[[StreamItem], None]
    flush: Callable[[], None]
    finish: Callable[[Ledger], None]


@dataclass(slots=True)
class _Looks:
    """Times at which processes are looked at again for libraries."""

    due: list[tuple[float, int]] = field(default_factory=list)

    def schedule(self, pid: int, now: float) -> None:
        self.due += [(now + delay, pid) for delay in _LIBRARY_LOOKS_S]

    def take(self, now: float) -> set[int]:
        ready = {pid for at, pid in self.due if at <= now}
        if ready:
            self.due = [look for look in self.due if look[0] > now]
        return ready


class WriteError(PlaintapError):
    """The output takes no more."""


class Recorder:
    """One recording."""

    def __init__(self, plan: Plan, exporter: Exporter, say: Callable[[str], None]) -> None:
        self._plan = plan
        self._exporter = exporter
        self._say = say
        self._stop = threading.Event()
        self._looks = _Looks()
        self._names = ProcessNames()
        self.exit_code = 0

    def run(self) -> Ledger:
        """Record until a signal, the duration's or the command's end. Raises PlaintapError."""
        # Forked first: no threads yet, and none of our descriptors.
        command = Command(self._plan.command) if self._plan.command else None
        try:
            kernel = Kernel(self._plan.ring_bytes)
        except BaseException:
            if command:
                command.abandon()
            raise
        probes = Probes(kernel)
        try:
            return self._record(kernel, probes, command)
        except BaseException:
            if command and command.exit_code is None:
                command.abandon()
            raise
        finally:
            probes.detach()
            kernel.close()

    def _record(self, kernel: Kernel, probes: Probes, command: Command | None) -> Ledger:
        tables, tls = Tables(kernel), TlsProbes(probes)
        self._want(tables, command)
        probes.attach_tracepoints()
        tls.attach_all()
        for warning in tls.warnings:
            self._say(f"Warning: {warning}")
        header = abi.header()
        offset = time.time_ns() - time.monotonic_ns()
        decoder = Decoder(header.layouts, header.constants, offset)
        connections = Connections(
            self._names.describe, tls.library_name, tables.mirror, all_protocols=self._plan.all_protocols
        )
        ring = Ring(kernel.table("ring").map_fd, self._plan.ring_bytes)
        drain = Drain(ring)
        flags = set(self._plan.targets.flags(with_command=bool(command)))
        if self._plan.all_protocols:
            flags.add("KEEP_ALL_PROTOCOLS")
        drain.start()
        with contextlib.suppress(PermissionError):
            os.setpriority(os.PRIO_PROCESS, 0, NICE)
        tables.set(os.getpid(), flags)
        with _Signals(self._stop, command):
            self._say("Recording. Press Ctrl-C to stop." if not command else "Recording.")
            if command:
                command.run()
            try:
                self._loop(drain, decoder, connections, tls, command)
            except OSError as error:
                self._wait_for(command)
                raise WriteError(
                    f"Writing the capture failed ({error.strerror}): it ends where it was written last. "
                    "Make room, or name another file with -w."
                ) from None
            return self._end(probes, tables, drain, decoder, connections, offset)

    def _wait_for(self, command: Command | None) -> None:
        """A recording that fails must not take its command with it."""
        while command and not command.poll():
            time.sleep(TICK_INTERVAL_S)

    def _want(self, tables: Tables, command: Command | None) -> None:
        targets = self._plan.targets
        for pid in (*targets.pids, *([command.pid] if command else [])):
            tables.want_pid(pid)
        for comm in targets.comms:
            tables.want_comm(comm)
        for uid in targets.uids:
            tables.want_uid(uid)
        for port in targets.ports:
            tables.want_port(port)

    def _loop(
        self,
        drain: Drain,
        decoder: Decoder,
        connections: Connections,
        tls: TlsProbes,
        command: Command | None,
    ) -> None:
        started = time.monotonic()
        deadline = started + self._plan.duration_s if self._plan.duration_s is not None else None
        next_tick = next_flush = started
        while not self._stop.is_set():
            batch = drain.take(TICK_INTERVAL_S)
            if batch:
                self._handle(decoder.decode(batch.buffer, batch.starts), connections)
            now = time.monotonic()
            if now >= next_tick:
                next_tick = now + TICK_INTERVAL_S
                self._write(connections.tick(time.time_ns()))
                for_pids = self._looks.take(now)
                if for_pids:
                    tls.attach_for(for_pids)
                if command and command.poll():
                    self.exit_code = command.exit_code or 0
                    return
                if deadline is not None and now >= deadline:
                    return
            if now >= next_flush:
                next_flush = now + FLUSH_INTERVAL_S
                self._exporter.flush()

    def _handle(self, events: Iterable[object], connections: Connections) -> None:
        write, handle = self._exporter.write, connections.handle
        for event in events:
            if type(event) is ProgramExecuted:
                self._names.executed(event)
                self._looks.schedule(event.pid, time.monotonic())
            else:
                for item in handle(event):  # type: ignore[arg-type] # the decoder yields events
                    write(item)

    def _write(self, items: Iterable[StreamItem]) -> None:
        for item in items:
            self._exporter.write(item)

    def _end(
        self,
        probes: Probes,
        tables: Tables,
        drain: Drain,
        decoder: Decoder,
        connections: Connections,
        offset: int,
    ) -> Ledger:
        tables.set(0, ())
        detaching = threading.Thread(target=probes.detach)
        detaching.start()
        time.sleep(_SETTLE_S)
        drain.stop()
        while not drain.finished:
            batch = drain.take(TICK_INTERVAL_S)
            if batch:
                self._handle(decoder.decode(batch.buffer, batch.starts), connections)
        finals: dict[int, Final] = {}
        for c in tables.connections():
            finals[c.connection] = Final(c.moved, c.session, c.session_moved)
            if c.ended:
                times = [
                    t + offset if t else None for t in (c.local_fin, c.peer_fin, c.local_reset, c.peer_reset)
                ]
                self._write(
                    connections.handle(
                        ConnectionEnded(
                            c.connection, time.time_ns(), times[0], times[1], times[2], times[3],
                            c.moved, c.session, c.session_moved, Protocol.UNDECIDED,
                        )
                    )
                )  # fmt: skip
        self._write(connections.finish(time.time_ns(), finals))
        ledger = balance(tables.counters(), connections.tally)
        self._exporter.finish(ledger)
        detaching.join()
        return ledger


class _Signals:
    """While recording: SIGINT, SIGTERM and SIGHUP stop it; with a command they are the command's to act on."""

    _NUMBERS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

    def __init__(self, stop: threading.Event, command: Command | None) -> None:
        self._stop = stop
        self._command = command
        self._before: dict[int, object] = {}

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        if self._command is None:
            self._stop.set()
        elif number != signal.SIGINT or not sys.stdin.isatty():
            # A terminal sends SIGINT to the whole foreground group: the command has it already.
            self._command.signal(number)

    def __enter__(self) -> None:
        for number in self._NUMBERS:
            self._before[number] = signal.signal(number, self._on_signal)

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type] # what signal() itself returned
