"""HPACK field blocks (RFC 7541), also where the decoder has not seen the connection from its beginning.

A decoder that joins in the middle, or after a loss, does not know its dynamic table. What is inserted from then
on it does know, and an index counts back from the newest entry: so an index that reaches further back than what
was inserted since is an entry that is not known. It becomes UNKNOWN, a placeholder, and is never guessed; the
state heals as the encoder inserts entries again.

Entries are kept for longer than the encoder keeps them (up to MAX_TABLE_BYTES). It cannot refer to what it has
evicted, so that knowing more than it does no harm, and its limit, which a late decoder has not seen, need not be
known.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from exporters.http import huffman

if TYPE_CHECKING:
    from exporters.http.messages import FieldPair

UNKNOWN = b"(not recorded)"
"""Stands for a name or a value that an index refers to, and that was sent before the recording or was lost. The
space is no character of a name, so that no field is really called so."""

MAX_TABLE_BYTES = 1 << 20
"""Of entries that are kept, per direction of a connection. The default limit is 4 KiB, browsers allow 64 KiB."""

MAX_BLOCK_BYTES = 1 << 20
"""Of one decoded field block: a few bytes can stand for an entry of any size."""

ENTRY_OVERHEAD_BYTES = 32
"""RFC 7541 §4.1."""

_STATIC = """
:authority|
:method|GET
:method|POST
:path|/
:path|/index.html
:scheme|http
:scheme|https
:status|200
:status|204
:status|206
:status|304
:status|400
:status|404
:status|500
accept-charset|
accept-encoding|gzip, deflate
accept-language|
accept-ranges|
accept|
access-control-allow-origin|
age|
allow|
authorization|
cache-control|
content-disposition|
content-encoding|
content-language|
content-length|
content-location|
content-range|
content-type|
cookie|
date|
etag|
expect|
expires|
from|
host|
if-match|
if-modified-since|
if-none-match|
if-range|
if-unmodified-since|
last-modified|
link|
location|
max-forwards|
proxy-authenticate|
proxy-authorization|
range|
referer|
refresh|
retry-after|
server|
set-cookie|
strict-transport-security|
transfer-encoding|
user-agent|
vary|
via|
www-authenticate|
"""
"""RFC 7541 Appendix A, from index 1."""

STATIC_TABLE: tuple[FieldPair, ...] = tuple(
    (name.encode(), value.encode())
    for name, _, value in (line.partition("|") for line in _STATIC.strip().split("\n"))
)
_FIRST_DYNAMIC = len(STATIC_TABLE) + 1


class HpackError(ValueError):
    """A field block that is malformed; the state of the connection's table is lost with it."""


class Decoder:
    """One direction's decoder. ``joined``: it has not seen the direction from its beginning."""

    def __init__(self, joined: bool = False) -> None:
        self._entries: deque[FieldPair] = deque()  # newest first
        self._size = 0
        self._older_unknown = joined

    def forget(self) -> None:
        """Blocks were lost: how many entries they inserted is not known, so nothing can be counted back."""
        self._entries.clear()
        self._size = 0
        self._older_unknown = True

    def decode(self, block: bytes) -> tuple[list[FieldPair], int]:
        """The fields of ``block``, and how many of them are UNKNOWN in part; HpackError where it is malformed."""
        fields: list[FieldPair] = []
        unknown = size = position = 0
        end = len(block)
        try:
            while position < end:
                byte = block[position]
                if byte & 0x80:  # §6.1: an indexed field
                    index, position = _integer(block, position, 7)
                    pair = self._entry(index)
                elif byte & 0xE0 == 0x20:  # §6.3: a new size of the encoder's table
                    _, position = _integer(block, position, 5)
                    continue
                else:  # §6.2: a literal, to be inserted (01) or not (0000, 0001)
                    pair, position = self._literal(block, position, 6 if byte & 0x40 else 4)
                    if byte & 0x40:
                        self._insert(pair)
                fields.append(pair)
                unknown += pair[0] is UNKNOWN or pair[1] is UNKNOWN
                size += len(pair[0]) + len(pair[1])
                if size > MAX_BLOCK_BYTES:
                    raise HpackError(f"a field block of more than {MAX_BLOCK_BYTES} bytes")
        except (IndexError, huffman.HuffmanError) as error:
            raise HpackError(f"a malformed field block: {error}") from error
        return fields, unknown

    def _literal(self, block: bytes, position: int, prefix_bits: int) -> tuple[FieldPair, int]:
        index, position = _integer(block, position, prefix_bits)
        if index:
            name = self._entry(index)[0]
        else:
            name, position = _string(block, position)
        value, position = _string(block, position)
        return (name, value), position

    def _entry(self, index: int) -> FieldPair:
        if 0 < index < _FIRST_DYNAMIC:
            return STATIC_TABLE[index - 1]
        place = index - _FIRST_DYNAMIC
        if 0 <= place < len(self._entries):
            return self._entries[place]
        if index and self._older_unknown and place * ENTRY_OVERHEAD_BYTES < MAX_TABLE_BYTES:
            return UNKNOWN, UNKNOWN
        raise HpackError(f"a field block refers to entry {index}, which does not exist")

    def _insert(self, pair: FieldPair) -> None:
        self._entries.appendleft(pair)
        self._size += _size(pair)
        while self._size > MAX_TABLE_BYTES and self._entries:
            self._size -= _size(self._entries.pop())
            self._older_unknown = True


def _size(pair: FieldPair) -> int:
    return len(pair[0]) + len(pair[1]) + ENTRY_OVERHEAD_BYTES


def _integer(block: bytes, position: int, prefix_bits: int) -> tuple[int, int]:
    """RFC 7541 §5.1: an integer and the position after it."""
    limit = (1 << prefix_bits) - 1
    value = block[position] & limit
    position += 1
    if value < limit:
        return value, position
    shift = 0
    while True:
        byte = block[position]
        position += 1
        value += (byte & 0x7F) << shift
        if not byte & 0x80:
            return value, position
        shift += 7
        if shift > 28:
            raise HpackError("an integer of more than 32 bits in a field block")


def _string(block: bytes, position: int) -> tuple[bytes, int]:
    """RFC 7541 §5.2: a string and the position after it."""
    coded = block[position] & 0x80
    length, position = _integer(block, position, 7)
    end = position + length
    if end > len(block):
        raise HpackError("a field block ends inside a string")
    data = block[position:end]
    return (huffman.decode(data) if coded else data), end
