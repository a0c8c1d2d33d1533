"""What memory has no room for, in a file that has no name: it goes with us, however we go.

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
    from collections.abc import Sequence
    from io import FileIO

# Survives a reboot, so it is a disk; /tmp may be memory. Where it is missing tempfile knows better.
FOLDER = "/var/tmp"  # noqa: S108 - the file in it is unlinked at once and has mode 0600
# Beyond this the writer will not catch up: then the ring fills, and the loss is counted.
MAX_SPOOLED_BYTES = 8 << 30
# What everyone else on the disk is left: a full one stops logs, databases, and the capture itself.
RESERVED_BYTES = 1 << 30


class SpoolFile:
    """Bytes by their place; ``end`` is the next. It exists once something was put."""

    def __init__(self) -> None:
        self._file: FileIO | None = None
        self.end = 0

    def put(self, *pieces: bytes | memoryview) -> int | None:
        """Append; where it is, or None where there is no room for it."""
        size = sum(map(len, pieces))
        try:
            if self._file is None:
                folder = FOLDER if os.access(FOLDER, os.W_OK) else None
                self._file = tempfile.TemporaryFile(buffering=0, dir=folder)  # noqa: SIM115 - closed with us
            fd = self._file.fileno()
            disk = os.fstatvfs(fd)
            room = min(disk.f_bavail * disk.f_frsize - RESERVED_BYTES, MAX_SPOOLED_BYTES - self.end)
            if size > room or os.pwritev(fd, pieces, self.end) != size:
                return None
        except OSError:
            return None
        self.end += size
        return self.end - size

    def take(self, offset: int, size: int) -> bytes:
        """What is there. Raises OSError."""
        if self._file is None:
            raise OSError("nothing was spooled")
        return os.pread(self._file.fileno(), size, offset)

    def rewind(self) -> None:
        """Everything was taken: begin anew, and give the room back."""
        if self._file is not None and self.end:
            os.ftruncate(self._file.fileno(), 0)
            self.end = 0

    def close(self) -> None:
        """Let go of the file."""
        if self._file is not None:
            self._file.close()
            self._file = None


class Spooled(NamedTuple):
    """Where a batch is: ``size`` bytes of records, then ``records`` offsets of 4 bytes."""

    offset: int
    size: int
    records: int


class Spool:
    """Batches, first in, first out; one thread puts, another takes."""

    def __init__(self) -> None:
        self._file = SpoolFile()

    def put(self, pieces: Sequence[memoryview], starts: list[int]) -> Spooled | None:
        """Keep a batch's bytes, and where in them each payload begins; None where there is no room for it."""
        place = self._file.put(*pieces, array("I", starts).tobytes())
        return None if place is None else Spooled(place, sum(map(len, pieces)), len(starts))

    def take(self, entry: Spooled) -> Batch:
        """The batch again. Raises OSError."""
        starts = array("I")
        starts.frombytes(self._file.take(entry.offset + entry.size, 4 * entry.records))
        return Batch(self._file.take(entry.offset, entry.size), starts.tolist())

    def rewind(self) -> None:
        """Everything was taken."""
        self._file.rewind()

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()
