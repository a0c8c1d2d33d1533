"""From stream items to HTTP exchanges: a layer per stream, and what is left when streams end."""

from __future__ import annotations

from typing import TYPE_CHECKING

from capture.streams import Data, Gap, StreamClosed, StreamItem, StreamOpened, TlsStarted
from exporters.http.layers import Context, Limits, Notes
from exporters.http.messages import Connection, Exchange, Outcome
from exporters.http.protocols import SniffingLayer

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from capture.streams import Side


class ExchangeReader:
    """Reads the items of any number of streams; ``notes`` counts what could not be read."""

    def __init__(self, limits: Limits | None = None, notes: Notes | None = None) -> None:
        self.notes = notes if notes is not None else Notes()
        self._ended: list[Exchange] = []
        self._context = Context(self._ended.append, limits or Limits(), self.notes, SniffingLayer)
        self._streams: dict[int, SniffingLayer] = {}
        self._half_closed: dict[int, Side] = {}
        self._now_ns = 0

    def feed(self, item: StreamItem) -> list[Exchange]:
        """Read one item; the exchanges that ended with it."""
        layer = self._streams.get(item.stream)
        self._now_ns = max(self._now_ns, item.time_ns)
        if isinstance(item, StreamOpened):
            self._open(item, layer)
        elif layer is None:
            if isinstance(item, Data):
                self.notes.skipped_bytes += len(item.data)
        elif isinstance(item, Data):
            layer.data(item.sender, item.time_ns, item.data)
        elif isinstance(item, Gap):
            self.notes.lost_bytes += 0 if layer.is_opaque else item.length
            layer.gap(item.sender, item.time_ns, item.length, item.reason)
        elif isinstance(item, StreamClosed):
            self._close(layer, item)
        elif isinstance(item, TlsStarted):
            layer.tls_started(item.time_ns, item.tls)
        return self._take_ended()

    def close(self) -> list[Exchange]:
        """There are no more items; the exchanges that have not ended, in the order of their streams."""
        for stream, layer in self._streams.items():
            # A client that closes first may be the last that is seen of a connection: its kernel forgets the socket.
            ended = Outcome.CLOSED if stream in self._half_closed else Outcome.UNFINISHED
            layer.finish(self._now_ns, ended)
        self._streams.clear()
        self._half_closed.clear()
        return self._take_ended()

    def _take_ended(self) -> list[Exchange]:
        if not self._ended:
            return []
        ended = self._ended.copy()
        self._ended.clear()
        return ended

    def _open(self, item: StreamOpened, layer: SniffingLayer | None) -> None:
        if layer is not None:  # the number is used again: the stream before it is over
            layer.finish(item.time_ns, Outcome.CLOSED)
            self._half_closed.pop(item.stream, None)
        self.notes.streams += 1
        connection = Connection(item, item.tls)
        self._streams[item.stream] = SniffingLayer(self._context, connection, not item.handshake_seen)

    def _close(self, layer: SniffingLayer, item: StreamClosed) -> None:
        if not item.reset:
            layer.closed(item.sender, item.time_ns)
            if item.final:
                self._end(item.stream, item.time_ns, Outcome.CLOSED)
                return
            if self._half_closed.setdefault(item.stream, item.sender) is item.sender:
                if len(self._half_closed) > self._context.limits.half_closed:
                    self._end(next(iter(self._half_closed)), item.time_ns, Outcome.CLOSED)
                return
        self._end(item.stream, item.time_ns, Outcome.RESET if item.reset else Outcome.CLOSED)

    def _end(self, stream: int, time_ns: int, outcome: Outcome) -> None:
        self._half_closed.pop(stream, None)
        self._streams.pop(stream).finish(time_ns, outcome)


def exchanges(
    items: Iterable[StreamItem], limits: Limits | None = None, notes: Notes | None = None
) -> Iterator[Exchange]:
    """The HTTP exchanges of ``items``, each as soon as it has ended, unfinished ones last.

    ``notes``, where given, counts what could not be read.
    """
    reader = ExchangeReader(limits, notes)
    try:
        for item in items:
            yield from reader.feed(item)
    except Exception:
        # Whatever stops the reading, what was read is told.
        yield from reader.close()
        raise
    yield from reader.close()
