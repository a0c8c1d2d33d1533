"""Other people's packets, through scapy: any link type, VLAN tags, tunnels, extension headers and fragments.

The only module that imports scapy, which takes up to a second: ``exporters.dissection`` imports this one
when it meets a packet that it cannot read itself. scapy finds the IP datagram and walks its headers; the TCP
segment is then read as everywhere else.
"""

from __future__ import annotations

import struct
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

from scapy.config import conf
from scapy.contrib import erspan, geneve, gtp, mpls
from scapy.layers import inet, inet6, l2, ppp, vxlan
from scapy.packet import bind_bottom_up

from exporters.dissection import PROTOCOL_TCP, Segment, TcpFields, tcp_segment

if TYPE_CHECKING:
    from collections.abc import Callable

    from exporters.pcap import Packet

REGISTERED: Final = (ppp.PPPoE, vxlan.VXLAN, geneve.GENEVE, mpls.MPLS, erspan.ERSPAN, gtp.GTP_U_Header)
"""Layers that scapy finds inside others once they are imported; GRE, VLANs and SNAP come with inet."""

MAX_FRAGMENTED_DATAGRAMS: Final = 256
"""Datagrams whose fragments are waited for; the oldest is given up. Linux holds 4 MiB of fragments: 64 of
the largest datagrams."""
MAX_DATAGRAM_BYTES: Final = 65_535
"""A datagram ends here, with all its fragments (RFC 791 §3.1)."""

_LINKTYPES_RAW: Final = (12, 14, 101, 228, 229)
"""Bare IP datagrams: two platforms' DLT_RAW, LINKTYPE_RAW, LINKTYPE_IPV4 and LINKTYPE_IPV6."""

_LINKTYPES_LOOPBACK: Final = (0, 108)
"""LINKTYPE_NULL and LINKTYPE_LOOP: an address family before the datagram, of IPv6 another one on each BSD."""
_FAMILY_BYTES: Final = 4

_LINKTYPE_PKTAP: Final = 258
"""macOS's, of all interfaces at once: a header with its length and the packet's link type (bsd/net/pktap.h)."""
_PKTAP: Final = struct.Struct("<I4xI")

_LINKTYPE_NFLOG: Final = 239
"""A header of four bytes, and attributes as of netlink, one of which is the datagram."""
_NFLOG_HEADER_BYTES: Final = 4
_NFLOG_ATTRIBUTE: Final = struct.Struct("<HH")
_NFLOG_PAYLOAD: Final = 9

_OLD_VLAN_TAG: Final = 0x9100
"""Of the outer tag of two, before IEEE 802.1ad gave it a type."""

_EXTENSION_HEADERS: Final = (
    inet6.IPv6ExtHdrHopByHop,
    inet6.IPv6ExtHdrDestOpt,
    inet6.IPv6ExtHdrRouting,
    inet6.IPv6ExtHdrSegmentRouting,
)
"""What may be between IPv6 and TCP, beside a fragment's (RFC 8200 §4, RFC 8754)."""

_FRAGMENT_UNIT_BYTES: Final = 8
_IPV6_HEADER_BYTES: Final = 40
_IPV6_FRAGMENT_HEADER_BYTES: Final = 8


class _Fragments:
    """The pieces of one datagram's payload by offset, until they are whole.

    Of pieces that overlap nothing is made (RFC 5722 §4, and Linux of IPv4's); one that is repeated is the first.
    """

    def __init__(self) -> None:
        self._pieces: dict[int, bytes] = {}
        self._bytes = 0
        self._size: int | None = None

    def add(self, offset: int, data: bytes, *, more: bool) -> bytes | None:
        """Takes a piece; the payload, if that was the last one missing."""
        if offset in self._pieces or self._bytes + len(data) > MAX_DATAGRAM_BYTES:
            return None
        if not more:
            self._size = offset + len(data)
        self._pieces[offset] = data
        self._bytes += len(data)
        if self._bytes != self._size:
            return None
        # As many bytes as it has: put together once.
        whole = bytearray()
        for start in sorted(self._pieces):
            if start != len(whole):
                return None
            whole += self._pieces[start]
        return bytes(whole)


@cache
def _bind_old_vlan_tags() -> None:
    """Once: scapy keeps what it is told."""
    bind_bottom_up(l2.Ether, l2.Dot1AD, type=_OLD_VLAN_TAG)
    bind_bottom_up(l2.Dot1AD, l2.Dot1AD, type=_OLD_VLAN_TAG)


def _unwrapped(packet: Packet) -> Packet:
    """The packet behind what capturing has put before it and scapy does not know."""
    data = packet.data
    if packet.link_type in _LINKTYPES_LOOPBACK:
        return _inside(packet, _LINKTYPES_RAW[0], _FAMILY_BYTES)
    if packet.link_type == _LINKTYPE_PKTAP and len(data) >= _PKTAP.size:
        size, link_type = _PKTAP.unpack_from(data)
        if size < _PKTAP.size or link_type == _LINKTYPE_PKTAP:
            raise ValueError("a PKTAP header that is none")
        return _unwrapped(_inside(packet, link_type, size))
    if packet.link_type == _LINKTYPE_NFLOG:
        at = _NFLOG_HEADER_BYTES
        while at + _NFLOG_ATTRIBUTE.size <= len(data):
            size, kind = _NFLOG_ATTRIBUTE.unpack_from(data, at)
            if kind == _NFLOG_PAYLOAD:
                return _inside(packet, _LINKTYPES_RAW[0], at + _NFLOG_ATTRIBUTE.size)
            at += max(size + (-size & 3), _NFLOG_ATTRIBUTE.size)
    return packet


def _inside(packet: Packet, link_type: int, start: int) -> Packet:
    length = max(packet.original_length - start, 0)
    return packet._replace(link_type=link_type, data=packet.data[start:], original_length=length)


class ForeignPackets:
    """Reads packets one after another and remembers fragments."""

    def __init__(self) -> None:
        _bind_old_vlan_tags()
        self._link_layers: Any = conf.l2types
        self._readers: dict[type, Callable[[Any, int], TcpFields | None]] = {
            inet.IP: self._ipv4,
            inet6.IPv6: self._ipv6,
        }
        self._all_layers = False
        self._fragments: dict[tuple[bytes, int, int], _Fragments] = {}

    def segment(self, packet: Packet) -> Segment | None:
        """The packet's TCP segment, or that of the datagram whose last missing fragment it is.

        Raises ValueError for a packet that cannot be dissected.
        """
        packet = _unwrapped(packet)
        cut = packet.original_length - len(packet.data)
        layer = self._dissect(packet)
        while layer:
            # Not isinstance: the datagram that an ICMP error quotes is of a derived class.
            reader = self._readers.get(type(layer))
            if reader is not None:
                found = reader(layer, cut)
                if found is not None:
                    return Segment(packet.time_ns, *found, packet.comments, packet.process, packet.outbound)
            layer = layer.payload
        return None

    def _dissect(self, packet: Packet) -> Any:
        """The packet as scapy's layers."""
        if packet.link_type in _LINKTYPES_RAW:
            version = packet.data[0] >> 4 if packet.data else 0
            layer = {4: inet.IP, 6: inet6.IPv6}.get(version)
        else:
            layer = self._link_layer(packet.link_type)
        if layer is None:
            raise ValueError(f"link type {packet.link_type} is not known")
        try:
            return layer(packet.data)
        except Exception as error:  # malformed bytes make scapy's dissectors raise anything
            raise ValueError(f"scapy cannot dissect a packet: {error}") from error

    def _link_layer(self, link_type: int) -> Any:
        if link_type not in self._link_layers.num2layer and not self._all_layers:
            self._all_layers = True
            import_module("scapy.layers.all")  # half a second more, for rare link types
            import_module("scapy.contrib.chdlc")
        return self._link_layers.num2layer.get(link_type)

    def _ipv4(self, layer: Any, cut: int) -> TcpFields | None:
        """RFC 791 §3.1."""
        datagram: bytes = layer.original
        header = (layer.ihl or 5) * 4
        addresses = datagram[12:20]
        total = int.from_bytes(datagram[2:4], "big") or len(datagram) + cut
        if layer.flags.MF or layer.frag:
            payload = self._whole(
                (addresses, layer.id, layer.proto),
                layer.frag * _FRAGMENT_UNIT_BYTES,
                datagram[header:total],
                more=bool(layer.flags.MF),
                cut=len(datagram) < total,
            )
            return tcp_segment(payload, 0, len(payload), addresses) if payload else None
        if layer.proto != PROTOCOL_TCP:
            return None
        return tcp_segment(datagram, header, total, addresses)

    def _ipv6(self, layer: Any, cut: int) -> TcpFields | None:
        """RFC 8200 §3, §4: the extension headers are scapy's to walk."""
        datagram: bytes = layer.original
        addresses = datagram[8:40]
        size = int.from_bytes(datagram[4:6], "big") or len(datagram) + cut - _IPV6_HEADER_BYTES
        first = layer.payload
        inner = first
        while inner:
            before = len(first.original) - len(inner.original)
            if isinstance(inner, inet.TCP):
                return tcp_segment(inner.original, 0, size - before, addresses)
            if isinstance(inner, inet6.IPv6ExtHdrFragment):
                data = inner.original[_IPV6_FRAGMENT_HEADER_BYTES : size - before]
                payload = self._whole(
                    (addresses, inner.id, inner.nh),
                    inner.offset * _FRAGMENT_UNIT_BYTES,
                    data,
                    more=bool(inner.m),
                    cut=len(inner.original) < size - before,
                )
                return tcp_segment(payload, 0, len(payload), addresses) if payload else None
            if not isinstance(inner, _EXTENSION_HEADERS):
                return None  # what is inside of a tunnel has addresses of its own
            inner = inner.payload
        return None

    def _whole(
        self, key: tuple[bytes, int, int], offset: int, data: bytes, *, more: bool, cut: bool
    ) -> bytes | None:
        """The datagram's payload, if this fragment makes it whole; only TCP's is wanted."""
        if key[2] != PROTOCOL_TCP:
            return None
        if cut:
            raise ValueError("a fragment is cut short")
        fragments = self._fragments.pop(key, None) or _Fragments()
        payload = fragments.add(offset, data, more=more)
        if payload is None:
            self._fragments[key] = fragments
            if len(self._fragments) > MAX_FRAGMENTED_DATAGRAMS:
                del self._fragments[next(iter(self._fragments))]
        return payload
