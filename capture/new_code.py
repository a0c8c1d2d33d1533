"""Probes for code that is first used while recording: a program that starts, a library that is loaded late.

The kernel side tells of files that were not looked at. Where processes are held, the one that told is stopped
and goes on when its file has its probes; where not, its memory map is looked at now and again a little later,
for the kernel tells when a file is about to be mapped.
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


class NewCode:
    """Answers to NewCodeUsed."""

    def __init__(self, tables: Tables, files: TlsFiles, tls: TlsProbes, *, holding: bool) -> None:
        self._tables = tables
        self._files = files
        self._tls = tls
        self._holding = holding
        self._due: list[tuple[float, int]] = []

    def used(self, event: NewCodeUsed) -> None:
        """Look at the file, and let its process go on."""
        if self._holding:
            _await_stop(event.pid)
        else:
            now = time.monotonic()
            self._due += [(now + delay, event.pid) for delay in _LOOKS_S]
        self._tls.attach(self._files.look_at((event.pid,)))
        self._tables.know_kernel_file(event.device, event.inode)
        if self._holding:
            self._tables.let_go(event.pid)
            with contextlib.suppress(ProcessLookupError):
                os.kill(event.pid, signal.SIGCONT)

    def tick(self, now: float) -> None:
        """Look again at processes whose time has come (seconds of time.monotonic)."""
        ready = {pid for at, pid in self._due if at <= now}
        if ready:
            self._due = [look for look in self._due if look[0] > now]
            self._tls.attach(self._files.look_at(ready))


def _await_stop(pid: int) -> None:
    deadline = time.monotonic() + _STOP_WAIT_S
    while time.monotonic() < deadline:
        try:
            stat = Path(f"/proc/{pid}/stat").read_bytes()
        except OSError:
            return
        if stat[stat.rindex(b")") + 2 :].startswith((b"T", b"t", b"Z")):
            return
        time.sleep(_STOP_POLL_S)
