"""Reads one large download back out of a capture, by nothing of the product: a second opinion on its bytes.

It knows as much as that takes: little-endian pcapng, Ethernet, IPv4, TCP in order, TLS records of the NULL
cipher with a 16-byte MAC (RFC 5246 §6.2.3.1), and an HTTP header that ends at the first empty line.
"""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

ENHANCED_PACKET_BLOCK = 6
ETHERNET_BYTES = 14
APPLICATION_DATA = 23
MAC_BYTES = 16


@dataclass(frozen=True, slots=True)
class Received:
    """A response's body as the capture has it; ``missing`` bytes were on the wire and not in the file."""

    length: int
    sha256: str
    missing: int


def packets(capture: Path) -> Iterator[tuple[bytes, int]]:
    """The captured bytes of every packet, and how many more there were."""
    with capture.open("rb") as file:
        while header := file.read(8):
            kind, length = struct.unpack("<II", header)
            body = file.read(length - 8)
            if kind == ENHANCED_PACKET_BLOCK:
                captured, original = struct.unpack_from("<II", body, 12)
                yield body[20 : 20 + captured], original - captured


def payloads(capture: Path, port: int) -> Iterator[tuple[bytes, int]]:
    """What was sent from a port, in the order of its sequence numbers, which must be that of the file."""
    expected = None
    for packet, missing in packets(capture):
        internet = packet[ETHERNET_BYTES:]
        transport = internet[(internet[0] & 15) * 4 :]
        if int.from_bytes(transport[:2], "big") != port:
            continue
        sequence = int.from_bytes(transport[4:8], "big")
        flags = transport[13]
        payload = transport[(transport[12] >> 4) * 4 :]
        assert expected in (None, sequence), "sequence numbers jump"
        # SYN and FIN count one each (RFC 9293 §3.4).
        expected = (sequence + len(payload) + missing + (flags & 1) + (flags >> 1 & 1)) % (1 << 32)
        yield payload, missing


def plaintext(stream: Iterator[bytes]) -> Iterator[bytes]:
    """The contents of the application data records in a stream of bytes."""
    pending = bytearray()
    for piece in stream:
        pending += piece
        while len(pending) >= 5:
            kind, _version, length = struct.unpack_from("!BHH", pending)
            if len(pending) < 5 + length:
                break
            if kind == APPLICATION_DATA:
                yield bytes(pending[5 : 5 + length - MAC_BYTES])
            del pending[: 5 + length]


def received(capture: Path, port: int) -> Received:
    """The body of the only response that a capture holds."""
    missing = 0

    def sent() -> Iterator[bytes]:
        nonlocal missing
        for payload, lost in payloads(capture, port):
            missing += lost
            yield payload

    digest, length, head = hashlib.sha256(), 0, b""
    in_body = False
    for piece in plaintext(sent()):
        if not in_body:
            head, separator, piece = (head + piece).partition(b"\r\n\r\n")  # noqa: PLW2901
            in_body = bool(separator)
        if in_body:
            digest.update(piece)
            length += len(piece)
    return Received(length, digest.hexdigest(), missing)
