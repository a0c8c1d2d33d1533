"""The record layer with a NULL cipher, split and broken in every way."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporters import tls_framing
from exporters.tls_records import RecordReader, is_record_header, server_cipher_suite, starts_tls

texts = st.lists(st.binary(min_size=1, max_size=50), max_size=6)


def feed(reader: RecordReader, data: bytes) -> tuple[bytes, int]:
    """The application text in ``data``, and how much was not recognised."""
    fragments, unknown = reader.feed(data)
    return b"".join(fragment.data for fragment in fragments if fragment.application), unknown


@given(texts, st.data())
def test_any_split_gives_the_same_text(pieces: list[bytes], data: st.DataObject) -> None:
    wire = tls_framing.client_finished() + b"".join(map(tls_framing.application_data, pieces))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(wire)), max_size=10)))
    reader, found = RecordReader(tls_framing.MAC_BYTES), b""
    for start, end in zip([0, *cuts], [*cuts, len(wire)], strict=True):
        text, unknown = feed(reader, wire[start:end])
        assert unknown == 0
        found += text
    assert found == b"".join(pieces)


@given(texts.filter(bool), st.data())
def test_any_gap_inside_a_record_is_counted_exactly(pieces: list[bytes], data: st.DataObject) -> None:
    records = [tls_framing.application_data(piece) for piece in pieces]
    broken = data.draw(st.integers(0, len(records) - 1))
    body = len(records[broken]) - tls_framing.RECORD_HEADER_BYTES
    start = data.draw(st.integers(0, body - 1))
    end = data.draw(st.integers(start + 1, body))
    reader, found, lost = RecordReader(tls_framing.MAC_BYTES), b"", 0
    for number, record in enumerate(records):
        if number != broken:
            found += feed(reader, record)[0]
            continue
        at, to = (tls_framing.RECORD_HEADER_BYTES + offset for offset in (start, end))
        found += feed(reader, record[:at])[0]
        lost = reader.gap(to - at)
        found += feed(reader, record[to:])[0]
    piece = pieces[broken]
    expected = [*pieces[:broken], piece[:start] + piece[end:], *pieces[broken + 1 :]]
    assert found == b"".join(expected)
    assert lost == len(piece[start:end])


def test_reading_goes_on_at_the_next_header_after_lost_headers() -> None:
    reader = RecordReader(tls_framing.MAC_BYTES)
    wire = tls_framing.application_data(b"one")
    assert feed(reader, wire) == (b"one", 0)
    lost = tls_framing.application_data(b"x" * 100) + tls_framing.application_data(b"y" * 50)[:30]
    assert reader.gap(len(lost)) == len(lost) - tls_framing.RECORD_OVERHEAD_BYTES
    rest = tls_framing.application_data(b"y" * 50)[30:]
    assert feed(reader, rest + tls_framing.application_data(b"two")) == (b"two", len(rest))


def test_large_data_is_split_into_records_of_the_largest_size() -> None:
    data = bytes(40_000)
    wire = tls_framing.application_data(data)
    assert len(wire) == len(data) + 3 * tls_framing.RECORD_OVERHEAD_BYTES
    assert feed(RecordReader(tls_framing.MAC_BYTES), wire) == (data, 0)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (tls_framing.client_hello("example.com", "h2"), True),
        (tls_framing.server_hello("h2"), True),
        (tls_framing.application_data(b"x"), True),
        (b"", None),
        (b"\x16", None),
        (b"\x16\x03", None),
        (b"\x16\x03\x01\x02\x00", None),
        (b"\x17\x03\x03", None),
        (b"\x16\x04", False),
        (b"\x16\x03\x01\x02\x00\x0b", False),
        (b"\x16\x03\x01\xff\xff\x01", False),
        (b"GET / HTTP/1.1", False),
        (b"G", False),
    ],
)
def test_what_looks_like_the_beginning_of_tls(data: bytes, expected: bool | None) -> None:
    assert starts_tls(data) is expected


def test_the_cipher_suite_is_read_once_it_is_there() -> None:
    hello = tls_framing.server_hello(None)
    for size in range(len(hello)):
        assert server_cipher_suite(hello[:size]) in (None, tls_framing.CIPHER_RSA_NULL_MD5)
    assert server_cipher_suite(hello) == tls_framing.CIPHER_RSA_NULL_MD5
    assert server_cipher_suite(tls_framing.client_hello(None, None)) is None


@given(st.binary(max_size=80))
def test_any_bytes_do_no_harm(data: bytes) -> None:
    reader = RecordReader(tls_framing.MAC_BYTES)
    reader.gap(7)
    reader.feed(data)
    reader.gap(len(data))
    reader.feed(data)
    starts_tls(data)
    server_cipher_suite(data)
    is_record_header(data)
