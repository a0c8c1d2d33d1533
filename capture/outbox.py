"""The capture's way out: what a reader behind a pipe has not taken waits here, and nothing waits for the reader.

A recorder that stands still cannot be stopped, lets no held process go on, and loses what the ring has no room
for. So a pipe is written to only while it has room; the rest stays in memory, then in a file without a name
(capture.spool). A file takes everything at once.
"""

from __future__ import annotations

import os
import select
import stat
import time
from collections import deque
from typing import TYPE_CHECKING

from capture.output_file import WriteError
from capture.spool import SpoolFile

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

    from capture.output_file import OutputFile

# A pipe holds 64 KiB; what is beyond this goes to the disk.
MAX_BYTES_IN_MEMORY = 4 << 20
# After the recording: how long a reader that takes nothing is waited for.
GRACE_S = 5.0
_POLL_INTERVAL_S = 0.05
_MOST_AT_ONCE = 1 << 20


class Outbox:
    """Pieces, in their order, to ``output``. Not for several threads at once."""

    def __init__(self, output: OutputFile) -> None:
        self._output = output
        self._fd, self._most, self._owned = _without_waiting(output.file.fileno())
        self._room = select.poll()
        self._room.register(self._fd, select.POLLOUT)
        self._current = memoryview(b"")
        self._queue: deque[bytes | tuple[int, int]] = deque()  # or where in the spool, and how much
        self._bytes_in_memory = 0
        self._spool = SpoolFile()
        self._spooled = 0  # pieces of the queue that are on the disk
        self._taken_at = time.monotonic()
        self._ending = self._impatient = False
        self.reader_gone = False
        self.undelivered = 0
        """Bytes that were given up."""

    def write(self, piece: bytes) -> None:
        """Send, or keep. Raises WriteError."""
        if not self._output.begun:
            self._output.begin()
        if self.reader_gone or self.undelivered:
            self.undelivered += len(piece)
            return
        self._keep(piece)
        self._push()

    @property
    def pending(self) -> bool:
        """Whether something waits for the reader."""
        return bool(self._current or self._queue)

    @property
    def full(self) -> bool:
        """Whether neither memory nor the disk has room: what is made now would grow beyond every limit."""
        return self._bytes_in_memory > MAX_BYTES_IN_MEMORY

    def wait(self, seconds: float) -> None:
        """Until the reader takes something, at most so long; at once if nothing is pending. Raises WriteError."""
        if self.pending:
            self._room.poll(seconds * 1000)
            self._push()
            if self._ending and (self._impatient or time.monotonic() - self._taken_at > GRACE_S):
                self._give_up()

    def end(self) -> None:
        """The recording is over: from now on a reader that takes nothing for GRACE_S is given up."""
        self._ending = True
        self._taken_at = time.monotonic()

    def hurry(self) -> None:
        """Wait for no reader once the recording is over. For signal handlers."""
        self._impatient = True

    def finish(self) -> None:
        """Everything was written: wait until it is taken or given up. Raises WriteError."""
        while self.pending:
            self.wait(_POLL_INTERVAL_S)

    def _keep(self, piece: bytes) -> None:
        if self._queue and self._bytes_in_memory + len(piece) > MAX_BYTES_IN_MEMORY:
            place = self._spool.put(piece)
            if place is not None:
                self._queue.append((place, len(piece)))
                self._spooled += 1
                return
        self._queue.append(piece)
        self._bytes_in_memory += len(piece)

    def _next(self) -> memoryview:
        entry = self._queue.popleft()
        if isinstance(entry, bytes):
            self._bytes_in_memory -= len(entry)
            return memoryview(entry)
        piece = self._spool.take(*entry)
        self._spooled -= 1
        if not self._spooled:
            self._spool.rewind()
        return memoryview(piece)

    def _push(self) -> None:
        """Write what there is room for."""
        while self.pending and self._room.poll(0):
            if not self._current:
                self._current = self._next()
            try:
                count = os.write(self._fd, self._current[: self._most])
            except BlockingIOError:
                return
            except (BrokenPipeError, ConnectionResetError):
                self.reader_gone = True
                self._give_up()
                return
            except OSError as error:
                raise WriteError(self._output.name, self._output.option, error) from None
            self._current = self._current[count:]
            self._taken_at = time.monotonic()

    def _give_up(self) -> None:
        rest = sum(len(entry) if isinstance(entry, bytes) else entry[1] for entry in self._queue)
        self.undelivered += len(self._current) + rest
        self._current = memoryview(b"")
        self._queue.clear()
        self._bytes_in_memory = self._spooled = 0
        self._spool.rewind()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._spool.close()
        if self._owned:
            os.close(self._fd)


def _without_waiting(fd: int) -> tuple[int, int, bool]:
    """A descriptor for the same file, how much to write in one call, and whether it was opened for this.

    O_NONBLOCK belongs to what was opened, which others share: the command of the recording has our stdout. So
    a pipe is opened again. Where that cannot be, what a pipe with any room takes whole (pipe(7)) does not wait.
    """
    mode = os.fstat(fd).st_mode
    if stat.S_ISREG(mode):
        return fd, _MOST_AT_ONCE, False
    if stat.S_ISFIFO(mode):
        try:
            again = os.open(f"/proc/self/fd/{fd}", os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            pass  # without /proc, or the reader has gone already
        else:
            return again, _MOST_AT_ONCE, True
    return fd, select.PIPE_BUF, False
