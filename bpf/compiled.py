"""Programs compiled once: their bytecode and what their maps are, kept by everything that it depends on.

Compiling takes 1–2.5 s. So the first recording keeps what came of it, and every recording makes the maps and links the
bytecode to them: an instruction that loads a map's address carries its descriptor, which is replaced by the map of that
name. One that loads the address of a map's only value carries our number of it (``enum value_of`` in events.h): bcc
knows no such.

What is loaded into the kernel must be ours: the file is used only if nobody but root or us could have written it.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import stat
from array import array
from dataclasses import asdict, astuple, dataclass
from typing import TYPE_CHECKING

from bpf.maps import Declaration

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

_NAME = "programs-{}.json"
# One for each set of options, and those of the version before.
MAX_FILES = 8

# struct bpf_insn, little endian: opcode (BPF_LD, BPF_IMM, BPF_DW), registers (source: BPF_PSEUDO_MAP_FD or
# BPF_PSEUDO_MAP_VALUE), offset, immediate.
_LOADS_MASK, _LOADS_MAP, _LOADS_VALUE = 0xF0FF, 0x1018, 0x2018


@dataclass(frozen=True, slots=True)
class Compiled:
    """Bytecode of every program, with numbers of ``maps`` where descriptors belong."""

    maps: tuple[Declaration, ...]
    programs: Mapping[str, bytes]

    @classmethod
    def of(cls, programs: Mapping[str, bytes], maps: Mapping[int, Declaration]) -> Compiled:
        """What a compilation gave, and its maps by descriptor."""
        replacing = {_LOADS_MAP: {descriptor: number for number, descriptor in enumerate(maps)}}
        return cls(
            tuple(maps.values()), {name: _replaced(code, replacing) for name, code in programs.items()}
        )

    def link(self, descriptors: Sequence[int], values: Mapping[int, str]) -> dict[str, bytes]:
        """The programs, for these maps; ``values`` names those whose only value has a number.

        Raises KeyError if one is missing.
        """
        by_name = {m.name: descriptor for m, descriptor in zip(self.maps, descriptors, strict=True)}
        replacing = {
            _LOADS_MAP: dict(enumerate(descriptors)),
            _LOADS_VALUE: {number: by_name[name] for number, name in values.items()},
        }
        return {name: _replaced(code, replacing) for name, code in self.programs.items()}


def _replaced(code: bytes, replacing: Mapping[int, Mapping[int, int]]) -> bytes:
    """The instructions, with the immediates of those that load a map, or its value, replaced."""
    instructions = array("Q", code)
    for i, instruction in enumerate(instructions):
        if (immediates := replacing.get(instruction & _LOADS_MASK)) is not None:
            instructions[i] = instruction & 0xFFFFFFFF | immediates[instruction >> 32] << 32
    return instructions.tobytes()


def key_of(source: str, flags: Iterable[str], compiler: str) -> str:
    """Names what bytecode depends on."""
    return hashlib.sha256("\0".join((source, *flags, compiler)).encode()).hexdigest()[:32]


def read(key: str, folder: Path) -> Compiled | None:
    """What was kept under this key; None for nothing that can be trusted."""
    try:
        with (folder / _NAME.format(key)).open("rb") as file:
            for status in (os.fstat(file.fileno()), folder.stat()):
                if status.st_uid not in (0, os.geteuid()) or stat.S_IMODE(status.st_mode) & 0o022:
                    return None
            return from_json(file.read())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def to_json(compiled: Compiled) -> str:
    """As text."""
    programs = {name: code.hex() for name, code in compiled.programs.items()}
    return json.dumps(
        {"maps": [asdict(m) for m in compiled.maps], "programs": programs, "digest": _digest(compiled)}
    )


def from_json(text: bytes) -> Compiled:
    """And back. Raises ValueError, KeyError, TypeError or AttributeError where it is no such text, or not whole."""
    kept = json.loads(text)
    found = Compiled(
        tuple(Declaration(**m) for m in kept["maps"]),
        {str(name): bytes.fromhex(code) for name, code in kept["programs"].items()},
    )
    if _digest(found) != kept["digest"]:
        raise ValueError("changed")
    return found


def write(key: str, compiled: Compiled, folder: Path) -> None:
    """Keep it, if that is possible."""
    path = folder / _NAME.format(key)
    partial = path.with_suffix(f".{os.getpid()}")
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(to_json(compiled))
        partial.replace(path)
        # What writers that were killed have left, too.
        kept = sorted(folder.glob("programs-*"), key=lambda old: old.stat().st_mtime)
        for old in kept[:-MAX_FILES]:
            old.unlink()
    except OSError:
        with contextlib.suppress(OSError):
            partial.unlink()


def _digest(compiled: Compiled) -> str:
    """Against files that were cut short or changed on disk."""
    programs = (name.encode() + code for name, code in sorted(compiled.programs.items()))
    maps = (repr(astuple(m)).encode() for m in compiled.maps)
    return hashlib.sha256(b"\0".join((*programs, *maps))).hexdigest()
