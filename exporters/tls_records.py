"""One direction of a TLS connection with a NULL cipher as plaintext (RFC 5246 §6.2, RFC 4346 §6.2).

A record's body is plaintext and a MAC, so that its bytes can be handed on as they come. What is lost inside
a record is counted to the byte; where record headers themselves are lost, the count is the closest that
records of the usual size allow, and reading goes on at the next header that can be recognised.

Bytes in, fragments out: this module knows no time, no side and no stream.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from exporters.tls_framing import (
    CONTENT_APPLICATION_DATA,
    CONTENT_CHANGE_CIPHER_SPEC,
    CONTENT_HANDSHAKE,
    MAC,
    MAC_BYTES,
    MAX_RECORD_BYTES,
    RECORD_HEADER_BYTES,
)

NULL_SUITES: Final = {0x0001: 16, 0x0002: 20, 0x003B: 32}
"""TLS_RSA_WITH_NULL_MD5, _SHA and _SHA256, with the bytes of their MAC (RFC 5246 §A.5)."""

_MAX_BODY_BYTES: Final = MAX_RECORD_BYTES + 2048
"""RFC 5246 §6.2.3: what a cipher may add to a record."""
_CONTENT_TYPES: Final = range(CONTENT_CHANGE_CIPHER_SPEC, CONTENT_APPLICATION_DATA + 1)
_HELLO_TYPES: Final = (1, 2)
_MAJOR_VERSION: Final = 3
_MAX_MINOR_VERSION: Final = 4
_HEADER_START: Final = re.compile(rb"[\x14-\x17]\x03[\x00-\x04]")
_SERVER_HELLO_SESSION_ID: Final = RECORD_HEADER_BYTES + 4 + 2 + 32
"""Where a ServerHello's session identifier begins: after message header, version and random."""
SERVER_HELLO_BYTES: Final = _SERVER_HELLO_SESSION_ID + 1 + 32 + 2
"""As far as ``server_cipher_suite`` reads."""


class Fragment(NamedTuple):
    """Plaintext of a record, or of a piece of one; of application data, or of the protocol's own."""

    application: bool
    data: bytes


def is_record_header(data: bytes | bytearray, at: int = 0) -> bool:
    """Whether the five bytes at ``at`` can be a record's header."""
    return (
        len(data) >= at + RECORD_HEADER_BYTES
        and data[at] in _CONTENT_TYPES
        and data[at + 1] == _MAJOR_VERSION
        and data[at + 2] <= _MAX_MINOR_VERSION
        and data[at + 3] << 8 | data[at + 4] <= _MAX_BODY_BYTES
    )


def starts_tls(data: bytes) -> bool | None:
    """Whether a direction's first bytes are a hello or application data; None while they are too few."""
    if len(data) <= RECORD_HEADER_BYTES:
        expected = data[:1] in (b"", b"\x16", b"\x17") and data[1:2] in (b"", b"\x03")
        return None if expected and data[2:3] <= b"\x04" else False
    if not is_record_header(data):
        return False
    if data[0] == CONTENT_HANDSHAKE:
        return data[RECORD_HEADER_BYTES] in _HELLO_TYPES
    return data[0] == CONTENT_APPLICATION_DATA


def has_null_mac(data: bytes) -> bool:
    """Whether ``data`` begins with a whole record that ends in the zero MAC of our own framing.

    A part of one of our captures, without the handshake, is known by it: ciphertext ends so once in 2^128.
    """
    if not is_record_header(data):
        return False
    end = RECORD_HEADER_BYTES + (data[3] << 8 | data[4])
    return len(data) >= end >= RECORD_HEADER_BYTES + MAC_BYTES and data[end - MAC_BYTES : end] == MAC


def server_cipher_suite(data: bytes | bytearray) -> int | None:
    """The suite that a server chose, from its first bytes; None if they are no ServerHello in one record."""
    at = _SERVER_HELLO_SESSION_ID
    if not is_record_header(data) or data[0] != CONTENT_HANDSHAKE or len(data) <= at:
        return None
    at += 1 + data[at]
    if data[RECORD_HEADER_BYTES] != 2 or len(data) < at + 2:
        return None
    return int.from_bytes(data[at : at + 2], "big")


class RecordReader:
    """Takes a direction's bytes and gaps in order."""

    __slots__ = ("_application", "_body_left", "_header", "_lost", "_mac_bytes", "_text_left")

    def __init__(self, mac_bytes: int) -> None:
        self._mac_bytes = mac_bytes
        self._header = b""
        self._application = False
        self._body_left = 0
        self._text_left = 0
        self._lost = False
        """Whether the next header has to be looked for."""

    def whole_record(self, data: bytes) -> bytes | None:
        """The plaintext, where ``data`` is just one record of application data: most often."""
        if self._body_left or self._header or self._lost or len(data) < RECORD_HEADER_BYTES:
            return None
        if data[0] != CONTENT_APPLICATION_DATA or data[3] << 8 | data[4] != len(data) - RECORD_HEADER_BYTES:
            return None
        return data[RECORD_HEADER_BYTES : -self._mac_bytes]

    def feed(self, data: bytes) -> tuple[list[Fragment], int]:
        """The fragments in ``data``, and how many plaintext bytes before them could not be recognised."""
        unknown = 0
        at = 0
        if self._lost:
            at = unknown = self._next_header(data)
        fragments: list[Fragment] = []
        while at < len(data):
            if not self._body_left:
                at = self._read_header(data, at)
                continue
            body = min(self._body_left, len(data) - at)
            text = min(self._text_left, body)
            if text:
                fragments.append(Fragment(self._application, data[at : at + text]))
            self._body_left -= body
            self._text_left -= text
            at += body
        return fragments, unknown

    def gap(self, length: int) -> int:
        """Takes ``length`` bytes that are lost; how many of application plaintext were among them."""
        lost = 0
        inside = min(length, self._body_left)
        if inside:
            text = min(self._text_left, inside)
            lost = text if self._application else 0
            self._body_left -= inside
            self._text_left -= text
        outside = length - inside
        if outside:
            overhead = RECORD_HEADER_BYTES + self._mac_bytes
            records = -(-outside // (MAX_RECORD_BYTES + overhead))
            lost += max(0, outside + len(self._header) - records * overhead)
            self._header = b""
            self._lost = True
        return lost

    def _read_header(self, data: bytes, at: int) -> int:
        taken = min(RECORD_HEADER_BYTES - len(self._header), len(data) - at)
        self._header += data[at : at + taken]
        if len(self._header) == RECORD_HEADER_BYTES:
            self._body_left = self._header[3] << 8 | self._header[4]
            self._application = self._header[0] == CONTENT_APPLICATION_DATA
            self._text_left = (
                max(0, self._body_left - self._mac_bytes) if self._application else self._body_left
            )
            self._header = b""
        return at + taken

    def _next_header(self, data: bytes) -> int:
        """Where in ``data`` a record begins that ends with it or another, or ``data``'s end."""
        for match in _HEADER_START.finditer(data):
            at = match.start()
            if is_record_header(data, at):
                end = at + RECORD_HEADER_BYTES + (data[at + 3] << 8 | data[at + 4])
                if end >= len(data) or is_record_header(data, end):
                    self._lost = False
                    return at
        return len(data)
