"""Attaches probes to the TLS libraries of this machine: a library's rows → the kernel side's shapes.

Looking (files and code, in Python) and attaching (system calls) are apart, so that the first look can run while
the kernel side is compiled.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO

from bpf import abi
from bpf.probes import Probes, UprobeSite
from capture.errors import PlaintapError
from capture.processes import ExecutableFile, discover_files
from capture.tls_libraries import may_hold_tls

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from capture.call_shapes import LibraryProbes
    from capture.probe_catalog import ProbeCatalog


@dataclass(frozen=True, slots=True)
class Look:
    """What a look at a file gave: its probes, None for no TLS library, or why it cannot be told.

    With probes the file is ``opened``: its path may be one of a process that ends before they are attached.
    """

    file: ExecutableFile
    probes: LibraryProbes | None
    problem: str | None = None
    opened: BinaryIO | None = None


class TlsFiles:
    """Looks at files, each once."""

    def __init__(self, catalog: ProbeCatalog) -> None:
        self._catalog = catalog
        self._seen: set[tuple[int, int]] = set()

    def look_everywhere(self) -> list[Look]:
        """Every file that running processes map as code, and the libraries of the loader's cache."""
        return self._look(discover_files(from_loader_cache=may_hold_tls))

    def look_at(self, pids: Iterable[int]) -> list[Look]:
        """What these processes map and was not looked at before."""
        return self._look(discover_files(pids))

    def save(self) -> None:
        """Remember for the next recording."""
        self._catalog.save()

    def _look(self, files: Iterable[ExecutableFile]) -> list[Look]:
        return [look for file in files if (look := self._look_once(file))]

    def _look_once(self, file: ExecutableFile) -> Look | None:
        """None for a file that was seen before, or is gone with the last process that mapped it."""
        if (file.device, file.inode) in self._seen:
            return None
        try:
            opened = open(file.path, "rb", buffering=0)  # noqa: PTH123, SIM115 - names may hold any bytes
        except (FileNotFoundError, ProcessLookupError):
            return None
        except OSError as error:
            opened, problem = None, error.strerror
        self._seen.add((file.device, file.inode))
        if not opened:
            return Look(file, None, problem)
        path = _path_of(opened)
        try:
            probes = self._catalog.probes_for(path)
        except (PlaintapError, OSError) as error:
            opened.close()
            # What programs compile while they run is in memory that was never a file of its own.
            is_compiled = file.name.startswith("/memfd:") and "not an ELF file" in str(error)
            return Look(file, None, None if is_compiled else str(error).replace(path, file.name))
        if not probes:
            opened.close()
            return Look(file, None)
        return Look(file, probes, None, opened)


def _path_of(opened: BinaryIO) -> str:
    """A path to an open file, for as long as it is open."""
    return f"/proc/self/fd/{opened.fileno()}"


class TlsProbes:
    """Attaches, and knows the names of the libraries behind the samples' cookies."""

    def __init__(self, probes: Probes, know_file: Callable[[int, int], None]) -> None:
        """``know_file`` takes device and inode of each file that was looked at."""
        self._probes = probes
        self._know_file = know_file
        self._names: list[str] = []
        self._files: list[str] = []
        self._distrusted: set[int] = set()
        # Call shapes without a program are not attached.
        self._shapes = abi.header().enums["shape"]
        self.warnings: list[str] = []

    def library_name(self, cookie: int) -> str | None:
        """The library behind a sample's cookie."""
        return self._names[cookie - 1] if 0 < cookie <= len(self._names) else None

    def distrust(self, cookies: Iterable[int]) -> None:
        """Say of which files the kernel side believes no probe any more."""
        for cookie in set(cookies) - self._distrusted:
            self._distrusted.add(cookie)
            self.warnings.append(
                f"{self._files[cookie - 1]}: its {self._names[cookie - 1]} was found by its code, and returned what "
                "no such function returns: its probes are ignored, and bytes that they told of may be wrong."
            )

    def attach(self, looks: Iterable[Look]) -> None:
        """Attach what was found; a file that cannot be probed is a warning."""
        for look in looks:
            self._know_file(look.file.device, look.file.inode)
            problem = look.problem
            if look.probes and look.opened:
                with look.opened:
                    try:
                        self._attach(look.probes, _path_of(look.opened), look.file.name)
                    except (PlaintapError, OSError) as error:
                        problem = str(error)
            if problem:
                self.warnings.append(f"{look.file.name}: no probes ({problem}).")

    def _attach(self, found: LibraryProbes, path: str, name: str) -> None:
        sites = [
            UprobeSite(site.call.name, site.entry_offset, site.return_offset, site.results_offsets)
            for site in found.sites
            if f"SHAPE_{site.call.name}" in self._shapes
        ]
        if sites:
            self._names.append(found.library)
            self._files.append(name)
            constants = abi.header().constants
            flags = constants["WITHOUT_BIO"] if _lacks_bio(found) else 0
            flags |= constants["LOCATED"] if found.level == "located" else 0
            self._probes.attach_uprobes(path, sites, len(self._names) | flags)


def _lacks_bio(found: LibraryProbes) -> bool:
    """Whether a library's records are not seen on their way out, where it makes no system calls itself: it has no
    BIO_write, or none was found. Go and NSS have ways of their own to their sockets."""
    calls = {site.call.name for site in found.sites}
    if "BIO_WRITE" in calls or any(call.startswith(("GO_", "NS")) for call in calls):
        return False
    return found.level == "located" or not any(site.symbol.startswith("SSL_") for site in found.sites)
