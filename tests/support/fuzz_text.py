"""Fuzzing targets of what is done to texts: redaction, and charsets."""

from __future__ import annotations

import fuzz_scripts
from http_streams import OPENED_NS

from capture.streams import Tls
from exporters.command_redaction import redacted_command
from exporters.har_redaction import Redaction
from exporters.http.content import charset_of, readable_type, text_in, text_of
from exporters.http.messages import Body, Connection, Exchange, Fields, Outcome, Response
from exporters.text_redaction import REDACTED, NamedValues

NAMES = ("token", "a/b", "pass word", "é")
# Time that grows faster than the text shows in long ones; they are made of repetitions, since inputs are short.
REPEATED_CHARACTERS = 1 << 14
_CHARSETS = (
    b"utf-8", b"utf-16", b"utf-16be", b"utf-32", b"utf-7", b"iso-8859-1", b"windows-1252", b"shift_jis", b"euc-jp",
    b"iso-2022-jp", b"gb18030", b"gbk", b"big5", b"euc-kr", b"koi8-r", b"hz-gb-2312", b"x-user-defined", b"replacement",
    b"idna", b"punycode", b"unicode_escape", b"rot13", b"base64", b"nothing",
)  # fmt: skip


def exchange_of(response: Response) -> Exchange:
    """An exchange of which nothing but the response is known."""
    opened = fuzz_scripts.decode(b"")[0]
    connection = Connection(opened, Tls())  # type: ignore[arg-type] # the first item is a StreamOpened
    return Exchange(connection, 0, None, response, Outcome.COMPLETE, OPENED_NS)


def redaction(data: bytes) -> None:
    """Texts with names that are redacted, as bodies, URLs, forms, cookies and command lines."""
    if len(data) < 2:
        return
    values = NamedValues(frozenset(NAMES[: 1 + data[0] % len(NAMES)]))
    text = data[2:].decode("utf-8", "replace")
    if data[1] == 1 and text:
        text = (text * (REPEATED_CHARACTERS // len(text) + 1))[:REPEATED_CHARACTERS]
    assert not values.text(text) or text
    values.url(text)
    values.pairs(text, "&")
    values.pairs(text, ";")
    Redaction.of(names=NAMES).command_line(text)
    redacted_command(text, REDACTED, frozenset())


def charsets(data: bytes) -> bytes | None:
    """A document in a charset that its type, its mark or itself tells."""
    if not data:
        return None
    label, document = _CHARSETS[data[0] % len(_CHARSETS)], data[1:]
    for kind in (b"text/html", b"text/xml", b"application/json"):
        for content_type in (kind, kind + b"; charset=" + label, kind + b"; charset=" + document[:20]):
            readable_type(content_type)
            charset = charset_of(content_type, document)
            if charset is not None:
                text_in(charset, document)
            text = text_of(document, content_type)
            assert text is None or text.encode() == document
    return label


def document(label: bytes, data: bytes) -> Exchange:
    """``data`` as a response, which says that it is in ``label``."""
    fields = Fields(((b"Content-Type", b"text/html; charset=" + label),))
    body = Body(data, len(data))
    return exchange_of(Response(200, b"", "HTTP/1.1", fields, OPENED_NS, OPENED_NS, 1, body))
