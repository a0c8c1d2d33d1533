"""Python's view of events.h, derived from the header itself so that the two cannot disagree.

The header keeps to what is read here: ``#define NAME NUMBER``, ``enum``, and ``struct`` whose members are
scalars, arrays of u8, or one leading struct of the same file. Layout follows the C ABI (natural alignment,
little endian).
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass
from functools import cache
from pathlib import Path

HEADER = Path(__file__).parent / "events.h"

_SCALARS = {"u8": "B", "u16": "H", "u32": "I", "u64": "Q"}
_COMMENT = re.compile(r"/\*.*?\*/", re.DOTALL)
_DEFINE = re.compile(r"^#define\s+(\w+)\s+(\d+)\s*$", re.MULTILINE)
_ENUM = re.compile(r"enum\s+(\w+)\s*\{(.*?)\}\s*;", re.DOTALL)
_STRUCT = re.compile(r"struct\s+(\w+)\s*\{(.*?)\}\s*;", re.DOTALL)
_MEMBER = re.compile(r"(?:struct\s+(\w+)|(u8|u16|u32|u64))\s+(\w+)(?:\[(\w+)\])?")


@dataclass(frozen=True, slots=True)
class Layout:
    """One C struct: ``codec`` unpacks it to a tuple in the order of ``names``."""

    name: str
    names: tuple[str, ...]
    codec: struct.Struct

    def index(self, member: str) -> int:
        """Position of a member in the unpacked tuple."""
        return self.names.index(member)


@dataclass(frozen=True, slots=True)
class Abi:
    """All constants, enumerators and structs of the header."""

    constants: dict[str, int]
    enums: dict[str, dict[str, int]]
    layouts: dict[str, Layout]


def parse(text: str) -> Abi:
    """Read a header of the form described above.

    Raises ValueError where a member is of no form described above.
    """
    text = _COMMENT.sub("", text)
    constants = {name: int(value) for name, value in _DEFINE.findall(text)}
    enums: dict[str, dict[str, int]] = {}
    for name, body in _ENUM.findall(text):
        enums[name] = _enumerators(body)
        constants.update(enums[name])
    formats: dict[str, tuple[str, tuple[str, ...]]] = {}
    for name, body in _STRUCT.findall(text):
        formats[name] = _members(body, constants, formats)
    layouts = {
        name: Layout(name, names, struct.Struct("<" + _padded(fmt))) for name, (fmt, names) in formats.items()
    }
    return Abi(constants, enums, layouts)


@cache
def header() -> Abi:
    """The package's own events.h."""
    return parse(HEADER.read_text("utf-8"))


def _enumerators(body: str) -> dict[str, int]:
    values: dict[str, int] = {}
    following = 0
    for item in filter(None, (part.strip() for part in body.split(","))):
        name, _, value = (word.strip() for word in item.partition("="))
        following = int(value) if value else following
        values[name] = following
        following += 1
    return values


def _members(
    body: str, constants: dict[str, int], formats: dict[str, tuple[str, tuple[str, ...]]]
) -> tuple[str, tuple[str, ...]]:
    fmt = ""
    names: list[str] = []
    for declaration in filter(None, (part.strip() for part in body.split(";"))):
        found = _MEMBER.fullmatch(" ".join(declaration.split(",")[0].split()))
        if not found or (found[4] and found[2] != "u8") or (found[1] and found[1] not in formats):
            raise ValueError(f"events.h: cannot read the member {declaration!r}")
        nested, scalar, _, size = found.groups()
        if nested:
            nested_format, nested_names = formats[nested]
            fmt += nested_format
            names += nested_names
        elif size:
            fmt += f"{int(constants.get(size, 0)) or int(size)}s"
            names.append(found.group(3))
        else:
            for name in declaration.split(None, 1)[1].split(","):
                fmt += _SCALARS[scalar]
                names.append(name.strip())
    return fmt, tuple(names)


def _padded(fmt: str) -> str:
    """Insert the padding that the C ABI inserts; little-endian ``<`` formats know none."""
    out, offset, widest = "", 0, 1
    for repeat, code in re.findall(r"(\d*)(\w)", fmt):
        size = struct.calcsize(code) if code != "s" else 1
        widest = max(widest, size)
        gap = -offset % size
        out += f"{gap}x" * bool(gap) + repeat + code
        offset += gap + (int(repeat) if code == "s" else size)
    gap = -offset % widest
    return out + f"{gap}x" * bool(gap)
