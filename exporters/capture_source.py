"""A capture's bytes: from a path, a pipe or a file, unpacked if they are compressed, read once and forwards.

This module knows the magic numbers, to tell what is compressed from what is a capture, and no format beyond.
"""

from __future__ import annotations

import contextlib
import io
import struct
import sys
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Final, NamedTuple

from capture.errors import CaptureFormatError
from exporters.compression import DECODERS, CorruptStreamError, decode_zstd

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator

MAX_COMPRESSION_LAYERS: Final = 2
"""A capture in .zst inside .gz is a mistake that is easily made; more is a bomb."""
MAX_ZSTD_WINDOW_BYTES: Final = 128 * 1024 * 1024
"""What `zstd --long` uses and the zstd command unpacks unasked; a reader holds that much memory then."""

_STDIN: Final = "-"
_READ_BYTES: Final = 256 * 1024
"""Of one read from the file or pipe."""

MAGIC_PCAPNG: Final = b"\x0a\x0d\x0d\x0a"
_MAGIC_GZIP: Final = b"\x1f\x8b"
_MAGIC_ZSTD: Final = b"\x28\xb5\x2f\xfd"
_UNPACKERS: Final = {
    b"\x04\x22\x4d\x18": "lz4 -d",
    b"\xfd7zX": "xz -d",
    b"BZh": "bzip2 -d",
    b"PK\x03\x04": "unzip",
}
"""What unpacks compressed files that are not unpacked here, by how they begin."""


class PcapVariant(NamedTuple):
    """A pcap magic number's meaning: byte order, units a second, bytes of a record's header."""

    order: str
    units: int
    record_header_bytes: int


PCAP_MAGICS: Final = {
    struct.pack(order + "I", magic): PcapVariant(order, units, header)
    for order in "<>"
    for magic, units, header in (
        (0xA1B2C3D4, 1_000_000, 16),
        (0xA1B23C4D, 1_000_000_000, 16),
        (0xA1B2CD34, 1_000_000, 24),  # Kuznetzov's: interface, protocol and type follow
    )
}


class TruncatedError(Exception):
    """The file ends inside a block or record."""


class _DecodedFile(io.RawIOBase):
    """A decoder's blocks as a file; where its input is cut, the file ends and ``error`` says why."""

    def __init__(self, blocks: Iterator[bytes]) -> None:
        super().__init__()
        self._blocks = blocks
        self._rest = memoryview(b"")
        self.error: CorruptStreamError | None = None

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]  # the io stack passes memoryviews
        while not self._rest:
            try:
                self._rest = memoryview(next(self._blocks))
            except StopIteration:
                return 0
            except CorruptStreamError as error:
                self.error = error
                return 0
        size = min(len(buffer), len(self._rest))
        buffer[:size] = self._rest[:size]
        self._rest = self._rest[size:]
        return size


class CaptureSource:
    """An open capture. ``offset`` is the position of the block or record that is being read.

    ``notes`` are sentences about damage that did not keep the file from being read.
    """

    def __init__(self, source: str | os.PathLike[str] | BinaryIO) -> None:
        """``source`` is a path, ``-`` for stdin, or a binary file, which is left open."""
        self.name = _name(source)
        self.magic = b""
        self.offset = 0
        self.notes: list[str] = []
        self._source = source
        self._stack = contextlib.ExitStack()
        self._file: BinaryIO | io.BufferedReader
        self._decoded: list[_DecodedFile] = []

    def __enter__(self) -> CaptureSource:
        """Opens and reads up to the ``magic`` number, which is that of pcapng or in ``PCAP_MAGICS``.

        Raises CaptureFormatError for a file that is no capture, and OSError for one that cannot be opened.
        """
        source = self._source
        if isinstance(source, str) and source == _STDIN:
            if sys.stdin is None:
                raise CaptureFormatError("standard input is closed: name a file.")
            self._file = sys.stdin.buffer
        elif isinstance(source, str) or hasattr(source, "__fspath__"):
            self._file = self._stack.enter_context(Path(source).open("rb", buffering=_READ_BYTES))
        else:
            self._file = source
        try:
            self.magic = self._unpack()
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.notes += [f"{self.name} is damaged or truncated: {problem}." for problem in self._problems()]
        self._stack.close()

    def _unpack(self) -> bytes:
        """Unpacks compressed files until a capture's magic number, which is returned and has been read."""
        for _ in range(MAX_COMPRESSION_LAYERS + 1):
            magic = self.read(4)
            if magic == MAGIC_PCAPNG or magic in PCAP_MAGICS:
                return magic
            if magic != _MAGIC_ZSTD and not magic.startswith(_MAGIC_GZIP):
                raise self._refusal(magic)
            blocks = _blocks(magic, self._file)
            decoded = _DecodedFile(
                decode_zstd(blocks, MAX_ZSTD_WINDOW_BYTES)
                if magic == _MAGIC_ZSTD
                else DECODERS["gzip"](blocks)
            )
            self._decoded.append(decoded)
            self._file = io.BufferedReader(decoded, _READ_BYTES)
        raise CaptureFormatError(f"{self.name} is compressed more than twice; unpack it first.")

    def _problems(self) -> list[str]:
        return [str(decoded.error) for decoded in self._decoded if decoded.error is not None]

    def _refusal(self, magic: bytes) -> CaptureFormatError:
        """Why a file that begins with ``magic`` is not read."""
        if problems := self._problems():
            return CaptureFormatError(f"{self.name} is no readable capture: {problems[0]}.")
        if not magic:
            return CaptureFormatError(f"{self.name} is empty; a capture has at least a header.")
        for start, command in _UNPACKERS.items():
            if magic.startswith(start):
                return CaptureFormatError(
                    f"{self.name} is compressed with {command.split()[0].removeprefix('un')}; "
                    f"unpack it with `{command}` first."
                )
        return CaptureFormatError(
            f"{self.name} is not a capture: it begins like neither pcapng nor pcap, gzip nor zstd. "
            "Convert other formats with `editcap -F pcapng`."
        )

    def read(self, size: int) -> bytes:
        """``size`` bytes, or fewer at the end of the file."""
        data = self._file.read(size)
        while len(data) < size:
            more = self._file.read(size - len(data))
            if not more:
                break
            data += more
        return data

    def read_exactly(self, size: int) -> bytes:
        """``size`` bytes; raises TruncatedError where the file ends before."""
        data = self._file.read(size)
        if len(data) < size:
            data += self.read(size - len(data))
            if len(data) < size:
                raise TruncatedError
        return data

    def malformed(self, problem: str) -> CaptureFormatError:
        """The error that says what is wrong at ``offset``."""
        return CaptureFormatError(
            f"{self.name} is malformed at byte {self.offset}: {problem}. "
            "What comes before was read; copy or record the file again."
        )


def _name(source: str | os.PathLike[str] | BinaryIO) -> str:
    if isinstance(source, str):
        return "standard input" if source == _STDIN else source
    if hasattr(source, "__fspath__"):
        return str(source)
    return str(getattr(source, "name", "the capture"))


def _blocks(first: bytes, file: BinaryIO | io.BufferedReader) -> Iterator[bytes]:
    yield first
    while block := file.read(_READ_BYTES):
        yield block
