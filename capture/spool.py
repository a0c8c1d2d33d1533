"""Batches that memory has no room for, in a file that has no name: it goes with us, however we go.

A burst can outrun the writer for seconds. Copying to a file costs a small part of what making packets costs,
so the thread that empties the ring keeps up, and the writer catches up when the burst is over.
"""

from __future__ import annotations

import os
import tempfile
from array import array
from typing import TYPE_CHECKING, NamedTuple

from bpf.ring import Batch

if TYPE_CHECKING:
    from io import FileIO

# Survives a reboot, so it is a disk; /tmp may be memory. Where it is missing tempfile knows better.
FOLDER = "/var/tmp"  # noqa: S108 - the file in it is unlinked at once and has mode 0600
# Beyond this the writer will not catch up: then the ring fills, and the loss is counted.
MAX_SPOOLED_BYTES = 8 << 30


class Spooled(NamedTuple):
    """Where a batch is: ``size`` bytes of records, then ``records`` offsets of 4 bytes."""

    offset: int
    size: int
    records: int


class Spool:
    """First in, first out; one thread puts, another takes."""

    def __init__(self) -> None:
        self._file: FileIO | None = None
        self._end = 0

    def put(self, batch: Batch) -> Spooled | None:
        """Keep a batch; None where there is no room for it."""
        starts = array("I", batch.starts)
        size = len(batch.buffer)
        entry = Spooled(self._end, size, len(starts))
        if entry.offset + size + 4 * len(starts) > MAX_SPOOLED_BYTES:
            return None
        try:
            if self._file is None:
                folder = FOLDER if os.access(FOLDER, os.W_OK) else None
                self._file = tempfile.TemporaryFile(buffering=0, dir=folder)  # noqa: SIM115 - closed with us
            for piece in (batch.buffer, starts.tobytes()):
                if os.pwrite(self._file.fileno(), piece, self._end) != len(piece):
                    return None
                self._end += len(piece)
        except OSError:
            return None
        return entry

    def take(self, entry: Spooled) -> Batch:
        """The batch again. Raises OSError."""
        if self._file is None:
            raise OSError("nothing was spooled")
        fd = self._file.fileno()
        buffer = os.pread(fd, entry.size, entry.offset)
        starts = array("I")
        starts.frombytes(os.pread(fd, 4 * entry.records, entry.offset + entry.size))
        return Batch(buffer, starts.tolist())

    def rewind(self) -> None:
        """Everything was taken: begin anew, and give the room back."""
        if self._file is not None and self._end:
            os.ftruncate(self._file.fileno(), 0)
            self._end = 0

    def close(self) -> None:
        """Let go of the file."""
        if self._file is not None:
            self._file.close()
            self._file = None
