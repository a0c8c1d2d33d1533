"""Capture formats: byte orders, resolutions, sections, compression, pipes; what is cut, damaged or no capture."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import struct
import subprocess
import sys
import threading
import tracemalloc
from typing import TYPE_CHECKING

import pytest
import zstandard
from foreign import Tcp, frames, pcap
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from transcripts import METADATA, START_NS, Transcript, capture, read, response, tls

from capture.errors import CaptureFormatError
from capture.streams import Data, StreamItem
from exporters import pcapng, pcapng_reader
from exporters.capture_files import CaptureFile
from exporters.packets import PcapngExporter
from exporters.pcapng_reader import LATEST_NS
from exporters.reassembly import read_streams

if TYPE_CHECKING:
    from pathlib import Path

    from exporters.pcap import Packet

TIME_NS = 1_700_000_000_123_456_789
ITEMS = Transcript(tls=tls("h2")).exchange(3).close().items
OURS = capture(ITEMS)
TCP = Tcp()
FRAMES = frames([*TCP.handshake(), TCP.client(b"hello"), TCP.server(response()), *TCP.finish()])
THEIRS = pcap(FRAMES)


def packets(data: bytes) -> list[Packet]:
    """The packets in a capture's bytes."""
    return list(CaptureFile(io.BytesIO(data)))


class Ng:
    """Builds pcapng in either byte order, block by block."""

    def __init__(self, order: str) -> None:
        self.order = order

    def pack(self, layout: str, *values: int) -> bytes:
        return struct.pack(self.order + layout, *values)

    def option(self, code: int, value: bytes) -> bytes:
        return self.pack("HH", code, len(value)) + value + bytes(-len(value) % 4)

    def block(self, kind: int, body: bytes) -> bytes:
        body += bytes(-len(body) % 4)
        total = self.pack("I", len(body) + 12)
        return self.pack("I", kind) + total + body + total

    def section(self, options: bytes = b"") -> bytes:
        return self.block(0x0A0D0D0A, self.pack("IHHq", 0x1A2B3C4D, 1, 0, -1) + options)

    def interface(self, options: bytes = b"", link_type: int = 1, snaplen: int = 0) -> bytes:
        return self.block(1, self.pack("HHI", link_type, 0, snaplen) + options)

    def packet(self, ticks: int, data: bytes, options: bytes = b"", interface: int = 0) -> bytes:
        fixed = self.pack("IIIII", interface, ticks >> 32, ticks & 0xFFFFFFFF, len(data), len(data))
        return self.block(6, fixed + data + bytes(-len(data) % 4) + options)

    def simple(self, data: bytes, original: int) -> bytes:
        return self.block(3, self.pack("I", original) + data)

    def old_packet(self, ticks: int, data: bytes) -> bytes:
        fixed = self.pack("HHIIII", 0, 7, ticks >> 32, ticks & 0xFFFFFFFF, len(data), len(data))
        return self.block(2, fixed + data)


@pytest.mark.parametrize("order", "<>")
class TestPcapng:
    """draft-ietf-opsawg-pcapng in both byte orders."""

    @pytest.mark.parametrize(
        ("resolution", "ticks", "expected"),
        [
            (None, TIME_NS // 1000, TIME_NS // 1000 * 1000),
            (9, TIME_NS, TIME_NS),
            (6, TIME_NS // 1000, TIME_NS // 1000 * 1000),
            (3, TIME_NS // 10**6, TIME_NS // 10**6 * 10**6),
            (0, TIME_NS // 10**9, TIME_NS // 10**9 * 10**9),
            (0x80 | 10, 1_700_000_000 << 10 | 512, 1_700_000_000_500_000_000),
            (12, 5_000, 5),
        ],
    )
    def test_resolutions(self, order: str, resolution: int | None, ticks: int, expected: int) -> None:
        ng = Ng(order)
        options = b"" if resolution is None else ng.option(pcapng.IF_TSRESOL, bytes([resolution]))
        data = ng.section() + ng.interface(options) + ng.packet(ticks, b"abc")
        assert [(packet.time_ns, packet.data) for packet in packets(data)] == [(expected, b"abc")]

    def test_a_time_offset_is_added(self, order: str) -> None:
        ng = Ng(order)
        offset = ng.option(pcapng.IF_TSOFFSET, ng.pack("q", -3600))
        data = ng.section() + ng.interface(offset) + ng.packet(3_600_000_001, b"")
        assert packets(data)[0].time_ns == 1000

    @pytest.mark.parametrize(
        ("resolution", "offset", "ticks", "expected"),
        [(0, 0, 1 << 60, LATEST_NS), (6, -1 << 40, 5, 0), (9, 0, (1 << 64) - 1, LATEST_NS)],
    )
    def test_times_that_no_clock_shows(
        self, order: str, resolution: int, offset: int, ticks: int, expected: int
    ) -> None:
        ng = Ng(order)
        options = ng.option(pcapng.IF_TSRESOL, bytes([resolution]))
        options += ng.option(pcapng.IF_TSOFFSET, ng.pack("q", offset))
        data = ng.section() + ng.interface(options) + ng.packet(ticks, b"abc") + ng.old_packet(ticks, b"abc")
        assert [packet.time_ns for packet in packets(data)] == [expected] * 2

    def test_several_sections_and_interfaces(self, order: str) -> None:
        ng, other = Ng(order), Ng("<" if order == ">" else ">")
        data = ng.section() + ng.interface(link_type=1) + ng.interface(link_type=101)
        data += ng.packet(1, b"first", interface=1)
        data += other.section() + other.interface(link_type=113) + other.packet(2, b"second")
        assert [(packet.link_type, packet.data) for packet in packets(data)] == [
            (101, b"first"),
            (113, b"second"),
        ]

    def test_unknown_blocks_and_options_are_skipped(self, order: str) -> None:
        ng = Ng(order)
        data = ng.section(ng.option(2988, b"custom")) + ng.block(0xBAD, b"12345") + ng.interface()
        data += ng.block(4, bytes(4)) + ng.packet(
            1, b"x", ng.option(2, ng.pack("I", 1)) + ng.option(1, b"a comment")
        )
        (packet,) = packets(data)
        assert packet.comments == ("a comment",)
        assert packet.outbound is False

    def test_simple_and_obsolete_packets(self, order: str) -> None:
        ng = Ng(order)
        data = ng.section() + ng.interface(snaplen=4) + ng.old_packet(5, b"obsolete") + ng.simple(b"cut!", 90)
        capture_file = CaptureFile(io.BytesIO(data))
        old, simple = list(capture_file)
        assert (old.time_ns, old.data) == (5000, b"obsolete")
        assert (simple.time_ns, simple.data, simple.original_length) == (5000, b"cut!", 90)
        assert any("without a time" in note for note in capture_file.notes)

    @pytest.mark.parametrize(
        "block",
        ["lengths differ", "length not of four", "huge", "tiny", "no interface", "data beyond the block"],
    )
    def test_a_malformed_block_ends_the_reading_with_its_place(self, order: str, block: str) -> None:
        ng = Ng(order)
        good = ng.section() + ng.interface() + ng.packet(1, b"good")
        bad = {
            "lengths differ": ng.packet(1, b"abcd")[:-4] + ng.pack("I", 4),
            "length not of four": ng.pack("II", 6, 33) + bytes(40),
            "huge": ng.pack("II", 6, 0x7FFFFFFC) + bytes(40),
            "tiny": ng.pack("II", 6, 8) + bytes(40),
            "no interface": ng.packet(1, b"abcd", interface=3),
            "data beyond the block": ng.block(6, ng.pack("IIIII", 0, 0, 1, 1000, 1000)),
        }[block]
        found = []
        with pytest.raises(CaptureFormatError, match=f"at byte {len(good)}"):
            for packet in CaptureFile(io.BytesIO(good + bad)):
                found.append(packet.data)
        assert found == [b"good"]


class TestPcap:
    """draft-ietf-opsawg-pcap."""

    @pytest.mark.parametrize("order", "<>")
    @pytest.mark.parametrize(("magic", "unit"), [(0xA1B2C3D4, 1000), (0xA1B23C4D, 1)])
    def test_byte_orders_and_resolutions(self, order: str, magic: int, unit: int) -> None:
        header = struct.pack(order + "IHHIIII", magic, 2, 4, 0, 0, 65535, 0x10000001)
        record = struct.pack(order + "IIII", 1_700_000_000, 123_456, 3, 90) + b"abc"
        (packet,) = packets(header + record)
        assert packet.time_ns == 1_700_000_000_000_000_000 + 123_456 * unit
        assert (packet.link_type, packet.data, packet.original_length) == (1, b"abc", 90)

    def test_kuznetzov_s_variant(self) -> None:
        header = struct.pack("<IHHIIII", 0xA1B2CD34, 2, 4, 0, 0, 65535, 1)
        record = struct.pack("<IIIIIHBB", 1_700_000_000, 1, 3, 3, 0, 0, 0, 0) + b"abc"
        assert [packet.data for packet in packets(header + record * 2)] == [b"abc", b"abc"]

    def test_an_impossible_length_is_malformed(self) -> None:
        with pytest.raises(CaptureFormatError, match="malformed at byte"):
            packets(THEIRS + struct.pack("<IIII", 1, 1, 2**31, 2**31) + bytes(100))


def zstd_frames(data: bytes, size: int) -> bytes:
    """Several zstd frames one after another."""
    compressor = zstandard.ZstdCompressor()
    return b"".join(compressor.compress(data[at : at + size]) for at in range(0, len(data), size))


COMPRESSED = {
    "gzip": gzip.compress(OURS),
    "gzip of two members": gzip.compress(OURS[:777]) + gzip.compress(OURS[777:]),
    "zstd": zstandard.ZstdCompressor().compress(OURS),
    "zstd of many frames": zstd_frames(OURS, 500),
    "zstd in gzip": gzip.compress(zstandard.ZstdCompressor().compress(OURS)),
}


class TestSources:
    """Where captures come from."""

    @pytest.mark.parametrize("data", COMPRESSED.values(), ids=COMPRESSED)
    def test_compressed_files(self, data: bytes) -> None:
        assert read(data) == ITEMS

    def test_a_zstd_file_with_a_large_window(self) -> None:
        parameters = zstandard.ZstdCompressionParameters(window_log=27, enable_ldm=True)
        stream = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
        assert read(stream.compress(OURS) + stream.flush()) == ITEMS

    @pytest.mark.parametrize("kind", ["path", "str", "file"])
    def test_paths_and_files(self, tmp_path: Path, kind: str) -> None:
        path = tmp_path / "a.pcapng"
        path.write_bytes(OURS)
        if kind == "file":
            with path.open("rb") as file:
                assert list(read_streams(file)) == ITEMS
                assert not file.closed
        else:
            assert list(read_streams(path if kind == "path" else str(path))) == ITEMS

    def test_stdin(self, tmp_path: Path) -> None:
        script = "from exporters.reassembly import read_streams; print(len(list(read_streams('-'))))"
        done = subprocess.run([sys.executable, "-c", script], input=OURS, capture_output=True, check=True)
        assert int(done.stdout) == len(ITEMS)

    def test_a_pipe_is_read_as_it_is_written(self, tmp_path: Path) -> None:
        fifo = tmp_path / "fifo"
        os.mkfifo(fifo)
        seen = threading.Event()

        def write() -> None:
            with fifo.open("wb", buffering=0) as pipe:
                pipe.write(OURS[:-400])
                assert seen.wait(60)
                pipe.write(OURS[-400:])

        writer = threading.Thread(target=write)
        writer.start()
        reader = iter(read_streams(fifo))
        first = next(reader)
        seen.set()
        assert [first, *reader] == ITEMS
        writer.join()

    def test_a_file_that_is_not_there(self, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError):
            list(read_streams(tmp_path / "absent"))


NO_CAPTURES = {
    "empty": (b"", "is empty"),
    "text": (b"GET / HTTP/1.1\r\n\r\n", "is not a capture"),
    "lz4": (b"\x04\x22\x4d\x18" + bytes(20), "lz4 -d"),
    "xz": (lzma.compress(OURS), "xz -d"),
    "bzip2": (bz2.compress(OURS), "bzip2 -d"),
    "zip": (b"PK\x03\x04" + bytes(26), "with zip; unpack it with `unzip`"),
    "gzip of text": (gzip.compress(b"text"), "is not a capture"),
    "gzip of nothing": (gzip.compress(b""), "is empty"),
    "broken gzip": (gzip.compress(OURS)[:15] + bytes(50), "no readable capture|is not a capture"),
    "a matryoshka": (gzip.compress(gzip.compress(gzip.compress(gzip.compress(OURS)))), "more than twice"),
    "a magic number alone": (b"\x0a\x0d\x0d\x0a", "inside its header"),
    "half a pcap header": (THEIRS[:20], "inside its header"),
    "no byte-order magic": (b"\x0a\x0d\x0d\x0a" + bytes(24), "byte-order magic"),
}


@pytest.mark.parametrize(("data", "message"), NO_CAPTURES.values(), ids=NO_CAPTURES)
def test_what_is_no_capture_is_refused_by_name(tmp_path: Path, data: bytes, message: str) -> None:
    path = tmp_path / "thing.pcapng"
    path.write_bytes(data)
    with pytest.raises(CaptureFormatError, match=message) as raised:
        list(read_streams(path))
    assert str(path) in str(raised.value)


@pytest.mark.parametrize("whole", [OURS, THEIRS], ids=["pcapng", "pcap"])
def test_a_truncated_capture_gives_what_is_in_it_and_a_note(whole: bytes) -> None:
    expected = read(whole)
    for size in range(100, len(whole), 97):
        reader = read_streams(io.BytesIO(whole[:size]))
        items = list(reader)
        assert [item for item in items if isinstance(item, Data)] == [
            item for item in expected if isinstance(item, Data)
        ][: sum(isinstance(item, Data) for item in items)]
        at_a_block = any(size == end for end in _block_ends(whole))
        assert any("truncated" in note for note in reader.notes) is not at_a_block


def _block_ends(data: bytes) -> list[int]:
    """Where blocks or records end."""
    ends, at = [], 0 if data[:4] == b"\x0a\x0d\x0d\x0a" else 24
    pcap_file = at == 24
    while at < len(data):
        at += (
            16 + struct.unpack_from("<I", data, at + 8)[0]
            if pcap_file
            else struct.unpack_from("<I", data, at + 4)[0]
        )
        ends.append(at)
    return [24, *ends] if pcap_file else ends


@pytest.mark.parametrize("compress", [gzip.compress, zstandard.ZstdCompressor().compress])
def test_a_truncated_compressed_capture_gives_what_is_in_it(compress: type[bytes]) -> None:
    items = Transcript().client(os.urandom(200_000), os.urandom(200_000)).items
    packed = compress(capture(items))
    reader = read_streams(io.BytesIO(packed[: len(packed) - 100_000]))
    found = list(reader)
    assert found[0] == items[0]
    assert len(found) > 2
    assert list(reader.notes)


def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    path = tmp_path / "large.pcapng"
    with path.open("wb") as file:
        exporter = PcapngExporter(file.write, METADATA)
        for number in range(1, 2_001):
            start_ns = START_NS + number * 1_000_000
            for item in Transcript(number, start_ns=start_ns, tls=tls()).client(bytes(10_000)).close().items:
                exporter.write(item)
        exporter.finish()
    tracemalloc.start()
    try:
        assert sum(len(item.data) for item in read_streams(path) if isinstance(item, Data)) == 20_000_000
        assert tracemalloc.get_traced_memory()[1] < 3_000_000
    finally:
        tracemalloc.stop()


def test_ledgers_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pcapng_reader, "MAX_LEDGER_COMMENTS", 1)
    ng = Ng("<")
    comments = ng.option(1, b'plaintap-ledger {"a":1}') + ng.option(1, b"plaintap-ledger ,junk")
    data = ng.section() + ng.interface() + ng.block(5, ng.pack("III", 0, 0, 0) + comments)
    reader = CaptureFile(io.BytesIO(data))
    assert list(reader) == []
    assert reader.ledgers == [{"a": 1}]


def test_what_recordings_warned_of_is_said_again_and_once() -> None:
    data = io.BytesIO()
    warnings: list[object] = [["5 bytes were lost (ring-full)", 7], 7, ["5 bytes were lost (ring-full)"]]
    for each in warnings:
        PcapngExporter(data.write, METADATA).finish(ledger={"warnings": each})
    data.seek(0)
    reader = CaptureFile(data)
    assert list(reader) == []
    (note,) = reader.notes
    assert note.endswith("as its recording said: 5 bytes were lost (ring-full)")


class TestFuzz:
    """Whatever the bytes are: items, or CaptureFormatError."""

    @staticmethod
    def survive(data: bytes) -> list[StreamItem]:
        items: list[StreamItem] = []
        try:
            for item in read_streams(io.BytesIO(data)):
                items.append(item)
        except CaptureFormatError:
            pass
        return items

    @settings(max_examples=300, deadline=None)
    @given(
        st.binary(max_size=400),
        st.sampled_from([OURS[:200], THEIRS[:24], b"", b"\x1f\x8b\x08\x00", b"\x28\xb5\x2f\xfd"]),
    )
    @example(b"", OURS[:28])
    def test_any_bytes_after_a_header(self, data: bytes, header: bytes) -> None:
        self.survive(header + data)

    @settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(
        st.sampled_from([OURS, THEIRS, capture(Transcript(port=80).exchange().lose(0, 99).close().items)]),
        st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), min_size=1, max_size=8),
    )
    def test_any_changed_bytes(self, data: bytes, changes: list[tuple[int, int]]) -> None:
        changed = bytearray(data)
        for at, value in changes:
            changed[at % len(changed)] = value
        self.survive(bytes(changed))

    @settings(max_examples=300, deadline=None)
    @given(
        st.lists(st.binary(max_size=120), max_size=6),
        st.sampled_from([0, 1, 12, 101, 105, 108, 113, 127, 228, 276, 9999]),
    )
    def test_any_frames_of_any_link_type(self, data: list[bytes], link_type: int) -> None:
        self.survive(pcap(data, link_type=link_type))

    @settings(max_examples=200, deadline=None)
    @given(st.data())
    def test_any_segments_of_a_connection(self, data: st.DataObject) -> None:
        tcp = Tcp()
        segments = []
        for _ in range(data.draw(st.integers(1, 25))):
            side = data.draw(st.integers(0, 1))
            flags = data.draw(st.sampled_from([0, 2, 4, 0x10, 0x11, 0x12, 0x14, 0x18, 0x1F]))
            offset = data.draw(st.sampled_from([-3, -1, 0, 0, 0, 0, 1, 5, 1000, 2**30, 2**31, 2**31 + 7]))
            ack = data.draw(st.sampled_from([0, 0, 0, 3, 2**20, 2**31]))
            payload = data.draw(st.binary(max_size=6))
            sequence, acknowledged = tcp.next[side] + offset, (tcp.next[1 - side] + ack) & 0xFFFFFFFF
            segments.append(tcp.packet(side, flags, payload, sequence=sequence, ack=acknowledged))
            tcp.next[side] += len(payload)
        items = self.survive(pcap(frames(segments)))
        assert all(item.time_ns >= 0 for item in items)


@pytest.mark.parametrize(("application", "finished", "noted"), [
    ("plaintap", False, True), ("plaintap", True, False), ("another", False, False),
])  # fmt: skip
def test_a_recording_that_was_killed_is_said_to_lack_its_account(
    application: str, finished: bool, noted: bool
) -> None:
    written = io.BytesIO()
    exporter = PcapngExporter(written.write, pcapng.SectionMetadata(application))
    for item in ITEMS:
        exporter.write(item)
    exporter.flush()
    if finished:
        exporter.finish(ledger={"connections": 1}, summary="", dropped=0)
    reader = read_streams(io.BytesIO(written.getvalue()))
    assert list(reader)
    assert any("account" in note for note in reader.notes) is noted
