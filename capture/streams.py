"""Stream items: the values that pass from recording to the exporters, and back from a capture file.

One connection is one *stream*: a StreamOpened, then Data and Gap items in order for each direction,
TlsStarted where TLS begins after cleartext (STARTTLS, CONNECT), TlsEnded where cleartext comes after
it, and at most one StreamClosed per side, and a final one. Items of different streams interleave. The same items come
out of the recorder and out of ``exporters.reassembly``, so that a file and a live recording are exported
by the same code.

Times are integer nanoseconds since the epoch (wall clock). Bytes stay bytes: addresses are 4 or 16
bytes in network order. Unknown is None; a hole is a Gap, never filler.

This module knows no clock, file, /proc or BPF.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum


class Side(IntEnum):
    """One end of a connection, by who opened it (RFC 9293: active open is the client)."""

    CLIENT = 0
    SERVER = 1

    @property
    def other(self) -> Side:
        """The opposite end."""
        return Side.SERVER if self is Side.CLIENT else Side.CLIENT


@dataclass(frozen=True, slots=True)
class Endpoint:
    """An address (4 or 16 bytes, network order) and a TCP port."""

    address: bytes
    port: int


@dataclass(frozen=True, slots=True)
class Process:
    """Who held an end of the connection, as seen when it was first used."""

    pid: int
    comm: str
    exe: str | None = None
    command_line: str | None = None


@dataclass(frozen=True, slots=True)
class Tls:
    """What is known of a TLS session whose plaintext is in the stream.

    ``started_ns`` is the ClientHello's time and ``established_ns`` the end of the handshake; both are None
    where the handshake was before the recording. ``alpn`` is an IANA ALPN identifier such as ``h2``. ``joined``: the
    probes came when the session had begun, so that its first plaintext may be missing.
    """

    library: str | None = None
    server_name: str | None = None
    alpn: str | None = None
    started_ns: int | None = None
    established_ns: int | None = None
    joined: bool = False


@dataclass(frozen=True, slots=True)
class Lookup:
    """The host name by which the client's process came by the server's address, and when it asked for that.

    Both times are None where it did not ask for this connection: an earlier one had waited for the answer.
    """

    name: str
    started_ns: int | None = None
    ended_ns: int | None = None


@dataclass(frozen=True, slots=True)
class StreamOpened:
    """A connection's first item.

    ``time_ns`` is when the SYN was sent (client) or the connection was accepted (server), and
    ``established_ns`` when the handshake ended. Where ``handshake_seen`` is False the connection is older than
    the recording: both times are those of its first bytes, and a SYN in the file is synthetic.
    ``unix_path`` is that of a stream of AF_UNIX, "" where it has none (a pair); addresses and ports are made up then.
    ``side`` is the end whose process was recorded; ``peer_process`` the other end's, where it is local.
    ``lookup`` is None where the process's resolver was not seen to be asked.
    ``inside_tls``: not the connection itself but a TLS session whose records another one on it carries, as in a tunnel
    through a proxy that speaks HTTP/2; times are those of its handshake.
    """

    stream: int
    time_ns: int
    established_ns: int
    client: Endpoint
    server: Endpoint
    side: Side
    handshake_seen: bool
    process: Process | None = None
    peer_process: Process | None = None
    fd: int | None = None
    tls: Tls | None = None
    lookup: Lookup | None = None
    unix_path: str | None = None
    inside_tls: bool = False


@dataclass(frozen=True, slots=True)
class TlsStarted:
    """From here on the stream's bytes are the plaintext of a TLS session inside it."""

    stream: int
    time_ns: int
    tls: Tls


@dataclass(frozen=True, slots=True)
class TlsEnded:
    """From here on the stream's bytes went over the wire as they are (FTP's CCC: RFC 4217 §12.3)."""

    stream: int
    time_ns: int


@dataclass(frozen=True, slots=True)
class Data:
    """Bytes that ``sender`` sent, exact and in order.

    ``as_of_call``: by reference (sendfile, MSG_ZEROCOPY); what was changed between the call and TCP is not seen.
    """

    stream: int
    time_ns: int
    sender: Side
    data: bytes
    as_of_call: bool = False


@dataclass(frozen=True, slots=True)
class Gap:
    """``length`` bytes that ``sender`` sent and that were not captured; ``reason`` is a word of the ledger."""

    stream: int
    time_ns: int
    sender: Side
    length: int
    reason: str


@dataclass(frozen=True, slots=True)
class StreamClosed:
    """``sender`` sent its FIN, or (``reset``) a RST that ends both directions.

    ``final``: with its FIN the connection is over, for its process has closed the socket; whatever the other side
    still sends, nobody reads. So it is where no end was captured, and the ports are another connection's.
    """

    stream: int
    time_ns: int
    sender: Side
    reset: bool
    final: bool = False


StreamItem = StreamOpened | TlsStarted | TlsEnded | Data | Gap | StreamClosed
