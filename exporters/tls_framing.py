"""A TLS 1.2 record layer with a NULL cipher around a stream's plaintext (RFC 5246).

Wireshark dissects such a stream as the https it was, on its true port, with SNI and ALPN and without
keys. The cipher suite is TLS_RSA_WITH_NULL_MD5 (0x0001): no encryption, a MAC of 16 bytes, here zero,
which no dissector checks. Suites 0x0000 and the ECDHE-NULL ones are not dissected.

Bytes in, bytes out: this module knows no stream, no packet and no time.
"""

from __future__ import annotations

import struct
from typing import Final

MAX_RECORD_BYTES: Final = 16384
"""A record's plaintext is 2^14 bytes at most (RFC 5246 §6.2.1)."""
RECORD_HEADER_BYTES: Final = 5
MAC_BYTES: Final = 16
RECORD_OVERHEAD_BYTES: Final = RECORD_HEADER_BYTES + MAC_BYTES

MAC: Final = bytes(MAC_BYTES)
CIPHER_RSA_NULL_MD5: Final = 0x0001
VERSION_TLS_1_2: Final = 0x0303

CONTENT_CHANGE_CIPHER_SPEC: Final = 20
CONTENT_HANDSHAKE: Final = 22
CONTENT_APPLICATION_DATA: Final = 23

HANDSHAKE_CLIENT_HELLO: Final = 1
HANDSHAKE_SERVER_HELLO: Final = 2
HANDSHAKE_SERVER_HELLO_DONE: Final = 14
HANDSHAKE_CLIENT_KEY_EXCHANGE: Final = 16
HANDSHAKE_FINISHED: Final = 20

EXTENSION_SERVER_NAME: Final = 0
EXTENSION_ALPN: Final = 16

SYNTHETIC_RANDOM: Final = b"plaintap: synthetic, NULL cipher"
"""The hellos' 32 random bytes: there is no key to derive, so they say what they are."""

_MAX_NAME_BYTES: Final = 255
"""Host names (RFC 1035 §2.3.4) and ALPN identifiers (RFC 7301 §3.1) end here; longer is no such name."""

_RECORD_HEADER: Final = struct.Struct(">BHH")


def _record(content_type: int, body: bytes) -> bytes:
    return _RECORD_HEADER.pack(content_type, VERSION_TLS_1_2, len(body)) + body


def _handshake(message_type: int, body: bytes) -> bytes:
    return bytes([message_type]) + len(body).to_bytes(3, "big") + body


def _extension(number: int, body: bytes) -> bytes:
    return struct.pack(">HH", number, len(body)) + body


def _name(text: str | None) -> bytes | None:
    name = text.encode("utf-8", "surrogateescape") if text else b""
    return name if 0 < len(name) <= _MAX_NAME_BYTES else None


def _server_name_extension(server_name: str | None) -> bytes:
    """RFC 6066 §3: a list of one host_name."""
    name = _name(server_name)
    if name is None:
        return b""
    return _extension(EXTENSION_SERVER_NAME, struct.pack(">HBH", len(name) + 3, 0, len(name)) + name)


def _alpn_extension(alpn: str | None) -> bytes:
    """RFC 7301 §3.1: a list of one protocol, the one that was agreed on."""
    name = _name(alpn)
    if name is None:
        return b""
    return _extension(EXTENSION_ALPN, struct.pack(">HB", len(name) + 1, len(name)) + name)


def _extensions(*extensions: bytes) -> bytes:
    body = b"".join(extensions)
    return struct.pack(">H", len(body)) + body if body else b""


def client_hello(server_name: str | None, alpn: str | None) -> bytes:
    """The ClientHello record (RFC 5246 §7.4.1.2), with the suite that will be used as its only offer."""
    return _record(
        CONTENT_HANDSHAKE,
        _handshake(
            HANDSHAKE_CLIENT_HELLO,
            struct.pack(">H32sBHHBB", VERSION_TLS_1_2, SYNTHETIC_RANDOM, 0, 2, CIPHER_RSA_NULL_MD5, 1, 0)
            + _extensions(_server_name_extension(server_name), _alpn_extension(alpn)),
        ),
    )


def server_hello(alpn: str | None) -> bytes:
    """The ServerHello and ServerHelloDone records; without the latter Wireshark notes a resumed session."""
    hello = _handshake(
        HANDSHAKE_SERVER_HELLO,
        struct.pack(">H32sBHB", VERSION_TLS_1_2, SYNTHETIC_RANDOM, 0, CIPHER_RSA_NULL_MD5, 0)
        + _extensions(_alpn_extension(alpn)),
    )
    return _record(CONTENT_HANDSHAKE, hello) + _record(
        CONTENT_HANDSHAKE, _handshake(HANDSHAKE_SERVER_HELLO_DONE, b"")
    )


def server_finished() -> bytes:
    """ChangeCipherSpec and Finished, the last records of a handshake (RFC 5246 §7.3)."""
    finished = _handshake(HANDSHAKE_FINISHED, bytes(12))
    return _record(CONTENT_CHANGE_CIPHER_SPEC, b"\x01") + _record(CONTENT_HANDSHAKE, finished + MAC)


def client_finished() -> bytes:
    """ClientKeyExchange with an empty secret, then as the server."""
    key_exchange = _handshake(HANDSHAKE_CLIENT_KEY_EXCHANGE, b"\x00\x00")
    return _record(CONTENT_HANDSHAKE, key_exchange) + server_finished()


def record_header(length: int) -> bytes:
    """The header of an application data record with ``length`` bytes of plaintext."""
    return _RECORD_HEADER.pack(CONTENT_APPLICATION_DATA, VERSION_TLS_1_2, length + MAC_BYTES)


def application_data(data: bytes) -> bytes:
    """``data`` as application data records of at most ``MAX_RECORD_BYTES`` each."""
    if len(data) <= MAX_RECORD_BYTES:
        return b"".join((record_header(len(data)), data, MAC))
    pieces: list[bytes] = []
    for start in range(0, len(data), MAX_RECORD_BYTES):
        piece = data[start : start + MAX_RECORD_BYTES]
        pieces += (record_header(len(piece)), piece, MAC)
    return b"".join(pieces)
