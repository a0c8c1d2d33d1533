"""Streaming decoders of gzip, deflate, br, zstd and aws-chunked: of content codings and of compressed capture files.

A decoder takes an iterable of compressed blocks and yields blocks of about BLOCK_BYTES, so that decoders
stack, and so that who asks can stop after any block, which is what a decompression bomb calls for. What could
be decoded is always yielded before an error is raised.

The only module that imports zstandard and brotli, and only when one of them is needed.
"""

from __future__ import annotations

import re
import zlib
from typing import TYPE_CHECKING, Protocol, cast

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


AWS_CHUNKED = "aws-chunked"
_LINE_END = b"\r\n"
_CHUNK = re.compile(rb"([0-9a-fA-F]{1,16})(?:;[^\r\n]{0,512})?\r\n")
"""A size and a signature, which is 82 bytes, or some 150 of SigV4A."""
_CHUNK_BEGUN = re.compile(rb"[0-9a-fA-F]{1,16}(?:;[^\r\n]{0,512})?\r?")


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
            try:
                decoded = decompressor.decompress(pending, BLOCK_BYTES)
            except zlib.error as error:
                raise CorruptStreamError(coding, str(error)) from error
            started = True
            if decoded:
                yield decoded
            pending = decompressor.unused_data if decompressor.eof else decompressor.unconsumed_tail
        while not decompressor.eof and (decoded := decompressor.decompress(b"", BLOCK_BYTES)):
            yield decoded
    if started and not decompressor.eof:
        raise CorruptStreamError(coding, "it ends too early", truncated=True)


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


def _aws_chunked(blocks: Iterable[bytes]) -> Iterator[bytes]:
    """What S3's clients put around what they upload: chunks as HTTP/1.1 has them (RFC 9112 §7.1), each with a
    signature perhaps, and checksums as trailers (Amazon S3 API Reference, "Transferring Payload in Multiple Chunks").
    """
    left, pending, started = 0, b"", False  # `left`: of a chunk, with the line's end behind it
    for block in blocks:
        data, at, started = pending + block, 0, started or bool(block)
        while at < len(data):
            if left > len(_LINE_END):
                piece = data[at : at + min(left - len(_LINE_END), BLOCK_BYTES)]
                at, left = at + len(piece), left - len(piece)
                yield piece
            elif left and data[at : at + 1] != _LINE_END[-left:][:1]:
                raise CorruptStreamError(AWS_CHUNKED, "a chunk is longer than it says")
            elif left:
                at, left = at + 1, left - 1
            elif chunk := _CHUNK.match(data, at):
                if not (size := int(chunk[1], 16)):
                    return
                at, left = chunk.end(), size + len(_LINE_END)
            elif _CHUNK_BEGUN.fullmatch(data, at):
                break
            else:
                raise CorruptStreamError(AWS_CHUNKED, "where a chunk's size should be is none")
        pending = data[at:]
    if started:
        raise CorruptStreamError(AWS_CHUNKED, "it ends too early", truncated=True)


DECODERS: dict[str, Callable[[Iterable[bytes]], Iterator[bytes]]] = {
    "gzip": _gzip,
    "x-gzip": _gzip,
    "deflate": _deflate,
    "br": _brotli,
    "zstd": decode_zstd,
    AWS_CHUNKED: _aws_chunked,
}
"""A row per coding of the IANA content coding registry that is in use (RFC 9110 §8.4.1, 7932, 8878), and S3's."""
