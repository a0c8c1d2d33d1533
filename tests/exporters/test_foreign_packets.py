"""Frames that only scapy can read: link types, tags, tunnels, extension headers, fragments, damage."""

from __future__ import annotations

import io
import struct
import subprocess
import sys
import time
from typing import Any

import pytest
from foreign import CLIENT, SERVER, STEP_US, Tcp, frames, pcap
from scapy.contrib.geneve import GENEVE
from scapy.contrib.mpls import MPLS
from scapy.layers.inet import ICMP, IP, TCP, UDP, fragment
from scapy.layers.inet6 import (
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    fragment6,
)
from scapy.layers.l2 import GRE, LLC, SNAP, CookedLinux, Dot1AD, Dot1Q, Dot3, Ether, Loopback
from scapy.layers.ppp import PPP, PPPoE
from scapy.layers.vxlan import VXLAN
from transcripts import Transcript, capture

from capture.streams import Data, StreamItem, StreamOpened
from exporters import foreign_packets
from exporters.foreign_packets import ForeignPackets
from exporters.reassembly import read_streams

HELLO = b"hello " * 100
MAC = {"src": "00:11:22:33:44:55", "dst": "66:77:88:99:aa:bb"}

LINKS: dict[str, tuple[int, Any]] = {
    "Ethernet": (1, lambda packet: Ether(**MAC) / packet),
    "VLAN": (1, lambda packet: Ether(**MAC) / Dot1Q(vlan=7) / packet),
    "QinQ": (1, lambda packet: Ether(**MAC) / Dot1AD(vlan=7) / Dot1Q(vlan=8) / packet),
    "SNAP": (1, lambda packet: Dot3(**MAC) / LLC() / SNAP() / packet),
    "PPPoE": (1, lambda packet: Ether(**MAC) / PPPoE(sessionid=1) / PPP() / packet),
    "GRE": (1, lambda packet: Ether(**MAC) / IP(src="10.9.9.1", dst="10.9.9.2") / GRE() / packet),
    "VXLAN": (
        1,
        lambda packet: (
            Ether(**MAC)
            / IP(src="10.9.9.1", dst="10.9.9.2")
            / UDP(sport=40000, dport=4789)
            / VXLAN(vni=5)
            / Ether(**MAC)
            / packet
        ),
    ),
    "Geneve": (
        1,
        lambda packet: (
            Ether(**MAC)
            / IP(src="10.9.9.1", dst="10.9.9.2")
            / UDP(sport=40000, dport=6081)
            / GENEVE(vni=5)
            / Ether(**MAC)
            / packet
        ),
    ),
    "MPLS": (1, lambda packet: Ether(**MAC) / MPLS(label=17, s=1, ttl=64) / packet),
    "IP in IP": (1, lambda packet: Ether(**MAC) / IP(src="10.9.9.1", dst="10.9.9.2") / packet),
    "raw": (101, lambda packet: packet),
    "OpenBSD raw": (14, lambda packet: packet),
    "IPv4": (228, lambda packet: packet),
    "null": (0, lambda packet: Loopback(type=2) / packet),
    "loop": (108, lambda packet: b"\0\0\0\x02" + bytes(packet)),
    "cooked": (113, lambda packet: CookedLinux(proto=0x800) / packet),
    "cooked v2": (276, lambda packet: b"\x08\0\0\0\0\0\0\x01\0\x01\0\x06" + bytes(8) + bytes(packet)),
    "Cisco HDLC": (104, lambda packet: b"\x0f\0\x08\0" + bytes(packet)),
    "PKTAP": (258, lambda packet: struct.pack("<III", 108, 1, 12) + bytes(96) + bytes(packet)),
    "PKTAP of Ethernet": (
        258,
        lambda packet: struct.pack("<III", 108, 1, 1) + bytes(96) + bytes(Ether() / packet),
    ),
    "NFLOG": (
        239,
        lambda packet: (
            b"\x02\0\0\x05"
            + struct.pack("<HH5sxxx", 9, 10, b"web: ")
            + struct.pack("<HH", 4 + len(packet), 9)
            + bytes(packet)
        ),
    ),
    "QinQ of before 802.1ad": (
        1,
        lambda packet: Ether(**MAC, type=0x9100) / (b"\0\x07\x81\0\0\x08\x08\0" + bytes(packet)),
    ),
    "ERSPAN": (
        1,
        lambda packet: (
            Ether(**MAC)
            / IP(src="10.9.9.1", dst="10.9.9.2")
            / GRE(seqnum_present=1, proto=0x88BE)
            / (b"\x10\x05\0\x01\0\0\0\0" + bytes(Ether(**MAC) / packet))
        ),
    ),
    "GTP": (
        1,
        lambda packet: (
            Ether(**MAC)
            / IP(src="10.9.9.1", dst="10.9.9.2")
            / UDP(sport=40000, dport=2152)
            / (struct.pack(">BBHI", 0x30, 255, len(packet), 5) + bytes(packet))
        ),
    ),
    "IP in IPv6": (1, lambda packet: Ether(**MAC) / IPv6(src="2001:db8::1", dst="2001:db8::2") / packet),
    "GRE in IPv6": (
        1,
        lambda packet: Ether(**MAC) / IPv6(src="2001:db8::1", dst="2001:db8::2") / GRE() / packet,
    ),
    "VXLAN in IPv6": (
        1,
        lambda packet: (
            Ether(**MAC)
            / IPv6(src="2001:db8::1", dst="2001:db8::2")
            / IPv6ExtHdrDestOpt()
            / UDP(sport=40000, dport=4789)
            / VXLAN(vni=5)
            / Ether(**MAC)
            / packet
        ),
    ),
    "IP options": (1, lambda packet: Ether(**MAC) / _with_options(packet)),
}


def _with_options(packet: Any) -> Any:
    """The segment behind a router alert option (RFC 2113)."""
    return IP(src=packet.src, dst=packet.dst, options=b"\x94\x04\x00\x00") / packet[TCP]


def read(data: list[bytes], link_type: int = 1) -> list[StreamItem]:
    """The items of a capture of these frames."""
    return list(read_streams(io.BytesIO(pcap(data, link_type=link_type))))


def text(items: list[StreamItem]) -> bytes:
    """All data."""
    return b"".join(item.data for item in items if isinstance(item, Data))


@pytest.mark.parametrize(("link_type", "wrap"), LINKS.values(), ids=LINKS)
def test_link_types_tags_and_tunnels(link_type: int, wrap: Any) -> None:
    tcp = Tcp()
    packets = [*tcp.handshake(), tcp.client(HELLO), tcp.server(b"answer"), *tcp.finish()]
    items = read([bytes(wrap(packet)) for packet in packets], link_type)
    opened = items[0]
    assert isinstance(opened, StreamOpened)
    assert (opened.client.port, opened.server.port) == (CLIENT[1], SERVER[1])
    assert opened.client.address == bytes([192, 0, 2, 1])
    assert opened.handshake_seen
    assert text(items) == HELLO + b"answer"
    assert items[1].time_ns - opened.time_ns == 3 * STEP_US * 1000


def test_what_scapy_builds_stays_as_it_is() -> None:
    """Else the frames of these tests were other ones as soon as something had been read."""
    ForeignPackets()
    assert bytes(LINKS["QinQ"][1](IP()))[12:14] == b"\x88\xa8"


@pytest.mark.parametrize("family", [24, 28, 30, 10], ids=["OpenBSD", "FreeBSD", "macOS", "Linux"])
@pytest.mark.parametrize(("link_type", "order"), [(0, "<"), (0, ">"), (108, ">")])
def test_ipv6_on_a_loopback_interface(link_type: int, order: str, family: int) -> None:
    tcp = Tcp()
    packets = [*tcp.handshake(), tcp.client(HELLO), tcp.server(b"answer")]
    before = struct.pack(order + "I", family)
    items = read([before + bytes(IPv6() / packet[TCP]) for packet in packets], link_type)
    assert text(items) == HELLO + b"answer"


@pytest.mark.parametrize("link_type", [0, 239, 258])
def test_a_header_of_the_capture_that_is_cut_or_false(link_type: int) -> None:
    data = [
        b"",
        b"\x02",
        struct.pack("<III", 108, 1, 258),
        struct.pack("<III", 0, 0, 1),
        b"\x02\0\0\0" + bytes(9),
    ]
    reader = read_streams(io.BytesIO(pcap(data, link_type=link_type)))
    assert list(reader) == []
    assert reader.notes == ["5 packets could not be decoded."]


@pytest.mark.parametrize(
    ("client", "server"),
    [
        ("02:00:00:00:00:01", "02:00:00:00:00:02"),
        ("02:01:00:00:00:01", "02:02:00:00:00:02"),
        ("02:00:0a:00:00:01", "02:03:0a:00:00:02"),
        ("02:01:00:00:00:05", "02:02:00:00:00:05"),
    ],
)
def test_any_two_hardware_addresses_are_one_connection_s(client: str, server: str) -> None:
    tcp = Tcp()
    packets = [*tcp.handshake(), tcp.client(HELLO), tcp.server(b"answer"), *tcp.finish()]
    ways = {CLIENT[1]: {"src": client, "dst": server}, SERVER[1]: {"src": server, "dst": client}}
    items = read([bytes(Ether(**ways[packet[TCP].sport]) / packet) for packet in packets])
    assert [type(item) for item in items].count(StreamOpened) == 1
    assert text(items) == HELLO + b"answer"


def test_a_link_type_beside_the_length_of_a_frame_check_sequence() -> None:
    tcp = Tcp()
    packets = [*tcp.handshake(), tcp.client(HELLO), *tcp.finish()]
    assert text(read([bytes(Ether(**MAC) / packet) for packet in packets], 0x44000001)) == HELLO


def six(tcp: TCP, *headers: Any) -> Any:
    """The segment in IPv6 with extension headers."""
    packet = IPv6(src="2001:db8::1", dst="2001:db8::2")
    for header in headers:
        packet /= header
    return packet / tcp


@pytest.mark.parametrize(
    "headers", [(), (IPv6ExtHdrHopByHop(),), (IPv6ExtHdrHopByHop(), IPv6ExtHdrDestOpt())]
)
@pytest.mark.parametrize("padding", [b"", b"\0" * 9])
def test_ipv6_with_extension_headers_and_padding(headers: tuple[Any, ...], padding: bytes) -> None:
    tcp = Tcp()
    packets = [*tcp.handshake(), tcp.client(HELLO), *tcp.finish()]
    data = [bytes(Ether(**MAC) / six(packet[TCP], *headers)) + padding for packet in packets]
    items = read(data)
    assert isinstance(items[0], StreamOpened)
    assert items[0].client.address == bytes.fromhex("20010db8" + "00" * 11 + "01")
    assert text(items) == HELLO


@pytest.mark.parametrize("order", ["forwards", "backwards"])
def test_ipv4_fragments(order: str) -> None:
    tcp = Tcp()
    before, big, after = tcp.handshake(), tcp.client(HELLO), tcp.finish()
    big.id = 4711
    pieces = fragment(big, fragsize=128)
    assert len(pieces) > 4
    pieces = pieces if order == "forwards" else pieces[::-1]
    assert text(read(frames([*before, *pieces, *after]))) == HELLO


def test_ipv6_fragments() -> None:
    tcp = Tcp()
    segments = [*tcp.handshake(), tcp.client(HELLO), *tcp.finish()]
    packets: list[Any] = []
    for segment in segments:
        whole = six(segment[TCP], IPv6ExtHdrFragment(id=9))
        packets += fragment6(whole, 200) if len(segment) > 200 else [six(segment[TCP])]
    assert len(packets) > len(segments)
    assert text(read(frames(packets))) == HELLO


def test_fragments_of_many_datagrams_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(foreign_packets, "MAX_FRAGMENTED_DATAGRAMS", 4)
    tcp = Tcp()
    lonely = []
    for number in range(50):
        big = tcp.packet(0, 0x18, HELLO)
        big.id = number
        lonely += fragment(big, fragsize=128)[:2]
    assert read(frames(lonely)) == []


def test_a_datagram_of_fragments_beyond_the_largest_is_left_out() -> None:
    pieces = [
        IP(src=CLIENT[0], dst=SERVER[0], id=1, proto=6, flags="MF" if more else 0, frag=offset)
        / (b"x" * 1400)
        for offset, more in [(0, True), (8190, False)]
    ]
    assert read(frames(pieces)) == []


def test_fragments_that_overlap_make_no_datagram() -> None:
    """Which of both is meant is each receiver's own affair."""
    whole = bytes(Tcp().client(get := b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")[TCP])
    assert get in whole

    def piece(start: int, end: int, data: bytes = whole) -> bytes:
        more = "MF" if end < len(whole) else 0
        header = IP(src=CLIENT[0], dst=SERVER[0], id=1, proto=6, flags=more, frag=start // 8)
        return bytes(Ether(**MAC) / header / data[start:end])

    end = len(whole)
    assert text(read([piece(0, 24), piece(0, 24, bytes(end)), piece(24, end)])) == get
    assert read([piece(0, 32), piece(24, 40), piece(40, end)]) == []


def test_a_datagram_in_many_fragments_is_put_together_once() -> None:
    last = 4096 * 8
    pieces = foreign_packets._Fragments()
    assert pieces.add(last, b"end", more=False) is None
    start = time.process_time()
    found = [pieces.add(offset, b"12345678", more=True) for offset in range(0, last, 8)]
    assert found[-1] == b"12345678" * 4096 + b"end"
    assert time.process_time() - start < 1


def test_a_segment_quoted_in_an_icmp_error_is_not_one() -> None:
    tcp = Tcp()
    quoted = tcp.client(b"quoted")
    error = IP(src="192.0.2.254", dst=CLIENT[0]) / ICMP(type=3, code=1) / quoted
    assert read([bytes(Ether(**MAC) / error)]) == []


def test_other_protocols_are_passed_over_in_silence() -> None:
    tcp = Tcp()
    others = [IP(src="10.0.0.1", dst="10.0.0.2") / UDP(sport=53, dport=53) / b"dns?", IP() / ICMP()]
    arp = bytes(Ether(**MAC, type=0x0806)) + bytes(46)
    reader = read_streams(io.BytesIO(pcap([arp, *frames([*others, *tcp.handshake(), tcp.client(b"x")])])))
    assert text(list(reader)) == b"x"
    assert list(reader.notes) == []


def test_what_cannot_be_decoded_is_counted() -> None:
    reader = read_streams(io.BytesIO(pcap([b"\x01\x02\x03"] * 5, link_type=250)))
    assert list(reader) == []
    assert any("5 packets could not be decoded" in note for note in reader.notes)


def test_layers_are_found_without_the_help_of_this_test_s_imports() -> None:
    script = (
        "from exporters.reassembly import read_streams\n"
        "print(sum(len(getattr(item, 'data', b'')) for item in read_streams('-')))"
    )
    for name, (link_type, wrap) in LINKS.items():
        if name not in ("PPPoE", "VXLAN", "Geneve", "MPLS", "GRE", "SNAP", "QinQ"):
            continue
        tcp = Tcp()
        packets = [*tcp.handshake(), tcp.client(HELLO), *tcp.finish()]
        data = pcap([bytes(wrap(packet)) for packet in packets], link_type=link_type)
        done = subprocess.run([sys.executable, "-c", script], input=data, capture_output=True, check=True)
        assert int(done.stdout) == len(HELLO), name


def test_scapy_is_not_imported_for_our_captures() -> None:
    script = (
        "import io, sys\nfrom exporters.reassembly import read_streams\n"
        "assert len(list(read_streams('-'))) == 5\n"
        "print('scapy' in sys.modules)"
    )
    data = capture(Transcript().exchange().close().items)
    done = subprocess.run([sys.executable, "-c", script], input=data, capture_output=True, check=True)
    assert done.stdout == b"False\n"


def test_a_frame_check_sequence_that_the_header_tells_of() -> None:
    """Four bytes behind each frame: draft-ietf-opsawg-pcap §4."""
    tcp = Tcp()
    packets = [*tcp.handshake(), tcp.client(b"GET / HTTP/1.1\r\n\r\n"), *tcp.finish()]
    data = pcap([frame + b"fcs!" for frame in frames(packets)], link_type=4 << 28 | 1 << 26 | 1)
    (item,) = [item for item in read_streams(io.BytesIO(data)) if isinstance(item, Data)]
    assert item.data == b"GET / HTTP/1.1\r\n\r\n"
