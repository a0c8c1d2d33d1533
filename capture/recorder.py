"""Wires a recording together: kernel side → drain → connections → packets → file.

This thread does everything but what must never wait for it: emptying the ring (capture.drain), answering for new
code (capture.new_code) and for files that someone writes to (capture.leases). The order of starting and stopping is
what makes the promises: probes are in place before ``Recording`` is printed and before a command runs.
"""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from bpf.program import Kernel
from capture import rights
from capture.command import Command
from capture.errors import PlaintapError
from capture.guard import Guard
from capture.leases import Leases
from capture.older_connections import OlderConnections
from capture.pipeline import TICK_INTERVAL_S, Exporter, Pipeline, Plan
from capture.probe_catalog import ProbeCatalog, default_cache_file
from capture.tls_probes import TlsFiles

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import FrameType

    from capture.ledger import Ledger
    from capture.tls_probes import Look

# The file on disk is at most this much behind.
FLUSH_INTERVAL_S = 0.5
# How long events wait, at most, while a slow reader is waited for.
READER_INTERVAL_S = 0.003
# The first PID namespace's inode, the same on every machine (include/linux/proc_ns.h).
_FIRST_PID_NAMESPACE = 0xEFFFFFFC
_COMPILING = "Compiling for this kernel, once: some seconds."
# A probe is a breakpoint in the file's pages; what was copied from there the kernel does not know as one.
_TRAPPED = (
    "Warning: the command was ended by SIGTRAP, as are programs that copy or translate code with probes in it "
    "(valgrind does; Node with --use-largepages)."
)
_STDIN = 0  # sys.stdin is None where it is closed


class PidNamespaceError(PlaintapError):
    """Processes cannot be told apart from here."""


class Recorder:
    """One recording."""

    def __init__(self, plan: Plan, exporter: Exporter, say: Callable[[str], None]) -> None:
        self._plan = plan
        self._exporter = exporter
        self._say = say
        self._stop = threading.Event()
        self._guard: Guard | None = None
        self.exit_code = 0

    def run(self) -> Ledger:
        """Record until a signal, the duration's or the command's end. Raises PlaintapError."""
        _require_first_pid_namespace()
        self._require_right_to_hold()
        # Forked first: no threads yet, and none of our descriptors.
        plan = self._plan
        command = Command(plan.command, stdout_is_taken=plan.stdout_is_taken) if plan.command else None
        _allow_interrupts()
        _allow_descriptors()
        leases = Leases()
        files = TlsFiles(ProbeCatalog(default_cache_file()), leases)
        older = OlderConnections()
        try:
            with ThreadPoolExecutor(1) as beside:
                looks = beside.submit(files.look_everywhere)
                # A command has none, and what else is recorded beside it does not wait for it.
                looked = None if command else beside.submit(older.look, self._plan.targets)
                kernel = Kernel(
                    self._plan.ring_bytes,
                    below_calls=self._plan.below,
                    unix=self._plan.unix,
                    compiling=lambda: self._say(_COMPILING),
                )
            try:
                if looked:
                    looked.result()
                pipeline = Pipeline(kernel, files, older, self._plan, self._exporter)
                return self._record(pipeline, looks.result(), command)
            finally:
                leases.close()
                kernel.close()
                files.save()
        finally:
            if command:
                command.abandon()
                self.exit_code = command.exit_code or 0

    def _require_right_to_hold(self) -> None:
        """The kernel side stops whom it likes; to let another user's process go on is what takes a right."""
        if self._plan.hold and "CAP_KILL" not in rights.held():
            self._plan = replace(self._plan, hold=False)
            self._say(
                "Warning: programs are not held, for to let them go on needs CAP_KILL: the first bytes of new ones "
                "may be missing."
            )

    def _record(self, pipeline: Pipeline, looks: Sequence[Look], command: Command | None) -> Ledger:
        try:
            pipeline.attach(looks, command)
            self._say_warnings(pipeline)
            if self._plan.hold:
                tables = pipeline.tables
                self._guard = Guard(tables.settings_map, tables.holding_map, tables.held_map)
            pipeline.start(with_command=bool(command))
            with _Signals(self._stop, command, self._exporter.outbox.hurry):
                try:
                    self._begin(command)
                    self._loop(pipeline, command)
                    self._stop.set()
                    ledger = pipeline.end()
                    self._say_warnings(pipeline)
                    return ledger
                finally:
                    # A recording that ends early does not take its command with it.
                    pipeline.detach()
                    if command:
                        command.abandon()
        finally:
            pipeline.detach()
            if self._guard:
                self._guard.close()

    def _begin(self, command: Command | None) -> None:
        """The output is begun last: a command that cannot be run leaves an older capture as it was."""
        if command:
            self._say("Recording.")
            command.run()
            self._exporter.flush()
        else:
            self._exporter.flush()
            for name in self._plan.targets.absent_names():
                self._say(
                    f"Note: no process is called {name!r} now (see `ps -eo comm`). Those to come are recorded."
                )
            self._say("Recording. Press Ctrl-C to stop.")

    def _loop(self, pipeline: Pipeline, command: Command | None) -> None:
        started = time.monotonic()
        deadline = started + self._plan.duration_s if self._plan.duration_s is not None else None
        next_tick = next_flush = started
        outbox = self._exporter.outbox
        while not self._stop.is_set() and not outbox.reader_gone:
            if outbox.full:
                outbox.wait(TICK_INTERVAL_S)
            elif not pipeline.step(0 if outbox.pending else TICK_INTERVAL_S):
                outbox.wait(READER_INTERVAL_S)
            now = time.monotonic()
            if now >= next_tick:
                next_tick = now + TICK_INTERVAL_S
                pipeline.tick(now)
                self._say_warnings(pipeline)
                if command and command.poll():
                    if command.exit_code == 128 + signal.SIGTRAP:
                        self._say(_TRAPPED)
                    return
                if deadline is not None and now >= deadline:
                    return
            if now >= next_flush:
                next_flush = now + FLUSH_INTERVAL_S
                self._exporter.flush()

    def _say_warnings(self, pipeline: Pipeline) -> None:
        for warning in pipeline.take_warnings():
            self._say(f"Warning: {warning}")
        if self._guard:
            self._ask_guard(self._guard, pipeline)

    def _ask_guard(self, guard: Guard, pipeline: Pipeline) -> None:
        if guard.gone:
            return
        if guard.has_let_go():
            pipeline.tables.hold(on=pipeline.can_hold)
            self._say(
                "Warning: programs were not held for a while, for this recorder did not answer: their first bytes "
                "may be missing."
            )
        elif guard.gone:
            pipeline.tables.hold(on=False)
            self._say(
                "Warning: the guard of held programs was killed: they are not held any more, and their first bytes "
                "may be missing."
            )


def _require_first_pid_namespace() -> None:
    """The kernel side knows processes by their numbers in the first PID namespace."""
    if Path("/proc/self/ns/pid").stat().st_ino != _FIRST_PID_NAMESPACE:
        raise PidNamespaceError(
            "plaintap runs in a PID namespace of its own (a container's), where the kernel's process numbers mean "
            "others: run it on the host, or with the host's (docker run --pid=host)."
        )


def _allow_interrupts() -> None:
    """A shell lets what a script starts with & ignore SIGINT: one that came before the recording has begun was lost,
    and with it the end of the recording.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _allow_descriptors() -> None:
    """Each library holds two until the end."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


class _Signals:
    """While recording: SIGINT, SIGTERM and SIGHUP stop it; with a command they are the command's to act on.

    Once it has stopped, another is for the reader that does not take the rest.
    """

    _NUMBERS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

    def __init__(self, stop: threading.Event, command: Command | None, hurry: Callable[[], None]) -> None:
        self._stop = stop
        self._command = command
        self._hurry = hurry
        self._before: dict[int, object] = {}

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        if self._stop.is_set():
            self._hurry()
        if self._command is None:
            self._stop.set()
        elif number != signal.SIGINT or not os.isatty(_STDIN):
            # A terminal sends SIGINT to the whole foreground group: the command has it already.
            self._command.signal(number)

    def __enter__(self) -> None:
        for number in self._NUMBERS:
            # nohup: what was started to outlive its terminal does.
            if number != signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:
                self._before[number] = signal.signal(number, self._on_signal)

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type] # what signal() itself returned
