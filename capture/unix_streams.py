"""Streams of AF_UNIX as the packets of a TCP connection: addresses that no other connection has.

A connection's name is the inode of its client's socket, which the kernel never gives to two that are open. The
client's address and port are made of it, in a part of 127.0.0.0/8 that nobody uses; the server's are 127.0.0.1 and
the port of what is spoken, so that Wireshark dissects it. The path is what tells where it went.
"""

from __future__ import annotations

# 127.84.0.0/15 and ports from 32768 on: 32 bits.
_CLIENTS = 127 << 24 | 84 << 16
_PORT_BITS = 15
# Until it is known what is spoken, which is the same at both ends only then.
SERVER = bytes([127, 0, 0, 1]), 0
# RFC 9110 §4.2; for all else the discard port (RFC 863), which nothing is dissected by.
_PORTS = {"HTTP": 80, "TLS": 443}
_OTHER_PORT = 9


def client_address(name: int) -> tuple[bytes, int]:
    """The address and port of a connection's client."""
    address = _CLIENTS + (name >> _PORT_BITS)
    return address.to_bytes(4, "big"), 1 << _PORT_BITS | name & ((1 << _PORT_BITS) - 1)


def server_port(protocol: str) -> int:
    """By the name of what is spoken (capture.events.Protocol)."""
    return _PORTS.get(protocol, _OTHER_PORT)


def path_text(raw: bytes) -> str:
    """A path, or the name of an abstract socket behind an @ (unix(7)), as ss(8) writes it."""
    if raw[:1] == b"\0":
        raw = b"@" + raw[1:]
    return raw.rstrip(b"\0").decode("utf-8", "backslashreplace")
