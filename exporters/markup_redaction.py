"""Named values inside of XML and HTML: elements and attributes of a name, and fields that say that it is theirs.

A description by tags (XML 1.0 §3.1, HTML §13.1.2), no parser: texts may be cut, or something else with tags in it.
Each character is looked at once, whatever is open and never closed.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Container, Iterator

# A quoted value may have ">" in it, and no "<": where a quote is missing, the next tag is one again.
_TAG: Final = re.compile(r"<([A-Za-z_][\w.:\-]*)((?:[^<>\"']|\"[^\"<]*\"|'[^'<]*')*)>")
_ATTRIBUTE: Final = re.compile(r"(?<=[\s\"'])([^\s=\"'<>/]+)\s*=\s*(\"[^\"]*\"|'[^']*'|[^\s\"'<>]+)")
# What an element is called that is none of a name itself: <input name=…>, <meta property=…>, <add key=…>.
_NAMING: Final = frozenset(("name", "id", "key", "property", "itemprop"))
_VALUES: Final = frozenset(("value", "content"))
_CDATA: Final = "<![CDATA["


def named_places(text: str, names: Container[str]) -> Iterator[tuple[int, int]]:
    """From where to where values are that are called one of ``names`` (in lower case, without a namespace's prefix)."""
    position = 0
    while (tag := _TAG.search(text, position)) is not None:
        position = tag.end()
        is_named = False
        for start, end, name, named in _attributes(tag, names):
            if name in names or (named and name in _VALUES):
                yield start, end
            is_named = is_named or named
        if tag[2].endswith("/"):
            continue
        if _local(tag[1]) in names:
            end = _end_of(tag, text)
        elif is_named:
            end = _text_end(text, position)
        else:
            continue
        if text[position:end].strip():
            yield position, end
            position = end


def _attributes(tag: re.Match[str], names: Container[str]) -> Iterator[tuple[int, int, str, bool]]:
    """Where the values of a tag's attributes are, without quotes, their names, and whether the tag is of a name."""
    offset, found = tag.start(2), []
    for attribute in _ATTRIBUTE.finditer(tag[2]):
        quoted = attribute[2][0] in "\"'"
        start, end = attribute.start(2) + quoted, attribute.end(2) - quoted
        found.append((offset + start, offset + end, _local(attribute[1]), tag[2][start:end]))
    named = any(name in _NAMING and value.lower() in names for _, _, name, value in found)
    for start, end, name, _ in found:
        yield start, end, name, named


def _local(name: str) -> str:
    return name.rpartition(":")[2].lower()


def _end_of(tag: re.Match[str], text: str) -> int:
    """Where the element's end tag is, with whatever is inside; of one that is cut off, all of the rest."""
    end = re.compile(rf"</{re.escape(tag[1])}\s*>", re.IGNORECASE).search(text, tag.end())
    return end.start() if end is not None else len(text)


def _text_end(text: str, position: int) -> int:
    """Where the text ends that is at ``position``, whatever element it is in."""
    if text.startswith(_CDATA, position):
        end = text.find("]]>", position)
        return end + 3 if end >= 0 else len(text)
    end = text.find("<", position)
    return end if end >= 0 else len(text)
