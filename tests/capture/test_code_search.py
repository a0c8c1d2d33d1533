"""What in code refers to an address, told without looking at each instruction that may."""

from __future__ import annotations

import re
import struct
from random import Random

import pytest

from capture.code_search import MIN_PICKY_BYTES, PIECE_BYTES, CodeSearch

LEA = re.compile(rb"[\x48\x4c]\x8d[\x05\x0d\x15\x1d\x25\x2d\x35\x3d](?=(....))", re.DOTALL)


class PositionIndependent:
    """A file of which nothing else is asked."""

    position_independent = True


def references(start, code, targets):
    return CodeSearch(PositionIndependent()).references(start, code, targets)


def one_by_one(start, code, targets):
    places = (
        (start + m.start(), start + m.end() + 4 + struct.unpack("<i", m[1])[0]) for m in LEA.finditer(code)
    )
    return [place for place, target in places if target in targets]


@pytest.mark.parametrize("length", [64, MIN_PICKY_BYTES - 1, MIN_PICKY_BYTES, PIECE_BYTES])
@pytest.mark.parametrize("start", [0x1000, 0x7FFF_F000, 0x2_0000_0000])
def test_references_are_those_that_a_look_at_each_instruction_finds(length, start):
    random = Random(length + start)
    targets = {
        start + distance for distance in (-0x70000000, -0x20000, -1, 0, length, length + 0xFFFF, 0x5D5E5B5C)
    }
    code = bytearray(random.randbytes(length))
    wanted = sorted(random.sample(range(0, length - 7, 7), min(300, length // 7)))
    for place, target in zip(wanted, random.choices(sorted(targets), k=len(wanted)), strict=True):
        lea = (
            random.choice([b"\x48", b"\x4c"])
            + b"\x8d"
            + random.choice(b"\x05\x0d\x15\x1d\x25\x2d\x35\x3d").to_bytes()
        )
        near = random.choice([0, 0, 0, 1, -0x10000])
        code[place : place + 7] = lea + struct.pack("<i", target + near - (start + place + 7))
    found = references(start, bytes(code), targets)
    assert found == one_by_one(start, bytes(code), targets)
    assert found


def test_a_load_at_either_end_of_the_code():
    load = b"\x48\x8d\x05" + struct.pack("<i", 0x100)
    code = load + bytes(MIN_PICKY_BYTES) + load
    targets = {0x107, 0x100 + len(code)}
    assert references(0, code, targets) == [0, len(code) - 7]
    assert references(0, code[:-1], targets) == [0]
    assert references(0, code[1:], {0x106, 0xFF + len(code)}) == [len(code) - 8]


def test_nothing_is_looked_for():
    assert references(0, bytes(MIN_PICKY_BYTES), set()) == []
