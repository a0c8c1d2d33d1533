"""What is known of TLS on a connection, on the way to what the file says of it. Sans-IO."""

from __future__ import annotations

from typing import TYPE_CHECKING

from capture.streams import Tls
from capture.tls_hello import Hello, HelloReader

if TYPE_CHECKING:
    from capture.application import Speech
    from capture.events import BytesMoved, Direction
    from capture.views import Content

# The least that ends a client's part of a handshake: ChangeCipherSpec and, in TLS 1.2 without a nonce, Finished with
# its tag (RFC 5246 §7.4.9). An alert is shorter, with what comes before it.
MIN_FINISHED_BYTES = 6 + 5 + 16 + 16


class TlsNotes:
    """What is known of TLS on a connection, gathered from hellos, probes and plaintext."""

    __slots__ = (
        "_readers",
        "alpn_chosen",
        "alpn_offered",
        "client",
        "established",
        "greeted",
        "joined",
        "library",
        "random",
        "server_name",
        "started",
    )

    def __init__(self) -> None:
        self._readers = (HelloReader(), HelloReader())
        self.client: Direction | None = None  # the direction of the ClientHello
        self.random = b""  # the ClientHello's
        self.greeted = 0  # the position behind the ClientHello's record
        self.server_name: str | None = None
        self.alpn_offered: tuple[str, ...] = ()
        self.alpn_chosen: str | None = None
        self.library: str | None = None
        self.started: int | None = None
        self.established: int | None = None
        self.joined = False

    def feed(self, event: BytesMoved) -> None:
        """TLS records as they crossed the socket."""
        hello = self._readers[event.direction].feed(event.payload)
        if hello:
            self._note(hello, event)

    def _note(self, hello: Hello, event: BytesMoved) -> None:
        if hello.from_client:
            self.client = event.direction
            self.random = self._readers[event.direction].random
            self.greeted = event.position + len(event.payload) - self._readers[event.direction].surplus
            self.server_name = hello.server_name
            self.alpn_offered = hello.alpn
            self.started = event.time
        elif hello.alpn:
            self.alpn_chosen = hello.alpn[0]

    def read_from(self, probed: int) -> None:
        """A session of which no handshake was seen is read by probes that are there since then."""
        self.joined = self.started is not None and self.started < probed

    def came_before(self, content: Content) -> bool:
        """Whether this answers, or follows, a ClientHello, be it in the clear."""
        return self.client is not None and self.started is not None and self.started < content.time

    def came_to_nothing(self, moved: tuple[int, int], most: int = 0) -> bool:
        """Whether the client sent a ClientHello and no Finished, at most an alert: hence no plaintext either way.

        Or no more than ``most`` bytes.
        """
        most = max(most, MIN_FINISHED_BYTES - 1)
        return self.client is not None and moved[self.client] <= self.greeted + most

    def describe(self, speech: Speech | None, first_content: int | None) -> Tls:
        """For the file. ALPN is encrypted in TLS 1.3: then the plaintext tells which offer was taken."""
        alpn = self.alpn_chosen
        if alpn is None and speech is not None and (speech.alpn in self.alpn_offered or self.client is None):
            alpn = speech.alpn
        established = self.established
        if self.started is not None and established is None:
            established = first_content
        return Tls(self.library, self.server_name, alpn, self.started, established, self.joined)
