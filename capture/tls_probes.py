"""Attaches probes to the TLS libraries of this machine: rows of call shapes → programs of the kernel side."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from bpf.probes import Probes, UprobeSite
from capture.call_shapes import Call, LibraryProbes
from capture.errors import PlaintapError
from capture.processes import ExecutableFile, discover_files
from capture.tls_libraries import may_hold_tls, probes_for


@dataclass(frozen=True, slots=True)
class Programs:
    """The pair of a call shape."""

    entry: str
    at_return: str | None


# Shapes without a row have no program: they are not attached.
PROGRAMS: dict[Call, Programs] = {
    Call.READ_INT: Programs("enter_buffer", "return_read_int"),
    Call.WRITE_INT: Programs("enter_buffer", "return_write_int"),
    Call.READ_LONG: Programs("enter_buffer", "return_read_long"),
    Call.WRITE_LONG: Programs("enter_buffer", "return_write_long"),
    Call.READ_EX: Programs("enter_buffer_done4", "return_read_pointer"),
    Call.WRITE_EX: Programs("enter_buffer_done4", "return_write_pointer"),
    Call.WRITE_EX2: Programs("enter_buffer_done5", "return_write_pointer"),
    Call.HANDSHAKE: Programs("enter_object", "return_handshake"),
    Call.HANDSHAKE_ZERO: Programs("enter_object", "return_handshake_zero"),
    Call.FREE: Programs("enter_free", None),
}


class TlsProbes:
    """Which files have been looked at, and the names of the libraries behind the samples' cookies."""

    def __init__(self, probes: Probes) -> None:
        self._probes = probes
        self._seen: set[tuple[int, int]] = set()
        self._names: list[str] = []
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
            try:
                found = probes_for(file.path)
                if found and found.sites:
                    self._attach(found)
                    attached += 1
            except (PlaintapError, OSError) as error:
                self.warnings.append(f"{file.name}: no probes ({error}).")
        return attached

    def _attach(self, found: LibraryProbes) -> None:
        sites = []
        for site in found.sites:
            programs = PROGRAMS.get(site.call)
            if programs is None:
                continue
            sites.append(UprobeSite(programs.entry, site.entry_offset, at_return=False))
            if programs.at_return and site.return_offset is not None:
                sites.append(UprobeSite(programs.at_return, site.return_offset, at_return=True))
        if sites:
            self._names.append(found.library)
            self._probes.attach_uprobes(found.path, sites, len(self._names))
