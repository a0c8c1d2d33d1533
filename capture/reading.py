"""A capture that a command reads: its exchanges, how far it was read, and why there may be none."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from capture.errors import CaptureFormatError, PlaintapError
from capture.output_file import STDOUT
from capture.standard_streams import stderr_is_terminal
from exporters.http import exchanges
from exporters.reassembly import read_streams

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from exporters.http import Limits, Notes
    from exporters.http.messages import Exchange
    from exporters.reassembly import StreamReader


class NoHttpError(PlaintapError):
    """A capture was read and has no HTTP in it."""


@contextlib.contextmanager
def read_exchanges(
    name: str, say: Callable[[str], None], notes: Notes, limits: Limits | None = None
) -> Iterator[Iterator[Exchange]]:
    """The exchanges of a capture, by path or ``-`` for stdin; what was met on the way is said at the end.

    Raises NoHttpError before the first, CaptureFormatError and OSError at any.
    """
    with _streams(name) as reader:
        found = exchanges(reader, limits, notes)
        try:
            first = next(found, None)
            if first is not None:
                yield chain((first,), found)
        except CaptureFormatError:
            _say_notes(say, reader.notes, notes)
            raise
        _say_notes(say, reader.notes, notes)
        if first is None:
            raise NoHttpError(_no_http(reader.name, notes))


def _say_notes(say: Callable[[str], None], met: Sequence[str], notes: Notes) -> None:
    """What is not in the exchanges, or not in one that could be named."""
    for note in met:
        say(f"Note: {note}")
    parts = [
        f"{what}: {number:,}"
        for what, number in (
            ("bytes lost", notes.lost_bytes),
            ("bytes that could not be read", notes.skipped_bytes),
            ("malformed messages", notes.malformed),
        )
        if number
    ]
    if parts:
        say(f"Note: of what may be HTTP: {'; '.join(parts)}.")


@contextlib.contextmanager
def _streams(name: str) -> Iterator[StreamReader]:
    """A capture's streams; on a terminal, with a bar of how far the file was read."""
    if name == STDOUT or not stderr_is_terminal():
        yield read_streams(name)
        return
    with (
        Path(name).open("rb", buffering=0) as file,
        click.progressbar(
            length=max(os.fstat(file.fileno()).st_size, 1),
            label=f"Reading {Path(name).name}",
            file=sys.stderr,
        ) as bar,
    ):
        yield read_streams(_Progress(file, bar.update))


class _Progress(io.FileIO):
    """A file that tells how much of it was read."""

    def __init__(self, file: io.FileIO, read: Callable[[int], None]) -> None:
        super().__init__(file.fileno(), closefd=False)
        self.name = file.name
        self._read = read

    def readinto(self, buffer: Any) -> int:
        count = super().readinto(buffer)
        self._read(count)
        return count


def _no_http(name: str, notes: Notes) -> str:
    if not notes.streams:
        return f"{name} has no TCP streams: there is nothing to export."
    encrypted = f", {notes.streams_encrypted} of them encrypted" if notes.streams_encrypted else ""
    return (
        f"{name} has no HTTP in its {notes.streams} {'stream' if notes.streams == 1 else 'streams'}{encrypted}: "
        "open it in Wireshark to see what it has."
    )
