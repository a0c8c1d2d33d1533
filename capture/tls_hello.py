"""What a TLS handshake says in the clear: server name, ALPN (RFC 8446 §4, RFC 6066 §3, RFC 7301).

``HelloReader`` takes one direction's bytes as they crossed the socket and answers with the hello that it
carries, as far as it goes. Whatever is malformed or cut is left unknown: this is a description, not a check.
"""

from __future__ import annotations

from dataclasses import dataclass

_HANDSHAKE_RECORD = 22
_CLIENT_HELLO, _SERVER_HELLO = 1, 2
_SERVER_NAME, _ALPN = 0, 16

# In the first record: after its header (5 bytes), the message's (4) and the version.
_RANDOM = slice(11, 43)
# A hello longer than this is not looked at: post-quantum key shares and ECH make one about 2 KiB.
MAX_HELLO_BYTES = 16384


def may_begin_record(begun: bytes) -> bool:
    """Whether these bytes are less than a TLS record's header (RFC 8446 §5.1), and may be one's beginning."""
    return len(begun) < 5 and b"\x14" <= begun[:1] <= b"\x17" and begun[1:2] in (b"", b"\x03")


def may_begin_hello(begun: bytes) -> bool:
    """Whether these bytes, a record's header at least, are of one that carries a hello (RFC 8446 §4.1.2, §4.1.3)."""
    return (
        len(begun) >= 5
        and begun[0] == _HANDSHAKE_RECORD
        and begun[1] == 3
        and begun[2] <= 3
        and begun[5:6] in (b"", b"\1", b"\2")
        and begun[6:7] in (b"", b"\0")
        and begun[9:10] in (b"", b"\3")
    )


@dataclass(frozen=True, slots=True)
class Hello:
    """A ClientHello (``from_client``) or ServerHello. ``alpn`` is what was offered, or the one chosen."""

    from_client: bool
    server_name: str | None
    alpn: tuple[str, ...]


class HelloReader:
    """Collects a direction's first bytes until they are a whole hello, or cannot become one."""

    __slots__ = ("_bytes", "done", "surplus")

    def __init__(self) -> None:
        self._bytes = bytearray()
        self.done = False
        self.surplus = 0  # bytes that came behind the hello's records, with its last ones

    @property
    def random(self) -> bytes:
        """The hello's random value (RFC 8446 §4.1.2), its own in the world; short where the record is cut."""
        return bytes(self._bytes[_RANDOM])

    def feed(self, data: bytes) -> Hello | None:
        """The hello, once; None while it is incomplete, or if there is none."""
        if self.done:
            return None
        self._bytes += data
        message = self._message()
        self.done = self.done or message is not None or len(self._bytes) > MAX_HELLO_BYTES
        if self.done:
            # Connections live long, and are many.
            del self._bytes[_RANDOM.stop :]
        return _parse(message) if message is not None else None

    def _message(self) -> bytes | None:
        """The first handshake message, joined over records (RFC 8446 §5.1)."""
        body, at, raw = b"", 0, self._bytes
        while at + 5 <= len(raw):
            if raw[at] != _HANDSHAKE_RECORD:
                self.done = True
                return None
            length = int.from_bytes(raw[at + 3 : at + 5])
            body += raw[at + 5 : at + 5 + length]
            at += 5 + length
            if len(body) >= 4:
                whole = 4 + int.from_bytes(body[1:4])
                if len(body) >= whole:
                    self.surplus = max(len(raw) - at, 0)
                    return body[:whole]
        return None


def _parse(message: bytes) -> Hello | None:
    kind = message[0]
    if kind not in (_CLIENT_HELLO, _SERVER_HELLO):
        return None
    try:
        extensions = _extensions(message, from_client=kind == _CLIENT_HELLO)
    except IndexError:
        extensions = {}
    return Hello(
        kind == _CLIENT_HELLO, _server_name(extensions.get(_SERVER_NAME)), _alpn(extensions.get(_ALPN))
    )


def _extensions(message: bytes, *, from_client: bool) -> dict[int, bytes]:
    at = 4 + 2 + 32
    at += 1 + message[at]  # session id
    if from_client:
        at += 2 + int.from_bytes(message[at : at + 2])  # cipher suites
        at += 1 + message[at]  # compression methods
    else:
        at += 3
    found: dict[int, bytes] = {}
    at += 2
    while at + 4 <= len(message):
        length = int.from_bytes(message[at + 2 : at + 4])
        found.setdefault(int.from_bytes(message[at : at + 2]), message[at + 4 : at + 4 + length])
        at += 4 + length
    return found


def _server_name(extension: bytes | None) -> str | None:
    if not extension or len(extension) < 5 or extension[2] != 0:
        return None
    name = extension[5 : 5 + int.from_bytes(extension[3:5])]
    return name.decode("ascii", "backslashreplace") or None


def _alpn(extension: bytes | None) -> tuple[str, ...]:
    names, at = [], 2
    while extension and at < len(extension):
        length = extension[at]
        names.append(extension[at + 1 : at + 1 + length].decode("ascii", "backslashreplace"))
        at += 1 + length
    return tuple(name for name in names if name)
