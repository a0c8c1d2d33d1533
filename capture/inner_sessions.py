"""TLS in TLS where something else is in between: which session's records are in which session's plaintext.

A proxy that speaks HTTP/2 carries a tunnel in DATA frames (RFC 9113 §8.5), so that no system call and no BIO tells
over which connection the session inside it goes. Its records do: what a session without a socket has written is
found again as a record of application data (RFC 8446 §5.2) in what another session of the process writes next. A
record's header tells the length of what it protects; that both lengths agree is no chance, but of full records, which
are all of one length.

Sans-IO, and it knows no HTTP: whatever is around the records does not matter.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from capture.events import Direction

if TYPE_CHECKING:
    from collections.abc import Iterator

    from capture.events import BytesMoved

# Lengths that are remembered of a session: its first request may wait for a tunnel whose handshake is not over.
MAX_WRITES = 8
# Sessions of a process that are waited for; of more, the oldest is no more.
MAX_SESSIONS = 256
MAX_RECORD_PLAINTEXT = 16384
_HEADER = b"\x17\x03\x03"
_HEADER_BYTES = 5
# What a record adds to its plaintext: with AEAD ciphers a tag of 16 bytes, in TLS 1.3 and a content type
# (RFC 8446 §5.2), in TLS 1.2 mostly and a nonce of 8 (RFC 5288 §3).
_OVERHEADS = (16, 17, 24)


class InnerSessions:
    """Sessions whose connection is not known, by process, and what they have written."""

    def __init__(self) -> None:
        self.writers: dict[int, dict[int, deque[int]]] = {}

    def wrote(self, event: BytesMoved) -> None:
        """A session without a connection moved plaintext."""
        if event.direction is not Direction.SENT:
            return
        sessions = self.writers.setdefault(event.pid, {})
        if event.session not in sessions and len(sessions) >= MAX_SESSIONS:
            del sessions[next(iter(sessions))]
        sessions.setdefault(event.session, deque(maxlen=MAX_WRITES)).append(event.length)

    def forget(self, session: int) -> None:
        """Its connection is known, or it is gone."""
        for pid, sessions in list(self.writers.items()):
            if sessions.pop(session, None) is not None and not sessions:
                del self.writers[pid]

    def carried_by(self, event: BytesMoved) -> Iterator[int]:
        """The sessions of which there is a record in the plaintext that another one wrote."""
        sessions = self.writers.get(event.pid)
        if sessions is None or event.direction is not Direction.SENT or event.session in sessions:
            return
        data = bytes(event.payload)
        at = data.find(_HEADER)
        while at >= 0 and sessions:
            length = int.from_bytes(data[at + 3 : at + _HEADER_BYTES])
            found = next((session for session, writes in sessions.items() if _protects(length, writes)), None)
            if found is not None:
                yield found
            at = data.find(_HEADER, at + (length + _HEADER_BYTES if found is not None else 1))


def _protects(length: int, writes: deque[int]) -> bool:
    lasts = (written % MAX_RECORD_PLAINTEXT for written in writes)
    return any(last and length - last in _OVERHEADS for last in lasts)
