"""Packets to TCP segments: Ethernet, IPv4, IPv6 and TCP by hand, everything else through scapy.

The headers that our own captures have, and most of other people's, are read here with struct; VLAN tags,
other link types, extension headers and fragments go to ``exporters.foreign_packets``, which is
imported when the first of them is met.

This module knows one packet at a time; order and connections are for ``exporters.tcp_reassembly``.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final, NamedTuple

from capture.streams import Endpoint
from exporters.pcapng import LINKTYPE_ETHERNET

if TYPE_CHECKING:
    from collections.abc import Callable

    from capture.streams import Process
    from exporters.pcap import Packet

PROTOCOL_TCP: Final = 6
_PROTOCOL_UDP: Final = 17
_PROTOCOLS_WITHOUT_TCP: Final = frozenset((1, 2, 58, 89, 132))
"""ICMP, IGMP, ICMPv6, OSPF and SCTP."""
_TUNNEL_PORTS: Final = (b"\x12\xb5", b"\x21\x18", b"\x17\xc1", b"\x08\x68")
"""UDP ports of VXLAN, 4789 (RFC 7348 §5) and Linux's older 8472; of Geneve, 6081 (RFC 8926 §3.3); and of GTP's
user plane, 2152 (3GPP TS 29.281 §4.4.2)."""

_ETHERNET_BYTES: Final = 14
_IPV4_BYTES: Final = 20
_IPV6_BYTES: Final = 40
_TCP_BYTES: Final = 20
_LEAST_BYTES: Final = 54
"""Of a frame with IPv4 and TCP."""
_FRAGMENT_MASK: Final = 0x3FFF
"""More fragments, and the offset (RFC 791 §3.1)."""
_LOCALLY_ADMINISTERED: Final = 0x02
_SHARED_PATH_SUM: Final = 0x01 + 0x02
"""Of the second bytes of both hardware addresses, where the rest of either is a stream's number: see
``exporters.packets``. Normally both are 0."""
_TCP_FIELDS: Final = struct.Struct(">IIBB")


TcpFields = tuple[bytes, int, int, int, bytes, int]
"""The fields of a Segment from ``path`` to ``missing``."""
_NoTcp = tuple[()]
"""Nothing to look for."""


class Segment(NamedTuple):
    """A TCP segment. ``path`` is source address, destination address, source port, destination port, packed,
    and four bytes more where a recording has several streams with these.

    ``sequence`` and ``acknowledgement`` are as in the header (32 bits); ``missing`` bytes follow ``payload``
    on the wire and are not in the capture.
    """

    time_ns: int
    path: bytes
    sequence: int
    acknowledgement: int
    flags: int
    payload: bytes
    missing: int
    comments: tuple[str, ...] = ()
    process: Process | None = None
    outbound: bool | None = None


def _address_bytes(path: bytes) -> int:
    return 4 if len(path) < 36 else 16


def path_endpoints(path: bytes) -> tuple[Endpoint, Endpoint]:
    """A path's source and destination."""
    size = _address_bytes(path)
    source_port, destination_port = struct.unpack_from(">HH", path, 2 * size)
    return Endpoint(path[:size], source_port), Endpoint(path[size : 2 * size], destination_port)


def reverse_path(path: bytes) -> bytes:
    """The path of the other direction."""
    size = _address_bytes(path)
    ports = 2 * size
    return (
        path[size:ports]
        + path[:size]
        + path[ports + 2 : ports + 4]
        + path[ports : ports + 2]
        + path[ports + 4 :]
    )


class Dissector:
    """Finds the TCP segment in a packet.

    ``undecodable`` counts packets that no part of it could read; packets of other protocols are not counted.
    """

    def __init__(self) -> None:
        self._foreign: Callable[[Packet], Segment | None] | None = None
        self.undecodable = 0

    def segment(self, packet: Packet) -> Segment | None:
        """The packet's TCP segment; None where it has none, or has one only together with other packets."""
        time_ns, link_type, data, original, comments, process, outbound = packet
        reader = _ETHERTYPES.get(data[12:14]) if link_type == LINKTYPE_ETHERNET else None
        if reader is not None and len(data) < _LEAST_BYTES:
            self.undecodable += original > len(data)
            return None
        found = reader(data, original) if reader is not None else None
        if found is None:
            return self._by_scapy(packet)
        if not found:
            return None
        path = found[0]
        if data[0] == data[6] == _LOCALLY_ADMINISTERED and data[1] + data[7] == _SHARED_PATH_SUM:
            path += data[2:6] if data[2:6] == data[8:12] else b""
        return Segment(time_ns, path, *found[1:], comments, process, outbound)

    def _by_scapy(self, packet: Packet) -> Segment | None:
        if self._foreign is None:
            from exporters.foreign_packets import ForeignPackets  # noqa: PLC0415  (scapy costs up to 1 s)

            self._foreign = ForeignPackets().segment
        try:
            return self._foreign(packet)
        except ValueError:
            self.undecodable += 1
            return None


def tcp_segment(data: bytes, at: int, end: int, addresses: bytes) -> TcpFields | None:
    """The TCP header at ``at`` and its payload; ``end`` is where the datagram ends.

    What is in ``data`` after ``end`` is padding. None where the header is cut or impossible.
    """
    if len(data) < at + _TCP_BYTES:
        return None
    sequence, acknowledgement, offset, flags = _TCP_FIELDS.unpack_from(data, at + 4)
    start = at + (offset >> 4) * 4
    if offset < 0x50 or start > end:
        return None
    payload = data[start:end]
    return (
        addresses + data[at : at + 4],
        sequence,
        acknowledgement,
        flags,
        payload,
        end - start - len(payload),
    )


def _arp(data: bytes, original: int) -> _NoTcp:
    return ()


def _ipv4(data: bytes, original: int) -> TcpFields | _NoTcp | None:
    """An Ethernet frame with IPv4 (RFC 791 §3.1); None for what is left to scapy."""
    protocol = data[23]
    at = _ETHERNET_BYTES + (data[14] & 15) * 4
    if protocol != PROTOCOL_TCP:
        return None if _may_carry_tcp(data, at, protocol) else ()
    if (data[20] << 8 | data[21]) & _FRAGMENT_MASK or at < _ETHERNET_BYTES + _IPV4_BYTES:
        return None
    # Where the segmentation was left to the network card, the total length may be 0.
    size = data[16] << 8 | data[17] or original - _ETHERNET_BYTES
    return tcp_segment(data, at, _ETHERNET_BYTES + size, data[26:34])


def _ipv6(data: bytes, original: int) -> TcpFields | _NoTcp | None:
    """An Ethernet frame with IPv6 (RFC 8200 §3); None for what is left to scapy."""
    protocol = data[20]
    at = _ETHERNET_BYTES + _IPV6_BYTES
    if protocol != PROTOCOL_TCP:
        return None if _may_carry_tcp(data, at, protocol) else ()
    size = data[18] << 8 | data[19] or original - at
    return tcp_segment(data, at, at + size, data[22:54])


def _may_carry_tcp(data: bytes, at: int, protocol: int) -> bool:
    """Whether a datagram that is not TCP itself can have TCP inside: behind headers, or in a tunnel."""
    if protocol == _PROTOCOL_UDP:
        return data[at + 2 : at + 4] in _TUNNEL_PORTS
    return protocol not in _PROTOCOLS_WITHOUT_TCP


_ETHERTYPES: Final = {b"\x08\x00": _ipv4, b"\x86\xdd": _ipv6, b"\x08\x06": _arp}
