"""Archives of exchanges that are all there."""

from __future__ import annotations

from typing import TYPE_CHECKING, BinaryIO

from exporters.har import HarWriter

if TYPE_CHECKING:
    from collections.abc import Iterable

    from exporters.har import EntryMaker, HarResult
    from exporters.http import Exchange, Notes


def write_har(
    exchanges: Iterable[Exchange],
    output: BinaryIO,
    maker: EntryMaker | None = None,
    notes: Notes | None = None,
) -> HarResult:
    """Write all of ``exchanges`` as one archive to ``output``, a binary file; says what was written.

    ``notes`` is the one that the exchanges' reader counts in.
    """
    writer = HarWriter(output, maker)
    for exchange in exchanges:
        writer.write(exchange)
    return writer.close(notes)
