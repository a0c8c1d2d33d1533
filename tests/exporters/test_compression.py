"""The decoders: any split of the input, any of their formats, and a stop at any block."""

from __future__ import annotations

import gzip
import os
import zlib
from itertools import pairwise
from typing import TYPE_CHECKING

import brotli
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from exporters.compression import BLOCK_BYTES, DECODERS, CorruptStreamError

if TYPE_CHECKING:
    from collections.abc import Callable


def raw_deflate(data: bytes) -> bytes:
    """Deflate without zlib's header."""
    compressor = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return compressor.compress(data) + compressor.flush()


def aws_chunked(data: bytes) -> bytes:
    """As AWS's SDKs sign an upload."""
    pieces = [data[start : start + 8192] for start in range(0, len(data), 8192)] + [b""]
    chunks = [b"%x;chunk-signature=%064d\r\n%b\r\n" % (len(piece), 7, piece) for piece in pieces]
    return b"".join(chunks)


def aws_chunked_with_trailer(data: bytes) -> bytes:
    """Not signed, with a checksum behind it."""
    chunk = b"%X\r\n%b\r\n" % (len(data), data) if data else b""
    return chunk + b"0\r\nx-amz-checksum-crc32:AAAAAA==\r\n\r\n"


ENCODERS: list[tuple[str, Callable[[bytes], bytes]]] = [
    ("gzip", gzip.compress),
    ("gzip", lambda data: gzip.compress(data[:10]) + gzip.compress(data[10:]) + bytes(20)),
    ("deflate", zlib.compress),
    ("deflate", raw_deflate),
    ("br", brotli.compress),
    ("aws-chunked", aws_chunked),
    ("aws-chunked", aws_chunked_with_trailer),
    ("zstd", zstandard.ZstdCompressor().compress),
    ("zstd", lambda data: b"".join(map(zstandard.ZstdCompressor().compress, (data[:10], data[10:])))),
]
MIXED = os.urandom(100_000) + bytes(300_000)


@pytest.mark.parametrize(("coding", "encode"), ENCODERS)
@pytest.mark.parametrize("size", [1, 7, 4096, 1 << 30])
def test_any_block_size(coding: str, encode: Callable[[bytes], bytes], size: int) -> None:
    packed = encode(MIXED)
    blocks = [packed[start : start + size] for start in range(0, len(packed), size)]
    assert b"".join(DECODERS[coding](blocks)) == MIXED


@given(st.sampled_from(ENCODERS), st.binary(max_size=500), st.lists(st.integers(0, 500)))
def test_any_content_in_any_split(
    row: tuple[str, Callable[[bytes], bytes]], data: bytes, cuts: list[int]
) -> None:
    coding, encode = row
    packed = encode(data)
    places = [0, *sorted(cuts), len(packed) + 500]
    blocks = [packed[start:end] for start, end in pairwise(places)]
    assert b"".join(DECODERS[coding](blocks)) == data


@pytest.mark.parametrize(("coding", "encode"), ENCODERS)
def test_a_truncated_stream_yields_its_beginning_and_says_so(
    coding: str, encode: Callable[[bytes], bytes]
) -> None:
    plain = os.urandom(500_000)
    packed = encode(plain)
    decoded = bytearray()
    with pytest.raises(CorruptStreamError) as caught:
        for block in DECODERS[coding]([packed[:400_000]]):
            decoded += block
    assert caught.value.truncated
    assert len(decoded) > 200_000
    assert plain.startswith(decoded)


@pytest.mark.parametrize(("coding", "encode"), [("gzip", gzip.compress), ("deflate", zlib.compress)])
@pytest.mark.parametrize("size", [2000, 200_000])
def test_what_comes_before_an_error_is_decoded(
    coding: str, encode: Callable[[bytes], bytes], size: int
) -> None:
    plain = os.urandom(size // 2).hex().encode()
    packed = encode(plain)
    for broken in (packed[:-4] + bytes(4), packed[: len(packed) // 2] + b"\xff" * 500):
        decoded = bytearray()
        with pytest.raises(CorruptStreamError):
            for block in DECODERS[coding]([broken]):
                decoded += block
        assert len(decoded) > size // 3
        assert decoded[: size // 3] == plain[: size // 3]


@pytest.mark.parametrize("coding", DECODERS)
def test_garbage(coding: str) -> None:
    with pytest.raises(CorruptStreamError) as caught:
        list(DECODERS[coding]([b"\xfe\xed garbage that is no stream of any coding " * 10]))
    assert not caught.value.truncated
    assert coding.removeprefix("x-") in str(caught.value)
    assert list(DECODERS[coding]([])) == list(DECODERS[coding]([b""])) == []


@pytest.mark.parametrize("outer", sorted(DECODERS))
@pytest.mark.parametrize("inner", sorted(DECODERS))
def test_a_decoder_asks_for_nothing_before_it_is_asked(outer: str, inner: str) -> None:
    stacked = DECODERS[inner](DECODERS[outer](iter([b"\x1f\x04 no coding at all \xff\xff\xff"])))
    with pytest.raises(CorruptStreamError):
        list(stacked)


@pytest.mark.parametrize(("coding", "encode"), ENCODERS)
def test_a_bomb_can_be_stopped_at_any_block(coding: str, encode: Callable[[bytes], bytes]) -> None:
    decoder = DECODERS[coding]([encode(bytes(20_000_000))])
    sizes = [len(next(decoder)) for _ in range(10)]
    assert max(sizes) <= 4 * BLOCK_BYTES


@given(st.sampled_from(sorted(DECODERS)), st.binary(max_size=300))
def test_no_input_is_too_odd(coding: str, data: bytes) -> None:
    try:
        list(DECODERS[coding]([data]))
    except CorruptStreamError as error:
        assert str(error)
