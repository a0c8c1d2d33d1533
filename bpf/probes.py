"""What is attached where, and how it is let go.

Tracepoints and raw tracepoints are rows of tables; uprobes come as sites from capture. Every attachment is a
file descriptor: closing it detaches, and so does the kernel when we die, however we die.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from bpf import system
from bpf.program import Kernel, ProgramError
from bpf.tracefs import Tracefs

# (event, program). Each system call that moves bytes shares one exit program.
_MOVING = ("read", "write", "readv", "writev", "recvfrom", "sendto", "recvmsg", "sendmsg", "sendfile64")
TRACEPOINTS: tuple[tuple[str, str], ...] = (
    *((f"syscalls/sys_enter_{call}", f"enter_{call}") for call in _MOVING),
    *((f"syscalls/sys_exit_{call}", "exit_io") for call in _MOVING),
    ("syscalls/sys_enter_connect", "enter_connect"),
    ("syscalls/sys_exit_accept", "exit_accept"),
    ("syscalls/sys_exit_accept4", "exit_accept"),
    ("syscalls/sys_enter_shutdown", "enter_shutdown"),
    ("syscalls/sys_enter_close", "enter_close"),
)
RAW_TRACEPOINTS: tuple[tuple[str, str], ...] = (
    ("inet_sock_set_state", "on_inet_sock_set_state"),
    ("tcp_destroy_sock", "on_tcp_destroy_sock"),
    ("sched_process_fork", "on_sched_process_fork"),
    ("sched_process_exec", "on_sched_process_exec"),
    ("sched_process_exit", "on_sched_process_exit"),
)


_Event = TypeVar("_Event", int, str)


@dataclass(frozen=True, slots=True)
class UprobeSite:
    """One program at one file offset."""

    program: str
    offset: int
    at_return: bool


class Probes:
    """All attachments of one recording."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._fds: list[int] = []
        self._programs: dict[tuple[str, str], int] = {}
        self._multi: bool | None = None
        self.missing: list[str] = []

    def attach_tracepoints(self) -> None:
        """Attach every row of the tables; events that this kernel lacks are listed in ``missing``.

        Raises TracefsError, ProgramError.
        """
        tracefs = Tracefs()
        try:
            for event, program in TRACEPOINTS:
                event_id = tracefs.event_id(event)
                if event_id is None:
                    self.missing.append(event)
                    continue
                self._attach(event, system.open_tracepoint, self._load(program, "TRACEPOINT"), event_id)
        finally:
            tracefs.close()
        for event, program in RAW_TRACEPOINTS:
            self._attach(event, system.open_raw_tracepoint, self._load(program, "RAW_TRACEPOINT"), event)

    def _attach(self, what: str, attach: Callable[[int, _Event], int], program: int, event: _Event) -> None:
        try:
            self._fds.append(attach(program, event))
        except OSError as error:
            raise ProgramError(
                f"The kernel refuses to attach to {what} ({error.strerror}): run as root (sudo plaintap …), "
                "or with CAP_BPF, CAP_PERFMON and CAP_DAC_READ_SEARCH."
            ) from None

    def attach_uprobes(self, path: str, sites: Sequence[UprobeSite], cookie: int) -> None:
        """Attach at offsets of one file, in every process that maps it; samples carry ``cookie`` as their library.

        Raises OSError, ProgramError.
        """
        attached: list[int] = []
        groups: dict[tuple[str, bool], list[int]] = {}
        for site in sites:
            groups.setdefault((site.program, site.at_return), []).append(site.offset)
        try:
            # Entries last: a return without its entry is ignored, an entry without its return is kept in vain.
            for (program, at_return), offsets in sorted(groups.items(), key=lambda group: not group[0][1]):
                attached += self._attach_group(program, path, offsets, cookie, at_return=at_return)
        except OSError:
            for fd in attached:
                os.close(fd)
            raise
        self._fds += attached

    def _attach_group(
        self, program: str, path: str, offsets: Sequence[int], cookie: int, *, at_return: bool
    ) -> list[int]:
        if self._multi is not False:
            try:
                fd = system.link_uprobe_multi(self._load_multi(program), path, offsets, cookie, at_return=at_return)
            except OSError:
                if self._multi:
                    raise
                self._multi = False
            else:
                self._multi = True
                return [fd]
        perf = self._load(program, "KPROBE")
        return [self._kernel.attach_uprobe(perf, path, offset, at_return=at_return) for offset in offsets]

    def _load(self, program: str, kind: str) -> int:
        key = (program, kind)
        if key not in self._programs:
            self._programs[key] = self._kernel.load(program, kind)
        return self._programs[key]

    def _load_multi(self, program: str) -> int:
        key = (program, "MULTI")
        if key not in self._programs:
            self._load(program, "KPROBE")
            fd = system.load_uprobe_multi_program(self._kernel.instructions(program), program)
            self._programs[key] = fd
            self._fds.append(fd)
        return self._programs[key]

    def detach(self) -> None:
        """Let go of everything."""
        while self._fds:
            os.close(self._fds.pop())
