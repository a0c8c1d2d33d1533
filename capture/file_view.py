"""Bounds-checked reads of a file that may change, shrink or lie about its size while it is read.

Reads go through pread, not mmap, on purpose: when another process truncates a file that is mapped, the next
access kills the reader with SIGBUS, which Python cannot catch, and an upgrade in the middle of a recording
is exactly when that happens. pread then returns fewer bytes, which is an ElfError here. It costs a copy of
what is looked at, and no address space or resident memory for what is not.

This module knows nothing of ELF but its error.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING

from capture.errors import PlaintapError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from types import TracebackType

# Scans copy this much at a time: it stays in the CPU's cache, and a step's overhead is small beside it.
CHUNK_BYTES = 256 << 10
# The largest table read in one piece. .eh_frame_hdr and the relocations of a 300 MB Chromium are about 10 MB.
MAX_TABLE_BYTES = 256 << 20


class ElfError(PlaintapError):
    """A file that cannot be read as an executable or library; ``path`` says which."""

    def __init__(self, path: str, problem: str) -> None:
        super().__init__(f"{path}: {problem}; it is left unprobed, the recording goes on without it")
        self.path = path
        self.problem = problem


class FileView:
    """A regular file opened for bounds-checked reads. A context manager; every failure is an ElfError."""

    __slots__ = ("_fd", "ctime_ns", "device", "inode", "path", "size")

    def __init__(self, path: str) -> None:
        self.path = path
        self._fd = -1
        try:
            # O_NONBLOCK: a FIFO under a library's name must not hang the recorder.
            self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
            status = os.fstat(self._fd)
        except (OSError, ValueError) as error:
            self.close()
            reason = error.strerror if isinstance(error, OSError) else "its name is not a valid path"
            raise ElfError(path, f"cannot be read ({reason})") from error
        if not stat.S_ISREG(status.st_mode):
            self.close()
            raise ElfError(path, "is not a regular file")
        self.size = status.st_size
        self.device = status.st_dev
        self.inode = status.st_ino
        self.ctime_ns = status.st_ctime_ns

    def __enter__(self) -> FileView:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; a second call does nothing."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def read(self, offset: int, length: int) -> bytes:
        """Exactly ``length`` bytes at ``offset``; ElfError where the file has no such range."""
        if length > MAX_TABLE_BYTES:
            raise ElfError(self.path, f"has a table of {length} bytes, more than any real one")
        if offset < 0 or length < 0 or offset + length > self.size:
            raise ElfError(self.path, f"is truncated: {length} bytes at offset {offset} are past its end")
        try:
            data = os.pread(self._fd, length, offset)
            while len(data) < length:
                more = os.pread(self._fd, length - len(data), offset + len(data))
                if not more:
                    raise ElfError(self.path, "shrank while it was read")
                data += more
        except OSError as error:
            raise ElfError(self.path, f"cannot be read ({error.strerror})") from error
        return data

    def read_text(self, offset: int, limit: int) -> bytes:
        """The bytes from ``offset`` up to a NUL, the file's end or ``limit``."""
        data = self.read(offset, max(0, min(limit, self.size - offset)))
        return data.split(b"\0", 1)[0]

    def chunks(self, offset: int, length: int, overlap: int) -> Iterator[tuple[int, bytes]]:
        """(file offset, bytes) over a range, each chunk with the next one's first ``overlap`` bytes."""
        end = offset + length
        while offset < end:
            size = min(CHUNK_BYTES + overlap, end - offset)
            yield offset, self.read(offset, size)
            if offset + size == end:
                return
            offset += CHUNK_BYTES

    def find(self, needles: Sequence[bytes], offset: int, length: int) -> Iterator[tuple[int, bytes]]:
        """(file offset, needle) of every occurrence in a range, in no particular order."""
        overlap = max(map(len, needles), default=1) - 1
        cores = [(needle, _core(needle)) for needle in needles]
        for start, chunk in self.chunks(offset, length, overlap):
            for needle, core in cores:
                # A hit that begins in the overlap is the next chunk's to report.
                limit = len(chunk) if start + len(chunk) == offset + length else CHUNK_BYTES + len(needle) - 1
                limit -= len(needle) - len(core)
                position = chunk.find(core, 0, limit)
                while position >= 0:
                    if chunk.startswith(needle, position):
                        yield start + position, needle
                    position = chunk.find(core, position + 1, limit)


def _core(needle: bytes) -> bytes:
    """What is searched for: files are full of NULs, and a search for what ends with one takes twice as long.

    Not where what is left is everywhere too, as of small numbers.
    """
    core = needle.rstrip(b"\0")
    return core if len(core) > 1 and b"\0" not in core else needle


def file_exists(path: str) -> bool:
    """Whether ``path`` is a regular file that can be reached; never an error."""
    try:
        return Path(path).is_file()
    except (OSError, ValueError):
        return False
