"""HAR 1.2 archives, written as exchanges end.

The file is valid JSON after every flush: what closes the archive (the end of the entries, and the pages) is
written behind the entries each time, and overwritten by the next ones. Memory holds what has not been flushed, up
to MAX_SORTED_BYTES, and a page per process. Where the output cannot be rewound, as on a pipe, the archive is
closed once.

Exchanges end in another order than they begin in. HAR 1.2 prefers entries in order of their start, as Chrome writes
them: they are, as far as they have waited for each other.
"""

from __future__ import annotations

import importlib.metadata
from dataclasses import dataclass
from operator import itemgetter
from typing import TYPE_CHECKING, BinaryIO

import orjson

from exporters.har_entry import entry_of
from exporters.har_redaction import Redaction, without_bodies
from exporters.http.layers import Limits, Notes

if TYPE_CHECKING:
    from collections.abc import Callable

    from capture.streams import Process
    from exporters.har_fields import Json
    from exporters.http.messages import Exchange

FLUSH_BYTES = 1024 * 1024
"""How much is collected before it is written: the closing part, usually a few KiB, is rewritten each time."""

MAX_PAGES = 10_000
"""Processes that get a page; entries of later ones only name their process. Bounds the closing part."""


MAX_SORTED_BYTES = 16 * FLUSH_BYTES
"""Of entries that wait for those that began before them: all of most archives. Larger ones are in the order in which
exchanges ended: they are searched, not read."""


class InOrder:
    """Entries that wait until they are in order of their start, or are too many.

    Requests that HTTP/2 sent at once are in the order of their streams: devtools keep that of the file.
    """

    def __init__(self, write: Callable[[bytes], object]) -> None:
        self._write = write
        self._held: list[tuple[str, int, bytes]] = []
        self._bytes = 0
        self._too_many = False

    def add(self, entry: Json, data: bytes) -> None:
        """``data`` is what is to be written of ``entry``."""
        if self._too_many:
            self._write(data)
            return
        self._held.append((entry["startedDateTime"], entry.get("_streamId", 0), data))
        self._bytes += len(data)
        if self._bytes > MAX_SORTED_BYTES:
            self._too_many = True
            self.release()

    def release(self) -> None:
        """Write what waits."""
        for _, _, data in sorted(self._held, key=itemgetter(0, 1)):
            self._write(data)
        self._held.clear()
        self._bytes = 0


@dataclass(slots=True)
class HarResult:
    """What was written: ``incomplete`` entries say so themselves, and so do those with ``lost_bytes``."""

    entries: int = 0
    incomplete: int = 0
    lost_bytes: int = 0

    def count(self, entry: Json, exchange: Exchange) -> None:
        """``entry`` of ``exchange`` is written."""
        self.entries += 1
        self.incomplete += "_outcome" in entry
        self.lost_bytes += exchange.lost_bytes


class EntryMaker:
    """Makes entries: at most ``limits.decoded_bytes`` of each body, only of what is ``wanted``.

    Credentials are redacted unless ``redaction`` says otherwise; without ``bodies`` they are left out.
    """

    def __init__(
        self,
        limits: Limits | None = None,
        redaction: Redaction | None = None,
        bodies: bool = True,
        wanted: Callable[[Exchange], bool] | None = None,
    ) -> None:
        self._decoded_limit = (limits or Limits()).decoded_bytes
        self._redaction = redaction or Redaction.of()
        self._bodies = bodies
        self._wanted = wanted

    def entry_of(self, exchange: Exchange) -> Json | None:
        """The entry; None where there is to be none."""
        if self._wanted is not None and not self._wanted(exchange):
            return None
        entry = self._redaction(entry_of(exchange, self._decoded_limit))
        return entry if self._bodies else without_bodies(entry)

    def title_of(self, process: Process) -> str:
        """The title of a process's page."""
        title = process.command_line or process.exe or process.comm
        return self._redaction.command_line(title).encode("utf-8", "replace").decode()


class HarWriter:
    """Writes exchanges to ``output``, a binary file, as entries that ``maker`` makes."""

    def __init__(self, output: BinaryIO, maker: EntryMaker | None = None) -> None:
        self.result = HarResult()
        self._output = output
        self._maker = maker or EntryMaker()
        self._rewindable = output.seekable()
        self._pages: dict[Process, Json] = {}
        creator = {"name": "plaintap", "version": importlib.metadata.version("plaintap")}
        head = b'{"log":{"version":"1.2","creator":' + orjson.dumps(creator) + b',"entries":['
        # One buffer rather than a list of entries: the allocator gives back, and fetches again, what they free.
        self._pending = bytearray(head)
        self._entries = InOrder(self._append)
        self._separator = b"\n"
        self._end = output.tell() if self._rewindable else 0
        self._comment: str | None = None

    def write(self, exchange: Exchange) -> None:
        """Add ``exchange``; it is in the file after the next flush."""
        entry = self._maker.entry_of(exchange)
        if entry is None:
            return
        page = self._page_of(exchange, entry["startedDateTime"])
        if page is not None:
            entry["pageref"] = page
        self.result.count(entry, exchange)
        self._entries.add(entry, orjson.dumps(entry))

    def _append(self, data: bytes) -> None:
        self._pending += self._separator
        self._pending += data
        self._separator = b",\n"
        if len(self._pending) >= FLUSH_BYTES:
            self._write_pending()

    def flush(self) -> None:
        """Bring the file up to date: it is a whole archive of what was written so far."""
        self._entries.release()
        self._write_pending()

    def _write_pending(self) -> None:
        if self._rewindable:
            self._write_entries(self._closing())
        else:
            self._write_entries(b"")
        self._output.flush()

    def close(self, notes: Notes | None = None) -> HarResult:
        """Complete the archive; ``notes`` become its comment. The file itself stays open."""
        if notes is not None and (numbers := notes.as_dict()):
            self._comment = ", ".join(f"{name}: {number}" for name, number in numbers.items())
        self._entries.release()
        self._write_entries(self._closing())
        if self._rewindable:
            self._output.truncate()
        self._output.flush()
        return self.result

    def _write_entries(self, closing: bytes) -> None:
        if self._rewindable:
            self._output.seek(self._end)
        self._end += len(self._pending)
        # One write for both: whoever reads in between, or after a crash, finds a whole archive.
        self._pending += closing
        self._output.write(self._pending)
        self._pending.clear()

    def _closing(self) -> bytes:
        log = b'\n],"pages":' + orjson.dumps(list(self._pages.values()))
        if self._comment is not None:
            log += b',"comment":' + orjson.dumps(self._comment)
        return log + b"}}\n"

    def _page_of(self, exchange: Exchange, started: str) -> str | None:
        """The page of the exchange's process; a pid that is used again gets another page."""
        process = exchange.connection.process
        if process is None:
            return None
        page = self._pages.get(process)
        if page is None:
            if len(self._pages) >= MAX_PAGES:
                return None
            page = {
                "startedDateTime": started,
                "id": f"page_{len(self._pages) + 1}_pid_{process.pid}",
                "title": self._maker.title_of(process),
                "pageTimings": {"onContentLoad": -1, "onLoad": -1},
            }
            self._pages[process] = page
        page["startedDateTime"] = min(page["startedDateTime"], started)
        return str(page["id"])
