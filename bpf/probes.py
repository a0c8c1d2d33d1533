"""What is attached where, and how it is let go.

Tracepoints and raw tracepoints are rows of tables; uprobes come as sites from capture. Every attachment is a
file descriptor: closing it detaches, and so does the kernel when we die, however we die.
"""

from __future__ import annotations

import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from bpf import abi, below, system
from bpf.program import IN_PAIRS, Kernel, ProgramError
from bpf.system_calls import CALLS_WITH_FLAGS, DATAGRAM_CALLS, MOVING_CALLS
from bpf.tracefs import Tracefs
from bpf.tracepoint_events import TracepointEvents

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Sequence

# The kernel puts a breakpoint into every process that maps the file, and gives up on the file if one of them is
# just beginning or ending: seen once in some hundred attachments.
ATTACH_ATTEMPTS = 3
ATTACH_PAUSE_S = 0.02
# Each close waits for a grace period of RCU (70 ms and more); side by side they share it.
MAX_CLOSING_THREADS = 64

# (event, program)
TRACEPOINTS: tuple[tuple[str, str], ...] = (
    *(
        (f"syscalls/sys_enter_{call}", "enter_io_flags" if call in CALLS_WITH_FLAGS else "enter_io")
        for call in MOVING_CALLS | DATAGRAM_CALLS
    ),
    # What an entry has decided of a thread that is not wanted holds until the exit.
    *((f"syscalls/sys_exit_{call}", "exit_io") for call in MOVING_CALLS | DATAGRAM_CALLS),
    ("syscalls/sys_enter_connect", "enter_connect"),
    ("syscalls/sys_exit_accept", "exit_accept"),
    ("syscalls/sys_exit_accept4", "exit_accept"),
    ("syscalls/sys_enter_shutdown", "enter_shutdown"),
    ("syscalls/sys_enter_close", "enter_close"),
    ("syscalls/sys_enter_mmap", "enter_mmap"),
)
RAW_TRACEPOINTS: tuple[tuple[str, str], ...] = (
    ("inet_sock_set_state", "on_inet_sock_set_state"),
    ("tcp_destroy_sock", "on_tcp_destroy_sock"),
    ("sched_process_fork", "on_sched_process_fork"),
    ("sched_process_exec", "on_sched_process_exec"),
    ("sched_process_exit", "on_sched_process_exit"),
    ("task_rename", "on_task_rename"),
)

# Where programs for uprobes go on, by their family and their index in emit_from_FAMILY.
CONTINUED = {"uprobe": ("continue_from_uprobe", "tell_step_from_uprobe"), "place": ("continue_from_place",)}

# Where in a function → what its program is called, after the kind. In the order of attachment, for a return without
# its entry is ignored.
SIDES = {"return": "return", "ret": "return", "call": "call", "enter": "enter"}
# A program for both ends of a call → where it goes on at the return, by the names of events.h.
CALL_RETURNS = {
    "call_by_cookie": "RETURN_OF_TLS",
    "nss_call_by_cookie": "RETURN_OF_NSS",
    "rustls_call_by_cookie": "RETURN_OF_RUSTLS",
}
# What a shape's name begins with → what its programs' names begin with, where those are not tls.bpf.h's.
KINDS = {"COPY": "copy_", "GO": "go_", "NSPR": "nss_", "NSS": "nss_", "RUSTLS": "rustls_", "NAME": "name_"}

_Event = TypeVar("_Event", int, str)


@dataclass(frozen=True, slots=True)
class UprobeSite:
    """A function of a library: its shape (``enum shape`` without the prefix), and file offsets.

    ``return_offset`` is for a uretprobe, ``results_offsets`` for probes on each RET where there may be none.
    ``flags`` are events.h's, beside the library's number in the cookie.
    """

    shape: str
    entry_offset: int
    return_offset: int | None = None
    results_offsets: tuple[int, ...] = ()
    flags: int = 0

    def places(self, *, sessions: bool) -> Iterator[tuple[str, int]]:
        """(side, where): at the return, on a RET, at the entry; with ``sessions`` one, "call", is for both ends."""
        if sessions and self.return_offset is not None:
            yield "call", self.return_offset
            return
        if self.return_offset is not None:
            yield "return", self.return_offset
        for offset in self.results_offsets:
            yield "ret", offset
        yield "enter", self.entry_offset


class Probes:
    """All attachments of one recording."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._sessions = kernel.uprobes is system.Uprobes.SESSIONS
        self._fds: set[int] = set()
        self._events = TracepointEvents(len(TRACEPOINTS))
        self._lock = threading.Lock()  # a library's links are let go on another thread
        self._programs: dict[tuple[str, str], int] = {}
        self._shapes = abi.header().enums["shape"]
        self._on_ret = abi.header().constants["ON_RET"]
        self.missing: list[str] = []
        self.attached = 0  # places in libraries

    def attach_tracepoints(self) -> None:
        """Attach every row of the tables; events that this kernel lacks are listed in ``missing``.

        Raises TracefsError, ProgramError.
        """
        tracefs = Tracefs()
        try:
            for event, program in TRACEPOINTS:
                if event in below.COVERED and self._kernel.below.lengths:
                    continue
                event_id = tracefs.event_id(event)
                if event_id is None:
                    self.missing.append(event)
                    continue
                self._attach(event, self._events.attach, self._load(program, "TRACEPOINT"), event_id)
        finally:
            tracefs.close()
        for event, program in (*RAW_TRACEPOINTS, *self._kernel.below.raw_tracepoints()):
            for _ in range(2 if program in IN_PAIRS else 1):
                self._attach(
                    event, system.open_raw_tracepoint, self._kernel.load(program, "RAW_TRACEPOINT"), event
                )

    def _attach(self, what: str, attach: Callable[[int, _Event], int], program: int, event: _Event) -> None:
        try:
            self._fds.add(attach(program, event))
        except OSError as error:
            raise ProgramError(
                f"The kernel refuses to attach to {what} ({error.strerror}): run as root (sudo plaintap …), "
                "or with CAP_BPF, CAP_PERFMON and CAP_DAC_READ_SEARCH."
            ) from None

    def attach_uprobes(self, path: str, sites: Sequence[UprobeSite], library: int) -> tuple[int, ...]:
        """Attach to functions of one file, in every process that maps it; samples will carry ``library``.

        Returns what ``release`` takes. Raises OSError.
        """
        attempt = 1
        while True:
            try:
                links = self._attach_file(path, sites, library)
                break
            except OSError:
                if attempt == ATTACH_ATTEMPTS:
                    raise
                attempt += 1
                time.sleep(ATTACH_PAUSE_S)
        with self._lock:
            self._fds.update(links)
        self.attached += sum(1 for site in sites for _ in site.places(sessions=self._sessions))
        return tuple(links)

    def attach_return_place(self, path: str, offset: int, pid: int) -> int:
        """Attach where a call on a switched stack returns to, in its process alone; what ``release`` takes of it.

        Raises OSError.
        """
        program = self._load_uprobe("return_place")
        link = system.link_uprobe_multi(program, path, [(offset, 0)], system.Uprobes.MULTI, pid=pid)
        with self._lock:
            self._fds.add(link)
        return link

    def release(self, links: Collection[int]) -> None:
        """Let go of a file. When this returns no process has a breakpoint of ours in it."""
        with self._lock:
            fds = self._fds.intersection(links)
            self._fds -= fds
        _close(fds)

    def _attach_file(self, path: str, sites: Sequence[UprobeSite], library: int) -> list[int]:
        attach = self._attach_perf if self._kernel.uprobes is system.Uprobes.PERF else self._attach_multi
        attached: list[int] = []
        try:
            for fd in attach(path, sites, library):
                attached.append(fd)
        except OSError:
            for fd in attached:
                os.close(fd)
            raise
        return attached

    def _attach_multi(self, path: str, sites: Sequence[UprobeSite], library: int) -> Iterator[int]:
        """A link for each program that a file needs."""
        for kind, side, places in self._points(sites, library):
            program = self._load_uprobe(f"{kind}{SIDES[side]}_by_cookie")
            yield system.link_uprobe_multi(
                program, path, places, self._kernel.uprobes, at_return=side == "return"
            )

    def _attach_perf(self, path: str, sites: Sequence[UprobeSite], library: int) -> Iterator[int]:
        """A link for each place, before Linux 6.6."""
        for kind, side, places in self._points(sites, library):
            program = self._load_uprobe(f"{kind}{SIDES[side]}_by_cookie")
            for offset, cookie in places:
                yield system.link_uprobe(program, path, offset, cookie, at_return=side == "return")

    def _points(
        self, sites: Sequence[UprobeSite], library: int
    ) -> Iterator[tuple[str, str, list[tuple[int, int]]]]:
        """Places of a file and their cookies, by kind of program and side, in the order of attachment."""
        points: dict[tuple[str, str], list[tuple[int, int]]] = {}
        for site in sites:
            kind = KINDS.get(site.shape.partition("_")[0], "")
            for side, offset in site.places(sessions=self._sessions):
                flags = site.flags | (self._on_ret if side == "ret" else 0)
                cookie = self._shapes[f"SHAPE_{site.shape}"] | (library | flags) << 8
                points.setdefault((kind, side), []).append((offset, cookie))
        for side in SIDES:
            yield from ((kind, side, places) for (kind, at), places in points.items() if at == side)

    def _load(self, program: str, kind: str) -> int:
        key = (program, kind)
        if key not in self._programs:
            self._programs[key] = self._kernel.load(program, kind)
        return self._programs[key]

    def _load_uprobe(self, program: str) -> int:
        """A program for uprobes, and that which continues it."""
        if program == "return_place":
            return self._load_continued(program, "place", system.Uprobes.MULTI)
        if name := CALL_RETURNS.get(program):
            goes_on = self._load_uprobe(program.replace("call_", "return_"))
            self._kernel.set_tail_call("call_returns", goes_on, abi.header().enums["call_return"][name])
        return self._load_continued(program, "uprobe", self._kernel.uprobes)

    def _load_continued(self, program: str, family: str, uprobes: system.Uprobes) -> int:
        """A tail call needs the same expected attach type on both sides (Linux 6.17): a program of each for its own."""
        key = (program, "UPROBE")
        if key not in self._programs:
            fd = self._kernel.load_uprobe(program, uprobes)
            self._fds.add(fd)
            for index, continued in enumerate(CONTINUED[family]):
                if program not in CONTINUED[family]:
                    continues = self._load_continued(continued, family, uprobes)
                    self._kernel.set_tail_call(f"emit_from_{family}", continues, index)
            # Not before: what could not be linked must not be attached by the next attempt.
            self._programs[key] = fd
        return self._programs[key]

    def skipped_runs(self) -> int:
        """How often the kernel did not run a program for uprobes, for it was running already."""
        return sum(system.skipped_runs(fd) for (_, kind), fd in self._programs.items() if kind == "UPROBE")

    def detach(self) -> None:
        """Let go of everything; none of our programs runs any more when this returns."""
        with self._lock:
            fds, self._fds = self._fds, set()
        _close(fds)
        self._events.close()
        system.wait_for_programs()


def _close(fds: Collection[int]) -> None:
    if fds:
        with ThreadPoolExecutor(min(len(fds), MAX_CLOSING_THREADS)) as pool:
            list(pool.map(os.close, fds))
