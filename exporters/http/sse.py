"""Server-sent events (HTML, §9.2): the messages of a text/event-stream body, with their times."""

from __future__ import annotations

import codecs
import contextlib
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from exporters.compression import CorruptStreamError
from exporters.http.content import timed_blocks

if TYPE_CHECKING:
    from collections.abc import Iterable

    from exporters.http.messages import Fields, Response

_LINE_END = re.compile(rb"\r\n|\n|\r")


@dataclass(frozen=True, slots=True)
class ServerSentEvent:
    """A dispatched event. ``event_id`` is the last one that was set, as an EventSource has it."""

    time_ns: int
    name: str
    event_id: str
    data: str


class _Parser:
    """HTML §9.2.6: interpreting an event stream."""

    def __init__(self) -> None:
        self.events: list[ServerSentEvent] = []
        self._rest = bytearray()  # a line of which the end has not come, or what may be a byte order mark
        self._at_start = True
        self._after_cr = False  # an LF that comes next belongs to the line end before it
        self._name = ""
        self._event_id = ""
        self._data: list[str] = []
        self._skipping = False

    def data(self, time_ns: int, block: bytes) -> None:
        """The next bytes. Those that were searched for the end of a line are not searched again."""
        searched = len(self._rest)
        self._rest += block
        position = 0
        if self._at_start:
            if len(self._rest) < len(codecs.BOM_UTF8) and codecs.BOM_UTF8.startswith(self._rest):
                return
            position = len(codecs.BOM_UTF8) if self._rest.startswith(codecs.BOM_UTF8) else 0
            self._at_start, searched = False, position
        elif self._after_cr and block:
            position = searched = 1 if self._rest.startswith(b"\n") else 0
            self._after_cr = False
        for match in _LINE_END.finditer(self._rest, searched):
            self._line(time_ns, bytes(self._rest[position : match.start()]))
            position = match.end()
            self._after_cr = position == len(self._rest) and match[0] == b"\r"
        del self._rest[:position]

    def hole(self) -> None:
        """Bytes were lost: the event around them is, too, and all up to the next empty line."""
        self._rest.clear()
        self._at_start = self._after_cr = False
        self._data.clear()
        self._name = ""
        self._skipping = True

    def _line(self, time_ns: int, line: bytes) -> None:
        if not line:
            if self._data and not self._skipping:
                event = ServerSentEvent(
                    time_ns, self._name or "message", self._event_id, "\n".join(self._data)
                )
                self.events.append(event)
            self._data.clear()
            self._name, self._skipping = "", False
            return
        if self._skipping:
            return
        name, _, value = line.decode("utf-8", "replace").partition(":")
        value = value.removeprefix(" ")
        if name == "data":
            self._data.append(value)
        elif name == "event":
            self._name = value
        elif name == "id" and "\0" not in value:
            self._event_id = value


def announces_events(fields: Fields) -> bool:
    """Whether a response with these fields is a stream of events."""
    return (fields.get(b"content-type") or b"").lower().startswith(b"text/event-stream")


def is_event_stream(response: Response | None) -> bool:
    """Whether the body is one."""
    return response is not None and announces_events(response.fields)


def events_of(response: Response, limit: int) -> list[ServerSentEvent]:
    """The events of ``response``, whose body decodes to ``limit`` bytes at most; those up to a coding's error."""
    parser = _Parser()
    # What comes before an error is there, and the entry says besides that the body cannot be decoded.
    with contextlib.suppress(CorruptStreamError):
        _feed(parser, timed_blocks(response.body, response.fields, limit))
    return parser.events


def _feed(parser: _Parser, blocks: Iterable[tuple[int, bytes | None]]) -> None:
    for time_ns, block in blocks:
        if block is None:
            parser.hole()
        else:
            parser.data(time_ns, block)
