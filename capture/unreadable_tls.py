"""TLS that no probe reads, by name: what a process has in it that explains ciphertext without plaintext.

Java and Erlang have TLS of their own that is compiled while it runs. Rust's rustls is read by the names of its
functions (capture.rustls), which most programs that are given away have lost. Haskell's tls is compiled by a compiler
with calls and stacks of its own, and so is Go's before 1.17, which capture.golang knows. A row is known by the name
of a file that the process maps, or by what compilers leave in the file: rustls's panics the paths of its source,
Haskell's constructors their packages. A library that others are read by is there without its symbols, and its functions
were not found: its error reports name it. For warnings only: nothing is attached on this account.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from capture.elf import ElfError, ElfFile
from capture.errors import PlaintapError
from capture.file_view import FileView, file_exists
from capture.golang import find_go_tls
from capture.processes import discover_files, start_ticks
from capture.rustls import LIBRARY, PATH_NEEDLES, PATH_VERSION
from capture.tls_libraries import find_probes

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


class Trace(NamedTuple):
    """What a compiler leaves of a library in a file: ``needle`` is searched for, ``pattern``, around it, must fit."""

    needle: bytes
    pattern: re.Pattern[bytes]
    library: str


# A group of the pattern is the version.
TRACES: tuple[Trace, ...] = (
    *(Trace(needle, PATH_VERSION, LIBRARY) for needle in PATH_NEEDLES),
    # From git, or in a program's own tree: whose version it is no path says.
    Trace(b"/rustls/src/", re.compile(rb"/rustls/src/\w"), LIBRARY),
    Trace(b":Network.TLS.", re.compile(rb"tls-(\d+(?:\.\d+)+)-\w+:Network\.TLS\."), "Haskell's tls"),
)
# What is in the error reports of libraries that are read where their functions are found.
REPORTS: tuple[tuple[bytes, str], ...] = (
    (b"ssl/ssl_lib.cc\0", "BoringSSL without symbols"),
    (b"ssl/ssl_lib.c\0", "OpenSSL without symbols"),
    (b"\0_gnutls_recv_int\0", "GnuTLS without symbols"),
)
# On either side of a needle: a package's name with its hash, a path below a package.
TRACE_BYTES = 64
# The smallest program with rustls has more; most libraries of a process are smaller, and not worth a search.
MIN_BYTES = 1 << 20
# Processes, and files, of which the answer is kept: those of a busy machine at one time.
MAX_REMEMBERED = 4096
# Processes of which it is kept what they map, some files each.
MAX_SEEN = 1024


class UnreadableTls:
    """Names the TLS of processes, each file looked into once; ``program`` is what one that has ended had run."""

    def __init__(self, program: Callable[[int], str | None] = lambda pid: None) -> None:
        self._program = program
        # All oldest first. What processes map that was not asked about; it goes with the process.
        self._seen: OrderedDict[int, list[ExecutableFile]] = OrderedDict()
        self._files: OrderedDict[tuple[int, int, Version], str | None] = OrderedDict()
        self._processes: OrderedDict[int, tuple[int, str | None]] = OrderedDict()

    def see(self, pid: int) -> None:
        """Remember what the process maps: it talks TLS now, and may have ended when it is asked about."""
        known = self._processes.get(pid)
        if known and known[0] == start_ticks(pid):
            return
        self._processes.pop(pid, None)
        self._seen[pid] = [
            file
            for file in discover_files([pid])
            if file.version.size >= MIN_BYTES or unreadable_by_name(file.name)
        ]
        if len(self._seen) > MAX_SEEN:
            self._seen.popitem(last=False)

    def name(self, pid: int) -> str | None:
        """Whose TLS the process has, as far as that is recognised; of one that has ended, by what was seen of it, or
        by its program."""
        since = start_ticks(pid)
        known = self._processes.get(pid)
        if known and since in (known[0], None):
            return known[1]
        seen = self._seen.pop(pid, [])
        # Of one that is a zombie, or becomes one, there are none: its memory goes first.
        files = discover_files([pid]) if since is not None else []
        found = next(filter(None, map(self._name_of, files or seen)), None)
        if since is None or not files:
            path = self._program(pid)
            return found or (None if path is None else _at(path))
        self._processes[pid] = (since, found)
        if len(self._processes) > MAX_REMEMBERED:
            self._processes.popitem(last=False)
        return found

    def _name_of(self, file: ExecutableFile) -> str | None:
        key = (file.device, file.inode, file.version)
        if key in self._files:
            return self._files[key]
        found = unreadable_by_name(file.name) or unreadable_by_content(file.path)
        if found is None and not file_exists(file.path):
            return None  # it could not be read: its path went with the process
        self._files[key] = found
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
    """Whose TLS a file has, by TRACES, with its version if one tells it; for files that no probes fit."""
    traces = {trace.needle: trace for trace in TRACES}
    without_version = None
    try:
        with FileView(path) as view:
            if view.size < MIN_BYTES:
                return None
            for offset, needle in view.find(list(traces), 0, view.size):
                trace = traces[needle]
                begin, end = max(0, offset - TRACE_BYTES), min(offset + TRACE_BYTES, view.size)
                if not (match := trace.pattern.search(view.read(begin, end - begin))):
                    continue
                if match.lastindex:
                    return f"{trace.library} {match[1].decode()}"
                without_version = without_version or trace.library
        return without_version or _without_probes(path)
    except (OSError, PlaintapError):
        return None


def _without_probes(path: str) -> str | None:
    """A library that other files are read by, and this one is not."""
    try:
        with ElfFile(path) as elf:
            found = find_go_tls(elf)
            if found and not found.sites:
                return found.label
            named = dict(REPORTS)
            needle = next((needle for _, needle in elf.find_read_only(list(named))), None)
            if needle is None:
                return None
            probes = find_probes(elf)
            return named[needle] if probes is None or probes.level == "resolver" else None
    except ElfError:
        return None
