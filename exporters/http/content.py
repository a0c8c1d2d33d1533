"""A body's content: codings undone, and whether it is text (RFC 9110 §8.3 and §8.4).

Decoding goes as far as it can: of a truncated body the decodable beginning is kept, and what stopped it is
told. Text is what stays the same when it is encoded as UTF-8 again, so that whoever hashes it gets the hash
of what was sent; all else is for base64.
"""

from __future__ import annotations

import codecs
import re
from dataclasses import dataclass, replace
from enum import Enum
from itertools import pairwise, takewhile
from typing import TYPE_CHECKING

import webencodings

from exporters.compression import BLOCK_BYTES, DECODERS, CorruptStreamError
from exporters.http.hpack import UNKNOWN
from exporters.http.messages import LOST_TO_LIMIT
from exporters.remembered import remembered

if TYPE_CHECKING:
    from collections.abc import Iterator

    from exporters.http.messages import Body, Fields

_CHARSET = re.compile(rb"[ \t]*charset[ \t]*=[ \t]*\"?([^\s\"]+)", re.IGNORECASE)
_META_CHARSET = re.compile(rb"<meta[^>]{0,200}?charset[ \t]*=[ \t]*[\"']?([A-Za-z0-9_.:\-]+)", re.IGNORECASE)
_XML_ENCODING = re.compile(rb"<\?xml[^>]{0,200}?encoding[ \t]*=[ \t]*[\"']([A-Za-z0-9_.:\-]+)")
_CONTROLS = re.compile(rb"[\x00-\x08\x0b\x0e-\x1a\x1c-\x1f\x7f]")

META_BYTES = 1024
"""How far into a document its own word on its charset is looked for (HTML, prescan of the byte stream)."""

_BOMS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)

_TEXT_TYPE = re.compile(
    rb"text/|application/(?:json|xml|javascript|ecmascript|x-javascript|x-www-form-urlencoded|graphql|yaml|toml"
    rb"|x-ndjson|sql|manifest)|[^;]*\+(?:json|xml|yaml|text)\b|image/svg"
)
_BINARY_TYPE = re.compile(
    rb"image/|audio/|video/|font/|application/(?:grpc|protobuf|x-protobuf|zip|gzip|pdf|wasm|x-tar|zstd|cbor|msgpack)"
)


MAX_CODINGS = 8
"""Of one body. Each is a decoder on top of another one; proxies make two, and nobody means more."""

_NOT_ASCII_COMPATIBLE = re.compile(rb"(?:utf-?16|utf-?32|utf-7|ucs-|iso-2022|hz-)")
"""Charsets in which bytes that look like ASCII can be something else."""


_NO_CHARSETS = frozenset(("idna", "punycode", "unicode-escape", "raw-unicode-escape"))
"""Python's codecs that no document is in. Of some, decoding takes time by the square of the length."""


_SIGNATURES = {"gzip": b"\x1f\x8b\x08", "zstd": b"\x28\xb5\x2f\xfd"}
"""RFC 1952 §2.3.1, RFC 8878 §3.1.1."""


class Kind(Enum):
    """What a media type says of the bytes."""

    TEXT = "text"
    WIDE = "text in a charset that does not contain ASCII"
    BINARY = "no text"
    UNKNOWN = "the bytes must show"


@remembered(512)
def _kind_of(content_type: bytes) -> Kind:
    lower = content_type.lower()
    for parameter in lower.split(b";"):
        _, charset, name = parameter.partition(b"charset")
        if charset and _NOT_ASCII_COMPATIBLE.search(name):
            return Kind.WIDE
    if _TEXT_TYPE.match(lower):
        return Kind.TEXT
    return Kind.BINARY if _BINARY_TYPE.match(lower) else Kind.UNKNOWN


@dataclass(frozen=True, slots=True)
class Content:
    """What a body says. ``codings`` are those that were undone, and ``problem`` is why there is not more."""

    data: bytes | bytearray
    codings: tuple[str, ...] = ()
    problem: str | None = None


def decode_content(body: Body, fields: Fields, limit: int) -> Content:
    """Undo the codings of ``body``, up to ``limit`` bytes of content."""
    codings = _codings(fields, body.transfer_codings)
    if not codings and UNKNOWN in fields.index and (coding := _coding_by_looks(body, fields)):
        decoded = _undo([coding], body, limit)
        note = f"whether it was encoded is not recorded; its first bytes are those of {coding}"
        return replace(decoded, problem=f"{decoded.problem}; {note}" if decoded.problem else note)
    return _undo(codings, body, limit)


def _coding_by_looks(body: Body, fields: Fields) -> str | None:
    """By which bytes that are text, or may be, were encoded, where some header was not recorded."""
    if _kind_of(fields.get(b"content-type") or b"") is Kind.BINARY:
        return None
    return next((coding for coding, magic in _SIGNATURES.items() if body.data.startswith(magic)), None)


def _undo(codings: list[str], body: Body, limit: int) -> Content:
    if not codings or not body.data:
        return Content(body.data)
    if len(codings) > MAX_CODINGS:
        return Content(body.data, (), f"more than {MAX_CODINGS} codings on top of each other")
    unknown = next((coding for coding in codings if coding not in DECODERS), None)
    if unknown is not None:
        return Content(body.data, (), f"content coding {unknown} is not known")
    end = body.lost[0].offset if body.lost else len(body.data)
    blocks: Iterator[bytes] = (
        bytes(body.data[start : min(start + BLOCK_BYTES, end)]) for start in range(0, end, BLOCK_BYTES)
    )
    for coding in reversed(codings):
        blocks = DECODERS[coding](blocks)
    return _collect(blocks, tuple(codings), body, limit)


def _codings(fields: Fields, transfer_codings: tuple[bytes, ...] = ()) -> list[str]:
    names = fields.tokens(b"content-encoding") if b"content-encoding" in fields.index else []
    names.sort(key=b"aws-chunked".__eq__)  # wherever it stands, it is what was applied last
    return [name.decode("latin-1") for name in (*names, *transfer_codings) if name not in (b"identity", b"")]


def _collect(blocks: Iterator[bytes], codings: tuple[str, ...], body: Body, limit: int) -> Content:
    data = bytearray()
    try:
        for block in blocks:
            room = limit - len(data)
            data += block[:room]
            if len(block) > room:
                return Content(data, codings, f"only the first {limit} decoded bytes are kept")
    except CorruptStreamError as error:
        if not data and not body.lost:
            return Content(body.data, (), str(error))  # what is labelled as encoded, and is not
        if not (error.truncated and body.lost):
            return Content(data, codings, str(error))
    if body.lost and body.lost[0].reason == LOST_TO_LIMIT:
        kept = f"only the first {body.lost[0].offset} bytes, before decoding, are kept"
        return Content(data, codings, kept)
    if body.lost:
        return Content(data, codings, "bytes were lost, and what comes after them cannot be decoded")
    return Content(data, codings)


def timed_blocks(body: Body, fields: Fields, limit: int) -> Iterator[tuple[int, bytes | None]]:
    """The content of ``body`` in the pieces in which it came in, each with its time; None stands for a hole.

    At most ``limit`` bytes. CorruptStreamError where the codings cannot be undone any further.
    """
    names = _codings(fields, body.transfer_codings)
    if len(names) > MAX_CODINGS or any(name not in DECODERS for name in names):
        return
    now_ns = body.marks[0][1] if body.marks else 0
    holes = {lost.offset for lost in body.lost}
    places = sorted({offset for offset, _ in body.marks} | holes | {len(body.data)})
    times = dict(body.marks)

    def pieces() -> Iterator[tuple[int, bytes | None]]:
        nonlocal now_ns
        for start, end in pairwise([0, *places] if places[0] else places):
            now_ns = times.get(start, now_ns)
            if start in holes:
                yield now_ns, None
            yield now_ns, bytes(body.data[start:end])
        if len(body.data) in holes:
            yield now_ns, None

    if not names:
        yield from pieces()
        return
    blocks: Iterator[bytes] = (
        piece for _, piece in takewhile(lambda item: item[1] is not None, pieces()) if piece
    )
    for name in reversed(names):
        blocks = DECODERS[name](blocks)
    for block in blocks:
        yield now_ns, block[:limit]
        limit -= len(block)
        if limit <= 0:
            return


def readable_type(content_type: bytes) -> bytes:
    """The media type without a charset that no browser knows: devtools show nothing of bytes in one."""
    media_type, *parameters = content_type.split(b";")
    kept = (
        parameter
        for parameter in parameters
        if not (found := _CHARSET.match(parameter)) or _browsers_name(found[1]) is not None
    )
    return b";".join((media_type, *kept))


def _browsers_name(label: bytes) -> str | None:
    """The charset that browsers mean by a label (Encoding Standard §4.2); None of one that they refuse to read."""
    encoding = webencodings.lookup(label.decode("latin-1"))
    return None if encoding is None or encoding.name == "replacement" else str(encoding.name)


def has_controls(data: bytes | bytearray) -> bool:
    """Whether there are bytes in it that no text has, whatever its charset."""
    return _CONTROLS.search(data) is not None


def charset_of(content_type: bytes, data: bytes | bytearray) -> str | None:
    """The charset by Content-Type, byte order mark, or the document itself; None where none of them tells.

    RFC 9110 §8.3.2; named as browsers name it, and of those that they do not know, as Python does. A byte order mark
    wins, as in the HTML standard. What is no text has none.
    """
    if _kind_of(content_type) is Kind.BINARY:
        return None
    for mark, name in _BOMS:
        if data.startswith(mark):
            return name
    parameters = map(_CHARSET.match, content_type.split(b";")[1:])
    found = next((match for match in parameters if match is not None), None)
    if found is not None:
        return _charset_name(found[1])
    start = bytes(data[:META_BYTES])
    found = _META_CHARSET.search(start) if b"html" in content_type else _XML_ENCODING.match(start)
    named = _charset_name(found[1]) if found is not None else None
    # HTML §13.2.3.2: what could be read so far is in neither of these.
    return {"utf-16le": "utf-8", "utf-16be": "utf-8", "x-user-defined": "windows-1252"}.get(
        named or "", named
    )


def _charset_name(label: bytes) -> str | None:
    name = _browsers_name(label)
    if name is not None:
        return name
    try:
        "".encode(label.decode("latin-1"))  # rot13 and base64 are no encodings of text: LookupError
        name = codecs.lookup(label.decode("latin-1")).name
    except (LookupError, ValueError):
        return None
    return None if name in _NO_CHARSETS else name


def text_in(charset: str, data: bytes) -> str | None:
    """``data`` as text in a charset, as :func:`charset_of` names it; None where it is none."""
    encoding = webencodings.lookup(charset)
    try:
        return str((encoding.codec_info if encoding is not None else codecs.lookup(charset)).decode(data)[0])
    except (LookupError, ValueError):
        return None


def text_of(data: bytes | bytearray, content_type: bytes) -> str | None:
    """``data`` as text that is ``data`` again when encoded as UTF-8; None where there is none.

    Of bytes in another charset there is text only if they are the same in UTF-8, that is ASCII.
    """
    kind = _kind_of(content_type)
    if kind is Kind.BINARY or (kind is Kind.UNKNOWN and has_controls(data)):
        return None
    try:
        text = str(data, "utf-8")
    except UnicodeDecodeError:
        return None
    if kind is not Kind.WIDE and text.isascii():
        return text
    charset = charset_of(content_type, data)
    return text if charset in (None, "utf-8") else None
