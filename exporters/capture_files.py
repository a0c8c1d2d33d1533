"""Capture files as packets: pcapng and pcap, both byte orders, also in gzip or zstd, from a path or a pipe.

A file is read once, forwards, a block at a time, so that memory does not depend on its length. A file that
ends too early gives what is in it and a note; one that contradicts its format ends with CaptureFormatError.

What is inside a packet is not this module's business.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, BinaryIO

from capture.errors import CaptureFormatError
from exporters.capture_source import MAGIC_PCAPNG, CaptureSource, TruncatedError
from exporters.pcap import Packet, pcap_packets
from exporters.pcapng_reader import PcapngReader

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable, Iterator

MAX_WARNINGS = 20
"""Of recordings, in one file."""


class CaptureFile:
    """Iterates over a capture's packets, once.

    ``notes`` are sentences about what was met on the way; ``ledgers`` those of our own captures, at most
    one a section. Both are complete after the iteration. Raises CaptureFormatError, when iterated over, for
    a file that is no capture or contradicts its format, and OSError for one that cannot be opened.
    """

    def __init__(self, source: str | os.PathLike[str] | BinaryIO) -> None:
        """``source`` is a path, ``-`` for stdin, or a binary file, which is left open."""
        self._source = CaptureSource(source)
        self._pcapng = PcapngReader(self._source)

    @property
    def name(self) -> str:
        """What the source is called in messages."""
        return self._source.name

    @property
    def notes(self) -> list[str]:
        """See above."""
        return self._source.notes

    @property
    def ledgers(self) -> list[dict[str, object]]:
        """See above."""
        return self._pcapng.ledgers

    @property
    def has_secrets(self) -> bool:
        """Whether keys of encrypted connections have been met in the file."""
        return self._pcapng.has_secrets

    def __iter__(self) -> Iterator[Packet]:
        with self._source as source:
            try:
                if source.magic == MAGIC_PCAPNG:
                    yield from self._pcapng.packets()
                else:
                    yield from pcap_packets(source)
            except TruncatedError:
                if not source.offset:
                    raise CaptureFormatError(
                        f"{self.name} ends inside its header: there is nothing to read in it."
                    ) from None
                self.notes.append(
                    f"{self.name} is truncated: it ends inside a block that begins at byte {source.offset}; "
                    "everything before that was read."
                )
            self.notes.extend(
                f"{self.name}, as its recording said: {warning}" for warning in _warnings(self.ledgers)
            )
            if self._pcapng.has_lost_ledger:
                self.notes.append(
                    f"{self.name} lacks the account of its recording, which was killed or has been through another "
                    "tool: what was lost at its end is not known."
                )
            if untimed := self._pcapng.untimed_packets:
                self.notes.append(
                    f"{self.name} has {untimed} packets without a time; they were given that of the packet before."
                )


def _warnings(ledgers: Iterable[dict[str, object]]) -> list[str]:
    """What recordings have told who made them; each once, and not more than anybody reads."""
    said = (ledger.get("warnings") for ledger in ledgers)
    found = (
        warning for each in said if isinstance(each, list) for warning in each if isinstance(warning, str)
    )
    return list(dict.fromkeys(found))[:MAX_WARNINGS]
