"""Programs compiled once: their bytecode, kept by everything that it depends on.

Compiling takes 1–2.5 s, making the maps 0.4 s. So the first recording keeps the bytecode, and later ones compile
only the declarations (for bcc to make the maps, and Python's view of them) and link the bytecode to these: an
instruction that loads a map's address carries its descriptor, which is replaced by the map of that name. One that
loads the address of a map's only value carries our number of it (``enum value_of`` in events.h): bcc knows no such.

What is loaded into the kernel must be ours: the file is used only if nobody but root or us could have written it.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import stat
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

FOLDER = Path("/var/cache/plaintap")
_NAME = "programs-{}.json"
# One for each set of options, and those of the version before.
MAX_FILES = 8

_INSTRUCTION = struct.Struct("<BBhi")
_LOAD_ADDRESS = 0x18
_PSEUDO_MAP_FD, _PSEUDO_MAP_VALUE = 1, 2

# At the beginning of a line, as all of our C is written: a function, whole or on one line; a macro that makes one.
_FUNCTION = re.compile(r"^(?:INLINE |static |int )[^;{]*\{(?:.*\}$|$(?:\n(?!\}).*)*\n\})", re.MULTILINE)
_PROGRAM_MACRO = re.compile(r"^(?!BPF_)[A-Z_0-9]+\([^)]*\)$", re.MULTILINE)


def declarations(source: str) -> str:
    """The source without its functions: types and maps."""
    return _PROGRAM_MACRO.sub("", _FUNCTION.sub("", source))


@dataclass(frozen=True, slots=True)
class Compiled:
    """Bytecode of every program, with numbers of ``maps`` where descriptors belong."""

    maps: tuple[str, ...]
    programs: Mapping[str, bytes]

    @classmethod
    def of(cls, programs: Mapping[str, bytes], descriptors: Mapping[str, int]) -> Compiled:
        """What a compilation gave, and the descriptors of its maps by name."""
        names = tuple(descriptors)
        numbers = {descriptor: number for number, descriptor in enumerate(descriptors.values())}
        replacing = {_PSEUDO_MAP_FD: numbers}
        return cls(names, {name: _replaced(code, replacing) for name, code in programs.items()})

    def link(self, descriptors: Mapping[str, int], values: Mapping[int, str]) -> dict[str, bytes]:
        """The programs, for these maps; ``values`` names those whose only value has a number.

        Raises KeyError if one is missing.
        """
        replacing = {
            _PSEUDO_MAP_FD: {number: descriptors[name] for number, name in enumerate(self.maps)},
            _PSEUDO_MAP_VALUE: {number: descriptors[name] for number, name in values.items()},
        }
        return {name: _replaced(code, replacing) for name, code in self.programs.items()}


# What an instruction that loads an address says it is → immediates and what takes their place.
_Replacing: TypeAlias = "Mapping[int, Mapping[int, int]]"


def _replaced(code: bytes, replacing: _Replacing) -> bytes:
    """The instructions, with the immediates of those that load a map, or its value, replaced."""
    return b"".join(_instructions(code, replacing))


def _instructions(code: bytes, replacing: _Replacing) -> Iterator[bytes]:
    for opcode, registers, offset, immediate in _INSTRUCTION.iter_unpack(code):
        if opcode == _LOAD_ADDRESS and registers >> 4 in replacing:
            yield _INSTRUCTION.pack(opcode, registers, offset, replacing[registers >> 4][immediate])
        else:
            yield _INSTRUCTION.pack(opcode, registers, offset, immediate)


def key_of(source: str, flags: Iterable[str], compiler: str) -> str:
    """Names what bytecode depends on."""
    return hashlib.sha256("\0".join((source, *flags, compiler)).encode()).hexdigest()[:32]


def read(key: str, folder: Path = FOLDER) -> Compiled | None:
    """What was kept under this key; None for nothing that can be trusted."""
    try:
        with (folder / _NAME.format(key)).open("rb") as file:
            for status in (os.fstat(file.fileno()), folder.stat()):
                if status.st_uid not in (0, os.geteuid()) or stat.S_IMODE(status.st_mode) & 0o022:
                    return None
            kept = json.load(file)
        programs = {str(name): bytes.fromhex(code) for name, code in kept["programs"].items()}
        return Compiled(tuple(kept["maps"]), programs) if _digest(programs) == kept["digest"] else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def write(key: str, compiled: Compiled, folder: Path = FOLDER) -> None:
    """Keep it, if that is possible."""
    text = json.dumps(
        {
            "maps": compiled.maps,
            "programs": {name: code.hex() for name, code in compiled.programs.items()},
            "digest": _digest(compiled.programs),
        }
    )
    with contextlib.suppress(OSError):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = folder / _NAME.format(key)
        partial = path.with_suffix(f".{os.getpid()}")
        with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(text)
        partial.replace(path)
        kept = sorted(folder.glob(_NAME.format("*")), key=lambda old: old.stat().st_mtime)
        for old in kept[:-MAX_FILES]:
            old.unlink()


def _digest(programs: Mapping[str, bytes]) -> str:
    """Against files that were cut short or changed on disk."""
    return hashlib.sha256(
        b"\0".join(name.encode() + code for name, code in sorted(programs.items()))
    ).hexdigest()
