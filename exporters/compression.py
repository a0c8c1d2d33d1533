"""Streaming decoders of gzip, deflate, br and zstd: of content codings and of compressed capture files.

A decoder takes an iterable of compressed blocks and yields blocks of about BLOCK_BYTES, so that decoders
stack, and so that who asks can stop after any block, which is what a decompression bomb calls for. What could
be decoded is always yielded before an error is raised.

The only module that imports zstandard and brotli, and only when one of them is needed.
"""

from __future__ import annotations

import contextlib
import re
import zlib
from typing import TYPE_CHECKING, Final, Protocol, cast

from capture.errors import PlaintapError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

BLOCK_BYTES = 64 * 1024
"""Size of a decoded block: large enough that the loop around it costs nothing beside the decoding."""

MAX_ZSTD_WINDOW_BYTES = 8 * 1024 * 1024
"""RFC 9659 §3: the largest window of the zstd content coding, which bounds a decoder's memory."""

ZSTD_STEP_BYTES = 1024
"""Compressed bytes decoded at a time: zstandard has no limit on what one call may yield, but a block's least
form is 4 bytes for 128 KiB (RFC 8878 §3.1.1.2), so that a step is 32 MiB at the very worst."""


class CorruptStreamError(PlaintapError):
    """Compressed bytes that do not follow their format, or (``truncated``) that end before their end."""

    def __init__(self, coding: str, problem: str, *, truncated: bool = False) -> None:
        super().__init__(f"{coding} data cannot be decoded: {problem}")
        self.coding = coding
        self.truncated = truncated


class _Decompressor(Protocol):
    """What zlib's decompression objects offer (typeshed's name for them is private)."""

    eof: bool
    unconsumed_tail: bytes
    unused_data: bytes

    def decompress(self, data: bytes, max_length: int = 0, /) -> bytes: ...

    def copy(self) -> _Decompressor: ...


def _inflate(coding: str, wbits: int, blocks: Iterable[bytes]) -> Iterator[bytes]:
    """Decode zlib's formats; a gzip file may have several members (RFC 1952 §2.2)."""
    decompressor = cast("_Decompressor", zlib.decompressobj(wbits))
    started = False
    for block in blocks:
        pending = block
        while pending:
            if decompressor.eof:
                if wbits < zlib.MAX_WBITS + 16 or not pending.strip(b"\0"):
                    return  # trailing padding is allowed after gzip members, and ignored after the others
                decompressor = cast("_Decompressor", zlib.decompressobj(wbits))
            before = decompressor.copy()
            try:
                decoded = decompressor.decompress(pending, BLOCK_BYTES)
            except zlib.error as error:
                if wbits > 0:  # without a header, what is no deflate at all may have decoded to something
                    yield from _up_to_the_error(before, pending)
                raise CorruptStreamError(coding, str(error)) from error
            started = True
            if decoded:
                yield decoded
            pending = decompressor.unused_data if decompressor.eof else decompressor.unconsumed_tail
        while not decompressor.eof and (decoded := decompressor.decompress(b"", BLOCK_BYTES)):
            yield decoded
    if started and not decompressor.eof:
        raise CorruptStreamError(coding, "it ends too early", truncated=True)


def _up_to_the_error(decompressor: _Decompressor, pending: bytes) -> Iterator[bytes]:
    """What ``pending`` says before its error: the call that meets that gives nothing of what it has decoded."""
    decoded = bytearray()
    with contextlib.suppress(zlib.error):
        for position in range(len(pending)):
            decoded += decompressor.decompress(pending[position : position + 1])
    if decoded:
        yield bytes(decoded)


def _gzip(blocks: Iterable[bytes]) -> Iterator[bytes]:
    """RFC 1952."""
    return _inflate("gzip", zlib.MAX_WBITS + 16, blocks)


def _deflate(blocks: Iterable[bytes]) -> Iterator[bytes]:
    """RFC 9110 §8.4.1.2: the zlib format, or, as some servers send it, deflate without zlib's header."""
    iterator = iter(blocks)
    start = b""
    for block in iterator:
        start += block
        if len(start) >= 2:
            break
    # RFC 1950 §2.2: method 8 in the low bits of the first byte, and the first two a multiple of 31.
    has_header = len(start) >= 2 and start[0] & 0x0F == 8 and int.from_bytes(start[:2], "big") % 31 == 0
    wbits = zlib.MAX_WBITS if has_header else -zlib.MAX_WBITS

    def rest() -> Iterator[bytes]:
        yield start
        yield from iterator

    yield from _inflate("deflate", wbits, rest())


def _brotli(blocks: Iterable[bytes]) -> Iterator[bytes]:
    """RFC 7932."""
    import brotli  # noqa: PLC0415  (0.1 s that most captures do not need)

    decompressor = brotli.Decompressor()
    started = False
    for block in blocks:
        started, pending = started or bool(block), block
        while not decompressor.is_finished():
            try:
                decoded = decompressor.process(pending, output_buffer_limit=BLOCK_BYTES)
            except brotli.error as error:
                raise CorruptStreamError("br", str(error)) from error
            pending = b""
            if decoded:
                yield decoded
            elif decompressor.can_accept_more_data():
                break  # asked once more with nothing: a full block may have left output behind
    if started and not decompressor.is_finished():
        raise CorruptStreamError("br", "it ends too early", truncated=True)


def decode_zstd(blocks: Iterable[bytes], max_window_bytes: int = MAX_ZSTD_WINDOW_BYTES) -> Iterator[bytes]:
    """RFC 8878, of one frame or several; files may have larger windows than content codings."""
    import zstandard  # noqa: PLC0415  (0.1 s that most captures do not need)

    frames = zstandard.ZstdDecompressor(max_window_size=max_window_bytes)
    frame = None
    for block in blocks:
        for start in range(0, len(block), ZSTD_STEP_BYTES):
            pending = block[start : start + ZSTD_STEP_BYTES]
            while pending:
                frame = frame or frames.decompressobj()
                try:
                    decoded = frame.decompress(pending)
                except zstandard.ZstdError as error:
                    raise CorruptStreamError("zstd", str(error)) from error
                for offset in range(0, len(decoded), BLOCK_BYTES):
                    yield decoded[offset : offset + BLOCK_BYTES]
                pending = frame.unused_data
                if frame.eof:
                    frame = None
    if frame is not None:
        raise CorruptStreamError("zstd", "it ends too early", truncated=True)


_AWS_CHUNK: Final = re.compile(rb"(?:\r\n)?([0-9A-Fa-f]{1,8})(?:;[^\r\n]*)?\r\n")
_AWS_CHUNK_BEGUN: Final = re.compile(rb"\r?|\r\n|(?:\r\n)?[0-9A-Fa-f]{1,8}(?:;[^\r\n]{0,1000})?\r?")


def _aws_chunked(blocks: Iterable[bytes]) -> Iterator[bytes]:
    """Chunks with signatures, and a checksum behind them (AWS Signature Version 4 for streams)."""
    rest, remaining, started = bytearray(), 0, False
    for block in blocks:
        rest += block
        started = started or bool(block)
        position = 0
        while position < len(rest):
            if remaining:
                piece = bytes(rest[position : position + min(remaining, BLOCK_BYTES)])
                position += len(piece)
                remaining -= len(piece)
                yield piece
                continue
            match = _AWS_CHUNK.match(rest, position)
            if match is None:
                if _AWS_CHUNK_BEGUN.fullmatch(rest, position) is None:
                    raise CorruptStreamError("aws-chunked", "a chunk does not begin with its size")
                break
            position = match.end()
            remaining = int(match[1], 16)
            if not remaining:
                return
        del rest[:position]
    if started:
        raise CorruptStreamError("aws-chunked", "it ends too early", truncated=True)


DECODERS: dict[str, Callable[[Iterable[bytes]], Iterator[bytes]]] = {
    "gzip": _gzip,
    "x-gzip": _gzip,
    "deflate": _deflate,
    "br": _brotli,
    "aws-chunked": _aws_chunked,
    "zstd": decode_zstd,
}
"""A row per coding of the IANA content coding registry that is in use (RFC 9110 §8.4.1, 7932, 8878), and AWS's own."""
