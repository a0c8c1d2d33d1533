"""Stream items to a pcapng: each stream a synthetic TCP connection, as if it had been sniffed with the keys.

A file is one section with one interface, the blocks of the processes whose streams it holds, the packets of
``exporters.synthetic_streams``, and at the end a block with the ledger. It can be opened at every moment;
a recording that was killed lacks only the last block.

This class opens no file and reads no clock: it hands bytes to the function it was given.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

from capture.streams import Data, Gap, Side, StreamClosed, StreamItem, StreamOpened, TlsEnded, TlsStarted
from exporters import packet_comments, pcapng
from exporters.framing import Framing, goes_bare, shown_port
from exporters.segments import Flow, block_tails, common_family, link_header
from exporters.small_pieces import SmallPieces
from exporters.synthetic_streams import SyntheticStream
from exporters.time_order import TimeOrder

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from capture.streams import Process

__all__ = ["Framing", "PcapngExporter"]

INTERFACE_NAME: Final = "plaintap"
INTERFACE_DESCRIPTION: Final = "plaintext of this machine's connections; TCP/IP headers are synthetic"

MAX_PROCESSES: Final = 4096
"""Processes whose block is remembered; one that comes back after as many others gets a second block."""
MAX_NAMED_ADDRESSES: Final = 65536
"""Addresses with a block of their name; later ones are named only in their streams' comments."""
MAX_HALF_CLOSED_STREAMS: Final = 4096
"""Streams of which one side has sent its FIN and the other's is not seen yet. Then the oldest is forgotten; what it
still sends is counted in ``orphan_bytes``."""

INNER_PORTS: Final = range(61_000, 65_536)
"""Of clients of sessions inside others: beyond Linux's ephemeral ports, and no protocol's."""

_Tails = tuple[tuple[bytes, ...], tuple[bytes, ...]]
"""Of outbound and of inbound packets; see ``block_tails``."""

_DIRECTION_INBOUND: Final = 1
_DIRECTION_OUTBOUND: Final = 2
_HARDWARE: Final = (bytes.fromhex("020000000001"), bytes.fromhex("020000000002"))
"""The client's and the server's MAC address, locally administered."""
_SHARED_PATH_HARDWARE: Final = (b"\x02\x01", b"\x02\x02")
"""The same, before the stream's number, for streams with addresses and ports that another had at that time: in
another network namespace. The reader keeps them apart by it; see ``exporters.dissection``."""
MAX_ENDED_PATHS: Final = 4096
"""Addresses and ports of streams that have ended which are remembered: another's first bytes may come later, though it
began before."""


class PcapngExporter:
    """Writes stream items as one pcapng section. Not for several threads at once.

    ``write`` takes a piece of the file; what it returns is ignored and what it raises is passed on.
    ``lost_bytes`` counts the bytes of gaps, ``orphan_bytes`` those that had no open stream to go to.
    """

    def __init__(
        self,
        write: Callable[[bytes], object],
        metadata: pcapng.SectionMetadata,
        framing: Framing = Framing.TLS,
    ) -> None:
        self._framing = framing
        self._order = TimeOrder(write)
        self._order.put(0, pcapng.section_header(metadata))
        self._order.put(
            0, pcapng.interface_description(INTERFACE_NAME, INTERFACE_DESCRIPTION, metadata.operating_system)
        )
        self._pieces = SmallPieces(self._handle)
        self._streams: dict[int, SyntheticStream] = {}
        self._half_closed: dict[int, None] = {}
        self._numbers: dict[bytes, int] = {}
        """Open streams by addresses and ports."""
        self._ended: dict[bytes, int] = {}
        """The time of their last packet by addresses and ports that are nobody's now."""
        self._tails: dict[tuple[int, str] | None, _Tails] = {None: _tails(())}
        """By process: shared by all its streams."""
        self._processes_written = 0
        self._named: set[bytes] = set()
        """Addresses with a name: the first, for Wireshark shows one."""
        self._first_ns: int | None = None
        self._items = 0
        self._gaps = 0
        self.lost_bytes = 0
        self.orphan_bytes = 0
        self._handlers: dict[type, Callable[..., None]] = {
            StreamOpened: self._open,
            TlsStarted: self._start_tls,
            TlsEnded: self._end_tls,
            Data: self._data,
            Gap: self._gap,
            StreamClosed: self._close,
        }

    def write(self, item: StreamItem) -> None:
        """Writes one item. Data may hold a memoryview, which is not kept.

        Raises ValueError for a StreamOpened whose addresses have neither 4 nor 16 bytes.
        """
        self._pieces.write(item)

    def settle(self) -> None:
        """Hands over what was written before the last call, in order of time; the file so far can be opened."""
        self._pieces.flush()
        self._order.settle()

    def flush(self) -> None:
        """Hands over whatever there is."""
        self._pieces.flush()
        self._order.flush()

    def finish(
        self,
        *,
        ledger: Mapping[str, object] | None = None,
        summary: str | None = None,
        dropped: int | None = None,
    ) -> None:
        """Ends the section with an Interface Statistics Block: ``summary`` for people, ``ledger`` for tools.

        ``ledger`` must be what ``json`` can write. ``dropped`` (isb_ifdrop) counts the bytes that the recorder missed;
        without it, the gaps are counted. Streams stay open: their end was not seen. No item may follow.
        """
        self._pieces.flush()
        for stream in self._streams.values():
            stream.settle()
        options = [(pcapng.OPT_COMMENT, pcapng.encode_text(summary))] if summary else []
        options += [
            (pcapng.OPT_COMMENT, comment.encode("ascii"))
            for comment in (packet_comments.ledger_comments(ledger) if ledger is not None else ())
        ]
        if self._first_ns is not None:
            options.append((pcapng.ISB_STARTTIME, pcapng.encode_time(self._first_ns)))
        options += [
            (pcapng.ISB_ENDTIME, pcapng.encode_time(self._order.newest_ns)),
            (pcapng.ISB_IFRECV, struct.pack("<Q", self._items)),
            (pcapng.ISB_IFDROP, struct.pack("<Q", self._gaps if dropped is None else dropped)),
        ]
        self._order.put(self._order.newest_ns, pcapng.interface_statistics(0, self._order.newest_ns, options))
        self._streams.clear()
        self._order.flush()

    # Items

    def _handle(self, item: StreamItem) -> None:
        self._handlers[type(item)](item)

    def _open(self, item: StreamOpened) -> None:
        if item.stream in self._streams:
            self._forget(item.stream)
        addresses = common_family(item.client.address, item.server.address)
        bare = goes_bare(self._framing, item.server.port)
        port = item.server.port if item.tls is None else shown_port(self._framing, item.server.port)
        stream = SyntheticStream(
            self._order.put, self._flows(item, (addresses[0], _client_port(item)), (addresses[1], port))
        )
        self._streams[item.stream] = stream
        if item.lookup is not None:
            self._name(addresses[1], item.lookup.name)
        self._first_ns = item.time_ns if self._first_ns is None else min(self._first_ns, item.time_ns)
        stream.open(item, bare=bare, original_port=item.server.port if port != item.server.port else None)

    def _start_tls(self, item: TlsStarted) -> None:
        stream = self._streams.get(item.stream)
        if stream is not None:
            stream.start_tls(item.tls, item.time_ns, bare=self._framing is Framing.PLAIN)

    def _end_tls(self, item: TlsEnded) -> None:
        stream = self._streams.get(item.stream)
        if stream is not None:
            stream.end_tls(item.time_ns)

    def _data(self, item: Data) -> None:
        data = item.data if type(item.data) is bytes else bytes(item.data)
        stream = self._streams.get(item.stream)
        if stream is None or stream.finished is item.sender:
            self.orphan_bytes += len(data)
        elif data:
            self._items += 1
            stream.data(item.sender, item.time_ns, data, as_of_call=item.as_of_call)

    def _gap(self, item: Gap) -> None:
        stream = self._streams.get(item.stream)
        if stream is None or stream.finished is item.sender:
            self.orphan_bytes += item.length
        elif item.length > 0:
            self._items += 1
            self._gaps += 1
            self.lost_bytes += item.length
            stream.gap(item.sender, item.time_ns, item.length, item.reason)

    def _close(self, item: StreamClosed) -> None:
        stream = self._streams.get(item.stream)
        if stream is None:
            return
        if stream.close(item.sender, item.time_ns, reset=item.reset, final=item.final):
            self._forget(item.stream)
            return
        self._half_closed[item.stream] = None
        if len(self._half_closed) > MAX_HALF_CLOSED_STREAMS:
            self._forget(next(iter(self._half_closed)))

    def _forget(self, number: int) -> None:
        stream = self._streams.pop(number)
        stream.settle()
        self._half_closed.pop(number, None)
        if self._numbers.get(stream.path) == number:
            del self._numbers[stream.path]
            self._ended[stream.path] = max(stream.newest_ns, self._ended.pop(stream.path, 0))
            if len(self._ended) > MAX_ENDED_PATHS:
                del self._ended[next(iter(self._ended))]

    # Packets

    def _flows(
        self, item: StreamOpened, client: tuple[bytes, int], server: tuple[bytes, int]
    ) -> tuple[Flow, Flow]:
        """Both directions' headers, first sequence numbers and packet options."""
        tails = self._process_tails(item.process)
        if item.side is Side.SERVER:
            tails = tails[::-1]
        # As RFC 9293 §3.4.1: a 4 µs clock and a term of the connection, so that a port that is used again
        # begins elsewhere. Wireshark takes an equal SYN for a retransmission.
        first = item.time_ns // 4000 + item.stream * 2_654_435_761 & 0xFFFFFFFF
        ipv4 = len(client[0]) == 4
        to_server, to_client = _LINKS[ipv4]
        flow = Flow(client, server, to_server, first, tails[0])
        holder = self._numbers.setdefault(flow.ends, item.stream)
        if holder != item.stream or item.time_ns <= self._ended.get(flow.ends, 0):
            number = struct.pack(">I", item.stream & 0xFFFFFFFF)
            hardware = (_SHARED_PATH_HARDWARE[0] + number, _SHARED_PATH_HARDWARE[1] + number)
            to_server, to_client = _links(hardware, ipv4=ipv4)
            flow = Flow(client, server, to_server, first, tails[0])
        return flow, Flow(server, client, to_client, first ^ 0x5BD1E995, tails[1])

    def _process_tails(self, process: Process | None) -> _Tails:
        """What ends the process's packets: they name its block, which is written where it is new."""
        key = None if process is None else (process.pid, process.comm)
        tails = self._tails.get(key)
        if tails is None:
            assert process is not None  # noqa: S101  (None has its entry)
            if len(self._tails) > MAX_PROCESSES:
                del self._tails[next(known for known in self._tails if known is not None)]
            index = struct.pack("<I", self._processes_written)
            self._tails[key] = tails = _tails(((pcapng.EPB_PROCESS_INDEX, index),))
            self._processes_written += 1
            self._order.put(0, pcapng.process_information(process.pid, process.comm))
        return tails

    def _name(self, address: bytes, name: str) -> None:
        if address not in self._named and len(self._named) < MAX_NAMED_ADDRESSES:
            self._named.add(address)
            self._order.put(0, pcapng.name_resolution(address, name))


def _client_port(item: StreamOpened) -> int:
    """A session inside another's is a connection of its own to Wireshark, which tells connections by their ports."""
    return INNER_PORTS[item.stream % len(INNER_PORTS)] if item.inside_tls else item.client.port


def _tails(options: tuple[pcapng.Option, ...]) -> _Tails:
    """What ends outbound and inbound packets with these options."""
    outbound, inbound = (
        block_tails(pcapng.encode_options([(pcapng.EPB_FLAGS, struct.pack("<I", direction)), *options]))
        for direction in (_DIRECTION_OUTBOUND, _DIRECTION_INBOUND)
    )
    return outbound, inbound


def _links(hardware: tuple[bytes, bytes], *, ipv4: bool) -> tuple[bytes, bytes]:
    """The headers to the server and to the client."""
    client, server = hardware
    return link_header(client, server, ipv4=ipv4), link_header(server, client, ipv4=ipv4)


_LINKS: Final = {ipv4: _links(_HARDWARE, ipv4=ipv4) for ipv4 in (True, False)}
