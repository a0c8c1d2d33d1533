"""One direction of a synthetic TCP connection, as Ethernet frames in Enhanced Packet Blocks.

A Flow knows its headers by heart: what does not change from segment to segment is packed once, and the
checksums (RFC 1071) are sums over the rest. Arithmetic is modulo 65,535, where 2^16 is 1, so that 32-bit
fields are added as they are.

Bytes and numbers only: this module knows no stream item, no TLS and no comment.
"""

from __future__ import annotations

import struct
from typing import Final

from exporters.pcapng import BLOCK_ENHANCED_PACKET

FIN: Final = 0x01
SYN: Final = 0x02
RST: Final = 0x04
PSH: Final = 0x08
ACK: Final = 0x10

MAX_PAYLOAD_BYTES: Final = 65_000
"""Of a segment. Headers and options fit below IP's 65,535, where scapy cuts frames, and below the
262,144 from which Wireshark takes a file for damaged."""

SYN_OPTIONS: Final = bytes.fromhex("0204ffd7 0402 01 030307 0101".replace(" ", ""))
"""MSS 65,495, SACK permitted, window scale 7: with them Wireshark has nothing to remark on."""

_ETHERTYPE_IPV4: Final = b"\x08\x00"
_ETHERTYPE_IPV6: Final = b"\x86\xdd"
_PROTOCOL_TCP: Final = 6
_HOP_LIMIT: Final = 64
_WINDOW: Final = 0xFFFF
_IPV4_HEADER_BYTES: Final = 20
_IPV6_HEADER_BYTES: Final = 40
_TCP_HEADER_BYTES: Final = 20
_BLOCK_OVERHEAD_BYTES: Final = 32
_CHECKSUM_CHUNK_BYTES: Final = 2048
"""Chunks of this size are summed twice as fast as one big integer is divided; measured from 480 to 8192."""

_V4_MAPPED_PREFIX: Final = bytes(10) + b"\xff\xff"

_PACK_BLOCK: Final = struct.Struct("<IIIIIII").pack
_PACK_TOTAL: Final = struct.Struct("<I").pack
_PACK_IPV4_TCP: Final = struct.Struct(">16sH6sH12sIIHHHH").pack
_PACK_IPV6_TCP: Final = struct.Struct(">18sHH36sIIHHHH").pack
_IPV4_CONSTANTS: Final = struct.pack(">HHBB", 0, 0x4000, _HOP_LIMIT, _PROTOCOL_TCP)
_IPV6_CONSTANTS: Final = _PROTOCOL_TCP << 8 | _HOP_LIMIT


def ones_complement_sum(data: bytes) -> int:
    """The sum of the big-endian 16-bit words of ``data``, zero-padded, modulo 65,535 (RFC 1071).

    Summed little-endian, where the padding comes by itself, and swapped: times 256 modulo 65,535.
    """
    size = len(data)
    if size <= _CHECKSUM_CHUNK_BYTES:
        return int.from_bytes(data, "little") * 256 % 65535
    from_bytes = int.from_bytes
    step = _CHECKSUM_CHUNK_BYTES
    return sum([from_bytes(data[at : at + step], "little") for at in range(0, size, step)]) * 256 % 65535


def common_family(first: bytes, second: bytes) -> tuple[bytes, bytes]:
    """Both addresses in one family: IPv4 where both are, or are mapped into IPv6 (RFC 4291 §2.5.5.2).

    Raises ValueError for an address that has neither 4 nor 16 bytes.
    """
    if len(first) not in (4, 16) or len(second) not in (4, 16):
        raise ValueError(f"an address has 4 or 16 bytes, not {len(first)} and {len(second)}")
    mapped = [a if len(a) == 16 else _V4_MAPPED_PREFIX + a for a in (first, second)]
    if all(address.startswith(_V4_MAPPED_PREFIX) for address in mapped):
        return mapped[0][12:], mapped[1][12:]
    return mapped[0], mapped[1]


def link_header(source: bytes, destination: bytes, *, ipv4: bool) -> bytes:
    """An Ethernet header between two MAC addresses, and the constant bytes of the IP header after it."""
    return (
        destination
        + source
        + (_ETHERTYPE_IPV4 + b"\x45\x00" if ipv4 else _ETHERTYPE_IPV6 + b"\x60\x00\x00\x00")
    )


def block_tails(packet_options: bytes) -> tuple[bytes, ...]:
    """What ends a packet's block, by the length of its data modulo 4: padding and encoded options."""
    return tuple(bytes(-size % 4) + packet_options for size in range(4))


class Flow:
    """The segments that one end sends. ``next_sequence`` counts on; headers hold it modulo 2^32."""

    __slots__ = ("_fixed_sum", "_ip_sum", "_ipv4", "_link", "_tails", "ends", "next_sequence")

    def __init__(
        self,
        source: tuple[bytes, int],
        destination: tuple[bytes, int],
        link: bytes,
        first_sequence: int,
        tails: tuple[bytes, ...],
    ) -> None:
        """``source`` and ``destination`` are addresses of one family with ports, ``link`` comes from
        ``link_header``, ``tails`` from ``block_tails``: many flows share both.
        """
        self._ipv4 = len(source[0]) == 4
        self.ends = source[0] + destination[0] + struct.pack(">HH", source[1], destination[1])
        """Addresses and ports, packed."""
        self._link = link
        self._ip_sum = ones_complement_sum(b"\x45\x00" + _IPV4_CONSTANTS + self.ends[:8]) if self._ipv4 else 0
        self._fixed_sum = ones_complement_sum(self.ends) + _PROTOCOL_TCP + _WINDOW
        self._tails = tails
        self.next_sequence = first_sequence

    def segment(
        self,
        time_ns: int,
        acknowledged: int,
        flags: int,
        payload: bytes = b"",
        *,
        missing: int = 0,
        tcp_options: bytes = b"",
        options: bytes = b"",
    ) -> bytes:
        """The next segment as an Enhanced Packet Block; ``next_sequence`` moves on.

        ``missing`` bytes follow ``payload`` on the wire and not in the file; ``options`` are encoded ones
        that come before those of every packet. ``acknowledged`` is the other side's ``next_sequence``.
        """
        sequence = self.next_sequence
        self.next_sequence = sequence + len(payload) + missing + (1 if flags & (SYN | FIN) else 0)
        offset_flags = (_TCP_HEADER_BYTES + len(tcp_options)) << 10 | flags
        sequence &= 0xFFFFFFFF
        acknowledged &= 0xFFFFFFFF
        if tcp_options:
            payload = tcp_options + payload
        size = len(payload)
        tcp_size = _TCP_HEADER_BYTES + size + missing
        checksum = (
            -(
                self._fixed_sum
                + tcp_size
                + sequence
                + acknowledged
                + offset_flags
                + ones_complement_sum(payload)
            )
            % 65535
        )
        if self._ipv4:
            total = _IPV4_HEADER_BYTES + tcp_size
            header = _PACK_IPV4_TCP(
                self._link, total, _IPV4_CONSTANTS, -(self._ip_sum + total) % 65535, self.ends,
                sequence, acknowledged, offset_flags, _WINDOW, checksum, 0,
            )  # fmt: skip
        else:
            header = _PACK_IPV6_TCP(
                self._link, tcp_size, _IPV6_CONSTANTS, self.ends,
                sequence, acknowledged, offset_flags, _WINDOW, checksum, 0,
            )  # fmt: skip
        captured = len(header) + size
        tail = self._tails[captured & 3]
        if options:
            tail = tail[: -captured % 4] + options + tail[-captured % 4 :]
        total = _BLOCK_OVERHEAD_BYTES + captured + len(tail)
        block = _PACK_BLOCK(
            BLOCK_ENHANCED_PACKET, total, 0, time_ns >> 32, time_ns & 0xFFFFFFFF, captured, captured + missing
        )
        return b"".join((block, header, payload, tail, _PACK_TOTAL(total)))
