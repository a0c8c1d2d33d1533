"""What the two ends of a connection on one machine are called, so that they find each other."""

from __future__ import annotations

from ipaddress import ip_address
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from capture.events import ConnectionAnnounced

# An end's address and port, the other's, and the network namespace where that matters.
Address = tuple[bytes, int, bytes, int, int]


def addresses(a: ConnectionAnnounced) -> tuple[Address, Address]:
    """A view's key, and that of its other end. What does not leave its namespace may be there in another one too."""
    netns = a.netns if may_be_local(a) else 0
    return (
        (_unmapped(a.local), a.local_port, _unmapped(a.remote), a.remote_port, netns),
        (_unmapped(a.remote), a.remote_port, _unmapped(a.local), a.local_port, netns),
    )


def _unmapped(address: bytes) -> bytes:
    return address[12:] if len(address) == 16 and address[:12] == bytes(10) + b"\xff\xff" else address


def _is_loopback(address: bytes) -> bool:
    return ip_address(_unmapped(address)).is_loopback


def may_be_local(a: ConnectionAnnounced) -> bool:
    """Whether the other end can be in this namespace: one of them is a loopback address, or both are the same."""
    return _unmapped(a.local) == _unmapped(a.remote) or _is_loopback(a.remote) or _is_loopback(a.local)
