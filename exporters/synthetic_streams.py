"""One stream as the packets of a synthetic TCP connection, with or without a TLS record layer.

Theory of operation. A StreamOpened becomes SYN, SYN-ACK and ACK at the connection's times, Data becomes
segments with PSH and ACK, StreamClosed a FIN or a RST. An acknowledgement number is always the highest
sequence number that the other side has sent, so that no pure acknowledgement is needed. A Gap is one segment
whose bytes are on the wire and not in the file (captured length below original length): skipped sequence
numbers make Wireshark report unseen segments, and filler would be invented data.

A stream is *settled* once nothing has to be decided about its next bytes: the TLS handshake is written, the
client's first bytes have been looked at, and no gap needs mending. Data of settled streams takes the short
way.

Mending: inside TLS, Wireshark does not count bytes that were not captured, and takes what follows for the
rest of the message that lacks them. Where an HTTP/1 message begins after a gap, the stream goes on as a new
TCP connection on the same ports, with a comment that says so. So it does after the rest of a message that had
begun before the probes were there: Wireshark would wait for the end of its headers, and find that of the next.
HTTP/2 is left alone, since its header compression does not survive a new connection.

Times of a stream never go back. Values in, blocks out: this module knows no section and no file.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

from capture.streams import Side, StreamOpened, Tls
from exporters import packet_comments, pcapng, tls_framing
from exporters.framing import DISSECTED_BY_PORT
from exporters.http.h2_sync import find_frames
from exporters.http_starts import HTTP2_PREFACE, REQUEST_STARTS, RESPONSE_START
from exporters.segments import ACK, FIN, MAX_PAYLOAD_BYTES, PSH, RST, SYN, SYN_OPTIONS, Flow

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from exporters.pcapng import Option

ALPN_HTTP2: Final = "h2"
_MAY_BE_HTTP1: Final = frozenset((None, "http/1.1"))
"""What is said to be spoken where HTTP/1 may be."""

_HTTP1_STARTS: Final = (REQUEST_STARTS, RESPONSE_START)
"""How a message of either side begins."""

_PUSH: Final = PSH | ACK
_RECORDS_PER_SEGMENT: Final = MAX_PAYLOAD_BYTES // (
    tls_framing.MAX_RECORD_BYTES + tls_framing.RECORD_OVERHEAD_BYTES
)
_FRAMED_PAYLOAD_BYTES: Final = _RECORDS_PER_SEGMENT * tls_framing.MAX_RECORD_BYTES
_DROP_COUNT: Final = ((pcapng.EPB_DROPCOUNT, struct.pack("<Q", 1)),)


class SyntheticStream:
    """An open stream. ``emit`` takes the time and the bytes of each block."""

    __slots__ = (
        "_as_of_call",
        "_bare_from_start",
        "_broken",
        "_client_spoke",
        "_comments",
        "_emit",
        "_ended_tls",
        "_flows",
        "_framed",
        "_held",
        "_joined",
        "_joined_tls",
        "_settled",
        "_tls",
        "_unwritten_handshake",
        "finished",
        "newest_ns",
    )

    def __init__(self, emit: Callable[[int, bytes], object], flows: tuple[Flow, Flow]) -> None:
        """``flows`` are the client's and the server's."""
        self._emit = emit
        self._flows = flows
        self.newest_ns = 0
        self._bare_from_start = False
        """Whether TLS would go bare: decided by the port, and only as long as no bytes have come."""
        self._tls: Tls | None = None
        self._ended_tls = False
        """Whether the last session has ended, and cleartext came after it."""
        self._framed = False
        self._settled = False
        self._unwritten_handshake = False
        """Whether the handshake of ``_tls`` comes before the next bytes."""
        self._client_spoke = False
        self._joined = False
        """Whether the stream may begin in the middle of a connection."""
        self._joined_tls = False
        """Whether the next bytes may be the middle of a message whose beginning was not recorded."""
        self._held = b""
        """The client's first bytes, while they may be a piece of the HTTP/2 preface."""
        self._as_of_call: Side | None = None
        self._comments: tuple[str, ...] = ()
        """For the next packet."""
        self._broken: Side | None = None
        """Whose bytes were lost in a record layer, until the stream is mended."""
        self.finished: Side | None = None
        """The side that has sent its FIN."""

    @property
    def path(self) -> bytes:
        """The client's and the server's addresses and ports, packed."""
        return self._flows[0].ends

    # Handshakes

    def open(self, item: StreamOpened, *, bare: bool, original_port: int | None) -> None:
        """The three segments of the TCP handshake, the first with all that the file has to say.

        ``bare`` says how TLS is shown if it begins before other bytes.
        """
        self._bare_from_start = bare
        self._joined = not item.handshake_seen
        framing = packet_comments.TLS_BARE if bare else packet_comments.TLS_FRAMED
        words = packet_comments.stream_words(item, framing, original_port)
        hints = () if item.handshake_seen else (packet_comments.TCP_HANDSHAKE_HINT,)
        self._comments = (packet_comments.format_words(words), *hints)
        self._shake_hands(item.time_ns, max(item.time_ns, item.established_ns))
        if item.tls is not None:
            self._begin_tls(item.tls, bare=bare)

    def start_tls(self, tls: Tls, time_ns: int, *, bare: bool) -> None:
        """TLS begins after cleartext (STARTTLS, CONNECT), or turns out to have begun with the connection.

        Inside another session it has no record layer of its own: Wireshark reads none there.
        """
        bare = bare or self._bare_from_start
        inside = self._tls is not None and not self._ended_tls
        self.settle()
        self.newest_ns = max(self.newest_ns, time_ns)
        if self._tls is None:
            self._begin_tls(tls, bare=bare)
        self._ended_tls = False
        framing = packet_comments.TLS_FRAMED if self._framed else packet_comments.TLS_BARE
        if inside:
            framing = packet_comments.TLS_INSIDE
        self._comments += (packet_comments.format_words(packet_comments.tls_words(tls, framing)),)

    def end_tls(self, time_ns: int) -> None:
        """Cleartext comes after TLS. It is shown in the record layer that there is: Wireshark leaves none."""
        self.settle()
        self.newest_ns = max(self.newest_ns, time_ns)
        self._ended_tls = True
        words = packet_comments.format_words({packet_comments.TLS_ENDED: packet_comments.ENDED_CLEARTEXT})
        self._comments += (words, packet_comments.CLEARTEXT_HINT) if self._framed else (words,)

    def _begin_tls(self, tls: Tls, *, bare: bool) -> None:
        self._tls = tls
        self._joined = self._joined or tls.joined
        if tls.joined:
            self._comments += (packet_comments.TLS_JOINED_HINT,)
        self._framed = self._unwritten_handshake = not bare
        self._settled = self._client_spoke = False
        joined = tls.joined or (self._joined and tls.started_ns is None)
        self._joined_tls = joined and self._framed and tls.alpn in _MAY_BE_HTTP1

    def _shake_hands(self, time_ns: int, established_ns: int) -> None:
        self._segment(Side.CLIENT, time_ns, SYN, tcp_options=SYN_OPTIONS)
        self._segment(Side.SERVER, established_ns, SYN | ACK, tcp_options=SYN_OPTIONS)
        self._segment(Side.CLIENT, established_ns, ACK)

    def _write_handshake(self, time_ns: int | None) -> None:
        """The TLS handshake, if it is still to be written.

        ``time_ns`` is that of bytes that prove it to be over; without such bytes a session whose end of
        handshake is unknown gets its ClientHello alone, or nothing.
        """
        tls = self._tls
        if tls is None or not self._unwritten_handshake:
            return
        self._unwritten_handshake = False
        if tls.started_ns is None and tls.established_ns is None:
            self._comments += (packet_comments.TLS_HANDSHAKE_HINT,)
        established_ns = tls.established_ns if tls.established_ns is not None else time_ns
        started_ns = tls.started_ns if tls.started_ns is not None else established_ns
        if started_ns is None:
            return
        hello = tls_framing.client_hello(tls.server_name, tls.alpn)
        self._segment(Side.CLIENT, started_ns, _PUSH, hello)
        if established_ns is None:
            return
        for sender, records in (
            (Side.SERVER, tls_framing.server_hello(tls.alpn)),
            (Side.CLIENT, tls_framing.client_finished()),
            (Side.SERVER, tls_framing.server_finished()),
        ):
            self._segment(sender, established_ns, _PUSH, records)

    # Bytes

    def data(self, sender: Side, time_ns: int, data: bytes, *, as_of_call: bool = False) -> None:
        """Bytes that ``sender`` sent; ``as_of_call`` is said where such bytes begin."""
        if not self._settled:
            ready = self._settle_for(sender, time_ns, data)
            if ready is None:
                return
            data = ready
        if as_of_call and self._as_of_call is not sender:
            self._comments += (packet_comments.AS_OF_CALL_HINT,)
        self._as_of_call = sender if as_of_call else None
        if not self._framed:
            for start in range(0, len(data), MAX_PAYLOAD_BYTES):
                self._segment(sender, time_ns, _PUSH, data[start : start + MAX_PAYLOAD_BYTES])
        else:
            for start in range(0, len(data), _FRAMED_PAYLOAD_BYTES):
                records = tls_framing.application_data(data[start : start + _FRAMED_PAYLOAD_BYTES])
                self._segment(sender, time_ns, _PUSH, records)

    def gap(self, sender: Side, time_ns: int, length: int, reason: str) -> None:
        """``length`` bytes that ``sender`` sent and that were not captured."""
        self.settle(time_ns)
        self._bare_from_start = False
        self._client_spoke = True
        # A record each, so that its header tells how much plaintext is lost and where the next one begins.
        step = tls_framing.MAX_RECORD_BYTES if self._framed else MAX_PAYLOAD_BYTES
        options: tuple[Option, ...] = _DROP_COUNT
        for start in range(0, length, step):
            lost = min(step, length - start)
            self._comments += (packet_comments.format_words(packet_comments.gap_words(lost, reason)),)
            if self._framed:
                header, missing = tls_framing.record_header(lost), lost + tls_framing.MAC_BYTES
                self._segment(sender, time_ns, _PUSH, header, missing=missing, options=options)
            else:
                self._segment(sender, time_ns, _PUSH, missing=lost, options=options)
            options = ()
        self._settled = not self._framed or self._is_http2()
        self._broken = None if self._settled else sender

    def _settle_for(self, sender: Side, time_ns: int, data: bytes) -> bytes | None:
        """Decides what was left to the next bytes; returns these, or None where they wait for more."""
        self._bare_from_start = False
        self._write_handshake(time_ns)
        if self._joined_tls and self._broken is None and not _begins_message(sender, data):
            self._broken = sender
        self._joined_tls = False
        if self._broken is not None:
            self._mend(sender, time_ns, data)
            return data
        if sender is Side.SERVER:
            self._release()
            return data
        data = self._held + data
        # Wireshark recognises the preface only where it is whole in one segment.
        if not self._client_spoke and len(data) < len(HTTP2_PREFACE) and HTTP2_PREFACE.startswith(data):
            self._held = data
            self.newest_ns = max(self.newest_ns, time_ns)
            return None
        self._held = b""
        self._client_spoke = self._settled = True
        begins = data.startswith(HTTP2_PREFACE)
        if self._tls is None:
            # Of a connection that is older the preface was before: its client begins with a frame.
            if begins or (self._joined and find_frames(data, 0, boundary=True) == (0, True)):
                self._say_how_http2_is_dissected()
        elif begins:
            if not self._framed:
                self._say_how_http2_is_dissected()
            if self._tls.alpn is None:
                self._tls = Tls(alpn=ALPN_HTTP2)
        return data

    def _say_how_http2_is_dissected(self) -> None:
        port = int.from_bytes(self.path[-2:], "big")
        if DISSECTED_BY_PORT.get(port) != "HTTP":
            self._comments += (packet_comments.HTTP2_HINT.format(port=port),)

    def _release(self) -> None:
        """Writes the client's bytes that were held, since the stream has moved on."""
        if self._held:
            data, self._held = self._held, b""
            self._client_spoke = self._settled = True
            self.data(Side.CLIENT, self.newest_ns, data)

    def _is_http2(self) -> bool:
        return self._tls is not None and self._tls.alpn == ALPN_HTTP2

    def _mend(self, sender: Side, time_ns: int, data: bytes) -> None:
        """Goes on as a new connection, if ``sender`` begins a message and bytes of the other's are not there."""
        if sender is self._broken or not _begins_message(sender, data):
            return
        self._broken = None
        self._settled = True
        words = packet_comments.format_words({packet_comments.CONTINUES: "with-a-message"})
        self._comments += (words, packet_comments.CONTINUES_HINT)
        self._shake_hands(time_ns, time_ns)
        tls = self._tls or Tls()
        self._tls = Tls(tls.library, tls.server_name, tls.alpn, time_ns, time_ns)
        self._unwritten_handshake = True
        self._write_handshake(time_ns)

    def settle(self, time_ns: int | None = None) -> None:
        """Writes whatever waits for more, before a gap or an end; ``time_ns`` as for ``_write_handshake``."""
        self._write_handshake(time_ns)
        self._release()

    # Ends

    def close(self, sender: Side, time_ns: int, *, reset: bool, final: bool = False) -> bool:
        """FIN or RST; whether the connection is over, as after a ``final`` FIN it is."""
        self.settle()
        if reset:
            self._segment(sender, time_ns, RST | ACK)
            return True
        if self.finished is sender:
            return False
        if final:
            words = {packet_comments.END: packet_comments.END_CLOSED}
            self._comments += (packet_comments.format_words(words),)
        self._segment(sender, time_ns, FIN | ACK)
        if self.finished is None:
            self.finished = sender
            return final
        self._segment(sender.other, time_ns, ACK)
        return True

    def _segment(
        self,
        sender: Side,
        time_ns: int,
        flags: int,
        payload: bytes = b"",
        *,
        missing: int = 0,
        tcp_options: bytes = b"",
        options: Iterable[Option] = (),
    ) -> None:
        self.newest_ns = time_ns = max(self.newest_ns, time_ns)
        encoded = b""
        if self._comments or options:
            comments = [(pcapng.OPT_COMMENT, pcapng.encode_text(comment)) for comment in self._comments]
            self._comments = ()
            encoded = pcapng.encode_options([*comments, *options], end=False)
        flows = self._flows
        # The first SYN acknowledges nothing.
        acknowledged = flows[1 - sender].next_sequence if flags & ACK else 0
        block = flows[sender].segment(
            time_ns,
            acknowledged,
            flags,
            payload,
            missing=missing,
            tcp_options=tcp_options,
            options=encoded,
        )
        self._emit(time_ns, block)


def _begins_message(sender: Side, data: bytes) -> bool:
    """Whether an HTTP/1 message begins here; SIP's requests have methods of HTTP's, too."""
    if not data.startswith(_HTTP1_STARTS[sender]):
        return False
    line, ending, _ = data.partition(b"\n")
    return not ending or b"HTTP/1." in line
