"""What runs on this machine, and which files its code comes from: /proc and the loader's cache, read only.

Models proc(5) and the cache of ld.so(8). A process can end between any two reads: it is then simply not
there, and never an error, except for ``require_process``, where a user named it.

Files are named by a path that this process can open and identified by fstat's (device, inode) of that path.
For a process in another mount namespace that is /proc/PID/root/..., for a deleted or replaced file
or a memfd /proc/PID/map_files/...; both work for as long as the process maps the file, so a path is for
using at once. Containers that share an overlayfs layer can show one file under two identities: a probe on
both fires twice for a call, which the rule of capture.tls_libraries on nested calls counts once.

Knows nothing of TLS or BPF.
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import struct
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from capture.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

PROC = Path("/proc")
LOADER_CACHE = Path("/etc/ld.so.cache")
# A command line is for a comment that people read; Linux allows megabytes.
MAX_COMMAND_LINE_BYTES = 4096

_DELETED = " (deleted)"
# An executable mapping of a file: address range, device, inode (0 is anonymous), path.
_MAPPING = re.compile(
    rb"^([0-9a-f]+-[0-9a-f]+) ..x. [0-9a-f]+ ([0-9a-f]+:[0-9a-f]+) ([1-9][0-9]*) +(/.*)$", re.MULTILINE
)
# The kernel writes a newline in a path so; every other byte stays itself.
_ESCAPED_NEWLINE = b"\\012"

_CACHE_MAGIC = b"glibc-ld.so.cache1.1"
_CACHE_HEADER = struct.Struct("<20sII20x")
_CACHE_ENTRY = struct.Struct("<iIIIQ")


@dataclass(frozen=True, slots=True)
class RunningProcess:
    """A process as /proc shows it. ``start_ticks`` (clock ticks since boot) tells reused pids apart.

    ``exe`` and ``command_line`` are None where they may not be read or don't exist (kernel threads).
    """

    pid: int
    start_ticks: int
    comm: str
    exe: str | None
    command_line: str | None


class Version(NamedTuple):
    """When an inode was last changed (ctime, ns since 1970), and its size (bytes)."""

    changed: int
    size: int

    @classmethod
    def of(cls, status: os.stat_result) -> Version:
        """As stat(2) has it."""
        return cls(status.st_ctime_ns, status.st_size)


@dataclass(frozen=True, slots=True)
class ExecutableFile:
    """A file that code is mapped from, or may be.

    ``path`` can be opened now; ``name`` is the path for people, as the process sees it. ``version`` tells contents
    of one inode apart. ``pids`` are the processes that map it, none for one that none maps yet.
    """

    path: str
    device: int
    inode: int
    version: Version
    name: str
    pids: tuple[int, ...]


def process_ids() -> list[int]:
    """The pids of all processes, ascending."""
    return sorted(int(entry.name) for entry in PROC.iterdir() if entry.name.isdigit())


def stat_fields(process: str) -> list[bytes]:
    """The fields of proc(5)'s stat from the state on, of ``PID`` or ``PID/task/TID``. Raises OSError."""
    return _read(PROC / process / "stat", 4096).rpartition(b")")[2].split()


def descendants(pids: Iterable[int]) -> set[int]:
    """The children that these processes have now, and theirs."""
    children: dict[int, list[int]] = {}
    for pid in process_ids():
        with contextlib.suppress(OSError, IndexError):
            parent = int(stat_fields(str(pid))[1])
            children.setdefault(parent, []).append(pid)
    found: set[int] = set()
    unseen = list(pids)
    while unseen:
        new = set(children.get(unseen.pop(), ())) - found
        found |= new
        unseen += new
    return found


def start_ticks(pid: int) -> int | None:
    """RunningProcess's, None if there is no process with that pid (any more)."""
    try:
        return int(stat_fields(str(pid))[19])
    except (OSError, IndexError):
        return None


def read_process(pid: int) -> RunningProcess | None:
    """The process, or None if there is none with that pid (any more)."""
    folder = PROC / str(pid)
    try:
        status = _read(folder / "status", 4096)
        fields = stat_fields(str(pid))
        comm = _read(folder / "comm", 64).removesuffix(b"\n")
        group = re.search(rb"^Tgid:\t(\d+)$", status, re.MULTILINE)
        # A thread's id opens too, though /proc doesn't list it.
        if group is None or int(group[1]) != pid:
            return None
        return RunningProcess(pid, int(fields[19]), _text(comm), _executable(folder), _command_line(folder))
    except (OSError, IndexError):
        return None


def running_processes() -> Iterator[RunningProcess]:
    """All processes, ascending by pid; those that end meanwhile are left out."""
    for pid in process_ids():
        process = read_process(pid)
        if process is not None:
            yield process


def require_process(pid: int) -> RunningProcess:
    """The process that a user named; UsageError where there is none."""
    process = read_process(pid)
    if process is None:
        raise UsageError(f"There is no process {pid}; `ps -e` lists those that run.")
    return process


def discover_files(pids: Iterable[int] | None = None, *, also: Iterable[str] = ()) -> list[ExecutableFile]:
    """The files that code of ``pids`` (default: all processes) is mapped from, and ``also`` those, each once.

    Processes that end or may not be read are left out, and paths where nothing is. Takes a millisecond per process or
    less.
    """
    found = _Discovery(_namespace(PROC / "self"))
    for pid in process_ids() if pids is None else pids:
        found.add_process(pid)
    for path in also:
        found.add_file(path)
    return found.files()


class _Discovery:
    """The files found so far. Each is located once for a mount namespace, however many processes map it."""

    def __init__(self, own_namespace: int | None) -> None:
        self._own_namespace = own_namespace
        self._files: dict[tuple[int, int], ExecutableFile] = {}
        self._pids: dict[tuple[int, int], dict[int, None]] = {}
        self._located: dict[tuple[int, bytes, bytes, int], tuple[int, int]] = {}

    def add_process(self, pid: int) -> None:
        """Add what the process maps; nothing if it ended or may not be read."""
        folder = PROC / str(pid)
        namespace = _namespace(folder)
        if namespace is None:
            return
        for mapping in executable_mappings(pid):
            key = (namespace, mapping.device, mapping.name, mapping.inode)
            if key not in self._located:
                file = _locate(folder, mapping, plain=namespace == self._own_namespace)
                if file is None:
                    continue
                self._located[key] = (file.device, file.inode)
                self._files.setdefault(self._located[key], file)
            self._pids.setdefault(self._located[key], {})[pid] = None

    def add_file(self, path: str) -> None:
        """Add a file of this namespace; nothing if it isn't there."""
        try:
            status = os.stat(path)  # noqa: PTH116 - as in _locate
        except (OSError, ValueError):
            return
        identity = (status.st_dev, status.st_ino)
        self._files.setdefault(identity, ExecutableFile(path, *identity, Version.of(status), path, ()))

    def files(self) -> list[ExecutableFile]:
        """All of them, each with its pids."""
        return [
            replace(file, pids=tuple(self._pids.get(identity, ()))) for identity, file in self._files.items()
        ]


@dataclass(frozen=True, slots=True)
class Mapping:
    """One executable mapping: its address range as map_files names it, the file's device, inode and path."""

    addresses: str
    device: bytes
    inode: int
    name: bytes


def executable_mappings(pid: int) -> list[Mapping]:
    """The first executable mapping of each file of a process; empty if it ended or may not be read."""
    try:
        text = (PROC / str(pid) / "maps").read_bytes()
    except OSError:
        return []
    mappings: dict[tuple[bytes, bytes, bytes], Mapping] = {}
    for addresses, device, inode, name in _MAPPING.findall(text):
        key = (device, inode, name)
        if key not in mappings:
            mappings[key] = Mapping(addresses.decode(), device, int(inode), name)
    return list(mappings.values())


class CodeMapping(NamedTuple):
    """A part of a file that a process maps as code: addresses, and the offset of the first byte in the file."""

    begin: int
    end: int
    offset: int
    device: bytes
    inode: int
    name: bytes


def mappings_of_code(pid: int) -> list[CodeMapping]:
    """All of a process that are of files; empty if it ended or may not be read."""
    try:
        # A path may have other ends of lines in it.
        lines = (PROC / str(pid) / "maps").read_bytes().split(b"\n")
    except OSError:
        return []
    found = []
    for line in filter(None, lines):
        addresses, permissions, offset, device, inode, *name = line.split(None, 5)
        if b"x" in permissions and int(inode):
            begin, end = (int(part, 16) for part in addresses.split(b"-"))
            found.append(
                CodeMapping(begin, end, int(offset, 16), device, int(inode), name[0] if name else b"")
            )
    return found


def locate_mapping(pid: int, mapping: CodeMapping) -> ExecutableFile | None:
    """The mapped file under a path that opens it; None if the process is gone or denies it."""
    addresses = f"{mapping.begin:x}-{mapping.end:x}"
    return _locate(
        PROC / str(pid), Mapping(addresses, mapping.device, mapping.inode, mapping.name), plain=False
    )


def code_at(pid: int, address: int) -> tuple[str, int] | None:
    """The file that a process maps as code at an address, under a path that opens it, and the offset in it."""
    for mapping in mappings_of_code(pid):
        if mapping.begin <= address < mapping.end:
            file = locate_mapping(pid, mapping)
            return (file.path, address - mapping.begin + mapping.offset) if file else None
    return None


def _locate(folder: Path, mapping: Mapping, *, plain: bool) -> ExecutableFile | None:
    """The mapped file under a path that opens it; None if the process is gone or denies it."""
    name = os.fsdecode(mapping.name.replace(_ESCAPED_NEWLINE, b"\n"))
    # The second needs fewer rights, and serves where the file is the executable.
    candidates = [f"{folder}/map_files/{mapping.addresses}", f"{folder}/exe"]
    if not name.endswith(_DELETED):
        # The kernel writes paths of this namespace as this process sees them, whatever root the other has.
        candidates.insert(0, name if plain else f"{folder}/root{_below_root(folder, name)}")
    for path in candidates:
        try:
            status = os.stat(path)  # noqa: PTH116 - names may hold bytes that Path normalises away
        except (OSError, ValueError):
            continue
        # Compared by inode number only: maps and stat disagree about the device on btrfs and overlayfs.
        if status.st_ino == mapping.inode:
            name = name.removesuffix(_DELETED)
            return ExecutableFile(path, status.st_dev, status.st_ino, Version.of(status), name, ())
    return None


def _below_root(folder: Path, name: str) -> str:
    """A path of another mount namespace, as seen from the process's root: of a chroot that is not the namespace's."""
    try:
        root = str((folder / "root").readlink())
    except OSError:
        return name
    return name.removeprefix(root) if name.startswith(f"{root}/") else name


def loader_cache_libraries(cache: Path = LOADER_CACHE) -> list[str]:
    """The paths in the loader's cache, each once; none where there is no such cache, as with musl."""
    try:
        data = cache.read_bytes()
    except OSError:
        return []
    # An old-format table may come first; offsets count from the new header.
    start = data.find(_CACHE_MAGIC)
    if start < 0 or len(data) < start + _CACHE_HEADER.size:
        return []
    _, count, _ = _CACHE_HEADER.unpack_from(data, start)
    entries = start + _CACHE_HEADER.size
    available = (len(data) - entries) // _CACHE_ENTRY.size
    paths: dict[str, None] = {}
    for index in range(min(count, available)):
        _, _, value, _, _ = _CACHE_ENTRY.unpack_from(data, entries + index * _CACHE_ENTRY.size)
        end = data.find(b"\0", start + value)
        if end > start + value:
            paths[os.fsdecode(data[start + value : end])] = None
    return list(paths)


def _namespace(folder: Path) -> int | None:
    try:
        return int(re.sub(r"\D", "", str((folder / "ns" / "mnt").readlink())))
    except (OSError, ValueError):
        return None


def _executable(folder: Path) -> str | None:
    try:
        return _text(os.fsencode((folder / "exe").readlink())).removesuffix(_DELETED)
    except OSError:
        return None


def _command_line(folder: Path) -> str | None:
    """The arguments as a shell would take them, or None for a kernel thread or a zombie."""
    # A program that gives itself a title leaves zeros where its arguments were.
    data = _read(folder / "cmdline", MAX_COMMAND_LINE_BYTES).rstrip(b"\0")
    return shlex.join(map(_text, data.split(b"\0"))) if data else None


def _read(path: Path, limit: int) -> bytes:
    with path.open("rb", buffering=0) as file:
        return file.read(limit)


def _text(data: bytes) -> str:
    return data.decode("utf-8", "backslashreplace")
