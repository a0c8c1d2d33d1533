"""One HTTP/2 stream while it comes in: an exchange, by its frames (RFC 9113 §8.1)."""

from __future__ import annotations

from dataclasses import replace
from itertools import zip_longest
from typing import TYPE_CHECKING

from capture.streams import Side
from exporters.http.bodies import BodyBuilder
from exporters.http.heads import parse_content_length
from exporters.http.hpack import UNKNOWN
from exporters.http.layers import MAX_INTERIM
from exporters.http.losses import add_loss
from exporters.http.messages import (
    NO_BODY,
    NO_FIELDS,
    Body,
    Connection,
    Exchange,
    FieldPair,
    Fields,
    Lost,
    Outcome,
    Request,
    Response,
)
from exporters.http.sse import announces_events

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from exporters.http.h2_frames import Frame
    from exporters.http.held import HeldItems
    from exporters.http.layers import Layer

VERSION = "HTTP/2"

_NO_BODY_STATUS = frozenset((204, 304))

# Chromium's names, by what it sends for them: RFC 9218's urgency, and the weights of RFC 7540 §5.3.
_URGENCIES = ("VeryHigh", "High", "Medium", "Low", "VeryLow")
_WEIGHTS = ((238, "VeryHigh"), (202, "High"), (165, "Medium"), (129, "Low"), (0, "VeryLow"))


MAX_REASONS = 8
"""Of losses that are told apart: as many as the ledger has. A file that was made up may say anything."""

MAX_NOTES = 10
"""Of one stream: they are for people."""


class Half:
    """What one side sends on a stream: a head, a body, trailers."""

    __slots__ = (
        "body", "doubts", "ended", "ended_ns", "fields", "head_bytes", "pseudo", "started_ns",
        "trailer_bytes", "trailers", "unknown", "unsettled",
    )  # fmt: skip

    def __init__(self) -> None:
        self.fields: Fields | None = None
        self.pseudo: dict[bytes, bytes] = {}
        self.trailers = NO_FIELDS
        self.trailer_bytes = 0
        self.head_bytes = 0
        self.body: BodyBuilder | None = None
        self.started_ns: int | None = None
        self.ended_ns = 0
        self.ended = False
        self.unknown = 0  # fields of which something is not known
        self.doubts: list[Lost] = []  # losses that may have hit this stream
        self.unsettled: tuple[Lost, ...] = ()  # those of which nothing told in the end

    @property
    def seen(self) -> bool:
        """Anything of it came in."""
        return self.started_ns is not None

    def touch(self, time_ns: int) -> None:
        """Something came in."""
        if self.started_ns is None:
            self.started_ns = time_ns
        self.ended_ns = time_ns

    def take_head(self, pairs: list[FieldPair], unknown: int) -> None:
        """The head, whose pseudo-fields are shown among the fields, and known by name."""
        self.fields = Fields(tuple(pairs))
        self.pseudo = {name: value for name, value in pairs if name[:1] == b":" and value is not UNKNOWN}
        self.unknown += unknown

    def body_to_fill(self, limit: int) -> BodyBuilder:
        """The body, from its first byte on."""
        if self.body is None:
            self.body = BodyBuilder(limit, self.fields is not None and announces_events(self.fields))
        return self.body

    @property
    def status(self) -> int | None:
        """The status code, three digits (RFC 9110 §15); None where there is none."""
        status = self.pseudo.get(b":status", b"")
        return int(status) if len(status) == 3 and status.isdigit() else None

    @property
    def missing(self) -> int | None:
        """How much less there is than Content-Length says; None where it says nothing."""
        length = self.fields.get(b"content-length") if self.fields is not None else None
        expected = parse_content_length(length) if length is not None else None
        if expected is None:
            return None
        return expected - (self.body.size if self.body is not None else 0)

    def doubt(self, most: int, reason: str) -> None:
        """Up to ``most`` bytes may have been lost here."""
        add_loss(self.doubts, Lost(len(self.body.data) if self.body is not None else 0, most, reason))

    def settle_doubts(self) -> tuple[str, ...]:
        """What became of losses that may have hit the stream: a hole in the body, nothing, or a note."""
        doubts, self.doubts = self.doubts, []
        missing = self.missing
        if not doubts or missing == 0:
            return ()
        if missing is not None and missing > 0 and self.body is not None and len(doubts) == 1:
            self.body.note_loss(Lost(doubts[0].offset, missing, doubts[0].reason))
            return ()
        self.unsettled = tuple(doubts)
        total = sum(doubt.length for doubt in doubts)
        reasons = ", ".join(sorted({doubt.reason for doubt in doubts}))
        return (f"up to {total} bytes of this stream may be missing ({reasons})",)


class DirectionLosses:
    """What one direction has lost over the ends of frames: any stream that is open may have been hit.

    A stream is told of it when it is looked at again, so that many losses on a connection of many streams cost
    the sum of both, not their product. ``totals`` are the losses so far and their bytes, by the reasons' numbers.
    """

    __slots__ = ("reasons", "time_ns", "totals")

    def __init__(self) -> None:
        self.reasons: list[str] = []
        self.totals: tuple[tuple[int, int], ...] = ()
        self.time_ns = 0

    def add(self, time_ns: int, most: int, reason: str) -> None:
        """Up to ``most`` bytes were lost."""
        self.time_ns = time_ns
        if reason not in self.reasons:
            if len(self.reasons) < MAX_REASONS:
                self.reasons.append(reason)
                self.totals = (*self.totals, (0, 0))
            reason = self.reasons[-1]
        index = self.reasons.index(reason)
        count, length = self.totals[index]
        self.totals = (*self.totals[:index], (count + 1, length + most), *self.totals[index + 1 :])

    def since(self, told: tuple[tuple[int, int], ...]) -> Iterator[tuple[int, str]]:
        """What has been lost since the totals were ``told``, by reason."""
        for reason, now, before in zip_longest(self.reasons, self.totals, told, fillvalue=(0, 0)):
            if now[0] > before[0]:
                yield now[1] - before[1], str(reason)


class StreamExchange:
    """A stream: the two halves and what is known of it as a whole. ``told`` are the losses that it knows of."""

    __slots__ = (
        "adopted", "held", "held_enough", "inner", "interim", "interim_left_out", "lost", "notes", "number",
        "outcome", "priority", "pushed", "request", "response", "stream_id", "told", "tunnels",
    )  # fmt: skip

    def __init__(self, stream_id: int, number: int, losses: Iterable[DirectionLosses]) -> None:
        self.stream_id = stream_id
        self.number = number
        self.told = [each.totals for each in losses]
        self.request = Half()
        self.response = Half()
        self.interim: list[Response] = []
        self.interim_left_out = 0
        self.lost: list[Lost] = []
        self.notes: list[str] = []
        self.outcome = Outcome.COMPLETE
        self.priority: str | None = None
        self.pushed = False
        self.tunnels = False  # CONNECT: what the client sends depends on the answer
        self.held: HeldItems | None = None
        self.held_enough = False
        self.adopted: Request | None = None  # an HTTP/1 request that was upgraded
        self.inner: Layer | None = None

    def half(self, side: Side) -> Half:
        """What ``side`` sends."""
        return self.request if side is Side.CLIENT else self.response

    @property
    def last_ns(self) -> int:
        """When something of it came in last."""
        return max(self.request.ended_ns, self.response.ended_ns)

    @property
    def ended(self) -> bool:
        """Both sides are through."""
        return self.request.ended and self.response.ended

    def take_fields(self, side: Side, frame: Frame, pairs: list[FieldPair], unknown: int, size: int) -> None:
        """A field block: a head, an interim head, or trailers."""
        half = self.half(side)
        half.touch(frame.started_ns)
        pseudo = any(name[:1] == b":" for name, _ in pairs)
        if half.fields is None and (pseudo or half.body is None):
            half.take_head(pairs, unknown)
            half.head_bytes += size
            if side is Side.CLIENT:
                self._begin_request(half)
        elif side is Side.SERVER and pseudo:  # one that turns out to have been an interim response
            self._add_interim(half, half.started_ns or frame.started_ns)
            half.take_head(pairs, unknown)
            half.head_bytes = size
            half.started_ns = frame.started_ns
        else:
            half.trailers = Fields(tuple(pairs))
            half.trailer_bytes += size
            half.unknown += unknown
        status = half.pseudo.get(b":status", b"")
        if side is Side.SERVER and half.fields is not None and len(status) == 3 and status[:1] == b"1":
            self._add_interim(half, frame.started_ns)
            self.response = Half()

    def lose_fields(self, side: Side, frame: Frame, lost: Lost | None) -> None:
        """A field block that was lost, in part or as a whole, or (None) is malformed."""
        half = self.half(side)
        half.touch(frame.started_ns)
        if lost is not None:
            add_loss(self.lost, lost)
        what = "trailers" if half.fields is not None else "header section"
        whose = "request" if side is Side.CLIENT else "response"
        self.note(f"the {what} of the {whose} {'is malformed' if lost is None else 'was lost'}")

    def note(self, text: str) -> None:
        """Something that is to be told of the stream."""
        if text not in self.notes and len(self.notes) < MAX_NOTES:
            self.notes.append(text)

    def _begin_request(self, half: Half) -> None:
        method = half.pseudo.get(b":method")
        self.tunnels = method == b"CONNECT"
        urgency = half.fields.get(b"priority") if half.fields is not None else None
        if urgency is not None:
            for member in urgency.split(b","):
                name, _, value = member.strip().partition(b"=")
                if name == b"u" and value[:1].isdigit():
                    self.priority = _URGENCIES[min(int(value[:1]), len(_URGENCIES) - 1)]

    def take_weight(self, weight: int) -> None:
        """The weight (1 to 256) of the deprecated priority signal."""
        if self.priority is None:
            self.priority = next(name for least, name in _WEIGHTS if weight >= least)

    def _add_interim(self, half: Half, started_ns: int) -> None:
        if len(self.interim) >= MAX_INTERIM:
            self.interim_left_out += 1
            return
        fields = half.fields or NO_FIELDS
        self.interim.append(
            Response(half.status, b"", VERSION, fields, started_ns, started_ns, half.head_bytes)
        )

    def build(self, connection: Connection, ended_ns: int) -> Exchange:
        """The exchange as it is now."""
        notes = (*self.notes, *self.request.settle_doubts(), *self.response.settle_doubts())
        notes += tuple(self._wrong_lengths())
        if self.interim_left_out:
            notes += (f"{self.interim_left_out} more interim responses are not shown",)
        return Exchange(
            connection,
            self.number,
            self.adopted or (self._build_request() if self.request.seen else None),
            self._build_response() if self.response.seen else None,
            self.outcome,
            ended_ns,
            tuple(self.interim),
            tuple(self.lost),
            self.stream_id,
            self.pushed,
            self.priority,
            None,
            notes,
        )

    def _wrong_lengths(self) -> Iterator[str]:
        """Where Content-Length is not that of the content: most clients refuse such a message (RFC 9113 §8.1.1)."""
        asked = self.request.pseudo.get(b":method")
        empty = asked in (b"HEAD", None) or self.response.status in _NO_BODY_STATUS
        halves = (
            [("request", self.request)] if empty else [("request", self.request), ("response", self.response)]
        )
        for name, half in halves:
            missing = half.missing
            if half.ended and missing and not half.unsettled and self.inner is None:
                size = half.body.size if half.body is not None else 0
                yield f"the {name}'s Content-Length is {size + missing}, and its content has {size} bytes"

    def _build_request(self) -> Request:
        half = self.request
        pseudo = half.pseudo
        fields = half.fields or NO_FIELDS
        method, target = pseudo.get(b":method"), pseudo.get(b":path")
        if method == b"CONNECT" and b":protocol" not in pseudo:
            target = pseudo.get(b":authority")
        started_ns = half.started_ns or 0
        return Request(
            method,
            target,
            VERSION,
            fields,
            started_ns,
            max(half.ended_ns, started_ns),
            half.head_bytes or None,
            _build_body(half),
            half.trailers,
            pseudo.get(b":scheme"),
            pseudo.get(b":authority"),
            pseudo.get(b":protocol"),
        )

    def _build_response(self) -> Response:
        half = self.response
        started_ns = half.started_ns or 0
        return Response(
            half.status,
            b"",
            VERSION,
            half.fields or NO_FIELDS,
            started_ns,
            max(half.ended_ns, started_ns),
            half.head_bytes or None,
            _build_body(half),
            half.trailers,
        )


def _build_body(half: Half) -> Body:
    if half.body is None:
        body = NO_BODY if half.ended else _UNSEEN_BODY
    else:
        half.body.complete = half.ended
        body = half.body.build()
        if half.trailer_bytes and body.wire_bytes:  # as of HTTP/1, where they are the end of a chunked body
            body = replace(body, wire_bytes=body.wire_bytes + half.trailer_bytes)
    return replace(body, doubts=half.unsettled) if half.unsettled else body


_UNSEEN_BODY = Body(complete=False)
