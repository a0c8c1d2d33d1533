"""The kernel side's maps: made as bcc has declared them, read and written by key (Documentation/bpf/maps.rst)."""

from __future__ import annotations

import ctypes
import json
import os
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from bpf import system

if TYPE_CHECKING:
    from collections.abc import Iterator

_SCALARS: dict[str, type[Any]] = {
    "_Bool": ctypes.c_bool,
    "char": ctypes.c_char,
    "signed char": ctypes.c_byte,
    "unsigned char": ctypes.c_ubyte,
    "short": ctypes.c_short,
    "unsigned short": ctypes.c_ushort,
    "int": ctypes.c_int,
    "unsigned int": ctypes.c_uint,
    "long": ctypes.c_long,
    "unsigned long": ctypes.c_ulong,
    "long long": ctypes.c_longlong,
    "unsigned long long": ctypes.c_ulonglong,
}


@dataclass(frozen=True, slots=True)
class Declaration:
    """What a map is made of; its key's and its value's types in JSON, in bcc's words."""

    name: str
    kind: int
    key_bytes: int
    value_bytes: int
    entries: int
    flags: int
    key: str
    value: str


class Map:
    """A map of the kernel; a subscript is an entry, of types that know their members' names."""

    def __init__(self, declaration: Declaration) -> None:
        """Make it. Raises OSError."""
        self._declaration = d = declaration
        self.map_fd = system.create_map(d.kind, d.key_bytes, d.value_bytes, d.entries, d.flags, d.name)

    @cached_property
    def Key(self) -> Any:  # noqa: N802 - a class
        """The ctypes type of its keys."""
        return self._type(self._declaration.key, self._declaration.key_bytes)

    @cached_property
    def Leaf(self) -> Any:  # noqa: N802 - a class
        """The ctypes type of its values."""
        return self._type(self._declaration.value, self._declaration.value_bytes)

    def _type(self, description: str, size: int) -> Any:
        """The kernel writes so many bytes, whatever was described."""
        found = ctype_of(json.loads(description))
        if ctypes.sizeof(found) != size:
            raise TypeError(f"{self._declaration.name} has {size} bytes where bcc describes {description}")
        return found

    def __getitem__(self, key: Any) -> Any:
        """A copy of a value. Raises KeyError."""
        value = self.Leaf()
        if not system.read_map(self.map_fd, key, value):
            raise KeyError(bytes(key))
        return value

    def __setitem__(self, key: Any, value: Any) -> None:
        system.write_map(self.map_fd, bytes(key), bytes(value))

    def __delitem__(self, key: Any) -> None:
        """Raises KeyError."""
        if not system.delete_from_map(self.map_fd, bytes(key)):
            raise KeyError(bytes(key))

    def __contains__(self, key: Any) -> bool:
        return system.read_map(self.map_fd, key, self.Leaf())

    def __iter__(self) -> Iterator[Any]:
        """The keys of a hash map."""
        for key, _ in system.read_hash_map(self.map_fd, ctypes.sizeof(self.Key), ctypes.sizeof(self.Leaf)):
            yield self.Key.from_buffer_copy(key)

    def clear(self) -> None:
        """Delete all entries of a hash map."""
        for key in list(self):
            del self[key]

    def close(self) -> None:
        """Let go of it: it is gone when no program has it either."""
        os.close(self.map_fd)


def ctype_of(description: Any) -> Any:
    """The type that bcc describes: a scalar's name, or [name, members, struct, union or struct_packed].

    A member is [name, type], [name, type, [elements]], [name, type, bits], or such a type in its place, without a name
    where it is anonymous. Raises KeyError where a scalar is none that C has, ValueError where a member is of none of
    these forms.
    """
    if isinstance(description, str):
        return _SCALARS[description]
    name, members, *kinds = description
    kind = kinds[0] if kinds else "struct"
    fields: list[tuple[Any, ...]] = []
    anonymous: list[str] = []
    for member in members:
        match member:
            case [member_name, member_type]:
                fields.append((member_name, ctype_of(member_type)))
            case [member_name, member_type, [elements]]:
                fields.append((member_name, ctype_of(member_type) * elements))
            case [member_name, member_type, int(bits)]:
                fields.append((member_name, ctype_of(member_type), bits))
            case [member_name, list(), str()]:
                if not member_name:
                    member_name = f"__anonymous{len(anonymous)}"
                    anonymous.append(member_name)
                fields.append((member_name, ctype_of(member)))
            case _:
                raise ValueError(f"{name} has a member of no known form: {member}")
    layout: dict[str, Any] = {"_anonymous_": anonymous, "_fields_": fields}
    if kind == "struct_packed":
        layout["_pack_"] = 1
    return type(name, (ctypes.Union if kind == "union" else ctypes.Structure,), layout)
