"""TLS that a process passes on between two others, as proxies do: nothing that it could read.

A ClientHello has 32 random bytes, its own in the world (RFC 8446 §4.1.2). A process that received it on one
connection and sent it on another has no part in what follows on them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from capture.views import View


class Relays:
    """The connections with a ClientHello, by process and random."""

    def __init__(self) -> None:
        self._hellos: dict[tuple[int, bytes], list[View]] = {}

    def note(self, view: View) -> None:
        """More is known of a connection's handshake: mark it, if its process has the same one the other way."""
        if not view.tls.random or view.relayed:
            return
        same = self._hellos.setdefault((view.announced.pid, view.tls.random), [])
        if view not in same:
            same.append(view)
        if len({end.tls.client for end in same}) > 1:
            for end in same:
                end.relayed = True

    def forget(self, view: View) -> None:
        """The connection has ended."""
        self._hellos.pop((view.announced.pid, view.tls.random), None)
