"""Attaches probes to the TLS libraries of this machine: a library's rows → the kernel side's shapes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bpf import abi
from bpf.probes import Probes, UprobeSite
from capture.errors import PlaintapError
from capture.processes import ExecutableFile, discover_files
from capture.tls_libraries import may_hold_tls, probes_for

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from capture.call_shapes import LibraryProbes


class TlsProbes:
    """Which files have been looked at, and the names of the libraries behind the samples' cookies."""

    def __init__(self, probes: Probes, know_file: Callable[[int, int], None]) -> None:
        """``know_file`` takes device and inode of each file that was looked at."""
        self._probes = probes
        self._know_file = know_file
        self._seen: set[tuple[int, int]] = set()
        self._names: list[str] = []
        # Call shapes without a program are not attached.
        self._shapes = abi.header().enums["shape"]
        self.warnings: list[str] = []

    def attach_all(self) -> None:
        """Every copy that running processes map, and the ones of the loader's cache."""
        self._attach_files(discover_files(from_loader_cache=may_hold_tls))

    def attach_for(self, pids: Iterable[int]) -> int:
        """What these processes map and was not seen before; the number of files that got probes."""
        return self._attach_files(discover_files(pids))

    def library_name(self, cookie: int) -> str | None:
        """The library behind a sample's cookie."""
        return self._names[cookie - 1] if 0 < cookie <= len(self._names) else None

    def _attach_files(self, files: Iterable[ExecutableFile]) -> int:
        attached = 0
        for file in files:
            if (file.device, file.inode) in self._seen:
                continue
            self._seen.add((file.device, file.inode))
            self._know_file(file.device, file.inode)
            try:
                found = probes_for(file.path)
                if found and found.sites:
                    self._attach(found)
                    attached += 1
            except (PlaintapError, OSError) as error:
                self.warnings.append(f"{file.name}: no probes ({error}).")
        return attached

    def _attach(self, found: LibraryProbes) -> None:
        sites = [
            UprobeSite(site.call.name, site.entry_offset, site.return_offset, site.results_offsets)
            for site in found.sites
            if f"SHAPE_{site.call.name}" in self._shapes
        ]
        if sites:
            self._names.append(found.library)
            self._probes.attach_uprobes(found.path, sites, len(self._names))
