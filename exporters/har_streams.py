"""Exchanges that are sequences of messages, as HAR fields: WebSockets, server-sent events, gRPC calls.

``_webSocketMessages`` and ``_eventSourceMessages`` are what Chrome writes and reads; ``_grpc`` is ours.
"""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING

from exporters.http.grpc import GrpcMessage, call_of
from exporters.http.sse import events_of, is_event_stream
from exporters.http.websocket import Opcode

if TYPE_CHECKING:
    from collections.abc import Iterable

    from exporters.har_fields import Json
    from exporters.http.messages import Exchange, WebSocketMessage


def describe_streams(entry: Json, exchange: Exchange, limit: int) -> None:
    """Add the messages of ``exchange`` to its entry; streams of events up to ``limit`` bytes of content."""
    if exchange.socket_messages is not None:
        entry["_webSocketMessages"] = [_socket_message(message) for message in exchange.socket_messages]
        return
    if exchange.response is not None and is_event_stream(exchange.response):
        entry["_eventSourceMessages"] = [
            {
                "time": event.time_ns / 1e9,
                "eventName": event.name,
                "eventId": event.event_id,
                "data": event.data,
            }
            for event in events_of(exchange.response, limit)
        ]
        return
    call = call_of(exchange)
    if call is not None:
        entry["_grpc"] = {
            "service": call.service,
            "method": call.method,
            "status": call.status,
            "statusName": call.status_name,
            "message": call.message,
            "requestMessages": _messages(call.request_messages),
            "responseMessages": _messages(call.response_messages),
            "complete": call.complete,
        }


def _messages(messages: Iterable[GrpcMessage]) -> list[Json]:
    return [{"size": message.size, "compressed": message.compressed} for message in messages]


def _socket_message(message: WebSocketMessage) -> Json:
    """Text as it is, all else as base64, as Chrome has it; text that is no UTF-8 as base64 as well, marked."""
    result: Json = {
        "type": "send" if message.from_client else "receive",
        "time": message.time_ns / 1e9,
        "opcode": message.opcode,
    }
    problem = message.problem
    try:
        text = message.data.decode() if message.opcode == Opcode.TEXT and problem is None else None
    except UnicodeDecodeError:
        text, problem = None, "it is no UTF-8"
    result["data"] = base64.b64encode(message.data).decode("ascii") if text is None else text
    if text is None and message.opcode == Opcode.TEXT:
        result["encoding"] = "base64"
    if message.lost_bytes:
        result["_lostBytes"] = message.lost_bytes
    if message.omitted_bytes:
        result["_omittedBytes"] = message.omitted_bytes
    if problem is not None:
        result["comment"] = problem
    return result
