"""Byte offsets of kernel struct members from BTF (Documentation/bpf/btf.rst), without headers or libbpf.

Only what that takes is read: the type table is walked once (30–40 ms for a whole vmlinux), and members are
looked up in the wanted structs, through anonymous structs and unions.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import TYPE_CHECKING

from capture.errors import PlaintapError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

VMLINUX = Path("/sys/kernel/btf/vmlinux")

_MAGIC = 0xEB9F
_STRUCT_KIND, _UNION_KIND = 4, 5
_ALIASES = (8, 9, 10, 11, 18)  # typedef, volatile, const, restrict, type_tag
# Bytes after the 12-byte struct btf_type, by kind: fixed, and for each of its vlen elements.
_TRAILER = {
    1: (4, 0), 2: (0, 0), 3: (12, 0), 4: (0, 12), 5: (0, 12), 6: (0, 8), 7: (0, 0), 8: (0, 0), 9: (0, 0),
    10: (0, 0), 11: (0, 0), 12: (0, 0), 13: (0, 8), 14: (4, 0), 15: (0, 12), 16: (0, 0), 17: (4, 0),
    18: (0, 0), 19: (0, 12),
}  # fmt: skip
_TYPE = struct.Struct("<III")


class BtfError(PlaintapError):
    """The kernel's type information is missing, or lacks a member."""


class Btf:
    """A BTF blob, with the structs named in ``wanted`` found."""

    def __init__(self, blob: bytes, wanted: Iterable[str]) -> None:
        try:
            magic, _, _, header, types, type_bytes, strings, _ = struct.unpack_from("<HBBIIIII", blob)
        except struct.error:
            magic = 0
        if magic != _MAGIC:
            raise BtfError(
                "The kernel's BTF cannot be read: not in the known format. Is /sys/kernel/btf/vmlinux whole?"
            )
        self._blob = blob
        self._strings = header + strings
        self._offsets = [0]
        self._structs: dict[str, int] = {}
        self._walk(header + types, header + types + type_bytes, {name.encode() for name in wanted})

    def _walk(self, at: int, end: int, wanted: set[bytes]) -> None:
        append, unpack, blob = self._offsets.append, _TYPE.unpack_from, self._blob
        while at < end:
            append(at)
            name, info, _ = unpack(blob, at)
            kind = info >> 24 & 31
            if kind == _STRUCT_KIND and name:
                start = self._strings + name
                text = blob[start : blob.index(b"\0", start)]
                if text in wanted:
                    self._structs[text.decode()] = at
            try:
                fixed, each = _TRAILER[kind]
            except KeyError:
                raise BtfError(
                    f"The kernel's BTF has a kind of type ({kind}) that plaintap does not know."
                ) from None
            at += 12 + fixed + each * (info & 0xFFFF)

    def offset(self, struct_name: str, path: str) -> int:
        """Offset in bytes of a member, given as ``member`` or ``member.member``.

        Raises BtfError if the kernel has no such struct or member.
        """
        at, total = self._structs.get(struct_name), 0
        if at is None:
            raise BtfError(f"This kernel has no struct {struct_name}: its BTF does not fit plaintap.")
        for part in path.split("."):
            for name, offset, kind in self._members(at):
                if name == part:
                    total += offset
                    at = self._resolve(kind)
                    break
            else:
                raise BtfError(f"This kernel's struct {struct_name} has no member {path}.")
        return total

    def size(self, struct_name: str) -> int:
        """Size in bytes. Raises BtfError if the kernel has no such struct."""
        at = self._structs.get(struct_name)
        if at is None:
            raise BtfError(f"This kernel has no struct {struct_name}: its BTF does not fit plaintap.")
        return int(_TYPE.unpack_from(self._blob, at)[2])

    def _resolve(self, type_id: int) -> int:
        at = self._offsets[type_id]
        while True:
            _, info, target = _TYPE.unpack_from(self._blob, at)
            if info >> 24 & 31 not in _ALIASES:
                return at
            at = self._offsets[target]

    def _members(self, at: int, base: int = 0) -> Iterator[tuple[str, int, int]]:
        _, info, _ = _TYPE.unpack_from(self._blob, at)
        if info >> 24 & 31 not in (_STRUCT_KIND, _UNION_KIND):
            return
        for i in range(info & 0xFFFF):
            name, kind, bits = _TYPE.unpack_from(self._blob, at + 12 + 12 * i)
            if info >> 31:  # kind_flag: the upper byte is a bit field's size
                bits &= 0xFFFFFF
            if name:
                start = self._strings + name
                yield self._blob[start : self._blob.index(b"\0", start)].decode(), base + bits // 8, kind
            else:
                yield from self._members(self._resolve(kind), base + bits // 8)


def read_vmlinux(wanted: Iterable[str]) -> Btf:
    """The running kernel's types. Raises BtfError if it publishes none."""
    try:
        blob = VMLINUX.read_bytes()
    except OSError:
        raise BtfError(
            "This kernel publishes no type information (/sys/kernel/btf/vmlinux): "
            "plaintap needs a kernel built with CONFIG_DEBUG_INFO_BTF, as distributions have since about 5.8."
        ) from None
    return Btf(blob, wanted)
