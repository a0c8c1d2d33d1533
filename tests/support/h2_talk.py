"""HTTP/2 connections as hyper-h2 speaks them: both ends in memory, and their bytes as a Conversation."""

from __future__ import annotations

from typing import TYPE_CHECKING

from h2.config import H2Configuration
from h2.connection import H2Connection
from http_streams import Conversation

from capture.streams import Side, Tls

if TYPE_CHECKING:
    from collections.abc import Iterable

Headers = list[tuple[str, str]]


class H2Talk:
    """Two ends; after each step what they have to send is in the conversation, in order of time."""

    def __init__(self, conversation: Conversation | None = None, upgraded: bool = False) -> None:
        self.conversation = conversation or Conversation(tls=Tls(alpn="h2", server_name="a"), port=443)
        self.client = H2Connection(
            H2Configuration(client_side=True, header_encoding=None, validate_inbound_headers=False)
        )
        self.server = H2Connection(
            H2Configuration(client_side=False, header_encoding=None, validate_inbound_headers=False)
        )
        if upgraded:
            settings = self.client.initiate_upgrade_connection()
            self.server.initiate_upgrade_connection(settings)
        else:
            self.client.initiate_connection()
            self.server.initiate_connection()
        self.pump()

    def pump(self) -> None:
        """Carry bytes until both ends are silent."""
        while True:
            sent = self.client.data_to_send()
            if sent:
                self.conversation.client(sent)
                self.server.receive_data(sent)
            answered = self.server.data_to_send()
            if answered:
                self.conversation.server(answered)
                self.client.receive_data(answered)
            if not sent and not answered:
                return

    def request(
        self,
        fields: Iterable[tuple[str, str]] = (),
        body: bytes | None = None,
        path: str = "/",
        method: str = "GET",
    ) -> int:
        """A request; its body, if there is one, ends it."""
        stream = self.client.get_next_available_stream_id()
        head = [(":method", method), (":scheme", "https"), (":authority", "a"), (":path", path), *fields]
        self.client.send_headers(stream, head, end_stream=body is None)
        self.pump()
        if body is not None:
            self.send(Side.CLIENT, stream, body, end=True)
        return stream

    def respond(
        self,
        stream: int,
        body: bytes | None = None,
        fields: Iterable[tuple[str, str]] = (),
        status: int = 200,
        trailers: Headers | None = None,
    ) -> None:
        """A response, whole."""
        head = [(":status", str(status)), *fields]
        self.server.send_headers(stream, head, end_stream=body is None and trailers is None)
        self.pump()
        if body is not None:
            self.send(Side.SERVER, stream, body, end=trailers is None)
        if trailers is not None:
            self.server.send_headers(stream, trailers, end_stream=True)
            self.pump()

    def send(self, side: Side, stream: int, body: bytes, end: bool = False, pad: int | None = None) -> None:
        """Data in frames as large as they may be, within the flow control windows."""
        end_point, other = (self.client, self.server) if side is Side.CLIENT else (self.server, self.client)
        rest = body
        while True:
            room = min(end_point.local_flow_control_window(stream), end_point.max_outbound_frame_size)
            room -= 0 if pad is None else pad + 1
            piece, rest = rest[:room], rest[room:]
            end_point.send_data(stream, piece, end_stream=end and not rest, pad_length=pad)
            self.pump()
            if piece:
                other.acknowledge_received_data(len(piece) + (0 if pad is None else pad + 1), stream)
                self.pump()
            if not rest:
                return
