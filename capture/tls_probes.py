"""Attaches probes to the TLS libraries of this machine: a library's rows → the kernel side's shapes.

Looking (files and code, in Python) and attaching (system calls) are apart, so that the first look can run while
the kernel side is compiled.
"""

from __future__ import annotations

import os
import stat
import time
from collections import Counter, deque
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, BinaryIO, Protocol

from bpf import abi
from bpf.probes import Probes, UprobeSite
from bpf.system import is_overlay
from capture.errors import PlaintapError
from capture.older_calls import ProbedFile
from capture.processes import ExecutableFile, Version, discover_files, loader_cache_libraries
from capture.record_places import library_of
from capture.tls_libraries import may_hold_tls

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from capture.call_shapes import LibraryProbes, ProbeSite
    from capture.leases import Lease, Leases
    from capture.older_calls import OlderCalls
    from capture.probe_catalog import ProbeCatalog

# Files that are remembered as looked at, as many as the kernel side remembers; one more look costs little.
MAX_SEEN = 65536


@dataclass(frozen=True, slots=True)
class Look:
    """What a look at a file gave: its probes, None for no TLS library, or why it cannot be told.

    With probes the file is held open by a lease: its path may be one of a process that ends before they are
    attached, and its content must stay what was looked at.
    """

    file: ExecutableFile
    probes: LibraryProbes | None
    problem: str | None = None
    lease: Lease | None = None


class TlsFiles:
    """Looks at files, each once, and once more after someone wrote to it."""

    def __init__(self, catalog: ProbeCatalog, leases: Leases) -> None:
        self._catalog = catalog
        self._leases = leases
        # All by device and inode.
        self._seen: dict[tuple[int, int], Version] = {}
        self._inodes: Counter[tuple[int, Version]] = Counter()  # of those: whatever the device
        # Files of overlays that are one file below, by the one that has the probes.
        self._same: dict[tuple[int, int], list[ExecutableFile]] = {}
        self._leased: dict[tuple[int, int], tuple[ExecutableFile, Lease]] = {}
        self._readable: set[int] = set()  # inodes
        self._written: dict[tuple[int, int], tuple[ExecutableFile, BinaryIO]] = {}

    def look_everywhere(self) -> list[Look]:
        """Every file that running processes map as code, and the libraries of the loader's cache."""
        libraries = [path for path in loader_cache_libraries() if may_hold_tls(path.rpartition("/")[2])]
        return self._look(discover_files(also=libraries))

    def look_at_places(self) -> list[Look]:
        """What had probes in an earlier recording: a program may send its first request 5 ms after its start."""
        return self._look(discover_files((), also=self._catalog.places()))

    def look_at(self, pids: Iterable[int]) -> list[Look]:
        """What these processes map and was not looked at before."""
        return self._look(discover_files(pids))

    def look_at_path(self, path: str, inode: int, version: Version) -> list[Look]:
        """A file of ours, if it is still this one and was not looked at before."""
        try:
            status = os.stat(path)  # noqa: PTH116 - names may hold any bytes
        except (OSError, ValueError):
            return []
        if (status.st_ino, Version.of(status)) != (inode, version):
            return []
        return self._look([ExecutableFile(path, status.st_dev, status.st_ino, Version.of(status), path, ())])

    def look_again(self) -> list[Look]:
        """Files that someone opened for writing, when none has them open any more."""
        same = []
        for lease in self._leases.take_ended():
            for key, (file, held) in list(self._leased.items()):
                if held is lease:
                    del self._leased[key]
                    self._written[key] = (file, lease.file)
                    same += self._same.pop(key, [])
        written, self._written = self._written, {}
        for key in (*written, *((file.device, file.inode) for file in same)):
            self._forget(key)
        looks = [look for file, opened in written.values() if (look := self._look_into(file, opened))]
        return looks + self._look(same)

    def drop_deleted(self) -> list[Look]:
        """Let go of deleted files that no process maps any more; open files and probes would keep them on the disk.

        What a process has mapped meanwhile is looked at again.
        """
        deleted = [key for key, (_, lease) in self._leased.items() if _is_deleted(lease.file)]
        mapped = {file.inode for file in discover_files()} if deleted else set()
        gone = [key for key in deleted if key[1] not in mapped]
        for key in gone:
            _, lease = self._leased.pop(key)
            lease.end()
            self._leases.drop(lease)
            self._forget(key)
        return self._look(discover_files()) if gone else []

    def has_seen(self, inode: int, version: Version) -> bool:
        """Whether a file with this inode number was looked at as it is. The kernel's device may not be stat's."""
        return self._inodes[inode, version] > 0

    def _note(self, key: tuple[int, int], version: Version) -> None:
        self._forget(key)
        self._seen[key] = version
        self._inodes[key[1], version] += 1
        if len(self._seen) > MAX_SEEN:
            self._forget(next(iter(self._seen)))

    def _forget(self, key: tuple[int, int]) -> None:
        version = self._seen.pop(key, None)
        if version:
            self._inodes[key[1], version] -= 1
            if not self._inodes[key[1], version]:
                del self._inodes[key[1], version]

    def has_probes(self, inode: int) -> bool:
        """Whether the file was found to have a TLS library that can be probed."""
        return inode in self._readable

    def save(self) -> None:
        """Remember for the next recording."""
        self._catalog.save()

    def _look(self, files: Iterable[ExecutableFile]) -> list[Look]:
        return [look for file in files if (look := self._look_once(file))]

    def _look_once(self, file: ExecutableFile) -> Look | None:
        """None for a file that was seen before, or is gone with the last process that mapped it."""
        key = (file.device, file.inode)
        if self._seen.get(key) == file.version or key in self._written:
            return None
        if key in self._leased:
            _, lease = self._leased[key]
            if lease.granted:
                if not lease.broken:
                    self._note(key, file.version)  # another name or mode: nobody wrote to it
                return None
            lease.end()
            del self._leased[key]
            self._leases.drop(lease)
        try:
            opened = _open(file)
        except (FileNotFoundError, ProcessLookupError):
            return None
        except OSError as error:
            self._note(key, file.version)
            return Look(file, None, error.strerror)
        if opened and self._has_probes_below(file, opened):
            opened.close()
            return None
        return self._look_into(file, opened) if opened else None

    def _has_probes_below(self, file: ExecutableFile, opened: BinaryIO) -> bool:
        """Whether it is a file of an overlay whose layer's file has probes by another overlay already.

        Each container shows the files of its image under a device of its own; a probe is in the inode below.
        """
        if not self._inodes[file.inode, file.version]:
            return False
        for key, (other, lease) in self._leased.items():
            if (
                (other.inode, other.version) == (file.inode, file.version)
                and not lease.broken
                and is_overlay(opened.fileno())
                and is_overlay(lease.file.fileno())
            ):
                self._same.setdefault(key, []).append(file)
                self._note((file.device, file.inode), file.version)
                return True
        return False

    def _look_into(self, file: ExecutableFile, opened: BinaryIO) -> Look | None:
        key = (file.device, file.inode)
        lease = self._leases.take(opened)
        if not lease:
            self._written[key] = (file, opened)
            return None
        file = replace(file, version=Version.of(os.fstat(opened.fileno())))
        self._note(key, file.version)
        problem = None
        try:
            if probes := self._catalog.probes_for(lease.path, file.path):
                self._leased[key] = (file, lease)
                if probes.level != "resolver":
                    self._readable.add(file.inode)
                return Look(file, probes, None, lease)
        except (PlaintapError, OSError) as error:
            # No library of ours: code for another loader, as Lisp's and .NET's images, or compiled while it runs.
            is_image = "not an ELF file" in str(error)
            problem = None if is_image else str(error).replace(lease.path, file.name)
        self._leases.drop(lease)
        return Look(file, None, problem)


def _open(file: ExecutableFile) -> BinaryIO | None:
    """The file, unless its path is another's by now, such as a FIFO's that a process put there. Raises OSError."""
    fd = os.open(file.path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    status = os.fstat(fd)
    if not stat.S_ISREG(status.st_mode) or (status.st_dev, status.st_ino) != (file.device, file.inode):
        os.close(fd)
        return None
    return os.fdopen(fd, "rb", buffering=0)


def _is_deleted(file: BinaryIO) -> bool:
    return os.fstat(file.fileno()).st_nlink == 0


class KnownFiles(Protocol):
    """Where files are listed that were looked at: by device, inode and version, as stat(2) has them."""

    def know_file(self, device: int, inode: int, version: Version) -> None:
        """A file was looked at."""

    def forget_file(self, device: int, inode: int, version: Version) -> None:
        """It must be looked at again."""

    def expect_keys(self, pid: int) -> None:
        """A process has a library whose objects are keys."""


class TlsProbes:
    """Attaches, and knows the names of the libraries behind the samples' cookies."""

    def __init__(self, probes: Probes, known: KnownFiles, older: OlderCalls) -> None:
        self._probes = probes
        self._known = known
        self._older = older
        self._names: list[str] = []
        self._files: list[str] = []
        self._since = {0: 0}
        self._distrusted: set[int] = set()
        self._warnings: deque[str] = deque()

    def take_warnings(self) -> list[str]:
        """Files that cannot be probed, each once."""
        return [self._warnings.popleft() for _ in range(len(self._warnings))]

    def library_name(self, cookie: int) -> str | None:
        """The library behind a sample's cookie."""
        return self._names[cookie - 1] if 0 < cookie <= len(self._names) else None

    def probed_since(self, cookie: int) -> int:
        """When the probes behind a sample's cookie were all in place (CLOCK_MONOTONIC, ns)."""
        since = self._since.get(cookie)
        return time.monotonic_ns() if since is None else since

    def distrust(self, cookies: Iterable[int]) -> None:
        """Say of which files the kernel side believes no probe any more."""
        for cookie in set(cookies) - self._distrusted:
            self._distrusted.add(cookie)
            self._warnings.append(
                f"{self._files[cookie - 1]}: its {self._names[cookie - 1]} returned what none of its kind returns: "
                "its probes are ignored, and bytes that they told of may be wrong."
            )

    def attach(self, looks: Iterable[Look]) -> bool:
        """Attach what was found; a file that cannot be probed is a warning. Whether any has probes now."""
        attached = False
        for look in looks:
            file, problem = look.file, look.problem
            if look.probes and look.lease:
                try:
                    look.lease.use(self._attacher(look.probes, look.lease.path, file))
                    attached = True
                except (PlaintapError, OSError) as error:
                    problem = str(error)
            # After its probes are there; a writer may have come meanwhile.
            if not (look.lease and look.lease.broken):
                self._known.know_file(file.device, file.inode, file.version)
            if problem:
                self._warnings.append(f"{file.name}: no probes ({problem}).")
        return attached

    def _attacher(
        self, found: LibraryProbes, path: str, file: ExecutableFile
    ) -> Callable[[], Callable[[], None]]:
        def attach() -> Callable[[], None]:
            links = self._attach(found, path, file)
            return lambda: self._undo(links, file)

        return attach

    def _undo(self, links: tuple[int, ...], file: ExecutableFile) -> None:
        self._probes.release(links)
        self._older.remove(file.inode)
        self._known.forget_file(file.device, file.inode, file.version)

    def _attach(self, found: LibraryProbes, path: str, file: ExecutableFile) -> tuple[int, ...]:
        sites = [
            UprobeSite(
                site.call.name,
                site.entry_offset,
                site.return_offset,
                site.results_offsets,
                _flags(site, found),
            )
            for site in found.sites
        ]
        if any(_is_of_keys(site) for site in found.sites):
            for pid in file.pids:
                self._known.expect_keys(pid)
        self._names.append(found.library)
        self._files.append(file.name)
        number = len(self._names)
        links = self._probes.attach_uprobes(path, sites, number)
        self._since[number] = time.monotonic_ns()
        numbered = tuple((site, number | _flags(site, found)) for site in found.sites)
        self._older.add(ProbedFile(path, file.inode, number, numbered))
        return links


def _flags(site: ProbeSite, found: LibraryProbes) -> int:
    """events.h's flags of a site, beside the library's number."""
    constants = abi.header().constants
    if site.offsets:
        bits = (constants["OFFSET_SHIFT"], constants["SECOND_OFFSET_SHIFT"])
        return sum(offset << shift for offset, shift in zip(site.offsets, bits, strict=False))
    flags = constants["WITHOUT_BIO"] if _lacks_bio(site, found) else 0
    # Found by their code, or called by a convention that is nobody's promise.
    guarded = found.level == "located" or _is_of_keys(site)
    flags |= constants["LOCATED"] if guarded else 0
    return flags | site.pushed << constants["PUSHED_SHIFT"]


def _is_of_keys(site: ProbeSite) -> bool:
    """Whether the function's object is a key: see bpf/keys.bpf.h."""
    return site.call.name.startswith("RUSTLS_")


def _lacks_bio(site: ProbeSite, found: LibraryProbes) -> bool:
    """Whether the function's records are not seen on their way out, where it makes no system calls itself: its library
    has no BIO_write, or none was found, nor what hands them to the program. What is not OpenSSL's kin has no BIO_write,
    whatever else is in the file; Go, NSS and rustls have ways of their own to their sockets."""
    if site.call.name.startswith(("GO_", "NS")) or _is_of_keys(site):
        return False
    if not site.symbol.lower().startswith("ssl_"):
        library = library_of(site.symbol)
        return not any(other.offsets and library_of(other.symbol) == library for other in found.sites)
    return found.level == "located" and all(other.call.name != "BIO_WRITE" for other in found.sites)
