"""Probes for code that is first used while recording: a program that starts, a library that is loaded late.

The kernel side tells of files that were not looked at. Where processes are held, the one that told is stopped
and goes on when its file has its probes; where not, its memory map is looked at now and again a little later,
for the kernel tells when a file is about to be mapped. A parent that stopped with its child goes on with it; the
jobs of a shell with job control are never held, for the shell would take it for the user's doing.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bpf.tables import Tables
    from capture.events import NewCodeUsed
    from capture.tls_probes import TlsFiles, TlsProbes

# When an unheld process is looked at again: mapping takes microseconds, but a busy machine may delay it.
_LOOKS_S = (0.02, 0.1, 0.5)
# A signal acts when its process next returns from the kernel: at once, unless it is busy there.
_STOP_WAIT_S = 0.1
_STOP_POLL_S = 0.0005
# Programs such as su and sudo stop themselves when their child stops, a moment later.
_PARENT_S = 0.5


class NewCode:
    """Answers to NewCodeUsed."""

    def __init__(self, tables: Tables, files: TlsFiles, tls: TlsProbes) -> None:
        self._tables = tables
        self._files = files
        self._tls = tls
        self._due: list[tuple[float, int]] = []
        self._parents: list[tuple[float, int]] = []

    def used(self, event: NewCodeUsed) -> None:
        """Look at the file, and let its process go on."""
        parent = _parent(event.pid) if event.held else None
        if event.held:
            _await_stop(event.pid)
        else:
            now = time.monotonic()
            self._due += [(now + delay, event.pid) for delay in _LOOKS_S]
        self._tls.attach(self._files.look_at((event.pid,)))
        self._tables.know_kernel_file(event.device, event.inode)
        if event.held:
            self._tables.let_go(event.pid)
            _continue(event.pid)
            if parent is not None:
                self._parents.append((time.monotonic() + _PARENT_S, parent))

    def tick(self, now: float) -> None:
        """Look again at processes whose time has come (seconds of time.monotonic)."""
        ready = {pid for at, pid in self._due if at <= now}
        if ready:
            self._due = [look for look in self._due if look[0] > now]
            self._tls.attach(self._files.look_at(ready))
        if self._parents:
            for _, parent in self._parents:
                if _state(parent) == b"T":
                    _continue(parent)
            self._parents = [(until, parent) for until, parent in self._parents if until > now]


def _continue(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGCONT)


def _await_stop(pid: int) -> None:
    deadline = time.monotonic() + _STOP_WAIT_S
    while _state(pid) not in (None, b"T", b"t", b"Z") and time.monotonic() < deadline:
        time.sleep(_STOP_POLL_S)


def _parent(pid: int) -> int | None:
    """The parent; not ours, nor init."""
    fields = _stat(pid)
    parent = int(fields[1]) if fields else 0
    return parent if parent not in (0, 1, os.getpid(), os.getppid()) else None


def _state(pid: int) -> bytes | None:
    """proc(5)'s letter; None if the process has gone."""
    fields = _stat(pid)
    return fields[0] if fields else None


def _stat(pid: int) -> list[bytes] | None:
    """The fields of /proc/PID/stat from the state on."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return None
    return stat[stat.rindex(b")") + 2 :].split()
