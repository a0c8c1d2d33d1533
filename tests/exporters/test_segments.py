"""Headers and checksums, judged by scapy and by the arithmetic of RFC 1071."""

from __future__ import annotations

import io
import struct
from typing import Any

import pytest
from handmade import checksum
from hypothesis import example, given
from hypothesis import strategies as st
from scapy.layers.inet import IP, TCP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether
from scapy.utils import PcapNgReader
from transcripts import Transcript, capture, tls

from capture.streams import Endpoint, Side
from exporters.segments import (
    ACK,
    PSH,
    SYN,
    Flow,
    block_tails,
    common_family,
    link_header,
    ones_complement_sum,
)

HARDWARE = (b"\x02\0\0\0\0\x01", b"\x02\0\0\0\0\x02")
V4 = (b"\x0a\0\0\x01", b"\x0a\0\0\x02")
V6 = (b"\xfd" + bytes(14) + b"\x01", b"\xfd" + bytes(14) + b"\x02")
OPTIONS = b"\x02\x00\x04\x00\x02\x00\x00\x00\x00\x00\x00\x00"


def new_flow(family: tuple[bytes, bytes], sequence: int) -> Flow:
    """A client's flow to port 443."""
    link = link_header(*HARDWARE, ipv4=family is V4)
    return Flow((family[0], 40_000), (family[1], 443), link, sequence, block_tails(OPTIONS))


def checksums(packet: Any) -> list[int]:
    """IPv4's, if there is one, and TCP's."""
    return [packet[layer].chksum for layer in (IP, TCP) if layer in packet]


def recomputed(packet: Any) -> list[int]:
    """The same, as scapy computes them."""
    bare = packet.copy()
    for layer in (IP, TCP):
        if layer in bare:
            del bare[layer].chksum
    return checksums(Ether(bytes(bare)))


@given(st.binary(max_size=70) | st.integers(2_000, 9_000).map(lambda size: bytes(range(251)) * (size // 251)))
@example(b"")
@example(b"\xff\xff")
@example(b"\xff" * 5001)
def test_the_sum_is_that_of_the_rfc(data: bytes) -> None:
    # 0 and 0xffff are the same number in one's complement.
    assert ones_complement_sum(data) % 0xFFFF == (~checksum(data) & 0xFFFF) % 0xFFFF


@given(
    payload=st.binary(max_size=60)
    | st.integers(1, 65_000).map(lambda size: bytes(size % 251 for _ in range(size))),
    family=st.sampled_from([V4, V6]),
    sequence=st.sampled_from([0, 1, 2**32 - 1, 2**32, 2**40 + 7]),
    acknowledged=st.integers(0, 2**33),
    flags=st.sampled_from([SYN, SYN | ACK, PSH | ACK]),
    time_ns=st.integers(0, 2**64 - 1),
)
def test_scapy_agrees_on_every_field(
    payload: bytes, family: tuple[bytes, bytes], sequence: int, acknowledged: int, flags: int, time_ns: int
) -> None:
    flow = new_flow(family, sequence)
    block = flow.segment(time_ns, acknowledged, flags, payload)
    kind, total, interface, high, low, captured, original = struct.unpack_from("<IIIIIII", block)
    assert (kind, interface, high << 32 | low) == (6, 0, time_ns)
    assert total == len(block) == struct.unpack("<I", block[-4:])[0]
    assert len(block) % 4 == 0
    assert captured == original
    assert block[-16:-4] == OPTIONS
    frame = Ether(block[28 : 28 + captured])
    assert (IP in frame) is (family is V4)
    assert (IPv6 in frame) is (family is V6)
    tcp = frame[TCP]
    assert (tcp.sport, tcp.dport, tcp.seq, tcp.ack) == (40_000, 443, sequence % 2**32, acknowledged % 2**32)
    assert int(tcp.flags) == flags
    assert tcp.original[20:] == payload
    assert recomputed(frame) == checksums(frame)
    assert flow.next_sequence == sequence + len(payload) + bool(flags & SYN)


def test_missing_bytes_are_on_the_wire_and_not_in_the_file() -> None:
    flow = new_flow(V4, 10)
    block = flow.segment(0, 0, ACK, b"abc", missing=1000, options=b"\x01\x00\x04\x00note")
    captured, original = struct.unpack_from("<II", block, 20)
    assert (captured, original) == (57, 1057)
    assert flow.next_sequence == 1013
    assert Ether(block[28 : 28 + captured])[IP].len == 1043
    assert block[28 + captured : -4] == bytes(3) + b"\x01\x00\x04\x00note" + OPTIONS


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        (V4[0], V4[1], V4),
        (V6[0], V6[1], V6),
        (bytes(10) + b"\xff\xff" + V4[0], bytes(10) + b"\xff\xff" + V4[1], V4),
        (bytes(10) + b"\xff\xff" + V4[0], V4[1], V4),
        (V4[0], V6[1], (bytes(10) + b"\xff\xff" + V4[0], V6[1])),
        (bytes(10) + b"\xff\xff" + V4[0], V6[1], (bytes(10) + b"\xff\xff" + V4[0], V6[1])),
    ],
)
def test_both_ends_are_of_one_family(first: bytes, second: bytes, expected: tuple[bytes, bytes]) -> None:
    assert common_family(first, second) == expected


def test_scapy_reads_our_captures_and_agrees_on_their_checksums() -> None:
    streams = [
        Transcript(1, tls=tls("h2")).exchange(2).client(b"x" * 100_001).close(),
        Transcript(2, port=80).exchange(2).server(b"y" * 70_001).close(Side.SERVER, reset=True),
        Transcript(3, client=Endpoint(V6[0], 5), server=Endpoint(V6[1], 443), tls=tls()).exchange().close(),
    ]
    data = capture([item for stream in streams for item in stream.items])
    packets = list(PcapNgReader(io.BytesIO(data)))
    assert len(packets) > 30
    assert [checksums(packet) for packet in packets] == [recomputed(packet) for packet in packets]
