"""A HAR while the capture is still being written: ``python -m exporters.live``, a process of its own.

It reads the capture file as it grows, so that the recording never waits for a parser, and whatever the recording
does, the archive on disk is whole at every flush. The recorder holds the other end of a pipe; when that closes
(it has ended, or was killed) what is in the file is read to its end, and the archive is complete.

Arguments, by descriptor: the capture to read, the archive to write, the pipe; then the options as JSON.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import select
import signal
import sys
import time
from typing import TYPE_CHECKING

from capture.errors import CaptureFormatError
from exporters.har import EntryMaker, HarWriter
from exporters.har_redaction import Redaction
from exporters.http import ExchangeReader, Limits, Notes
from exporters.reassembly import read_streams

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import BinaryIO

# How often a file that does not grow is looked at, and how old the archive on disk may be.
POLL_INTERVAL_S = 0.1
FLUSH_INTERVAL_S = 1.0
# What it does can wait; what is recorded cannot.
NICE = 5


class GrowingFile(io.RawIOBase):
    """A file that somebody appends to; its end is the end only once ``writer`` (a pipe) has been closed."""

    def __init__(self, file: int, writer: int, idle: Callable[[], None]) -> None:
        """``idle`` is called now and again while the file does not grow."""
        super().__init__()
        self._idle = idle
        self._file = file
        self._writer = writer
        self._ended = False

    def readable(self) -> bool:
        """It is."""
        return True

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override] # as RawIOBase documents
        """Wait for bytes; 0 at the end."""
        while True:
            ended = self._ended
            count = os.readv(self._file, [buffer])
            if count or ended:
                return count
            self._idle()
            # Once more after the writer's end: it may have written in between.
            self._ended = bool(select.select([self._writer], [], [], POLL_INTERVAL_S)[0])


def follow(capture: int, output: BinaryIO, writer: int, maker: EntryMaker, limits: Limits) -> None:
    """Write the archive of a capture that is being recorded. Descriptors as in the module's docstring."""
    notes = Notes()
    reader = ExchangeReader(limits, notes)
    har = HarWriter(output, maker)
    har.flush()
    flushed = time.monotonic()

    def flush_in_time() -> None:
        nonlocal flushed
        now = time.monotonic()
        if now - flushed > FLUSH_INTERVAL_S:
            har.flush()
            flushed = now

    growing = GrowingFile(capture, writer, flush_in_time)
    with contextlib.suppress(CaptureFormatError), io.BufferedReader(growing) as file:
        for item in read_streams(file):
            for exchange in reader.feed(item):
                har.write(exchange)
            flush_in_time()
    for exchange in reader.close():
        har.write(exchange)
    har.close(notes)


def give_way() -> None:
    """Be no more urgent than NICE, however urgent the recorder is whose child this is."""
    os.setpriority(os.PRIO_PROCESS, 0, max(NICE, os.getpriority(os.PRIO_PROCESS, 0)))


def main(arguments: list[str]) -> None:
    """Run in the process that the recorder starts."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # the recorder's end is ours
    give_way()
    capture, archive, writer = (int(argument) for argument in arguments[:3])
    options = json.loads(arguments[3])
    limits = Limits(**options["limits"])
    maker = EntryMaker(limits, Redaction.of(options["sensitive"], options["redact"]), options["bodies"])
    try:
        with os.fdopen(archive, "wb") as output:
            follow(capture, output, writer, maker, limits)
    except OSError as error:
        sys.exit(f"plaintap: Writing the archive failed: {error.strerror}.")


if __name__ == "__main__":
    main(sys.argv[1:])
