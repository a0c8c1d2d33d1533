"""A WebSocket as wsproto speaks it, with both ends' bytes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from http_streams import Conversation
from wsproto import ConnectionType, WSConnection
from wsproto.events import AcceptConnection, Event, Request
from wsproto.extensions import PerMessageDeflate

from capture.streams import Side

if TYPE_CHECKING:
    from exporters.http.messages import Exchange


class SocketTalk:
    """Both ends of a WebSocket, and their bytes as a Conversation."""

    def __init__(self, *extensions: PerMessageDeflate) -> None:
        self.conversation = Conversation()
        self.ends = {
            Side.CLIENT: WSConnection(ConnectionType.CLIENT),
            Side.SERVER: WSConnection(ConnectionType.SERVER),
        }
        offered = [PerMessageDeflate(**vars_of(extension)) for extension in extensions]
        self.send(Side.CLIENT, Request(host="a", target="/ws", extensions=offered))
        self.send(Side.SERVER, AcceptConnection(extensions=list(extensions)))

    def send(self, side: Side, *events: Event) -> None:
        """``side`` sends events, and the other one reads them."""
        data = b"".join(self.ends[side].send(event) for event in events)
        (self.conversation.client if side is Side.CLIENT else self.conversation.server)(data)
        self.ends[side.other].receive_data(data)
        list(self.ends[side.other].events())


def vars_of(extension: PerMessageDeflate) -> dict[str, bool]:
    """The parameters of an extension, for the same one at the other end."""
    return {
        "client_no_context_takeover": extension.client_no_context_takeover,
        "server_no_context_takeover": extension.server_no_context_takeover,
    }


def messages(exchange: Exchange) -> list[tuple[bool, int, bytes]]:
    """Who sent what."""
    assert exchange.socket_messages is not None
    return [(message.from_client, message.opcode, message.data) for message in exchange.socket_messages]
