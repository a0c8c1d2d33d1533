"""Which host name a process asked for before it connected: look-ups by process and address.

A look-up's time is told once, to the first connection that follows it: the others did not wait for it.

Sans-IO, as capture.connections, which asks.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from ipaddress import ip_address
from typing import TYPE_CHECKING

from capture.streams import Lookup

if TYPE_CHECKING:
    from capture.events import HostResolved

# Addresses of all processes; a browser asks for some hundred names, and connects at once.
MAX_REMEMBERED = 16384
# Look-ups of one address by one process that are remembered: as many threads may ask before the first connects.
MAX_BY_ADDRESS = 16

_V4_MAPPED = bytes(10) + b"\xff\xff"


@dataclass(slots=True)
class _Known:
    lookup: Lookup
    told: bool = False


class Lookups:
    """What the processes of this machine have looked up."""

    def __init__(self) -> None:
        # (pid, address) → its look-ups in order of time; what was looked up longest ago first.
        self._found: OrderedDict[tuple[int, bytes], list[_Known]] = OrderedDict()

    def resolved(self, event: HostResolved) -> None:
        """A process was given addresses for a name; names that are addresses themselves say nothing."""
        if _is_address(event.name):
            return
        known = _Known(Lookup(event.name, event.started, event.time))
        for address in event.addresses:
            key = (event.pid, address)
            found = self._found.setdefault(key, [])
            found.append(known)
            del found[:-MAX_BY_ADDRESS]
            self._found.move_to_end(key)
        while len(self._found) > MAX_REMEMBERED:
            self._found.popitem(last=False)

    def behind(self, pid: int, address: bytes, time: int) -> Lookup | None:
        """How ``pid`` came by the address (4 or 16 bytes) that it connected to at ``time``; None if it did not ask.

        Times are None where it had the address already: an earlier connection waited for it.
        """
        key = (pid, address if len(address) == 16 else _V4_MAPPED + address)
        for known in reversed(self._found.get(key, ())):
            ended = known.lookup.ended_ns
            if ended is not None and ended <= time:
                told, known.told = known.told, True
                return Lookup(known.lookup.name) if told else known.lookup
        return None


def _is_address(name: str) -> bool:
    try:
        ip_address(name.partition("%")[0])
    except ValueError:
        return False
    return True
