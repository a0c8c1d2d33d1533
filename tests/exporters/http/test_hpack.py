"""HPACK, with the hpack library as the encoder and the judge."""

from __future__ import annotations

import contextlib

import hpack
from hpack.huffman import HuffmanEncoder
from hpack.huffman_constants import REQUEST_CODES, REQUEST_CODES_LENGTH
from hypothesis import given
from hypothesis import strategies as st

from exporters.http import huffman
from exporters.http.hpack import STATIC_TABLE, UNKNOWN, Decoder, HpackError

NAMES = st.sampled_from([b":path", b":status", b"cookie", b"x-a", b"x-b", b"content-type"]) | st.binary(
    min_size=1, max_size=10
)
VALUES = st.sampled_from([b"", b"200", b"/", b"text/html"]) | st.binary(max_size=40)
BLOCKS = st.lists(st.lists(st.tuples(NAMES, VALUES), max_size=6), min_size=1, max_size=12)


def encoded(blocks: list[list[tuple[bytes, bytes]]], sizes: list[int]) -> list[bytes]:
    """The blocks as one connection's encoder sends them, its table now and then of another size."""
    encoder = hpack.Encoder()
    result = []
    for index, block in enumerate(blocks):
        if index < len(sizes):
            encoder.header_table_size = sizes[index]
        result.append(encoder.encode(block, huffman=index % 3 != 0))
    return result


def test_the_static_table_is_the_libraries() -> None:
    assert list(hpack.table.HeaderTable.STATIC_TABLE) == list(STATIC_TABLE)


@given(st.binary(max_size=300))
def test_huffman_is_the_libraries(data: bytes) -> None:
    coded = HuffmanEncoder(REQUEST_CODES, REQUEST_CODES_LENGTH).encode(data)
    assert huffman.decode(coded) == data


@given(st.binary(max_size=60))
def test_huffman_accepts_only_what_is_code(data: bytes) -> None:
    with contextlib.suppress(huffman.HuffmanError):
        decoded = huffman.decode(data)
        assert HuffmanEncoder(REQUEST_CODES, REQUEST_CODES_LENGTH).encode(decoded) == data


@given(BLOCKS, st.lists(st.sampled_from([0, 64, 4096, 65_536]), max_size=12))
def test_every_block_is_decoded(blocks: list[list[tuple[bytes, bytes]]], sizes: list[int]) -> None:
    decoder = Decoder()
    for block, data in zip(blocks, encoded(blocks, sizes), strict=True):
        assert decoder.decode(data) == (block, 0)


@given(BLOCKS, st.integers(0, 11), st.lists(st.sampled_from([64, 4096]), max_size=12))
def test_a_late_decoder_says_what_it_does_not_know(
    blocks: list[list[tuple[bytes, bytes]]], start: int, sizes: list[int]
) -> None:
    decoder = Decoder(joined=True)
    for block, data in list(zip(blocks, encoded(blocks, sizes), strict=True))[start:]:
        found, unknown = decoder.decode(data)
        assert len(found) == len(block)
        assert unknown == sum(any(part is UNKNOWN for part in pair) for pair in found)
        for (name, value), (sent_name, sent_value) in zip(found, block, strict=True):
            assert name in (UNKNOWN, sent_name)
            assert value in (UNKNOWN, sent_value)


@given(BLOCKS, st.sets(st.integers(0, 11)))
def test_a_decoder_that_lost_blocks_says_what_it_does_not_know(
    blocks: list[list[tuple[bytes, bytes]]], lost: set[int]
) -> None:
    decoder = Decoder()
    for index, (block, data) in enumerate(zip(blocks, encoded(blocks, []), strict=True)):
        if index in lost:
            decoder.forget()
            continue
        found, _ = decoder.decode(data)
        for (name, value), (sent_name, sent_value) in zip(found, block, strict=True):
            assert name in (UNKNOWN, sent_name)
            assert value in (UNKNOWN, sent_value)


def test_the_state_heals() -> None:
    encoder = hpack.Encoder()
    encoder.encode([(b"x-a", b"1")])
    decoder = Decoder(joined=True)
    assert decoder.decode(encoder.encode([(b"x-a", b"1")])) == ([(UNKNOWN, UNKNOWN)], 1)
    assert decoder.decode(encoder.encode([(b"x-b", b"2")])) == ([(b"x-b", b"2")], 0)
    assert decoder.decode(encoder.encode([(b"x-b", b"2"), (b"x-a", b"1")])) == (
        [(b"x-b", b"2"), (UNKNOWN, UNKNOWN)],
        1,
    )


@given(st.binary(max_size=60), st.booleans())
def test_no_block_is_too_odd(data: bytes, joined: bool) -> None:
    with contextlib.suppress(HpackError):
        Decoder(joined).decode(data)


def test_a_table_without_end_is_cut_and_then_not_known() -> None:
    decoder = Decoder()
    insert = b"\x40\x01a\x7f\xa1\x1e" + b"v" * 4000
    for _ in range(400):
        assert decoder.decode(insert) == ([(b"a", b"v" * 4000)], 0)
    newest, oldest = b"\xbe", b"\xff\xce\x02"  # entries 62 and 461
    assert decoder.decode(newest) == ([(b"a", b"v" * 4000)], 0)
    assert decoder.decode(oldest) == ([(UNKNOWN, UNKNOWN)], 1)
