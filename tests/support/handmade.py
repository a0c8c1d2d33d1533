"""A capture made by hand, byte by byte, so that judges and readers can be judged without our own writer."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

CLIENT, SERVER = b"\x7f\x00\x00\x01", b"\x7f\x00\x00\x02"
REQUEST = b"GET /path HTTP/1.1\r\nHost: example.test\r\n\r\n"


def checksum(data: bytes) -> int:
    """RFC 1071."""
    total: int = sum(struct.unpack(f"!{(len(data) + 1) // 2}H", data + b"\0" * (len(data) % 2)))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def packet(
    way: str, flags: int, sequence: int, acknowledged: int, payload: bytes = b"", error: int = 0
) -> bytes:
    """A raw IPv4 packet between port 40000 and port 80; ``error`` is added to the TCP checksum."""
    out = way == "out"
    source, destination = (CLIENT, SERVER) if out else (SERVER, CLIENT)
    ports = (40000, 80) if out else (80, 40000)
    segment = struct.pack("!HHIIBBHHH", *ports, sequence, acknowledged, 0x50, flags, 65535, 0, 0) + payload
    pseudo = source + destination + struct.pack("!BBH", 0, 6, len(segment))
    total = (checksum(pseudo + segment) + error) & 0xFFFF
    segment = segment[:16] + struct.pack("!H", total) + segment[18:]
    header = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + len(segment), 0, 0, 64, 6, 0, source, destination)
    return header[:10] + struct.pack("!H", checksum(header)) + header[12:] + segment


def conversation(path: Path, error: int = 0, told_port: int = 40000) -> Path:
    """A pcap file (LINKTYPE_RAW) of one exchange."""
    answer = f"HTTP/1.1 204 No Content\r\nX-Client-Port: {told_port}\r\n\r\n".encode()
    sent, received = 101 + len(REQUEST), 501 + len(answer)
    packets = [
        packet("out", 0x02, 100, 0),
        packet("in", 0x12, 500, 101),
        packet("out", 0x10, 101, 501),
        packet("out", 0x18, 101, 501, REQUEST, error),
        packet("in", 0x18, 501, sent, answer),
        packet("out", 0x11, sent, received),
        packet("in", 0x11, received, sent + 1),
        packet("out", 0x10, sent + 1, received + 1),
    ]
    records = (
        struct.pack("<IIII", 1_700_000_000, index, len(data), len(data)) + data
        for index, data in enumerate(packets)
    )
    path.write_bytes(struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 262144, 101) + b"".join(records))
    return path
