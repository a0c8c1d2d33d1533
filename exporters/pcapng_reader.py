"""pcapng sections as packets (draft-ietf-opsawg-pcapng): both byte orders, several sections and interfaces.

A block is read at a time and unknown ones are skipped. Of options, those are kept that tell something of a
packet or that carry a ledger of ours.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final, NamedTuple

from capture.streams import Process
from exporters import pcapng
from exporters.capture_source import MAGIC_PCAPNG, CaptureSource, TruncatedError
from exporters.packet_comments import LEDGER_PREFIX, parse_ledger
from exporters.pcap import MAX_BLOCK_BYTES, Packet

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator

MAX_LEDGER_COMMENTS: Final = 64
"""Of 60,000 characters each: far above any ledger."""
_MAX_CACHED_OPTIONS: Final = 4096
"""Packets of one direction of a stream have equal options, which are decoded once; cleared when full."""

LATEST_NS: Final = (1 << 63) - 1
"""In the year 2262. A time that is later, or before 1970, is a damaged block's or a wrong resolution's."""

_NANOSECONDS_PER_SECOND: Final = 1_000_000_000
_DEFAULT_TSRESOL: Final = 6
_MIN_BLOCK_BYTES: Final = 12
_MIN_SECTION_HEADER_BYTES: Final = 28

_BLOCK_PACKET: Final = 2
"""The Packet Block of old pcapng files (draft §C), superseded by the Enhanced Packet Block."""
_BLOCK_DECRYPTION_SECRETS: Final = 10
_OUR_APPLICATION: Final = b"plaintap"


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


class PcapngReader:
    """Reads a source's sections. ``ledgers`` are those of our own captures, at most one a section.

    ``has_secrets`` tells whether the file has keys, of TLS in all likelihood; ``has_lost_ledger`` whether a section of
    ours came to its end without a ledger.
    """

    def __init__(self, source: CaptureSource) -> None:
        self._source = source
        self.ledgers: list[dict[str, object]] = []
        self.untimed_packets = 0
        self.has_secrets = False
        self.has_lost_ledger = False
        self._last_ns = 0

    def packets(self) -> Iterator[Packet]:
        """Sections one after another; the type of the first block has been read.

        Raises TruncatedError and CaptureFormatError.
        """
        first = MAGIC_PCAPNG + self._source.read_exactly(4)
        while first:
            order, header = self._section_header(first)
            section = _Section(order, header)
            first = yield from self._section_packets(section)
            self._keep_ledger(section)

    def _section_header(self, first: bytes) -> tuple[str, bytes]:
        magic = self._source.read_exactly(4)
        orders = [order for order in "<>" if struct.unpack(order + "I", magic)[0] == pcapng.BYTE_ORDER_MAGIC]
        if not orders:
            raise self._source.malformed("a section header without a byte-order magic")
        order = orders[0]
        total = self._block_length(struct.unpack_from(order + "I", first, 4)[0], _MIN_SECTION_HEADER_BYTES)
        body = magic + self._source.read_exactly(total - 12)
        self._source.offset += total
        return order, body

    def _block_length(self, total: int, least: int = _MIN_BLOCK_BYTES) -> int:
        if total < least or total > MAX_BLOCK_BYTES or total % 4:
            raise self._source.malformed(f"a block of {total} bytes")
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
            _BLOCK_DECRYPTION_SECRETS: self._secrets,
        }
        while first := self._source.read(8):
            if len(first) < 8:
                raise TruncatedError
            if first[:4] == MAGIC_PCAPNG:
                return first
            block_type, total = prefix.unpack(first)
            if total < _MIN_BLOCK_BYTES or total > MAX_BLOCK_BYTES or total & 3:
                self._block_length(total)
            body = self._source.read_exactly(total - 8)
            if trailer.unpack_from(body, total - 12)[0] != total:
                raise self._source.malformed("a block whose two lengths differ")
            reader = readers.get(block_type)
            if reader is not None:
                packet = reader(section, body)
                if packet is not None:
                    yield packet
            self._source.offset += total
        return b""

    def _interface(self, section: _Section, body: bytes) -> None:
        """Interface Description Block (§4.2)."""
        if len(body) < 12:
            raise self._source.malformed("a short interface description")
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
            raise self._source.malformed("a short packet block")
        number, high, low, captured, original = section.packet_fields.unpack_from(body)
        if number >= len(section.interfaces) or captured > len(body) - 24:
            raise self._source.malformed(
                "a packet longer than its block, or of an interface that was not described"
            )
        interface = section.interfaces[number]
        time_ns = interface.time_ns(high << 32 | low)
        if not 0 <= time_ns <= LATEST_NS:
            time_ns = min(max(time_ns, 0), LATEST_NS)
        self._last_ns = time_ns
        end = 20 + captured
        encoded = body[end + (-captured & 3) : -4]
        options = section.packet_options(encoded) if encoded else _NO_OPTIONS
        return Packet(time_ns, interface.link_type, body[20:end], max(original, captured), *options)

    def _old_packet(self, section: _Section, body: bytes) -> Packet:
        """The obsolete Packet Block: as an enhanced one, with a drop count beside the interface."""
        if len(body) < 4:
            raise self._source.malformed("a short packet block")
        number, _ = struct.unpack_from(section.order + "HH", body)
        return self._enhanced_packet(section, struct.pack(section.order + "I", number) + body[4:])

    def _simple_packet(self, section: _Section, body: bytes) -> Packet:
        """Simple Packet Block (§4.4): of the first interface, without a time."""
        if len(body) < 8 or not section.interfaces:
            raise self._source.malformed("a simple packet without a length or an interface")
        interface = section.interfaces[0]
        original = struct.unpack_from(section.order + "I", body)[0]
        captured = min(original, interface.snaplen or original, len(body) - 8)
        self.untimed_packets += 1
        return Packet(self._last_ns, interface.link_type, body[4 : 4 + captured], original)

    def _process(self, section: _Section, body: bytes) -> None:
        """Darwin process information block: a pid and a name."""
        if len(body) < 8:
            raise self._source.malformed("a short process information block")
        (pid,) = struct.unpack_from(section.order + "I", body)
        names = [value for code, value in _options(section.order, body[4:-4]) if code == pcapng.PROCESS_NAME]
        section.processes.append(Process(pid, names[0].decode("utf-8", "replace") if names else ""))

    def _secrets(self, section: _Section, body: bytes) -> None:
        """Decryption Secrets Block (§4.7): that there are keys is all that is of use here."""
        self.has_secrets = True

    def _statistics(self, section: _Section, body: bytes) -> None:
        """Interface Statistics Block (§4.6): its comments may be our ledger."""
        section.keep_ledger_comments(_comments(_options(section.order, body[12:-4])))

    def _keep_ledger(self, section: _Section) -> None:
        ledger = parse_ledger(section.ledger_comments)
        if ledger is not None:
            self.ledgers.append(ledger)
        elif section.is_ours:
            self.has_lost_ledger = True


class _Section:
    """What a section has said so far: its byte order, interfaces and processes (§4.1)."""

    def __init__(self, order: str, header: bytes) -> None:
        self.order = order
        self.interfaces: list[_Interface] = []
        self.processes: list[Process] = []
        self.ledger_comments: list[str] = []
        self.packet_fields = struct.Struct(order + "IIIII")
        self._cached_options: dict[bytes, _PacketOptions] = {}
        options = list(_options(order, header[16:-4]))
        self.is_ours = (pcapng.SHB_USERAPPL, _OUR_APPLICATION) in options
        self.keep_ledger_comments(_comments(options))

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
