"""Named values inside of texts: URLs, forms, JSON. What is called by a name is replaced, and nothing else changed.

Knows neither entries nor HTTP. A name is compared without regard to case, and however it was escaped.
"""

from __future__ import annotations

import json
import re
from typing import Final
from urllib.parse import unquote_plus

REDACTED: Final = "(redacted)"
"""Stands for a value: visible, and no value of anything."""

USER_INFO: Final = re.compile(r"(?:(?<=//)|^(?!mailto:))[^/?#\s]*@")
_PARAMETER: Final = re.compile(r"(?<=[?&#;])([^=&?#;\s<>]+)=[^&#\s<>\"]*")
# Of a value that is no JSON, as scripts have them: a string in other quotes, or what ends with a bracket or a space.
_LOOSE_VALUE: Final = re.compile(r"'(?:[^'\\]|\\.)*+'?|`(?:[^`\\]|\\.)*+`?|[^,;)}\]\s]*", re.DOTALL)


class NamedValues:
    """Redacts what is called one of ``names``, which are in lower case."""

    def __init__(self, names: frozenset[str]) -> None:
        self._names = names
        self._key = _key_pattern(names) if names else None

    def url(self, text: str) -> str:
        """A URL, or a text with URLs in it, without passwords, and without its named parameters."""
        if "@" in text:
            text = USER_INFO.sub(f"{REDACTED}@", text)
        return _PARAMETER.sub(self._parameter, text) if self._names else text

    def _parameter(self, match: re.Match[str]) -> str:
        return f"{match[1]}={REDACTED}" if self._is_named(match[1]) else match[0]

    def _is_named(self, name: str) -> bool:
        return (unquote_plus(name) if "%" in name or "+" in name else name).lower() in self._names

    def form(self, text: str) -> str:
        """URL-encoded pairs, as they were sent but for the values."""
        return "&".join(
            f"{name}={REDACTED}" if equals and self._is_named(name.lstrip("\r\n")) else pair
            for pair in text.split("&")
            for name, equals, _ in (pair.partition("="),)
        )

    def has_key(self, text: str) -> bool:
        """Whether a JSON key in ``text`` is one of the names."""
        return self._key is not None and self._key.search(text) is not None

    def json(self, text: str) -> str:
        """JSON, or a text with JSON in it, as several documents in a row or a script."""
        if self._key is None:
            return text
        decoder = json.JSONDecoder()
        pieces: list[str] = []
        position = 0
        for key in self._key.finditer(text):
            if key.start() < position:
                continue  # inside a value that was replaced
            pieces += (text[position : key.end()], json.dumps(REDACTED))
            position = _value_end(decoder, text, key.end())
        return "".join((*pieces, text[position:]))


def _value_end(decoder: json.JSONDecoder, text: str, start: int) -> int:
    try:
        return decoder.raw_decode(text, start)[1]
    except (ValueError, RecursionError):
        if text[start : start + 1] in ('"', "{", "["):
            return len(text)  # a value that is cut off: what is left of it goes as well
        match = _LOOSE_VALUE.match(text, start)
        return match.end() if match is not None else len(text)


def _key_pattern(names: frozenset[str]) -> re.Pattern[str]:
    alternatives = "|".join("".join(map(_any_form, name)) for name in sorted(names))
    return re.compile(rf'"(?:{alternatives})"\s*:\s*', re.IGNORECASE)


def _any_form(character: str) -> str:
    """A character as it may be written in a JSON string (RFC 8259 §7)."""
    forms = {character, character.upper(), json.dumps(character)[1:-1]}
    forms |= {f"\\u{ord(each):04x}" for each in (character, character.upper()) if len(each) == 1}
    if character == "/":
        forms.add("\\/")
    return f"(?:{'|'.join(re.escape(form) for form in sorted(forms))})"
