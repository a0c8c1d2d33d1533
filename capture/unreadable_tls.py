"""TLS that no probe reads, by name: what a process has in it that explains ciphertext without plaintext.

Java, Erlang and .NET's managed code have TLS of their own that is compiled while it runs. Rust's rustls is read by the
names of its functions (capture.rustls), which most programs that are given away have lost. A row is known by the name
of a file that the process maps, rustls by the source paths that its panics leave in the file. For warnings only:
nothing is attached on this account.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from capture.errors import PlaintapError
from capture.file_view import FileView
from capture.processes import discover_files, read_process
from capture.rustls import PATH_BYTES, PATH_NEEDLE, PATH_VERSION

if TYPE_CHECKING:
    from collections.abc import Callable

    from capture.processes import ExecutableFile, Version

# A mapped file's name (no directory) → whose TLS it is.
KNOWN_FILES: tuple[tuple[str, str], ...] = (
    (r"libjvm\.so|java", "Java's JSSE"),
    (r"beam(\.\w+)*", "Erlang's ssl"),
    (r"libbotan-\d.*\.so.*", "Botan"),
    (r"libbearssl.*\.so.*", "BearSSL"),
)
# The smallest program with rustls has more; most libraries of a process are smaller, and not worth a search.
MIN_BYTES = 1 << 20
# Processes, and files, of which the answer is kept: those of a busy machine at one time.
MAX_REMEMBERED = 4096


class UnreadableTls:
    """Names the TLS of processes, each file looked into once; ``program`` is what one that has ended had run."""

    def __init__(self, program: Callable[[int], str | None] = lambda pid: None) -> None:
        self._program = program
        # Oldest first.
        self._files: OrderedDict[tuple[int, int, Version], str | None] = OrderedDict()
        self._processes: OrderedDict[int, tuple[int, str | None]] = OrderedDict()

    def name(self, pid: int) -> str | None:
        """Whose TLS the process has, as far as that is recognised; of one that has ended unseen, by its program."""
        running = read_process(pid)
        known = self._processes.get(pid)
        if known and (running is None or known[0] == running.start_ticks):
            return known[1]
        files = discover_files([pid]) if running else []
        if running is None or not files:  # it is a zombie, or becomes one: its memory goes first
            path = self._program(pid)
            return None if path is None else _at(path)
        found = next(filter(None, map(self._name_of, files)), None)
        self._processes[pid] = (running.start_ticks, found)
        if len(self._processes) > MAX_REMEMBERED:
            self._processes.popitem(last=False)
        return found

    def _name_of(self, file: ExecutableFile) -> str | None:
        key = (file.device, file.inode, file.version)
        if key in self._files:
            return self._files[key]
        found = self._files[key] = unreadable_by_name(file.name) or unreadable_by_content(file.path)
        if len(self._files) > MAX_REMEMBERED:
            self._files.popitem(last=False)
        return found


@lru_cache(maxsize=MAX_REMEMBERED)
def _at(path: str) -> str | None:
    return unreadable_by_name(path) or unreadable_by_content(path)


def unreadable_by_name(path: str) -> str | None:
    """Whose TLS a mapped file has, by KNOWN_FILES; None for others."""
    name = Path(path).name
    return next((library for pattern, library in KNOWN_FILES if re.fullmatch(pattern, name)), None)


def unreadable_by_content(path: str) -> str | None:
    """Whose TLS a file has, by what is in it; for files that no probes fit."""
    try:
        with FileView(path) as view:
            if view.size < MIN_BYTES:
                return None
            for offset, _ in view.find([PATH_NEEDLE], 0, view.size):
                if match := PATH_VERSION.match(view.read(offset, min(PATH_BYTES, view.size - offset))):
                    return f"rustls {match[1].decode()}"
    except (OSError, PlaintapError):
        return None
    return None
