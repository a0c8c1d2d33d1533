"""Stream items to packets: each stream a synthetic TCP connection in a pcapng, as if it had been sniffed.

Theory of operation. A StreamOpened becomes SYN, SYN-ACK and ACK at the connection's times, Data becomes
segments with PSH and ACK, StreamClosed a FIN or a RST. An acknowledgement number is always the highest
sequence number that the other side has sent, so that no pure acknowledgement is needed. A Gap is one segment
whose bytes are on the wire and not in the file (captured length below original length): skipped sequence
numbers make Wireshark report unseen segments, and filler would be invented data.

Bytes of a TLS session are put into a NULL-cipher record layer (``exporters.tls_framing``) or, with
``Framing.PLAIN``, go bare with the server's port mapped to one where tools expect cleartext.

A stream is *settled* once nothing has to be decided about its next bytes: the TLS handshake is written and
the client's first bytes have been looked at. Data of settled streams takes the short way.

Times inside a stream never go back; across streams they may, a little. This class opens no file: it hands
bytes to the function it was given.
"""

from __future__ import annotations

import struct
from enum import Enum
from typing import TYPE_CHECKING, Final

from capture.streams import (
    Data,
    Gap,
    Process,
    Side,
    StreamClosed,
    StreamItem,
    StreamOpened,
    Tls,
    TlsStarted,
)
from exporters import packet_comments, pcapng, tls_framing
from exporters.segments import ACK, FIN, MAX_PAYLOAD_BYTES, PSH, RST, SYN, SYN_OPTIONS, Flow, common_family

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

HTTP2_PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
"""RFC 9113 §3.4. Wireshark recognises it only where it is whole in one segment."""

INTERFACE_NAME: Final = "plaintap"
INTERFACE_DESCRIPTION: Final = "plaintext of this machine's connections; TCP/IP headers are synthetic"

FLUSH_BYTES: Final = 256 * 1024
"""Blocks are joined and handed on in pieces of about this size: large enough that the sink's cost vanishes,
small against the recorder's memory."""

MAX_PROCESSES: Final = 4096
"""Processes whose DPIB is remembered; a process that comes back after as many others gets a second block."""

DISSECTED_BY_PORT: Final[Mapping[int, str]] = {
    80: "HTTP",
    389: "LDAP",
    631: "IPP",
    1433: "TDS",
    1521: "TNS",
    1883: "MQTT",
    1900: "HTTP",
    2710: "HTTP",
    2869: "HTTP",
    3128: "HTTP",
    3132: "HTTP",
    3268: "LDAP",
    3306: "MySQL",
    3689: "DAAP",
    5000: "GSM over IP, which leaves HTTP to the heuristics",
    5222: "XMPP",
    5432: "PostgreSQL",
    5672: "AMQP",
    5985: "HTTP",
    6379: "Redis",
    6667: "IRC",
    8080: "HTTP",
    8088: "HTTP",
    9042: "CQL",
    9092: "Kafka",
    9300: "Elasticsearch",
    11211: "memcached",
    11371: "HTTP",
    27017: "MongoDB",
}
"""Ports where Wireshark dissects by number and looks for no TLS (measured with 4.0 on every port it knows),
or knows no way from TLS to the protocol: a stream that is TLS from its beginning goes bare there. On the
other ports that Wireshark claims by number (X11's, for instance) neither way shows HTTP."""

PLAIN_PORTS: Final[Mapping[int, int]] = {443: 80, 8443: 80}
"""With plain framing: TLS ports, on which tools expect no cleartext, and what is written instead."""

_PUSH: Final = PSH | ACK
_RECORDS_PER_SEGMENT: Final = MAX_PAYLOAD_BYTES // (
    tls_framing.MAX_RECORD_BYTES + tls_framing.RECORD_OVERHEAD_BYTES
)
_FRAMED_PAYLOAD_BYTES: Final = _RECORDS_PER_SEGMENT * tls_framing.MAX_RECORD_BYTES
_DIRECTION_INBOUND: Final = 1
_DIRECTION_OUTBOUND: Final = 2
_CLIENT_HARDWARE: Final = bytes.fromhex("020000000001")
_SERVER_HARDWARE: Final = bytes.fromhex("020000000002")


class Framing(Enum):
    """How the plaintext of a TLS session is shown: inside a NULL-cipher record layer, or bare."""

    TLS = "tls"
    PLAIN = "plain"


class _Stream:
    """What is remembered of an open stream."""

    __slots__ = (
        "client_spoke",
        "comments",
        "finished",
        "flows",
        "framed",
        "held",
        "last_ns",
        "settled",
        "unwritten_tls",
    )

    def __init__(self, flows: tuple[Flow, Flow], last_ns: int) -> None:
        self.flows = flows
        self.last_ns = last_ns
        self.framed = False
        self.settled = False
        self.unwritten_tls: Tls | None = None
        """The session whose handshake comes before the next bytes."""
        self.client_spoke = False
        self.held = b""
        """The client's first bytes, while they may be a piece of the HTTP/2 preface."""
        self.comments: tuple[str, ...] = ()
        """For the next packet."""
        self.finished: Side | None = None
        """The side that has sent its FIN."""

    def clamp(self, time_ns: int) -> int:
        """``time_ns``, or the stream's last time where that is later."""
        self.last_ns = max(self.last_ns, time_ns)
        return self.last_ns


class PcapngExporter:
    """Writes stream items as one pcapng section. Not for several threads at once.

    ``write`` takes a piece of the file; what it returns is ignored and what it raises is passed on.
    ``orphan_bytes`` counts bytes that had no open stream to go to, ``lost_bytes`` those of gaps.
    """

    def __init__(
        self,
        write: Callable[[bytes], object],
        metadata: pcapng.SectionMetadata,
        framing: Framing = Framing.TLS,
    ) -> None:
        self._sink = write
        self._framing = framing
        self._pending: list[bytes] = [
            pcapng.section_header(metadata),
            pcapng.interface_description(INTERFACE_NAME, INTERFACE_DESCRIPTION, metadata.operating_system),
        ]
        self._pending_bytes = 0
        self._streams: dict[int, _Stream] = {}
        self._processes: dict[tuple[int, str], int] = {}
        self._processes_written = 0
        self._first_ns: int | None = None
        self._last_ns = 0
        self._items = 0
        self._gaps = 0
        self.lost_bytes = 0
        self.orphan_bytes = 0
        self._handlers: dict[type, Callable[..., None]] = {
            StreamOpened: self._open,
            TlsStarted: self._start_tls,
            Data: self._data,
            Gap: self._gap,
            StreamClosed: self._close,
        }

    @property
    def open_streams(self) -> int:
        """How many streams are neither closed by both sides nor reset."""
        return len(self._streams)

    def write(self, item: StreamItem) -> None:
        """Writes one item. Data may hold a memoryview, which is not kept.

        Raises ValueError for a StreamOpened whose addresses have neither 4 nor 16 bytes.
        """
        self._handlers[type(item)](item)
        if self._pending_bytes >= FLUSH_BYTES:
            self.flush()

    def flush(self) -> None:
        """Hands over whatever is complete; the file so far can be opened."""
        if self._pending:
            pieces, self._pending = self._pending, []
            self._pending_bytes = 0
            self._sink(b"".join(pieces))

    def finish(
        self,
        *,
        ledger: Mapping[str, object] | None = None,
        summary: str | None = None,
        time_ns: int | None = None,
        received: int | None = None,
        dropped: int | None = None,
    ) -> None:
        """Ends the section with an Interface Statistics Block: ``summary`` for people, ``ledger`` for tools.

        ``ledger`` must be what ``json`` can write. ``received`` and ``dropped`` (isb_ifrecv, isb_ifdrop)
        count what the recorder took from the kernel and what it missed; without them, items and gaps.
        Streams stay open: their end was not seen. No item may follow.
        """
        for stream in self._streams.values():
            self._settle(stream)
        end_ns = self._last_ns if time_ns is None else time_ns
        options = [(pcapng.OPT_COMMENT, pcapng.encode_text(summary))] if summary else []
        options += [
            (pcapng.OPT_COMMENT, comment.encode("ascii"))
            for comment in (packet_comments.ledger_comments(ledger) if ledger is not None else ())
        ]
        if self._first_ns is not None:
            options.append((pcapng.ISB_STARTTIME, pcapng.encode_time(self._first_ns)))
        options += [
            (pcapng.ISB_ENDTIME, pcapng.encode_time(end_ns)),
            (pcapng.ISB_IFRECV, struct.pack("<Q", self._items if received is None else received)),
            (pcapng.ISB_IFDROP, struct.pack("<Q", self._gaps if dropped is None else dropped)),
        ]
        self._put(pcapng.interface_statistics(0, end_ns, options))
        self._streams.clear()
        self.flush()

    # Opening

    def _open(self, item: StreamOpened) -> None:
        addresses = common_family(item.client.address, item.server.address)
        bare = self._goes_bare(item)
        port = item.server.port
        if item.tls is not None and self._framing is Framing.PLAIN:
            port = PLAIN_PORTS.get(port, port)
        stream = self._new_stream(item, (addresses[0], item.client.port), (addresses[1], port))
        if item.tls is not None and not bare:
            stream.framed = True
            stream.unwritten_tls = item.tls
        comments = [
            packet_comments.format_words(
                packet_comments.stream_words(
                    item,
                    packet_comments.TLS_BARE if bare else packet_comments.TLS_FRAMED,
                    item.server.port if port != item.server.port else None,
                )
            )
        ]
        if not item.handshake_seen:
            comments.append(packet_comments.TCP_HANDSHAKE_HINT)
        stream.comments = tuple(comments)
        self._first_ns = item.time_ns if self._first_ns is None else min(self._first_ns, item.time_ns)
        established_ns = max(item.time_ns, item.established_ns)
        self._segment(stream, Side.CLIENT, item.time_ns, SYN, tcp_options=SYN_OPTIONS)
        self._segment(stream, Side.SERVER, established_ns, SYN | ACK, tcp_options=SYN_OPTIONS)
        self._segment(stream, Side.CLIENT, established_ns, ACK)

    def _goes_bare(self, item: StreamOpened) -> bool:
        if item.tls is None or self._framing is Framing.PLAIN:
            return True
        return item.server.port in DISSECTED_BY_PORT

    def _new_stream(
        self, item: StreamOpened, client: tuple[bytes, int], server: tuple[bytes, int]
    ) -> _Stream:
        process_index = self._process_index(item.process)
        options = [
            pcapng.encode_options([(pcapng.EPB_FLAGS, struct.pack("<I", direction)), *process_index])
            for direction in (
                (_DIRECTION_OUTBOUND, _DIRECTION_INBOUND)
                if item.side is Side.CLIENT
                else (_DIRECTION_INBOUND, _DIRECTION_OUTBOUND)
            )
        ]
        # As RFC 9293 §3.4.1: a 4 µs clock and a term of the connection, so that a port that is used again
        # begins elsewhere. Wireshark takes an equal SYN for a retransmission.
        first = item.time_ns // 4000 + item.stream * 2_654_435_761 & 0xFFFFFFFF
        hardware = (_CLIENT_HARDWARE, _SERVER_HARDWARE)
        flows = (
            Flow(client, server, hardware, first, options[0]),
            Flow(server, client, hardware[::-1], first ^ 0x5BD1E995, options[1]),
        )
        self._streams[item.stream] = stream = _Stream(flows, item.time_ns)
        return stream

    def _process_index(self, process: Process | None) -> Iterable[tuple[int, bytes]]:
        """The packet option that names the process's DPIB, which is written where it is new."""
        if process is None:
            return ()
        key = (process.pid, process.comm)
        index = self._processes.get(key)
        if index is None:
            if len(self._processes) >= MAX_PROCESSES:
                del self._processes[next(iter(self._processes))]
            self._processes[key] = index = self._processes_written
            self._processes_written += 1
            self._put(pcapng.process_information(process.pid, process.comm))
        return ((pcapng.EPB_PROCESS_INDEX, struct.pack("<I", index)),)

    def _start_tls(self, item: TlsStarted) -> None:
        stream = self._streams.get(item.stream)
        if stream is None:
            return
        self._settle(stream)
        stream.settled = False
        stream.client_spoke = False
        stream.clamp(item.time_ns)
        if self._framing is Framing.TLS:
            stream.framed = True
            stream.unwritten_tls = item.tls
        framing = packet_comments.TLS_FRAMED if stream.framed else packet_comments.TLS_BARE
        stream.comments += (packet_comments.format_words(packet_comments.tls_words(item.tls, framing)),)

    # Bytes

    def _data(self, item: Data) -> None:
        data = item.data if type(item.data) is bytes else bytes(item.data)
        stream = self._streams.get(item.stream)
        if stream is None or stream.finished is item.sender:
            self.orphan_bytes += len(data)
            return
        self._items += 1
        if stream.settled:
            self._bytes(stream, item.sender, item.time_ns, data)
        elif data:
            self._first_bytes(stream, item.sender, item.time_ns, data)

    def _first_bytes(self, stream: _Stream, sender: Side, time_ns: int, data: bytes) -> None:
        """Data of a stream that is not settled: the TLS handshake first, and a split preface in one piece."""
        self._write_handshake(stream, time_ns)
        if sender is Side.CLIENT:
            data = stream.held + data
            stream.held = b""
            if not stream.client_spoke and len(data) < len(HTTP2_PREFACE) and HTTP2_PREFACE.startswith(data):
                stream.held = data
                stream.clamp(time_ns)
                return
            stream.client_spoke = stream.settled = True
        else:
            self._release(stream)
        self._bytes(stream, sender, time_ns, data)

    def _release(self, stream: _Stream) -> None:
        """Writes the client's bytes that were held, since the stream has moved on."""
        if stream.held:
            data, stream.held = stream.held, b""
            stream.client_spoke = stream.settled = True
            self._bytes(stream, Side.CLIENT, stream.last_ns, data)

    def _bytes(self, stream: _Stream, sender: Side, time_ns: int, data: bytes) -> None:
        if stream.framed:
            if len(data) <= tls_framing.MAX_RECORD_BYTES:
                self._segment(stream, sender, time_ns, _PUSH, tls_framing.application_data(data))
                return
            for start in range(0, len(data), _FRAMED_PAYLOAD_BYTES):
                records = tls_framing.application_data(data[start : start + _FRAMED_PAYLOAD_BYTES])
                self._segment(stream, sender, time_ns, _PUSH, records)
        elif len(data) <= MAX_PAYLOAD_BYTES:
            self._segment(stream, sender, time_ns, _PUSH, data)
        else:
            for start in range(0, len(data), MAX_PAYLOAD_BYTES):
                self._segment(stream, sender, time_ns, _PUSH, data[start : start + MAX_PAYLOAD_BYTES])

    def _gap(self, item: Gap) -> None:
        stream = self._streams.get(item.stream)
        if stream is None or stream.finished is item.sender:
            self.orphan_bytes += item.length
            return
        self._items += 1
        self._gaps += 1
        self.lost_bytes += item.length
        self._settle(stream, item.time_ns)
        stream.settled = stream.client_spoke = True
        step = tls_framing.MAX_RECORD_BYTES if stream.framed else MAX_PAYLOAD_BYTES
        drop_count = [(pcapng.EPB_DROPCOUNT, struct.pack("<Q", 1))]
        for start in range(0, item.length, step):
            lost = min(step, item.length - start)
            stream.comments += (packet_comments.format_words(packet_comments.gap_words(lost, item.reason)),)
            header = tls_framing.record_header(lost) if stream.framed else b""
            self._segment(
                stream,
                item.sender,
                item.time_ns,
                _PUSH,
                header,
                missing=lost + (tls_framing.MAC_BYTES if stream.framed else 0),
                options=drop_count,
            )
            drop_count = []

    # Handshakes and ends

    def _settle(self, stream: _Stream, time_ns: int | None = None) -> None:
        """Writes whatever was waiting for more: before a gap, an end, or another session.

        ``time_ns`` is that of bytes that prove the TLS handshake to be over; without such bytes a session
        whose end of handshake is unknown gets its ClientHello alone.
        """
        self._write_handshake(stream, time_ns)
        self._release(stream)

    def _write_handshake(self, stream: _Stream, time_ns: int | None) -> None:
        tls, stream.unwritten_tls = stream.unwritten_tls, None
        if tls is None:
            return
        if tls.started_ns is None:
            stream.comments += (packet_comments.TLS_HANDSHAKE_HINT,)
        established_ns = tls.established_ns if tls.established_ns is not None else time_ns
        started_ns = tls.started_ns if tls.started_ns is not None else established_ns
        if started_ns is None:
            return
        server_name, alpn = tls.server_name, tls.alpn
        self._segment(stream, Side.CLIENT, started_ns, _PUSH, tls_framing.client_hello(server_name, alpn))
        if established_ns is None:
            return
        for sender, records in (
            (Side.SERVER, tls_framing.server_hello(alpn)),
            (Side.CLIENT, tls_framing.client_finished()),
            (Side.SERVER, tls_framing.server_finished()),
        ):
            self._segment(stream, sender, established_ns, _PUSH, records)

    def _close(self, item: StreamClosed) -> None:
        stream = self._streams.get(item.stream)
        if stream is None:
            return
        self._settle(stream)
        if item.reset:
            self._segment(stream, item.sender, item.time_ns, RST | ACK)
            del self._streams[item.stream]
        elif stream.finished is None:
            stream.finished = item.sender
            self._segment(stream, item.sender, item.time_ns, FIN | ACK)
        elif stream.finished is not item.sender:
            self._segment(stream, item.sender, item.time_ns, FIN | ACK)
            self._segment(stream, item.sender.other, item.time_ns, ACK)
            del self._streams[item.stream]

    # Packets

    def _segment(
        self,
        stream: _Stream,
        sender: Side,
        time_ns: int,
        flags: int,
        payload: bytes = b"",
        *,
        missing: int = 0,
        tcp_options: bytes = b"",
        options: Iterable[tuple[int, bytes]] = (),
    ) -> None:
        time_ns = stream.clamp(time_ns)
        self._last_ns = max(self._last_ns, time_ns)
        flows = stream.flows
        extra = b""
        if stream.comments or options:
            texts = [(pcapng.OPT_COMMENT, pcapng.encode_text(comment)) for comment in stream.comments]
            stream.comments = ()
            extra = pcapng.encode_options([*texts, *options], end=False)
        # The first SYN acknowledges nothing.
        acknowledged = flows[1 - sender].next_sequence if flags & ACK else 0
        block = flows[sender].segment(
            time_ns, acknowledged, flags, payload, missing=missing, tcp_options=tcp_options, options=extra
        )
        self._pending.append(block)
        self._pending_bytes += len(block)

    def _put(self, block: bytes) -> None:
        self._pending.append(block)
        self._pending_bytes += len(block)
