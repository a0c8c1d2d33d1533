"""Leases on files (fcntl(2), F_SETLEASE): who wants to write to one waits until what was done with it is undone.

A uprobe is a place in an inode. When a program is written over in place, as cp does, the kernel would put the
breakpoints of the old content into the middle of the new one's instructions. With a lease the writer's open() or
truncate() waits until the probes are gone: a tenth of a second, and at most /proc/sys/fs/lease-break-time (45 s)
if we do not answer; one that will not wait (O_NONBLOCK) is told to come again. Whoever reads, runs, renames or
deletes the file notices nothing.

There are none on some file systems (NFS, FUSE), nor on others' files without CAP_LEASE: the kernel's word that a
file has changed (capture.new_code) is then all there is.
"""

from __future__ import annotations

import contextlib
import fcntl
import signal
import struct
import threading
from collections import deque
from typing import TYPE_CHECKING, BinaryIO

if TYPE_CHECKING:
    from collections.abc import Callable

_F_SETOWN_EX, _F_OWNER_TID = 15, 0
# For the watching thread alone, blocked in it, and waited for. SIGIO comes when too many are queued.
_BROKEN = signal.SIGRTMAX - 1
_SIGNALS = {_BROKEN, signal.SIGIO}
_OWNER = struct.Struct("ii")


class Lease:
    """An open file, and what is to be undone before anyone else writes to it."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.granted = False  # whether the kernel makes writers wait
        self.broken = False
        self._lock = threading.Lock()
        self._undo: Callable[[], None] | None = None

    @property
    def path(self) -> str:
        """A path to the file, for as long as it is open."""
        return f"/proc/self/fd/{self.file.fileno()}"

    def use(self, do: Callable[[], Callable[[], None]]) -> bool:
        """Do something that relies on the file's content, unless the lease is broken; it returns how to undo it."""
        with self._lock:
            if not self.broken:
                self._undo = do()
            return not self.broken

    def end(self) -> None:
        """Undo what was done, and let the writer go on. The file stays open."""
        with self._lock:
            self.broken = True
            undo, self._undo = self._undo, None
            try:
                if undo:
                    undo()
            finally:
                with contextlib.suppress(OSError, ValueError):  # dropped meanwhile: closed
                    fcntl.fcntl(self.file, fcntl.F_SETLEASE, fcntl.F_UNLCK)


class Leases:
    """All leases, watched by a thread."""

    def __init__(self) -> None:
        self._ended: deque[Lease] = deque()
        self._held: set[Lease] = set()
        self._lock = threading.Lock()
        self._started = threading.Event()
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="leases", daemon=True)
        self._thread.start()
        self._started.wait()

    def take(self, file: BinaryIO) -> Lease | None:
        """A lease on a file that is open for reading; None if someone has it open for writing."""
        lease = Lease(file)
        with self._lock:
            try:
                fcntl.fcntl(file, _F_SETOWN_EX, _OWNER.pack(_F_OWNER_TID, self._thread.native_id or 0))
                fcntl.fcntl(file, fcntl.F_SETSIG, _BROKEN)
                fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_RDLCK)
            except BlockingIOError:
                return None
            except OSError:
                return lease
            lease.granted = True
            self._held.add(lease)
        return lease

    def take_ended(self) -> list[Lease]:
        """Those that ended because of a writer, each once."""
        return [self._ended.popleft() for _ in range(len(self._ended))]

    def drop(self, lease: Lease) -> None:
        """It is needed no more; closes the file."""
        with self._lock:
            self._held.discard(lease)
            lease.file.close()

    def close(self) -> None:
        """Drop all: what was done is undone already."""
        self._closing = True
        if self._thread.ident:
            signal.pthread_kill(self._thread.ident, _BROKEN)
        self._thread.join()
        for lease in list(self._held):
            self.drop(lease)

    def _run(self) -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        self._started.set()
        while not self._closing:
            signal.sigwait(_SIGNALS)
            for lease in self._broken():
                lease.end()
                self._ended.append(lease)

    def _broken(self) -> list[Lease]:
        """Those that someone waits for, held no more."""
        with self._lock:
            broken = {lease for lease in self._held if _is_awaited(lease.file)}
            self._held -= broken
        return list(broken)


def _is_awaited(file: BinaryIO) -> bool:
    return fcntl.fcntl(file, fcntl.F_GETLEASE) != fcntl.F_RDLCK
