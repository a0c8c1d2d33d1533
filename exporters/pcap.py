"""pcap records as packets (draft-ietf-opsawg-pcap), and what a packet is."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final, NamedTuple

from exporters.capture_source import PCAP_MAGICS, CaptureSource, TruncatedError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from capture.streams import Process

MAX_BLOCK_BYTES: Final = 16 * 1024 * 1024
"""Wireshark's limit for a block, and far above any packet: more is a damaged length."""

_NANOSECONDS_PER_SECOND: Final = 1_000_000_000
_FILE_HEADER_BYTES: Final = 24


class Packet(NamedTuple):
    """A captured packet. ``data`` is shorter than ``original_length`` where it was cut.

    ``time_ns`` is since the epoch, ``link_type`` a LINKTYPE number, ``comments`` as in the file, ``process``
    the one that the capture program names and ``outbound`` the direction, None where it names none.
    """

    time_ns: int
    link_type: int
    data: bytes
    original_length: int
    comments: tuple[str, ...] = ()
    process: Process | None = None
    outbound: bool | None = None


def pcap_packets(source: CaptureSource) -> Iterator[Packet]:
    """The records of a file whose magic number has been read.

    Raises TruncatedError and CaptureFormatError.
    """
    variant = PCAP_MAGICS[source.magic]
    order = variant.order
    *_, link_type = struct.unpack(
        order + "HHIIII", source.read_exactly(_FILE_HEADER_BYTES - len(source.magic))
    )
    link_type &= 0x03FFFFFF  # the upper bits tell of a frame check sequence, and whether they do
    fields = struct.Struct(order + "IIII")
    source.offset = _FILE_HEADER_BYTES
    to_ns = _NANOSECONDS_PER_SECOND // variant.units
    while header := source.read(variant.record_header_bytes):
        if len(header) < variant.record_header_bytes:
            raise TruncatedError
        seconds, fraction, captured, original = fields.unpack_from(header)
        if captured > MAX_BLOCK_BYTES:
            raise source.malformed(f"a packet of {captured} bytes")
        data = source.read_exactly(captured)
        time_ns = seconds * _NANOSECONDS_PER_SECOND + fraction * to_ns
        yield Packet(time_ns, link_type, data, max(original, captured))
        source.offset += variant.record_header_bytes + captured
