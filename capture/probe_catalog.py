"""What was found in each file, remembered: in memory for a recording, on disk for the next one.

Most files have no TLS library, and saying so costs a search of the file; a browser costs half a second. A
file is recognised by what its owner cannot choose: device, inode, size and time of change (ctime). A build ID
can be copied into a file whose symbols lie, whose answer would then be every process's. What other code found is
not believed: the file on disk carries a digest of the modules that look.

The file on disk is for its owner only, and one that others could have written is left alone: its offsets
are where instructions of other programs get replaced. A file that is missing, malformed or not writable
costs time, nothing else.

Where files with probes were is remembered, too: a recording looks there when it has begun.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import os
import tempfile
from pathlib import Path
from typing import Any, get_args

from capture.cache_folder import cache_folder
from capture.call_shapes import Call, Level, LibraryProbes, ProbeSite
from capture.elf import ElfFile
from capture.record_places import MAX_OFFSET
from capture.tls_libraries import find_probes

# The modules whose answers are kept: a change in one makes the file on disk worthless.
DECIDING_MODULES = (
    "boringssl",
    "call_shapes",
    "code_search",
    "elf",
    "elf_symbols",
    "elf_unwind",
    "file_view",
    "golang",
    "located_libraries",
    "name_lookups",
    "openssl_internals",
    "openssl_static",
    "probe_points",
    "probe_sites",
    "record_places",
    "register_values",
    "register_writes",
    "rustls",
    "tls_libraries",
    "x86",
)
# Some thousand programs and libraries are on a machine; an answer is about 100 bytes, one with probes 1,000.
MAX_ENTRIES = 20_000
MAX_FILE_BYTES = 16 << 20
# Each takes a fraction of a millisecond to probe.
MAX_PLACES = 32
_OTHERS_CAN_WRITE = 0o022


def default_cache_file() -> Path:
    """Beside what else one recording keeps for the next."""
    return cache_folder() / "probes.json"


class ProbeCatalog:
    """``probes_for`` with a memory. ``file`` is where it is kept between recordings, None for nowhere."""

    def __init__(self, file: Path | None = None) -> None:
        self._file = file
        # Now, not when it is saved: by the end of a recording the code on disk may be another version's.
        self._code = _code_digest()
        # Oldest use first.
        self._entries: dict[str, dict[str, Any] | None] = {}
        self._changed = False
        if file is not None:
            self._load(file)

    def probes_for(self, path: str, place: str | None = None) -> LibraryProbes | None:
        """As capture.tls_libraries.probes_for: the probes of a file, or None; raises ElfError.

        ``place`` is where it was found, if ``path`` is a descriptor's.
        """
        place = place or path
        with ElfFile(path, place) as elf:
            key = _key(elf)
            if key in self._entries:
                entry = self._entries.pop(key)
                if entry is None or _fits(entry, elf):
                    self._entries[key] = entry
                    return _decode(entry) if entry else None
            found = find_probes(elf)
        self._entries[key] = {**_encode(found), "place": place} if found else None
        if len(self._entries) > MAX_ENTRIES:
            del self._entries[next(iter(self._entries))]
        self._changed = True
        return found

    def places(self) -> list[str]:
        """Where files with probes are, unchanged, so that no search is needed: those of the latest use."""
        found = (
            entry["place"]
            for key, entry in reversed(self._entries.items())
            # What is behind a process's or a thread's folder goes with that; numbers are used again.
            if entry and not entry["place"].startswith("/proc/") and _key_of(entry["place"]) == key
        )
        return list(itertools.islice(found, MAX_PLACES))

    def save(self) -> bool:
        """Write the file where something is new; whether it is up to date now."""
        if self._file is None or not self._changed:
            return self._file is not None
        text = json.dumps({"code": self._code, "files": self._entries}, separators=(",", ":"))
        try:
            self._file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            handle, temporary = tempfile.mkstemp(dir=self._file.parent, prefix=".probes-")
        except OSError:
            return False
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as output:
                output.write(text)
            Path(temporary).replace(self._file)
        except OSError:
            with contextlib.suppress(OSError):
                Path(temporary).unlink()
            return False
        self._changed = False
        return True

    def _load(self, file: Path) -> None:
        try:
            with file.open("rb") as source:
                status = os.fstat(source.fileno())
                owned = status.st_uid == os.geteuid() and not status.st_mode & _OTHERS_CAN_WRITE
                if not owned or status.st_size > MAX_FILE_BYTES:
                    return
                content = json.loads(source.read(MAX_FILE_BYTES))
            if content["code"] == self._code:
                entries = {str(key): entry for key, entry in content["files"].items()}
                for entry in entries.values():
                    if entry is not None:
                        _check(entry)
                self._entries = entries
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return


def _key(elf: ElfFile) -> str:
    view = elf.view
    return _key_text(view.device, view.inode, view.size, view.ctime_ns)


def _key_of(place: str) -> str | None:
    """That of the file which is there now."""
    try:
        status = os.stat(place)  # noqa: PTH116 - names may hold any bytes
    except (OSError, ValueError):
        return None
    return _key_text(status.st_dev, status.st_ino, status.st_size, status.st_ctime_ns)


def _key_text(device: int, inode: int, size: int, ctime_ns: int) -> str:
    return f"{device}:{inode}:{size}:{ctime_ns}"


def _code_digest() -> str:
    digest = hashlib.sha256()
    for name in DECIDING_MODULES:
        digest.update((Path(__file__).parent / f"{name}.py").read_bytes())
    return digest.hexdigest()


def _encode(found: LibraryProbes) -> dict[str, Any]:
    return {
        "library": found.library,
        "level": found.level,
        "notes": list(found.notes),
        "sites": [
            [
                site.call.name,
                site.symbol,
                site.entry_offset,
                site.return_offset,
                list(site.results_offsets),
                site.pushed,
                list(site.offsets),
            ]
            for site in found.sites
        ],
    }


def _decode(entry: dict[str, Any]) -> LibraryProbes:
    sites = tuple(
        ProbeSite(Call[call], symbol, entered, returned, tuple(results), pushed, tuple(offsets))
        for call, symbol, entered, returned, results, pushed, offsets in entry["sites"]
    )
    return LibraryProbes(entry["library"], entry["level"], sites, tuple(entry["notes"]))


def _fits(entry: dict[str, Any], elf: ElfFile) -> bool:
    """Whether all offsets are in the file."""
    sites = entry["sites"]
    return all(
        max(entered, returned or 0, *results, 0) < elf.view.size
        for _, _, entered, returned, results, *_ in sites
    )


def _check(entry: dict[str, Any]) -> None:
    """Raise ValueError, KeyError or TypeError if an entry isn't one that _encode could have made."""
    texts = [entry["library"], entry["place"], *entry["notes"]]
    if entry["level"] not in get_args(Level) or not all(isinstance(text, str) for text in texts):
        raise ValueError
    for call, symbol, entered, returned, results, pushed, offsets in entry["sites"]:
        numbers = [entered, *([] if returned is None else [returned]), *results, pushed, *offsets]
        if not isinstance(symbol, str) or any(type(number) is not int or number < 0 for number in numbers):
            raise ValueError
        if any(offset > MAX_OFFSET for offset in offsets):
            raise ValueError
        Call[call]
