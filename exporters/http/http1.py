"""HTTP/1.0 and 1.1 over one connection: which response answers which request (RFC 9112 §9.3).

Theory of operation. Each direction has a MessageReader. Requests that were read queue up as *outstanding*; a
response belongs to the first of them. A response that comes in before its request, as happens where two
threads of the recorded process race, waits for it, so that on a connection without losses any interleaving of
the directions gives the same exchanges.

Where bytes are missing, pairing rests on what is certain:

- Until the first request of a connection that is older than the recording, and after a loss among the
  requests, a response without an outstanding request answers one that was not captured: it becomes an
  exchange without a request. Only where the response's start is certain: none is looked for inside a body.
  Whether such a response has a body is not known either, as the request may have been HEAD: it has none if
  another response or a request follows at once.
- A loss over a response's head or its framing ends the exchange of the first outstanding request. The next
  response is the first one recognised after a further request, which the client sent because it had the
  response before it. Where requests were pipelined that does not hold: none of the connection's later
  responses is paired any more.

After CONNECT and Upgrade the client's bytes wait for the answer, which says in what protocol they are.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from capture.streams import Side
from exporters.http.bodies import BodyBuilder
from exporters.http.heads import parse_request_head, parse_response_head
from exporters.http.http1_exchange import Pending, request_framing, response_framing
from exporters.http.http1_owner import BodyFraming, State, Turn
from exporters.http.http1_reader import MessageReader
from exporters.http.http2 import Http2Layer
from exporters.http.messages import Connection, Lost, Outcome
from exporters.http.sse import announces_events
from exporters.http.websocket import WebSocketLayer

if TYPE_CHECKING:
    from collections.abc import Callable

    from capture.streams import Tls
    from exporters.http.layers import Context, Layer
    from exporters.http.messages import Exchange


def _upgrade_to_http2(context: Context, exchange: Exchange) -> Layer:
    """RFC 7540 §3.2: the response to the request comes on stream 1."""
    layer = Http2Layer(context, exchange.connection, joined=False)
    if exchange.request is not None:
        layer.adopt(exchange)
    else:
        context.notes.exchanges += 1
        context.emit(exchange)
    return layer


UPGRADES: dict[bytes, Callable[[Context, Exchange], Layer]] = {
    b"websocket": WebSocketLayer,
    b"h2c": _upgrade_to_http2,
}
"""The protocols after 101 that go on with the exchange that asked for them, by the Upgrade field."""


class Http1Layer:
    """One HTTP/1 connection: a Layer, and the Owner of its two readers."""

    def __init__(self, context: Context, connection: Connection, joined: bool) -> None:
        self._context = context
        self._connection = connection
        self._readers = tuple(
            MessageReader(side, self, context.limits, context.notes, joined)
            for side in (Side.CLIENT, Side.SERVER)
        )
        self._outstanding: deque[Pending] = deque()
        self._uploading: Pending | None = None
        self._answering: Pending | None = None
        self._undecided: Pending | None = None  # a CONNECT or Upgrade that has no answer yet
        self._inner: Layer | None = None
        self._requests_missing = joined
        self._pairing_lost = False
        self._count = 0
        self._closed_ns: dict[Side, int] = {}

    # The Layer.

    def data(self, sender: Side, time_ns: int, data: bytes) -> None:
        """See Layer."""
        self._readers[sender].data(time_ns, data)
        self._settle()

    def gap(self, sender: Side, time_ns: int, length: int, reason: str, *, exact: bool = True) -> None:
        """See Layer."""
        self._readers[sender].gap(time_ns, length, reason, exact)
        self._settle()

    def tls_started(self, time_ns: int, tls: Tls) -> None:
        """See Layer: TLS begins inside a tunnel, or in the place of this layer (RFC 2817)."""
        if self._inner is not None:
            self._inner.tls_started(time_ns, tls)
            return
        self.finish(time_ns, Outcome.CLOSED)
        self._switch(Connection(self._connection.opened, tls, self._connection.authority))

    def closed(self, sender: Side, time_ns: int) -> None:
        """See Layer."""
        self._closed_ns[sender] = time_ns
        if self._inner is not None:
            self._inner.closed(sender, time_ns)
            return
        self._readers[sender].closed(time_ns)
        self._settle()
        if sender is Side.SERVER and self._readers[sender].waiting is None:
            self._note_begun_head()
            while self._outstanding:
                self._fail(self._outstanding[0], Outcome.CLOSED, time_ns)
        elif sender is Side.CLIENT and self._uploading is not None:
            self._request_ended(time_ns)

    def finish(self, time_ns: int, outcome: Outcome) -> None:
        """See Layer."""
        if self._inner is not None:
            self._inner.finish(time_ns, outcome)
            return
        requests, responses = self._readers
        if requests.waiting is not None:
            requests.drop()
        self._requests_missing = True
        self._settle()
        for side, closed_ns in self._closed_ns.items():
            self._readers[side].closed(closed_ns)
        for reader in self._readers:
            reader.ended()
        self._note_begun_head()
        while self._outstanding:
            self._fail(self._outstanding[0], outcome, time_ns)
        if self._uploading is not None:
            if not self._uploading.omits_body:
                self._uploading.outcome = outcome
            self._request_ended(time_ns)
        requests.discard()
        responses.discard()

    def _settle(self) -> None:
        """Let readers go on whose reason to wait is gone."""
        requests, responses = self._readers
        if requests.waiting is None and responses.waiting is None:
            return
        progress = True
        while progress:
            progress = False
            if responses.waiting is not None and self._response_may_begin(responses):
                responses.resume()
                progress = True
                if responses.waiting is None and Side.SERVER in self._closed_ns:
                    responses.closed(self._closed_ns[Side.SERVER])
            if requests.waiting is not None and self._undecided is None:
                requests.resume()
                progress = True
            elif requests.waits_too_long:
                requests.drop()

    def _response_may_begin(self, responses: MessageReader) -> bool:
        if responses.waits_too_long:
            self._requests_missing = True
        return bool(self._outstanding) or self._requests_missing

    # The Owner of the readers.

    def turn(self, side: Side, synchronising: bool) -> Turn:
        """See Owner."""
        if side is Side.CLIENT or self._outstanding:
            return Turn.GO
        if synchronising:
            return Turn.REFUSE
        return Turn.GO if self._requests_missing else Turn.WAIT

    def message_began(self, side: Side, head: bytes, times: tuple[int, int], strict: bool) -> int | None:
        """See Owner."""
        if side is Side.CLIENT:
            return self._request_began(head, times, strict)
        return self._response_began(head, times, strict)

    def message_ended(self, side: Side, time_ns: int) -> None:
        """See Owner."""
        if side is Side.CLIENT:
            self._request_ended(time_ns)
        else:
            self._response_ended(time_ns)

    def sync_lost(self, side: Side, time_ns: int, lost: Lost | None) -> None:
        """See Owner."""
        if lost is None:
            self._context.notes.malformed += 1
        self._readers[side].state = State.RESYNC
        if side is Side.CLIENT:
            self._requests_missing = True
            if self._uploading is not None:
                self._blame(self._uploading, lost)
                self._request_ended(time_ns)
            return
        self._pairing_lost = self._pairing_lost or len(self._outstanding) > 1
        if self._outstanding:
            self._blame(self._outstanding[0], lost)
            self._fail(self._outstanding[0], self._outstanding[0].outcome, time_ns)
        if self._pairing_lost:
            self._lose_pairing(time_ns)

    def switched_data(self, side: Side, time_ns: int, data: bytes) -> None:
        """See Owner."""
        if self._inner is not None:
            self._inner.data(side, time_ns, data)

    def switched_gap(self, side: Side, time_ns: int, length: int, reason: str, exact: bool) -> None:
        """See Owner."""
        if self._inner is not None:
            self._inner.gap(side, time_ns, length, reason, exact=exact)

    # Requests.

    def _request_began(self, data: bytes, times: tuple[int, int], strict: bool) -> int | None:
        head = parse_request_head(data, strict)
        if head is None or (strict and head.version == "HTTP/1.1" and head.fields.get(b"host") is None):
            return None
        pending = Pending(self._count, head, times, len(data))
        self._count += 1
        self._requests_missing = False
        self._readers[Side.SERVER].resolve_doubt(times[0])
        unpaired = strict or self._readers[Side.SERVER].state is State.RESYNC
        if (unpaired and self._outstanding) or len(self._outstanding) >= self._context.limits.outstanding:
            self._lose_pairing(times[1])
        self._outstanding.append(pending)
        framing = request_framing(head)
        if framing:
            self._readers[Side.CLIENT].body = pending.request_body = BodyBuilder(
                self._context.limits.body_bytes
            )
        self._uploading = pending
        if self._pairing_lost:
            self._fail(pending, Outcome.LOST, times[1])
        return framing

    def _request_ended(self, time_ns: int) -> None:
        pending, self._uploading = self._uploading, None
        if pending is None:
            return
        reader = self._readers[Side.CLIENT]
        pending.request_ended = True
        if pending.omits_body:
            pending.omit_body()
            time_ns = max(pending.request_ended_ns, pending.response_ended_ns)
        else:
            pending.request_ended_ns = time_ns
        pending.request_trailers = reader.trailers
        if pending.response_ended:
            self._emit(pending, time_ns)
        elif pending.switches and reader.state is State.HEAD and pending.response is None:
            self._undecided = pending
            reader.wait()

    # Responses.

    def _response_began(self, data: bytes, times: tuple[int, int], strict: bool) -> int | None:
        head = parse_response_head(data, strict)
        if head is None:
            return None
        if not self._outstanding:
            self._outstanding.append(Pending(self._count, None, times, 0))
            self._count += 1
            self._context.notes.requests_not_seen += 1
        pending = self._outstanding[0]
        framing = response_framing(pending.head.method if pending.head is not None else None, head)
        self._readers[Side.SERVER].doubtful = pending.head is None
        self._answering = pending
        if head.status < 200 and head.status != 101:
            pending.add_interim(head, times, len(data))
            return framing
        pending.response = head
        pending.response_bytes = len(data)
        pending.response_started_ns, pending.response_ended_ns = times
        if self._undecided is pending:
            self._undecided = None
        if pending is self._uploading and pending.awaits_answer:
            self._readers[Side.CLIENT].doubt_body()
        if head.status == 101 or framing == BodyFraming.SWITCHED:
            return self._switch_protocols(pending, times[1])
        if framing:
            self._readers[Side.SERVER].body = pending.response_body = BodyBuilder(
                self._context.limits.body_bytes, announces_events(head.fields)
            )
        return framing

    def _response_ended(self, time_ns: int) -> None:
        pending, self._answering = self._answering, None
        if pending is None or pending.response is None or pending.response_ended:
            return  # an interim response: the final one is still to come
        self._outstanding.popleft()
        pending.response_ended = True
        pending.response_ended_ns = time_ns
        pending.response_trailers = self._readers[Side.SERVER].trailers
        if pending.request_ended:
            self._emit(pending, time_ns)

    def _switch_protocols(self, pending: Pending, time_ns: int) -> int:
        """The connection goes on in another protocol: inside a tunnel, or after 101 (RFC 9110 §7.8)."""
        self._outstanding.popleft()
        pending.response_ended = pending.request_ended = True
        self._uploading = None
        while self._outstanding:
            later = self._outstanding[0]
            later.request_ended = True
            later.notes += ("not answered: the connection went on in another protocol",)
            self._fail(later, Outcome.CLOSED, time_ns)
        self._readers[Side.CLIENT].state = State.SWITCHED
        opened, tls = self._connection.opened, self._connection.tls
        authority = self._connection.authority
        protocol = pending.response.fields.get(b"upgrade") if pending.response is not None else None
        if pending.head is not None and pending.head.method == b"CONNECT":
            self._switch(Connection(opened, None, pending.head.target))
        elif protocol is not None and protocol.lower() in UPGRADES:
            exchange = pending.build(self._connection, time_ns)
            self._go_on(UPGRADES[protocol.lower()](self._context, exchange))
            return BodyFraming.SWITCHED
        else:
            self._switch(Connection(opened, tls, authority))
        self._emit(pending, time_ns)
        return BodyFraming.SWITCHED

    def _switch(self, connection: Connection) -> None:
        self._go_on(self._context.open_layer(self._context, connection, False))

    def _go_on(self, layer: Layer) -> None:
        self._inner = layer
        for reader in self._readers:
            reader.state = State.SWITCHED

    # Ends.

    def _blame(self, pending: Pending, lost: Lost | None) -> None:
        """Why ``pending`` is not whole."""
        if lost is None:
            pending.outcome = Outcome.MALFORMED
        else:
            pending.outcome = Outcome.LOST
            pending.lost += (lost,)

    def _note_begun_head(self) -> None:
        """Nothing more comes of a response of which there is no whole head."""
        unread = self._readers[Side.SERVER].unread
        if self._outstanding and unread and self._readers[Side.SERVER].state is State.HEAD:
            note = f"the head of its response was begun: {unread} bytes of it came"
            self._outstanding[0].notes += (note,)

    def _fail(self, pending: Pending, outcome: Outcome, time_ns: int) -> None:
        """No (further) part of the response to ``pending`` will be known."""
        self._outstanding.remove(pending)
        if self._undecided is pending:
            self._undecided = None
        pending.outcome = outcome
        pending.response_ended = True
        pending.response_ended_ns = time_ns
        if pending.request_ended:
            self._emit(pending, time_ns)

    def _lose_pairing(self, time_ns: int) -> None:
        """From here on it is not known which response answers which request."""
        self._pairing_lost = True
        while self._outstanding:
            self._fail(self._outstanding[0], Outcome.LOST, time_ns)
        self._readers[Side.SERVER].drop()

    def _emit(self, pending: Pending, time_ns: int) -> None:
        exchange = pending.build(self._connection, time_ns)
        notes = self._context.notes
        notes.exchanges += 1
        if exchange.outcome is not Outcome.COMPLETE:
            notes.unfinished += 1
        self._context.emit(exchange)
