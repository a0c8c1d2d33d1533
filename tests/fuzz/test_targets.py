"""A short, deterministic run of every fuzzing target: its seeds, whole, cut and changed.

``run.py`` beside this file is the long one, which is guided by coverage.
"""

from __future__ import annotations

import random

import pytest
from fuzz_seeds import SEEDS
from fuzz_targets import TARGETS

# A quarter of a second each, and half a minute under load.
CHANGED_INPUTS = 120
_NUMBERS = (b"\0", b"\xff", b"\x7f", b"\x80", b"\0\0\0\0", b"\xff\xff\xff\xff", b"\r\n", b"\n\n", b"1" * 40)


def changed(data: bytes, chance: random.Random) -> bytes:
    """``data`` with a few places overwritten, removed or repeated."""
    result = bytearray(data)
    for _ in range(chance.randint(1, 4)):
        at = chance.randint(0, len(result))
        end = min(len(result), at + chance.randint(0, 40))
        match chance.randrange(4):
            case 0:
                result[at:end] = chance.choice(_NUMBERS)
            case 1:
                del result[at:end]
            case 2:
                result[at:at] = result[at:end]
            case _:
                result[at : at + 1] = bytes([chance.randrange(256)])
    return bytes(result)


def test_every_target_has_seeds() -> None:
    assert SEEDS.keys() == TARGETS.keys()


@pytest.mark.parametrize("name", TARGETS)
def test_a_parser_survives(name: str) -> None:
    target, chance = TARGETS[name], random.Random(name)
    target(b"")
    for seed in SEEDS[name]():
        target(seed)
        target(seed[: len(seed) // 2])
        for _ in range(CHANGED_INPUTS):
            target(changed(seed, chance))
