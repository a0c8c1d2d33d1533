"""Capture files as packets: pcapng and pcap, both byte orders, also in gzip or zstd, from a path or a pipe.

Specifications: draft-ietf-opsawg-pcapng and draft-ietf-opsawg-pcap. A file is read once, forwards, a block at
a time, so that memory does not depend on its length. A file that ends too early gives what is in it and a
note; one that contradicts its format ends with CaptureFormatError.

This module knows bytes, times and comments; what is inside a packet is not its business.
"""

from __future__ import annotations

import io
import struct
import sys
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Final, NamedTuple

from capture.errors import CaptureFormatError
from capture.streams import Process
from exporters import pcapng
from exporters.compression import DECODERS, CorruptStreamError
from exporters.packet_comments import LEDGER_PREFIX, parse_ledger

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Generator, Iterable, Iterator

MAX_BLOCK_BYTES: Final = 16 * 1024 * 1024
"""Wireshark's limit for a pcapng block, and far above any packet: more is a damaged length."""
MAX_COMPRESSION_LAYERS: Final = 2
"""A capture in .zst inside .gz is a mistake that is easily made; more is a bomb."""
MAX_LEDGER_COMMENTS: Final = 64
"""Of 60,000 characters each: far above any ledger."""
_MAX_CACHED_OPTIONS: Final = 4096
"""Packets of one direction of a stream have equal options, which are decoded once; cleared when full."""

_STDIN: Final = "-"
_READ_BYTES: Final = 256 * 1024
_NANOSECONDS_PER_SECOND: Final = 1_000_000_000
_DEFAULT_TSRESOL: Final = 6

_MAGIC_GZIP: Final = b"\x1f\x8b"
_MAGIC_ZSTD: Final = b"\x28\xb5\x2f\xfd"
_MAGIC_LZ4: Final = b"\x04\x22\x4d\x18"
_MAGIC_PCAPNG: Final = b"\x0a\x0d\x0d\x0a"

_BLOCK_PACKET: Final = 2
"""The Packet Block of old pcapng files (draft §C), superseded by the Enhanced Packet Block."""


class _PcapVariant(NamedTuple):
    """A pcap magic number's meaning: byte order, units a second, bytes of a record's header."""

    order: str
    units: int
    record_header_bytes: int


_PCAP_MAGICS: Final = {
    struct.pack(order + "I", magic): _PcapVariant(order, units, header)
    for order in "<>"
    for magic, units, header in (
        (0xA1B2C3D4, 1_000_000, 16),
        (0xA1B23C4D, 1_000_000_000, 16),
        (0xA1B2CD34, 1_000_000, 24),  # Kuznetzov's: interface, protocol and type follow
    )
}


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


class _Interface(NamedTuple):
    link_type: int
    snaplen: int
    units: int
    offset_ns: int

    def time_ns(self, value: int) -> int:
        """A packet's time in units of the interface as nanoseconds since the epoch."""
        if self.units == _NANOSECONDS_PER_SECOND:
            return value + self.offset_ns
        return value * _NANOSECONDS_PER_SECOND // self.units + self.offset_ns


class _PacketOptions(NamedTuple):
    comments: tuple[str, ...] = ()
    process: Process | None = None
    outbound: bool | None = None


class _TruncatedError(Exception):
    """The file ends inside a block."""


class _DecodedFile(io.RawIOBase):
    """A decoder's blocks as a file; where its input is cut, the file ends and ``error`` says why."""

    def __init__(self, blocks: Iterator[bytes]) -> None:
        super().__init__()
        self._blocks = blocks
        self._rest = memoryview(b"")
        self.error: CorruptStreamError | None = None

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]  # the io stack passes memoryviews
        while not self._rest:
            try:
                self._rest = memoryview(next(self._blocks))
            except StopIteration:
                return 0
            except CorruptStreamError as error:
                self.error = error
                return 0
        size = min(len(buffer), len(self._rest))
        buffer[:size] = self._rest[:size]
        self._rest = self._rest[size:]
        return size


class CaptureFile:
    """Iterates over a capture's packets, once.

    ``notes`` are sentences about what was met on the way; ``ledgers`` those of our own captures, at most
    one a section. Both are complete after the iteration. Raises CaptureFormatError, when iterated over, for
    a file that is no capture or contradicts its format, and OSError for one that cannot be opened.
    """

    def __init__(self, source: str | os.PathLike[str] | BinaryIO) -> None:
        """``source`` is a path, ``-`` for stdin, or a binary file, which is left open."""
        self._source = source
        self.name = _name(source)
        self.notes: list[str] = []
        self.ledgers: list[dict[str, object]] = []
        self._file: BinaryIO | io.BufferedReader
        self._decoded: list[_DecodedFile] = []
        self._offset = 0
        self._last_ns = 0
        self._untimed_packets = 0

    def __iter__(self) -> Iterator[Packet]:
        source = self._source
        if isinstance(source, str) and source == _STDIN:
            yield from self._packets(sys.stdin.buffer)
        elif isinstance(source, str) or hasattr(source, "__fspath__"):
            with Path(source).open("rb", buffering=_READ_BYTES) as file:
                yield from self._packets(file)
        else:
            yield from self._packets(source)

    def _packets(self, file: BinaryIO) -> Iterator[Packet]:
        self._file = file
        magic = self._open_layers()
        try:
            if magic == _MAGIC_PCAPNG:
                yield from self._pcapng_packets()
            else:
                yield from self._pcap_packets(_PCAP_MAGICS[magic])
        except _TruncatedError:
            self.notes.append(
                f"{self.name} is truncated: it ends inside a block that begins at byte {self._offset}; "
                "everything before that was read."
            )
        errors = [decoded.error for decoded in self._decoded if decoded.error is not None]
        self.notes += [f"{self.name} is damaged or truncated: {error}." for error in errors]
        if self._untimed_packets:
            self.notes.append(
                f"{self.name} has {self._untimed_packets} packets without a time; "
                "they were given that of the packet before."
            )

    def _open_layers(self) -> bytes:
        """Unpacks compressed files until a capture's magic number, which is returned and has been read."""
        for _ in range(MAX_COMPRESSION_LAYERS + 1):
            magic = self._read(4)
            if magic == _MAGIC_PCAPNG or magic in _PCAP_MAGICS:
                return magic
            if magic != _MAGIC_ZSTD and not magic.startswith(_MAGIC_GZIP):
                raise self._refusal(magic)
            coding = "zstd" if magic == _MAGIC_ZSTD else "gzip"
            decoded = _DecodedFile(DECODERS[coding](_blocks(magic, self._file)))
            self._decoded.append(decoded)
            self._file = io.BufferedReader(decoded, _READ_BYTES)
        raise CaptureFormatError(f"{self.name} is compressed more than twice; unpack it first.")

    def _refusal(self, magic: bytes) -> CaptureFormatError:
        """Why a file that begins with ``magic`` is not read."""
        if errors := [decoded.error for decoded in self._decoded if decoded.error is not None]:
            return CaptureFormatError(f"{self.name} is no readable capture: {errors[0]}.")
        if not magic:
            return CaptureFormatError(f"{self.name} is empty; a capture has at least a header.")
        if magic == _MAGIC_LZ4:
            return CaptureFormatError(f"{self.name} is compressed with lz4; unpack it with `lz4 -d` first.")
        return CaptureFormatError(
            f"{self.name} is not a capture: it begins like neither pcapng nor pcap, gzip nor zstd. "
            "Convert other formats with `editcap -F pcapng`."
        )

    def _read(self, size: int) -> bytes:
        """``size`` bytes, or fewer at the end of the file."""
        data = self._file.read(size)
        while len(data) < size:
            more = self._file.read(size - len(data))
            if not more:
                break
            data += more
        return data

    def _read_exactly(self, size: int) -> bytes:
        data = self._file.read(size)
        if len(data) < size:
            data += self._read(size - len(data))
            if len(data) < size:
                raise _TruncatedError
        return data

    def _malformed(self, problem: str) -> CaptureFormatError:
        return CaptureFormatError(
            f"{self.name} is malformed at byte {self._offset}: {problem}. "
            "What comes before was read; copy or record the file again."
        )

    # pcap

    def _pcap_packets(self, variant: _PcapVariant) -> Iterator[Packet]:
        """draft-ietf-opsawg-pcap: a file header, then records."""
        order = variant.order
        *_, link_type = struct.unpack(order + "HHIIII", self._read_exactly(20))
        link_type &= 0x0FFFFFFF  # the upper bits tell of a frame check sequence
        fields = struct.Struct(order + "IIII")
        self._offset = 24
        to_ns = _NANOSECONDS_PER_SECOND // variant.units
        while header := self._read(variant.record_header_bytes):
            if len(header) < variant.record_header_bytes:
                raise _TruncatedError
            seconds, fraction, captured, original = fields.unpack_from(header)
            if captured > MAX_BLOCK_BYTES:
                raise self._malformed(f"a packet of {captured} bytes")
            data = self._read_exactly(captured)
            time_ns = seconds * _NANOSECONDS_PER_SECOND + fraction * to_ns
            yield Packet(time_ns, link_type, data, max(original, captured))
            self._offset += variant.record_header_bytes + captured

    # pcapng

    def _pcapng_packets(self) -> Iterator[Packet]:
        """Sections one after another; the type of the first block has been read."""
        first = _MAGIC_PCAPNG + self._read_exactly(4)
        while first:
            order, header = self._section_header(first)
            section = _Section(order, header)
            first = yield from self._section_packets(section)
            self._keep_ledger(section)

    def _section_header(self, first: bytes) -> tuple[str, bytes]:
        magic = self._read_exactly(4)
        orders = [order for order in "<>" if struct.unpack(order + "I", magic)[0] == pcapng.BYTE_ORDER_MAGIC]
        if not orders:
            raise self._malformed("a section header without a byte-order magic")
        order = orders[0]
        total = self._block_length(struct.unpack_from(order + "I", first, 4)[0], 28)
        body = magic + self._read_exactly(total - 12)
        self._offset += total
        return order, body

    def _block_length(self, total: int, least: int = 12) -> int:
        if total < least or total > MAX_BLOCK_BYTES or total % 4:
            raise self._malformed(f"a block of {total} bytes")
        return total

    def _section_packets(self, section: _Section) -> Generator[Packet, None, bytes]:
        """The section's packets; returns the first eight bytes of the next section, if there is one."""
        prefix = struct.Struct(section.order + "II")
        trailer = struct.Struct(section.order + "I")
        readers: dict[int, Callable[[_Section, bytes], Packet | None]] = {
            pcapng.BLOCK_INTERFACE_DESCRIPTION: self._interface,
            _BLOCK_PACKET: self._old_packet,
            pcapng.BLOCK_SIMPLE_PACKET: self._simple_packet,
            pcapng.BLOCK_INTERFACE_STATISTICS: self._statistics,
            pcapng.BLOCK_ENHANCED_PACKET: self._enhanced_packet,
            pcapng.BLOCK_PROCESS_INFORMATION: self._process,
        }
        while first := self._read(8):
            if len(first) < 8:
                raise _TruncatedError
            if first[:4] == _MAGIC_PCAPNG:
                return first
            block_type, total = prefix.unpack(first)
            if total < 12 or total > MAX_BLOCK_BYTES or total & 3:
                self._block_length(total)
            body = self._read_exactly(total - 8)
            if trailer.unpack_from(body, total - 12)[0] != total:
                raise self._malformed("a block whose two lengths differ")
            reader = readers.get(block_type)
            if reader is not None:
                packet = reader(section, body)
                if packet is not None:
                    yield packet
            self._offset += total
        return b""

    def _interface(self, section: _Section, body: bytes) -> None:
        """Interface Description Block (§4.2)."""
        if len(body) < 12:
            raise self._malformed("a short interface description")
        link_type, _, snaplen = struct.unpack_from(section.order + "HHI", body)
        options = dict(_options(section.order, body[8:-4]))
        resolution = (options.get(pcapng.IF_TSRESOL) or bytes([_DEFAULT_TSRESOL]))[0]
        units = 2 ** (resolution & 0x7F) if resolution & 0x80 else 10**resolution
        offset = options.get(pcapng.IF_TSOFFSET, b"")
        seconds = struct.unpack(section.order + "q", offset)[0] if len(offset) == 8 else 0
        section.interfaces.append(_Interface(link_type, snaplen, units, seconds * _NANOSECONDS_PER_SECOND))

    def _enhanced_packet(self, section: _Section, body: bytes) -> Packet:
        """Enhanced Packet Block (§4.3)."""
        if len(body) < 24:
            raise self._malformed("a short packet block")
        number, high, low, captured, original = section.packet_fields.unpack_from(body)
        if number >= len(section.interfaces) or captured > len(body) - 24:
            raise self._malformed("a packet longer than its block, or of an interface that was not described")
        interface = section.interfaces[number]
        self._last_ns = time_ns = interface.time_ns(high << 32 | low)
        end = 20 + captured
        encoded = body[end + (-captured & 3) : -4]
        options = section.packet_options(encoded) if encoded else _NO_OPTIONS
        return Packet(time_ns, interface.link_type, body[20:end], max(original, captured), *options)

    def _old_packet(self, section: _Section, body: bytes) -> Packet:
        """The obsolete Packet Block: as an enhanced one, with a drop count beside the interface."""
        if len(body) < 4:
            raise self._malformed("a short packet block")
        number, _ = struct.unpack_from(section.order + "HH", body)
        return self._enhanced_packet(section, struct.pack(section.order + "I", number) + body[4:])

    def _simple_packet(self, section: _Section, body: bytes) -> Packet:
        """Simple Packet Block (§4.4): of the first interface, without a time."""
        if len(body) < 8 or not section.interfaces:
            raise self._malformed("a simple packet without a length or an interface")
        interface = section.interfaces[0]
        original = struct.unpack_from(section.order + "I", body)[0]
        captured = min(original, interface.snaplen or original, len(body) - 8)
        self._untimed_packets += 1
        return Packet(self._last_ns, interface.link_type, body[4 : 4 + captured], original)

    def _process(self, section: _Section, body: bytes) -> None:
        """Darwin process information block: a pid and a name."""
        if len(body) < 8:
            raise self._malformed("a short process information block")
        (pid,) = struct.unpack_from(section.order + "I", body)
        names = [value for code, value in _options(section.order, body[4:-4]) if code == pcapng.PROCESS_NAME]
        section.processes.append(Process(pid, names[0].decode("utf-8", "replace") if names else ""))

    def _statistics(self, section: _Section, body: bytes) -> None:
        """Interface Statistics Block (§4.6): its comments may be our ledger."""
        section.keep_ledger_comments(_comments(_options(section.order, body[12:-4])))

    def _keep_ledger(self, section: _Section) -> None:
        ledger = parse_ledger(section.ledger_comments)
        if ledger is not None:
            self.ledgers.append(ledger)


class _Section:
    """What a section has said so far: its byte order, interfaces and processes (§4.1)."""

    def __init__(self, order: str, header: bytes) -> None:
        self.order = order
        self.interfaces: list[_Interface] = []
        self.processes: list[Process] = []
        self.ledger_comments: list[str] = []
        self.packet_fields = struct.Struct(order + "IIIII")
        self._cached_options: dict[bytes, _PacketOptions] = {}
        self.keep_ledger_comments(_comments(_options(order, header[16:-4])))

    def keep_ledger_comments(self, comments: Iterable[str]) -> None:
        """Keeps those that carry a ledger."""
        for comment in comments:
            if comment.startswith(LEDGER_PREFIX) and len(self.ledger_comments) < MAX_LEDGER_COMMENTS:
                self.ledger_comments.append(comment)

    def packet_options(self, encoded: bytes) -> _PacketOptions:
        """A packet's comments, process and direction."""
        cached = self._cached_options.get(encoded)
        if cached is not None:
            return cached
        options = list(_options(self.order, encoded))
        values = dict(options)
        decoded = _PacketOptions(
            comments=tuple(_comments(options)),
            process=self._process(values.get(pcapng.EPB_PROCESS_INDEX)),
            outbound=self._outbound(values.get(pcapng.EPB_FLAGS)),
        )
        if not decoded.comments:
            if len(self._cached_options) >= _MAX_CACHED_OPTIONS:
                self._cached_options.clear()
            self._cached_options[encoded] = decoded
        return decoded

    def _process(self, value: bytes | None) -> Process | None:
        if value is None or len(value) != 4:
            return None
        (index,) = struct.unpack(self.order + "I", value)
        return self.processes[index] if index < len(self.processes) else None

    def _outbound(self, value: bytes | None) -> bool | None:
        """epb_flags' two lowest bits: 1 is inbound, 2 outbound (§4.3.1)."""
        if value is None or len(value) != 4:
            return None
        return {1: False, 2: True}.get(struct.unpack(self.order + "I", value)[0] & 3)


_NO_OPTIONS: Final = _PacketOptions()


def _name(source: str | os.PathLike[str] | BinaryIO) -> str:
    if isinstance(source, str):
        return "standard input" if source == _STDIN else source
    if hasattr(source, "__fspath__"):
        return str(source)
    return str(getattr(source, "name", "the capture"))


def _blocks(first: bytes, file: BinaryIO | io.BufferedReader) -> Iterator[bytes]:
    yield first
    while block := file.read(_READ_BYTES):
        yield block


def _options(order: str, encoded: bytes) -> Iterator[tuple[int, bytes]]:
    """Options up to their end marker (§3.5); a value that is cut off is left out."""
    header = struct.Struct(order + "HH")
    at = 0
    while at + 4 <= len(encoded):
        code, size = header.unpack_from(encoded, at)
        if code == pcapng.OPT_END or at + 4 + size > len(encoded):
            return
        yield code, encoded[at + 4 : at + 4 + size]
        at += 4 + size + (-size & 3)


def _comments(options: Iterable[tuple[int, bytes]]) -> Iterator[str]:
    for code, value in options:
        if code == pcapng.OPT_COMMENT:
            yield value.decode("utf-8", "replace")
