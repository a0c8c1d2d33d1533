"""TLS that a process passes on between two others, as proxies do: nothing that it could read.

A ClientHello has 32 random bytes, its own in the world (RFC 8446 §4.1.2). A process that received it on one
connection and sent it on another has no part in what follows on them; nor has one that received it inside a TLS
session of its own, or sent it there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from capture.tls_hello import HelloReader

if TYPE_CHECKING:
    from capture.events import BytesMoved, Direction
    from capture.views import View

HELLO_START: Final = b"\x16\x03"
"""What a hello's record begins with (RFC 8446 §5.1): a handshake message's type, and the version's first byte."""

_Key = tuple[int, bytes]


class Relays:
    """The connections with a ClientHello, their own or inside their TLS, by process and random."""

    def __init__(self) -> None:
        self._hellos: dict[_Key, dict[View, Direction | None]] = {}
        self._keys: dict[View, set[_Key]] = {}

    def note(self, view: View) -> None:
        """More is known of a connection's handshake: mark it, if its process has the same one the other way."""
        self._note(view, view.tls.random, view.tls.client)

    def carried(self, view: View, event: BytesMoved) -> None:
        """A piece of plaintext begins with HELLO_START."""
        reader = HelloReader()
        hello = reader.feed(bytes(event.payload))
        if hello and hello.from_client:
            self._note(view, reader.random, event.direction)

    def _note(self, view: View, random: bytes, direction: Direction | None) -> None:
        if not random:
            return
        key = view.announced.pid, random
        same = self._hellos.setdefault(key, {})
        same[view] = direction
        self._keys.setdefault(view, set()).add(key)
        if len(set(same.values())) > 1:
            for end in same:
                end.relayed = True

    def forget(self, view: View) -> None:
        """The connection has ended."""
        for key in self._keys.pop(view, ()):
            self._hellos.pop(key, None)
