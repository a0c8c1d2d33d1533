"""One connection of a capture as stream items: what comments tell, and what TLS is unwrapped.

Our own captures say in a comment whose a stream is and how its plaintext is shown. Other people's are
looked at: a stream that begins with a TLS hello is unwrapped if its cipher is NULL, and is otherwise
encrypted: it is opened and closed, and its bytes are not given out, for they are no plaintext.

This module knows no packet, no sequence number and no file.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto
from typing import TYPE_CHECKING, Final

from capture.streams import (
    Data,
    Gap,
    Side,
    StreamClosed,
    StreamItem,
    StreamOpened,
    Tls,
    TlsEnded,
    TlsStarted,
)
from capture.tls_hello import Hello, HelloReader
from exporters import packet_comments
from exporters.dissection import Segment, path_endpoints
from exporters.tls_framing import CONTENT_APPLICATION_DATA, MAC_BYTES
from exporters.tls_records import (
    NULL_SUITES,
    SERVER_HELLO_BYTES,
    RecordReader,
    has_null_mac,
    server_cipher_suite,
    starts_tls,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from exporters.tcp_reassembly import Opening

REASON_NOT_IN_CAPTURE: Final = "not in capture"
"""The bytes were acknowledged, or others came after them, but no packet has them."""
REASON_CUT: Final = "packet cut short"
"""The packet that has them was captured with a snap length."""

MAX_HANDSHAKE_PIECES: Final = 256
"""Segments before the ServerHello. A client sends one hello of at most 16 KiB before it waits."""
MAX_HANDSHAKE_BYTES: Final = 64 * 1024
"""And what is in them. Where the server's side is not in a capture, the client's would be collected."""


class _Mode(Enum):
    """What is known of a connection's bytes."""

    UNDECIDED = auto()
    PLAIN = auto()
    HANDSHAKE = auto()
    """TLS whose cipher is not known yet."""
    FRAMED = auto()
    """TLS with a NULL cipher."""
    ENCRYPTED = auto()


@dataclass(slots=True)
class Counts:
    """What a capture's streams were, for notes."""

    streams: int = 0
    encrypted_streams: int = 0
    encrypted_bytes: int = 0
    cut_packets: int = 0
    cut_bytes: int = 0


class Conversation:
    """Turns a connection's bytes into items, appended to ``items``. See ``tcp_reassembly.ByteSink``."""

    __slots__ = (
        "_counts",
        "_final",
        "_held",
        "_items",
        "_mode",
        "_opened",
        "_opening",
        "_readers",
        "_stream",
        "_tls",
    )

    def __init__(self, stream: int, opening: Opening, items: list[StreamItem], counts: Counts) -> None:
        self._stream = stream
        self._opening = opening
        self._items = items
        self._counts = counts
        self._mode = _Mode.UNDECIDED
        self._opened = False
        self._held: list[tuple[Side, int, bytes | int, str]] = []
        """Data, or the length of a gap and its reason, until the mode is decided."""
        self._tls: _Handshake | None = None
        self._final = False
        self._readers: tuple[RecordReader, RecordReader] | None = None
        counts.streams += 1
        self._read_opening()

    # What comments tell

    def _read_opening(self) -> None:
        opening = self._opening
        for words in _comment_words(opening.segment):
            times = (opening.time_ns, opening.established_ns)
            opened = packet_comments.read_stream(words, self._stream, times, opening.client, opening.server)
            if opened is not None:
                self._emit_opened(opened)
                self._set_framing(words.get("tls"))
                return

    def _set_framing(self, framing: str | None) -> None:
        self._mode = _Mode.PLAIN
        if framing == packet_comments.TLS_FRAMED:
            self._mode = _Mode.FRAMED
            self._readers = (RecordReader(MAC_BYTES), RecordReader(MAC_BYTES))

    def annotated(self, segment: Segment) -> None:
        """See ByteSink: the comment may tell that TLS begins here, or that nothing follows."""
        if not self._opened or segment is self._opening.segment:
            return
        for words in _comment_words(segment):
            self._final = self._final or words.get(packet_comments.END) == packet_comments.END_CLOSED
            if packet_comments.TLS_ENDED in words:
                self._items.append(TlsEnded(self._stream, segment.time_ns))
            tls = packet_comments.read_tls(words)
            if tls is not None and "side" not in words:
                self._items.append(TlsStarted(self._stream, segment.time_ns, tls))
                if words["tls"] != packet_comments.TLS_INSIDE:
                    self._set_framing(words["tls"])

    def goes_on(self, segment: Segment) -> bool:
        """See ByteSink: a comment says so."""
        for words in _comment_words(segment):
            if self._opened and packet_comments.CONTINUES in words:
                if self._readers is not None:
                    self._readers = (RecordReader(MAC_BYTES), RecordReader(MAC_BYTES))
                return True
        return False

    # Bytes

    def data(self, sender: Side, time_ns: int, data: bytes) -> None:
        """See ByteSink."""
        mode = self._mode
        if mode is _Mode.PLAIN:
            self._items.append(Data(self._stream, time_ns, sender, data))
        elif mode is _Mode.FRAMED and self._opened:
            assert self._readers is not None  # noqa: S101  (they come with the mode)
            text = self._readers[sender].whole_record(data)
            if text:
                self._items.append(Data(self._stream, time_ns, sender, text))
            elif text is None:
                self._records(sender, time_ns, data)
        elif mode is _Mode.ENCRYPTED:
            self._counts.encrypted_bytes += len(data)
        else:
            self._undecided(sender, time_ns, data)

    def gap(self, sender: Side, time_ns: int, length: int, segment: Segment | None) -> None:
        """See ByteSink."""
        reason = REASON_CUT if segment is not None else REASON_NOT_IN_CAPTURE
        for words in _comment_words(segment) if segment is not None else ():
            lost = packet_comments.read_gap(words)
            if lost is not None:
                reason = lost[1]
        if reason is REASON_CUT:
            self._counts.cut_packets += 1
            self._counts.cut_bytes += length
        self._gap(sender, time_ns, length, reason)

    def closed(self, sender: Side, time_ns: int, *, reset: bool) -> None:
        """See ByteSink."""
        self._decide_by_default()
        self._items.append(StreamClosed(self._stream, time_ns, sender, reset, self._final and not reset))

    def end(self, gone_ns: int | None) -> None:
        """See ByteSink."""
        self._decide_by_default()
        if gone_ns is not None:
            self._items.append(StreamClosed(self._stream, gone_ns, Side.CLIENT, reset=False, final=True))

    def _gap(self, sender: Side, time_ns: int, length: int, reason: str) -> None:
        if self._mode is _Mode.ENCRYPTED:
            return
        if self._mode is _Mode.UNDECIDED:
            self._hold_gap(sender, time_ns, length, reason)
            return
        if self._mode is not _Mode.PLAIN:
            assert self._readers is not None  # noqa: S101  (they come with the mode)
            length = self._readers[sender].gap(length)
            if self._mode is _Mode.HANDSHAKE:
                self._encrypted()
                return
        if length:
            self._open_framed(time_ns)
            self._items.append(Gap(self._stream, time_ns, sender, length, reason))

    def _hold_gap(self, sender: Side, time_ns: int, length: int, reason: str) -> None:
        """Neighbours become one: where packets were cut behind their headers, there is nothing else."""
        for index in range(len(self._held) - 1, -1, -1):
            side, held_ns, what, why = self._held[index]
            if side is sender:
                if isinstance(what, int) and why == reason:
                    self._held[index] = (side, held_ns, what + length, why)
                    return
                break
        self._held.append((sender, time_ns, length, reason))

    def _records(self, sender: Side, time_ns: int, data: bytes) -> None:
        """Bytes of a connection with a NULL cipher."""
        assert self._readers is not None  # noqa: S101  (they come with the mode)
        fragments, unknown = self._readers[sender].feed(data)
        if unknown:
            self._open_framed(time_ns)
            self._items.append(Gap(self._stream, time_ns, sender, unknown, REASON_NOT_IN_CAPTURE))
        for fragment in fragments:
            if fragment.application:
                self._open_framed(time_ns)
                self._items.append(Data(self._stream, time_ns, sender, fragment.data))
            elif self._tls is not None and not self._opened:
                self._tls.established_ns = time_ns

    # What bytes tell

    def _undecided(self, sender: Side, time_ns: int, data: bytes) -> None:
        if self._mode is _Mode.UNDECIDED:
            self._held.append((sender, time_ns, data, ""))
            start = b"".join(
                held[2] for held in self._held if held[0] is sender and isinstance(held[2], bytes)
            )
            verdict = starts_tls(start)
            if verdict is None:
                return
            self._mode = _Mode.HANDSHAKE if verdict else _Mode.PLAIN
            self._release()
        elif self._mode is _Mode.FRAMED:
            self._records(sender, time_ns, data)
        else:
            self._shake_hands(sender, time_ns, data)

    def _decide_by_default(self) -> None:
        """No more bytes come to decide by."""
        if self._mode is _Mode.UNDECIDED:
            self._mode = _Mode.PLAIN
            self._release()
        elif self._mode is _Mode.HANDSHAKE:
            self._encrypted()
        self._open_framed(None)

    def _release(self) -> None:
        """Handles what was held, now that the mode is known."""
        if self._mode is _Mode.PLAIN:
            self._emit_opened(self._foreign_opened(None))
        else:
            self._tls = _Handshake(self._held[0][1])
            self._readers = (RecordReader(MAC_BYTES), RecordReader(MAC_BYTES))
        held, self._held = self._held, []
        for sender, time_ns, what, reason in held:
            if isinstance(what, bytes):
                self.data(sender, time_ns, what)
            else:
                self._gap(sender, time_ns, what, reason)

    def _shake_hands(self, sender: Side, time_ns: int, data: bytes) -> None:
        """Bytes before the cipher is known: both hellos are read."""
        handshake = self._tls
        assert handshake is not None  # noqa: S101  (it comes with the mode)
        if data[0] == CONTENT_APPLICATION_DATA and not handshake.hello_seen:
            if has_null_mac(data):
                self._mode = _Mode.FRAMED
            else:
                self._encrypted()
            self.data(sender, time_ns, data)
            return
        handshake.feed(sender, time_ns, data)
        if handshake.cipher_suite is None:
            if handshake.hopeless:
                self._encrypted()
            return
        mac_bytes = NULL_SUITES.get(handshake.cipher_suite)
        if mac_bytes is None:
            self._encrypted()
            return
        self._mode = _Mode.FRAMED
        self._readers = (RecordReader(mac_bytes), RecordReader(mac_bytes))
        for waiting in handshake.waiting:
            self._records(*waiting)
        handshake.waiting.clear()

    def _encrypted(self) -> None:
        self._mode = _Mode.ENCRYPTED
        self._counts.encrypted_streams += 1
        if self._tls is not None:
            self._counts.encrypted_bytes += sum(len(data) for _, _, data in self._tls.waiting)
            self._tls.established_ns = None
            self._emit_opened(self._foreign_opened(self._tls.tls()))
            self._tls = None

    # Opening

    def _open_framed(self, time_ns: int | None) -> None:
        if not self._opened:
            tls = self._tls.tls() if self._tls is not None else None
            self._tls = None
            self._emit_opened(self._foreign_opened(tls))

    def _emit_opened(self, opened: StreamOpened) -> None:
        if not self._opened:
            self._opened = True
            self._items.append(opened)

    def _foreign_opened(self, tls: Tls | None) -> StreamOpened:
        """The StreamOpened of a connection without our comment."""
        opening = self._opening
        segment = opening.segment
        sender = Side.CLIENT if path_endpoints(segment.path)[0] == opening.client else Side.SERVER
        return StreamOpened(
            stream=self._stream,
            time_ns=opening.time_ns,
            established_ns=opening.established_ns,
            client=opening.client,
            server=opening.server,
            side=Side.CLIENT if segment.outbound is None else sender if segment.outbound else sender.other,
            handshake_seen=opening.handshake_seen,
            process=segment.process,
            tls=tls,
        )


class _Handshake:
    """What both hellos say, and the bytes that wait for the cipher suite."""

    __slots__ = ("_bytes", "_hellos", "_readers", "_server_start", "established_ns", "started_ns", "waiting")

    def __init__(self, started_ns: int) -> None:
        self.started_ns = started_ns
        self.established_ns: int | None = None
        self.waiting: list[tuple[Side, int, bytes]] = []
        self._readers = (HelloReader(), HelloReader())
        self._hellos: list[Hello | None] = [None, None]
        self._server_start = b""
        self._bytes = 0

    def feed(self, sender: Side, time_ns: int, data: bytes) -> None:
        self.waiting.append((sender, time_ns, data))
        self._bytes += len(data)
        hello = self._readers[sender].feed(data)
        if hello is not None:
            self._hellos[sender] = hello
        if sender is Side.SERVER and len(self._server_start) < SERVER_HELLO_BYTES:
            self._server_start += data[:SERVER_HELLO_BYTES]

    @property
    def hello_seen(self) -> bool:
        """Whether anything of a handshake has come."""
        return bool(self.waiting)

    @property
    def cipher_suite(self) -> int | None:
        """The suite of the ServerHello, once the hello is whole."""
        return server_cipher_suite(self._server_start) if self._readers[Side.SERVER].done else None

    @property
    def hopeless(self) -> bool:
        """Whether bytes go on and on without a ServerHello."""
        too_much = len(self.waiting) > MAX_HANDSHAKE_PIECES or self._bytes > MAX_HANDSHAKE_BYTES
        return too_much or self._readers[Side.SERVER].done

    def tls(self) -> Tls:
        """What is known by now."""
        client, server = self._hellos
        return Tls(
            server_name=client.server_name if client is not None else None,
            alpn=next(iter(server.alpn), None) if server is not None else None,
            started_ns=self.started_ns if client is not None else None,
            established_ns=self.established_ns,
        )


def _comment_words(segment: Segment) -> list[Mapping[str, str]]:
    return [words for words in map(packet_comments.parse_words, segment.comments) if words is not None]
