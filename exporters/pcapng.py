"""pcapng blocks as bytes (draft-ietf-opsawg-pcapng): what the exporter writes, and a reader's numbers.

Everything is little-endian and padded to 32 bits (§3.1). Only blocks and options that Wireshark, scapy
or our own reader show are here. This module knows no file, no stream and no TCP.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

BLOCK_SECTION_HEADER: Final = 0x0A0D0D0A
BLOCK_INTERFACE_DESCRIPTION: Final = 1
BLOCK_SIMPLE_PACKET: Final = 3
BLOCK_NAME_RESOLUTION: Final = 4
BLOCK_INTERFACE_STATISTICS: Final = 5
BLOCK_ENHANCED_PACKET: Final = 6
BLOCK_PROCESS_INFORMATION: Final = 0x80000001
"""Darwin's process information block (DPIB); Wireshark 4.6 shows its columns on any platform."""

BYTE_ORDER_MAGIC: Final = 0x1A2B3C4D

OPT_END: Final = 0
OPT_COMMENT: Final = 1
SHB_HARDWARE: Final = 2
SHB_OS: Final = 3
SHB_USERAPPL: Final = 4
IF_NAME: Final = 2
IF_DESCRIPTION: Final = 3
IF_TSRESOL: Final = 9
IF_OS: Final = 12
IF_TSOFFSET: Final = 14
EPB_FLAGS: Final = 2
EPB_DROPCOUNT: Final = 4
EPB_PROCESS_INDEX: Final = 32769
"""The index, in its section, of the DPIB of the packet's process (u32)."""
ISB_STARTTIME: Final = 2
ISB_ENDTIME: Final = 3
ISB_IFRECV: Final = 4
ISB_IFDROP: Final = 5
PROCESS_NAME: Final = 2
"""The DPIB's option for the process's name."""

NRB_RECORD_END: Final = 0
NRB_RECORD_IPV4: Final = 1
NRB_RECORD_IPV6: Final = 2

LINKTYPE_ETHERNET: Final = 1
NANOSECONDS: Final = 9
"""if_tsresol's exponent: times are multiples of 10^-9 s (§4.2)."""

MAX_OPTION_BYTES: Final = 0xFFFF
"""An option's length is a u16 (§3.5)."""

MAX_HOST_NAME_BYTES: Final = 255
"""RFC 1035 §2.3.4; Wireshark shows 64 of them."""

_UNKNOWN_SECTION_LENGTH: Final = -1
_NO_SNAPLEN: Final = 0

Option = tuple[int, bytes]
"""An option's code and value."""


@dataclass(frozen=True, slots=True)
class SectionMetadata:
    """What a section header says of its machine and maker; None leaves an option out."""

    application: str
    hardware: str | None = None
    operating_system: str | None = None


def padded(value: bytes) -> bytes:
    """``value``, zero-filled to a multiple of four bytes."""
    return value + bytes(-len(value) % 4)


def encode_text(text: str) -> bytes:
    """UTF-8, with undecodable bytes of the system (lone surrogates) as visible ``\\udcxx`` escapes."""
    return text.encode("utf-8", "backslashreplace")


def encode_options(options: Iterable[Option], *, end: bool = True) -> bytes:
    """Type, length, value each (§3.5), then the end marker; nothing at all where there are no options.

    A value that is too long for an option is cut.
    """
    encoded = b"".join(
        struct.pack("<HH", code, len(value)) + padded(value)
        for code, value in ((code, value[:MAX_OPTION_BYTES]) for code, value in options)
    )
    return encoded + bytes(4) if end and encoded else encoded


def encode_block(block_type: int, body: bytes) -> bytes:
    """A block: type, total length, body, total length again (§3.1)."""
    body = padded(body)
    total = struct.pack("<I", len(body) + 12)
    return b"".join((struct.pack("<I", block_type), total, body, total))


def section_header(metadata: SectionMetadata) -> bytes:
    """A Section Header Block of unknown length, version 1.0 (§4.1)."""
    texts = (
        (SHB_HARDWARE, metadata.hardware),
        (SHB_OS, metadata.operating_system),
        (SHB_USERAPPL, metadata.application),
    )
    options = encode_options((code, encode_text(text)) for code, text in texts if text is not None)
    fixed = struct.pack("<IHHq", BYTE_ORDER_MAGIC, 1, 0, _UNKNOWN_SECTION_LENGTH)
    return encode_block(BLOCK_SECTION_HEADER, fixed + options)


def interface_description(name: str, description: str, operating_system: str | None) -> bytes:
    """An Interface Description Block: Ethernet, nanoseconds, no snap length (§4.2)."""
    options = [
        (IF_NAME, encode_text(name)),
        (IF_DESCRIPTION, encode_text(description)),
        (IF_TSRESOL, bytes([NANOSECONDS])),
    ]
    if operating_system is not None:
        options.append((IF_OS, encode_text(operating_system)))
    fixed = struct.pack("<HHI", LINKTYPE_ETHERNET, 0, _NO_SNAPLEN)
    return encode_block(BLOCK_INTERFACE_DESCRIPTION, fixed + encode_options(options))


def process_information(pid: int, name: str) -> bytes:
    """A Darwin process information block: a pid and a process name."""
    return encode_block(
        BLOCK_PROCESS_INFORMATION,
        struct.pack("<I", pid & 0xFFFFFFFF) + encode_options([(PROCESS_NAME, encode_text(name))]),
    )


def name_resolution(address: bytes, name: str) -> bytes:
    """A Name Resolution Block (§4.5) of one address (4 or 16 bytes) and its host name."""
    value = address + encode_text(name)[:MAX_HOST_NAME_BYTES].replace(b"\0", b"?") + b"\0"
    kind = NRB_RECORD_IPV4 if len(address) == 4 else NRB_RECORD_IPV6
    record = struct.pack("<HH", kind, len(value)) + padded(value)
    return encode_block(BLOCK_NAME_RESOLUTION, record + struct.pack("<HH", NRB_RECORD_END, 0))


def encode_time(time_ns: int) -> bytes:
    """Nanoseconds since the epoch as pcapng's pair of u32, the upper half first (§4.3)."""
    return struct.pack("<II", time_ns >> 32, time_ns & 0xFFFFFFFF)


def interface_statistics(interface: int, time_ns: int, options: Iterable[Option]) -> bytes:
    """An Interface Statistics Block (§4.6)."""
    fixed = struct.pack("<I", interface) + encode_time(time_ns)
    return encode_block(BLOCK_INTERFACE_STATISTICS, fixed + encode_options(options))
