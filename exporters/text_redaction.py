"""Named values inside of texts: URLs, forms, JSON, and texts inside of texts. Nothing else is changed.

Knows neither entries nor HTTP. A name is compared without regard to case, and however it was escaped. A text may hold
another one, as a JSON string holds JSON, or a parameter a URL: it is read through its escapes, and what is found there
is replaced where it was written.
"""

from __future__ import annotations

import json
import re
from bisect import bisect_right
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final
from urllib.parse import quote, unquote_plus

from exporters.markup_redaction import named_places

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

REDACTED: Final = "(redacted)"
"""Stands for a value: visible, and no value of anything."""

MAX_NESTING: Final = 4
"""Texts inside of texts that are looked into. A queue's message with a notification with a request's body in it has
three. Each costs a pass over the text, at most one for each way of escaping."""

USER_INFO: Final = re.compile(r"(?:(?<=//)|^(?!mailto:))[^/?#\s]*@")
# The same where a URL is the value of a parameter (RFC 3986 §2.1).
_ENCODED_USER_INFO: Final = re.compile(r"(?<=%2F%2F)(?:(?!%2F|%3F|%23)[^/?#&\s])*%40", re.IGNORECASE)

# A value ends before a backslash, since that may be an escaped end: the text is read again through its escapes.
_PARAMETER: Final = re.compile(
    r"(?:^|(?<=[?&#\"']))([^=&?#;\s<>\"'\\]+)=(?!=|\(redacted\))[^&#\s<>\"\\]*", re.MULTILINE
)
_URL_PARAMETER: Final = re.compile(r"(?<=[?&#;])([^=&?#;\s<>]+)=[^&#\s<>\"]*")
# A string in any quotes; what is none, as in a script, ends with a bracket or a space.
_SCALAR: Final = re.compile(
    r'"""(?:(?!""").)*(?:""")?|'
    + "|".join(rf"{quote}[^{quote}\\]*(?:\\.[^{quote}\\]*)*{quote}?" for quote in "\"'`")
    + r"|[^,;)}\]\s]*",
    re.DOTALL,
)

# What may stand for a letter of a name, and (after a backslash) for another character.
_HIDDEN: Final = re.compile(r"%[2-7A-Fa-f]|\\[ux]")
_HIDDEN_OTHER: Final = re.compile(r"%[2-7A-Fa-f]|\\")
_JSON: Final = json.JSONDecoder()

Edit = tuple[int, int, str]
"""From where to where something else is to be."""


@dataclass(frozen=True, slots=True)
class _Coding:
    """A way to write a text inside of another one: where it may be, its escapes, and what they stand for."""

    inside: re.Pattern[str]
    escape: re.Pattern[str]
    decoded: Callable[[str], str]
    encoded: Callable[[str], str]


def _unescaped(escape: str) -> str:
    if escape[1] in "ux" and len(escape) > 2:
        return chr(int(escape[2:], 16))
    return {"n": "\n", "r": "\r", "t": "\t", "b": "\b", "f": "\f"}.get(escape[1], escape[1])


_CODINGS: Final = (
    _Coding(  # What is between two quotes is looked at whether a string is there or between them: texts may be cut.
        re.compile(r'(?:^|(?<="))[^"\\]*(?:\\.[^"\\]*)+', re.DOTALL),
        re.compile(r"\\(?:u[0-9A-Fa-f]{4}|x[0-9A-Fa-f]{2}|.)", re.DOTALL),
        _unescaped,
        lambda text: json.dumps(text)[1:-1],
    ),
    _Coding(  # A character of UTF-8 is one escape.
        re.compile(r"(?:^|(?<=[\s\"'<>&#=?]))[^\s\"'<>&#=?%]*%[^\s\"'<>&#=?]*"),
        re.compile(
            r"\+|%[cd][0-9a-f]%[89ab][0-9a-f]|%e[0-9a-f](?:%[89ab][0-9a-f]){2}|%f[0-7](?:%[89ab][0-9a-f]){3}|%[0-9a-f]{2}",
            re.IGNORECASE,
        ),
        unquote_plus,
        lambda text: quote(text, safe="()"),
    ),
    _Coding(  # The lines of an event (HTML §9.2.6).
        re.compile(r"^data:[^\r\n]*(?:(?:\r\n?|\n)data:[^\r\n]*)+", re.MULTILINE),
        re.compile(r"(?:\r\n?|\n)data: ?"),
        lambda _: "\n",
        str,
    ),
)


def without_passwords(text: str) -> str:
    """A URL, or a text with URLs in it, without the passwords that are in URLs (RFC 3986 §3.2.1)."""
    if "@" in text:
        text = USER_INFO.sub(f"{REDACTED}@", text)
    return _ENCODED_USER_INFO.sub(f"{REDACTED}%40", text) if "%40" in text else text


class NamedValues:
    """Redacts what is called one of ``names``, which are in lower case."""

    def __init__(self, names: frozenset[str]) -> None:
        self._names = names
        self._key = _key_pattern(names) if names else None
        self._hidden = _HIDDEN if all(re.fullmatch(r"[\w-]+", name) for name in names) else _HIDDEN_OTHER

    def url(self, text: str) -> str:
        """A URL, or a text with URLs in it, without passwords, and without its named parameters."""
        text = without_passwords(text)
        return self.text(_URL_PARAMETER.sub(self._parameter, text)) if self._names else text

    def _parameter(self, match: re.Match[str]) -> str:
        return f"{match[1]}={REDACTED}" if self._is_named(match[1]) else match[0]

    def _is_named(self, name: str) -> bool:
        return (unquote_plus(name) if "%" in name or "+" in name else name).lower() in self._names

    def pairs(self, text: str, separator: str) -> str:
        """Pairs, as a form or cookies have them, as they were sent but for the values."""
        shown = separator.join(
            f"{name}={REDACTED}" if equals and self._is_named(name.strip()) else pair
            for pair in text.split(separator)
            for name, equals, _ in (pair.partition("="),)
        )
        return self.text(shown)

    def text(self, text: str) -> str:
        """JSON, or any text with JSON, a form or a URL in it, as several documents in a row or a script."""
        if not self._may_tell(text):
            return text
        pieces: list[str] = []
        position = 0
        # Of what begins at the same place the longest: an inner text ends where its outer one says.
        for start, end, instead in sorted(
            self._edits(text, MAX_NESTING), key=lambda edit: (edit[0], -edit[1])
        ):
            if start >= position:
                pieces += (text[position:start], instead)
            position = max(position, end)
        return "".join((*pieces, text[position:])) if pieces else text

    def _may_tell(self, text: str) -> bool:
        """Whether a name may be in ``text``, as it is or escaped: most texts have none, and this is quick."""
        if self._hidden.search(text) is not None:
            return True
        lower = text.lower()
        return any(name in lower for name in self._names)

    def _edits(self, text: str, depth: int) -> Iterator[Edit]:
        if self._key is None:
            return
        position = 0
        for key in self._key.finditer(text):
            if key.start() >= position:  # or it is inside a value that is replaced
                position = _value_end(text, key.end())
                yield key.end(), position, json.dumps(REDACTED)
        for match in _PARAMETER.finditer(text):
            if self._is_named(match[1]):
                yield match.end(1) + 1, match.end(), REDACTED
        for start, end in named_places(text, self._names):
            yield start, end, REDACTED
        if depth:
            for coding in _CODINGS:
                for inside in coding.inside.finditer(text):
                    yield from self._inner_edits(coding, inside[0], inside.start(), depth - 1)

    def _inner_edits(self, coding: _Coding, text: str, offset: int, depth: int) -> Iterator[Edit]:
        """The edits of a text that is ``text`` as it is escaped, where it is at ``offset``."""
        edits = list(self._edits(coding.escape.sub(lambda match: coding.decoded(match[0]), text), depth))
        if not edits:
            return
        ends, shifts, shift = [0], [0], 0
        for escape in coding.escape.finditer(text):
            shift += len(escape[0]) - len(coding.decoded(escape[0]))
            ends.append(escape.end() - shift)
            shifts.append(shift)

        def outer(position: int) -> int:
            return offset + position + shifts[bisect_right(ends, position) - 1]

        for start, end, instead in edits:
            yield outer(start), outer(end), coding.encoded(instead)


def _value_end(text: str, start: int) -> int:
    if text[start : start + 1] in ("{", "["):
        try:
            return _JSON.raw_decode(text, start)[1]
        except (ValueError, RecursionError):
            return len(text)  # a value that is cut off: what is left of it goes as well
    match = _SCALAR.match(text, start)
    return match.end() if match is not None else len(text)


def _key_pattern(names: frozenset[str]) -> re.Pattern[str]:
    """A key in quotes; or in none, as in scripts and GraphQL, if a string is behind it, or becomes its value."""
    names_re = "|".join("".join(map(_any_form, name)) for name in sorted(names))
    return re.compile(
        rf"(?:([\"'])(?:{names_re})\1\s*:\s*|(?<![\w$.\-\"'])(?:{names_re})\s*:\s*(?=[\"'`])"
        rf"|(?<![\w$\-\"'?&#])(?:{names_re})\s*=\s*(?=[\"'`]))",
        re.IGNORECASE,
    )


def _any_form(character: str) -> str:
    """A character as it may be written in a JSON string (RFC 8259 §7)."""
    forms = {character, character.upper(), json.dumps(character)[1:-1]}
    forms |= {f"\\u{ord(each):04x}" for each in (character, character.upper()) if len(each) == 1}
    if character == "/":
        forms.add("\\/")
    return f"(?:{'|'.join(re.escape(form) for form in sorted(forms))})"
