"""One direction of an HTTP/1 connection: where messages begin and end (RFC 9112 §6 and §7).

    HEAD ──head──▶ LENGTH | CHUNK_SIZE | UNTIL_CLOSE | (no body) ──end──▶ HEAD
    CHUNK_SIZE ─▶ CHUNK_DATA ─▶ CHUNK_END ─▶ CHUNK_SIZE …  ─last─▶ TRAILERS ──▶ HEAD
    anything ──gap over framing, malformed──▶ RESYNC ──recognised head──▶ HEAD
    HEAD ──switched──▶ SWITCHED        the rest belongs to another protocol
    anything ──dropped──▶ SKIP         the rest cannot be read
    HEAD ──head of a response to an unknown request──▶ DOUBT ─▶ LENGTH … | HEAD
    LENGTH, CHUNK_SIZE ──answered before the body, which was to wait──▶ DOUBT

A reader knows nothing of the other direction: its owner says how each body is framed, and may have it wait.
Bytes that were consumed are never looked at again, and those that were searched for the end of a line or of a
head never searched again, so that any split of the input costs the same.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from capture.streams import Side
from exporters.http import heads
from exporters.http.bodies import BodyBuilder
from exporters.http.cursor import Cursor
from exporters.http.held import Held, HeldItems
from exporters.http.http1_owner import BodyFraming, Owner, State, Turn
from exporters.http.messages import NO_FIELDS, Fields, Lost

if TYPE_CHECKING:
    from exporters.http.layers import Limits, Notes

MAX_CHUNK_LINE_BYTES = 16 * 1024
"""Of a chunk's size and extensions; servers allow from 4 to 16 KiB."""

MAX_START_LINE_BYTES = 64 * 1024
"""How far back from the end of a line a start line is looked for when synchronising."""

_CHUNK_SIZE = re.compile(rb"[ \t]*([0-9A-Fa-f]{1,15})[ \t]*(?:;[^\n]*)?\r?\n")
_START = {Side.CLIENT: heads.REQUEST_START, Side.SERVER: heads.RESPONSE_START}


class MessageReader(Cursor):
    """Reads one direction. ``body`` is that of the message that comes in, ``trailers`` are those of the last."""

    def __init__(self, side: Side, owner: Owner, limits: Limits, notes: Notes, joined: bool) -> None:
        super().__init__()
        self.body = BodyBuilder(0)
        self.trailers = NO_FIELDS
        self.state = State.HEAD
        self.doubtful = False  # set by the owner when it does not know whether the message has a body
        self._doubted = 0
        self.waiting: HeldItems | None = None  # what comes, as long as the other direction has to go first
        self._side = side
        self._owner = owner
        self._limits = limits
        self._notes = notes
        self._searched = 0  # how much of _rest, a line or a head, holds no end of what is looked for
        self._started_ns: int | None = None
        self._recognised = joined  # whether a message begins here is for its head to show
        self._remaining = 0
        self._last_chunk_ns = 0

    # Input.

    def data(self, time_ns: int, data: bytes) -> None:
        """The next bytes of the direction."""
        if self.waiting is not None:
            self.waiting.hold(Held(self._side, time_ns, data))
        else:
            self._feed(time_ns, data)

    def gap(self, time_ns: int, length: int, reason: str, exact: bool) -> None:
        """The next ``length`` bytes of the direction were not captured; or up to so many."""
        if self.waiting is not None:
            self.waiting.hold(Held(self._side, time_ns, None, length, reason, exact))
            return
        if self.state is State.DOUBT and not self._rest:
            self._frame(self._doubted, time_ns)  # something was sent: a body, in all likelihood
        state = self.state
        if state is State.SWITCHED:
            self._owner.switched_gap(self._side, time_ns, length, reason, exact)
        elif state is State.HEAD and self._turn_to_wait():
            self.wait()
            self.gap(time_ns, length, reason, exact)
        elif not exact:
            self._lose_sync(time_ns, Lost(0, length, reason, exact=False))
        elif state is State.UNTIL_CLOSE:
            self.body.lose(length, reason)
        elif state is State.LENGTH or (state is State.CHUNK_DATA and length <= self._remaining):
            self._gap_in_body(time_ns, length, reason)
        else:
            self._lose_sync(time_ns, Lost(0, length, reason))

    def closed(self, time_ns: int) -> None:
        """The direction has ended; what waits is still to come."""
        if self.state is State.UNTIL_CLOSE and self.waiting is None:
            self._end_message(time_ns)
        self.ended()

    def ended(self) -> None:
        """Nothing more comes, or is read. The last chunk ends a body (RFC 9112 §8), whatever may come after it."""
        if self.state is State.TRAILERS and not self._rest.strip(b"\r"):
            self._end_message(self._last_chunk_ns)

    # Waiting for the other direction.

    def wait(self) -> None:
        """Hold what comes until ``resume``."""
        self.waiting = HeldItems()

    def resume(self) -> None:
        """Read what was held, until the owner has the reader wait again."""
        held, self.waiting = self.waiting, None
        while held:
            item = held.take()
            if item.data is None:
                self.gap(item.time_ns, item.length, item.reason, item.exact)
            else:
                self.data(item.time_ns, item.data)
            if self.waiting is not None:
                held.put_back(self.waiting)
                self.waiting = held
                return

    @property
    def waits_too_long(self) -> bool:
        """More waits than the limit allows."""
        return self.waiting is not None and self.waiting.has_no_room(0, self._limits.waiting_bytes)

    def drop(self) -> None:
        """Nothing more of the direction can be read, and what waits neither."""
        self.state, self.body = State.SKIP, BodyBuilder(0)
        if self.waiting is not None:
            self.resume()

    def discard(self) -> None:
        """Nothing more comes of the direction."""
        self.drop()
        self._notes.skipped_bytes += len(self._rest)
        self._rest.clear()

    # The states.

    def _consume(self, source: bytes | bytearray, time_ns: int) -> int:
        position, end = 0, len(source)
        while position < end:
            step = _STEPS[self.state](self, source, position, time_ns)
            if step < 0:
                break
            position = step
            if self.waiting is not None:
                if position < end:
                    self.waiting.hold(Held(self._side, time_ns, bytes(source[position:])))
                return end
        return position

    def _turn_to_wait(self) -> bool:
        return not self._rest and self._owner.turn(self._side, synchronising=False) is Turn.WAIT

    def _head(self, source: bytes | bytearray, position: int, time_ns: int) -> int:
        if self._started_ns is None:
            if source[position] in b"\r\n":  # RFC 9112 §2.2: an empty line before a message is ignored
                return position + 1
            if self._owner.turn(self._side, synchronising=False) is Turn.WAIT:
                if heads.can_begin_response(bytes(source[position : position + heads.MAX_PREFIX_BYTES])):
                    self.wait()
                else:  # it answers nothing: a body where there is to be none, which clients drop
                    self.state = State.RESYNC
                return position
            self._started_ns, self._searched = time_ns, 0
        if self._searched < heads.MAX_PREFIX_BYTES:
            prefix = bytes(source[position : position + heads.MAX_PREFIX_BYTES])
            if not (
                heads.can_begin_response(prefix)
                if self._side is Side.SERVER
                else heads.can_begin_request(prefix, self._recognised)
            ):
                return self._refuse_head(position, time_ns, 1)
        end = heads.HEAD_END.search(source, position + max(self._searched - 2, 0))
        if end is not None:
            return self._read_head(bytes(source[position : end.end()]), position, time_ns)
        self._searched = len(source) - position
        if self._searched <= self._limits.head_bytes:
            return -1
        return self._refuse_head(position, time_ns, self._searched)

    def _read_head(self, head: bytes, position: int, time_ns: int) -> int:
        times = (self._started_ns or time_ns, time_ns)
        framing = self._owner.message_began(self._side, head, times, self._recognised)
        if framing is None:
            return self._refuse_head(position, time_ns, len(head) if self._recognised else 1)
        self._searched = 0
        self._started_ns = None
        self._recognised = False
        self._frame(framing, time_ns)
        return position + len(head)

    def _refuse_head(self, position: int, time_ns: int, skipped: int) -> int:
        """No head is at ``position``: synchronise from ``skipped`` bytes further on.

        That is inside what was refused, where a head may follow something else. A head that was found by
        synchronising is skipped as a whole, so that nothing is read three times.
        """
        recognised, self._recognised, self._started_ns = self._recognised, False, None
        if recognised:
            self.state = State.RESYNC
        else:
            self._owner.sync_lost(self._side, time_ns, None)
        self._searched = 0
        self._notes.skipped_bytes += skipped
        return position + skipped

    def _frame(self, framing: int, time_ns: int) -> None:
        """The body of the message that began is framed in this way."""
        self.trailers = NO_FIELDS
        if self.doubtful and framing:
            self.doubtful, self._doubted = False, framing
            self.state = State.DOUBT
        elif framing == 0:
            self._end_message(time_ns)
        elif framing > 0:
            self.state, self._remaining = State.LENGTH, framing
        elif framing == BodyFraming.UNKNOWN:
            self._owner.sync_lost(self._side, time_ns, None)
        else:
            self.state = _STATE_OF_FRAMING[BodyFraming(framing)]

    def _doubt(self, source: bytes | bytearray, position: int, time_ns: int) -> int:
        """Whether there is a body where none may have been sent: not if another message begins here."""
        begins = (heads.begins_request, heads.begins_response)[self._side](source, position)
        if begins is None:
            return -1
        if begins:
            self._end_message(time_ns)
        else:
            self._frame(self._doubted, time_ns)
        return position

    def doubt_body(self) -> None:
        """The body may not be sent, if none of it has come: its request was answered before."""
        if self.state in (State.LENGTH, State.CHUNK_SIZE) and not (self.body.wire_bytes or self._rest):
            self._doubted = self._remaining if self.state is State.LENGTH else BodyFraming.CHUNKED
            self.state = State.DOUBT

    def resolve_doubt(self, time_ns: int) -> None:
        """The client has gone on: had there been a body, it would have waited for its beginning."""
        if self.state is State.DOUBT and not self._rest:
            self._end_message(time_ns)

    def _end_message(self, time_ns: int) -> None:
        self.state = State.HEAD
        body, self.body = self.body, BodyBuilder(0)  # which an idle connection is not to hold
        body.complete = True
        self._owner.message_ended(self._side, time_ns)

    def _length(self, source: bytes | bytearray, position: int, time_ns: int) -> int:
        end = min(len(source), position + self._remaining)
        self.body.add(source[position:end], time_ns)
        self._remaining -= end - position
        if not self._remaining:
            self._end_message(time_ns)
        return end

    def _until_close(self, source: bytes | bytearray, position: int, time_ns: int) -> int:
        self.body.add(source[position:], time_ns)
        return len(source)

    def _chunk_size(self, source: bytes | bytearray, position: int, time_ns: int) -> int:
        end = source.find(b"\n", position + self._searched) + 1
        if not end and len(source) - position <= MAX_CHUNK_LINE_BYTES:
            self._searched = len(source) - position
            return -1
        size = _CHUNK_SIZE.fullmatch(source, position, end) if end else None
        if size is None:
            return self._malformed(source, position, time_ns)
        self._searched = 0
        self.body.wire_bytes += end - position
        self._remaining = int(size[1], 16)
        self.state = State.CHUNK_DATA if self._remaining else State.TRAILERS
        if not self._remaining:
            self.body.complete, self._last_chunk_ns = True, time_ns
        return end

    def _chunk_data(self, source: bytes | bytearray, position: int, time_ns: int) -> int:
        end = min(len(source), position + self._remaining)
        self.body.add(source[position:end], time_ns)
        self._remaining -= end - position
        if not self._remaining:
            self.state = State.CHUNK_END
        return end

    def _chunk_end(self, source: bytes | bytearray, position: int, time_ns: int) -> int:
        ending = bytes(source[position : position + 2])
        size = 2 if ending == b"\r\n" else 1 if ending[:1] == b"\n" else 0
        if ending == b"\r":
            return -1
        if not size:
            return self._malformed(source, position, time_ns)
        self.body.wire_bytes += size
        self.state = State.CHUNK_SIZE
        return position + size

    def _trailers(self, source: bytes | bytearray, position: int, time_ns: int) -> int:
        start = bytes(source[position : position + 2])
        if start == b"\r":
            return -1
        if start == b"\r\n" or start[:1] == b"\n":
            end = position + (2 if start == b"\r\n" else 1)
        else:
            found = heads.HEAD_END.search(source, position + max(self._searched - 2, 0))
            if found is None:
                self._searched = len(source) - position
                if self._searched <= self._limits.head_bytes:
                    return -1
                return self._malformed(source, position, time_ns)
            end, self._searched = found.end(), 0
            self.trailers = heads.parse_fields(bytes(source[position:end])) or Fields()
        self.body.wire_bytes += end - position
        self._end_message(time_ns)
        return end

    def _resync(self, source: bytes | bytearray, position: int, time_ns: int) -> int:
        newline = source.rfind(b"\n", position + self._searched)
        if newline < 0:
            self._searched = len(source) - position
            if self._searched < 2 * MAX_START_LINE_BYTES:
                return -1
            skipped = self._searched - MAX_START_LINE_BYTES
            self._searched = MAX_START_LINE_BYTES
            self._notes.skipped_bytes += skipped
            return position + skipped
        self._searched = 0
        found = None
        if self._owner.turn(self._side, synchronising=True) is Turn.GO:
            found = _START[self._side].search(source, position, newline + 1)
        if found is not None:
            self.state, self._recognised, self._started_ns = State.HEAD, True, time_ns
            self._notes.resynchronised += 1
        end = found.start() if found is not None else newline + 1
        self._notes.skipped_bytes += end - position
        return end

    def _switched(self, source: bytes | bytearray, position: int, time_ns: int) -> int:
        self._owner.switched_data(self._side, time_ns, bytes(source[position:]))
        return len(source)

    def _skip(self, source: bytes | bytearray, position: int, time_ns: int) -> int:
        self._notes.skipped_bytes += len(source) - position
        return len(source)

    # Losses.

    def _gap_in_body(self, time_ns: int, length: int, reason: str) -> None:
        inside = min(length, self._remaining)
        self.body.lose(inside, reason)
        self._remaining -= inside
        if self._remaining:
            return
        if self.state is State.CHUNK_DATA:
            self.state = State.CHUNK_END
            return
        self._end_message(time_ns)
        if length > inside:
            self.gap(time_ns, length - inside, reason, exact=True)

    def _malformed(self, source: bytes | bytearray, position: int, time_ns: int) -> int:
        self._lose_sync(time_ns, None, keep=True)
        return position

    def _lose_sync(self, time_ns: int, lost: Lost | None, keep: bool = False) -> None:
        self._searched, self._recognised, self._started_ns = 0, False, None
        self.body = BodyBuilder(0)
        if not keep:
            self._notes.skipped_bytes += len(self._rest)
            self._rest.clear()
        if self.state is not State.SKIP:
            self._owner.sync_lost(self._side, time_ns, lost)


_STATE_OF_FRAMING = {
    BodyFraming.CHUNKED: State.CHUNK_SIZE,
    BodyFraming.UNTIL_CLOSE: State.UNTIL_CLOSE,
    BodyFraming.SWITCHED: State.SWITCHED,
}

_STEPS = (
    MessageReader._head,
    MessageReader._length,
    MessageReader._until_close,
    MessageReader._chunk_size,
    MessageReader._chunk_data,
    MessageReader._chunk_end,
    MessageReader._trailers,
    MessageReader._resync,
    MessageReader._switched,
    MessageReader._skip,
    MessageReader._doubt,
)
"""Indexed by State."""
