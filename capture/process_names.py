"""Who a pid is, asked once and remembered: /proc while the process lives, else what its exec said."""

from __future__ import annotations

import shlex
from collections import OrderedDict
from typing import TYPE_CHECKING

from capture.processes import read_process, start_ticks
from capture.streams import Process

if TYPE_CHECKING:
    from capture.events import ProgramExecuted

# Short-lived processes come by the thousand; only recent ones are asked for.
MAX_REMEMBERED = 4096


class ProcessNames:
    """Describes processes for the file."""

    def __init__(self) -> None:
        self._executed: OrderedDict[int, ProgramExecuted] = OrderedDict()
        # By pid: since when it runs (None: it had gone), and what it is by the kernel's names for it.
        self._described: OrderedDict[int, tuple[int | None, dict[str, Process]]] = OrderedDict()

    def executed(self, event: ProgramExecuted) -> None:
        """A process runs another program now."""
        self._executed[event.pid] = event
        self._executed.move_to_end(event.pid)
        self._described.pop(event.pid, None)
        if len(self._executed) > MAX_REMEMBERED:
            self._executed.popitem(last=False)

    def describe(self, pid: int, comm: str) -> Process:
        """The process of this pid that was called ``comm`` by the kernel."""
        start = start_ticks(pid)
        since, known = self._described.get(pid, (start, {}))
        if start not in (since, None):
            since, known = start, {}  # another one, which no exec told of: a child
        if comm not in known:
            known[comm] = self._look_up(pid, comm)
        self._described[pid] = since, known
        self._described.move_to_end(pid)
        if len(self._described) > MAX_REMEMBERED:
            self._described.popitem(last=False)
        return known[comm]

    def program(self, pid: int) -> str | None:
        """The file that a process runs or ran, as far as it was looked at or told of its exec."""
        _, known = self._described.get(pid, (None, {}))
        found = next((process.exe for process in known.values() if process.exe), None)
        executed = self._executed.get(pid)
        return found or (executed.file if executed else None)

    def _look_up(self, pid: int, comm: str) -> Process:
        executed = self._executed.get(pid)
        running = read_process(pid)
        if running and running.exe:
            return Process(pid, comm, running.exe, running.command_line)
        if executed:
            return Process(pid, comm, executed.file, shlex.join(executed.arguments))
        return Process(pid, comm)
