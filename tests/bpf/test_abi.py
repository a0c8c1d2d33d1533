"""The layout that Python reads from events.h, against the compiler's, and what the reader refuses."""

from __future__ import annotations

import json
import re
import subprocess

import pytest

from bpf import abi

TYPES = "typedef unsigned char u8; typedef unsigned short u16; typedef unsigned int u32; typedef unsigned long u64;\n"
HEADER = abi.HEADER.read_text()
NESTED = """
#define SIZE 6
struct inner { u8 a; u64 b; };
struct outer { struct inner head; u16 c, d; u8 e[SIZE]; u32 f; u8 g; };
struct tail { u32 a; u8 b; };
"""


def compiled(text, tmp_path):
    """What gcc says of a header: sizes, offsets and values."""
    parsed = abi.parse(text)
    bare = re.sub(r"/\*.*?\*/", "", text, flags=re.DOTALL)
    lines = []
    for name in parsed.layouts:
        lines.append(f'printf("\\"size {name}\\": %zu,", sizeof(struct {name}));')
    for name, body in re.findall(r"struct\s+(\w+)\s*\{(.*?)\}\s*;", bare, re.DOTALL):
        for member in re.findall(r"(\w+)(?:\[\w+\])?\s*[;,]", body):
            lines.append(f'printf("\\"at {name} {member}\\": %zu,", offsetof(struct {name}, {member}));')
    for name in parsed.constants:
        lines.append(f'printf("\\"value {name}\\": %lld,", (long long){name});')
    program = f"#include <stddef.h>\n#include <stdio.h>\n{TYPES}{text}\nint main(void) {{\n"
    program += "\n".join(lines) + "\n}\n"
    (tmp_path / "abi.c").write_text(program)
    subprocess.run(["gcc", "-w", "-o", tmp_path / "abi", tmp_path / "abi.c"], check=True)
    said = subprocess.run([tmp_path / "abi"], check=True, capture_output=True, text=True).stdout
    return parsed, json.loads("{" + said.rstrip(",") + "}")


def offsets(layout):
    """Where each member begins, found by marking it alone."""
    blank = layout.codec.unpack(bytes(layout.codec.size))
    found = {}
    for place, (name, nothing) in enumerate(zip(layout.names, blank, strict=True)):
        mark = b"\x01" if isinstance(nothing, bytes) else 1
        found[name] = layout.codec.pack(*blank[:place], mark, *blank[place + 1 :]).index(1)
    return found


@pytest.mark.parametrize("text", [HEADER, NESTED], ids=["events.h", "nested, padded"])
def test_sizes_offsets_and_values_are_the_compiler_s(text, tmp_path):
    parsed, truth = compiled(text, tmp_path)
    compared = 0
    for name, layout in parsed.layouts.items():
        assert layout.codec.size == truth[f"size {name}"], name
        for member, at in offsets(layout).items():
            if f"at {name} {member}" in truth:
                assert at == truth[f"at {name} {member}"], (name, member)
                compared += 1
    assert compared > 5
    assert {f"value {name}": value for name, value in parsed.constants.items()} == {
        key: value for key, value in truth.items() if key.startswith("value ")
    }


def test_nested_members_come_first_and_by_their_own_names():
    layout = abi.parse(NESTED).layouts["outer"]
    assert layout.names == ("a", "b", "c", "d", "e", "f", "g")
    assert layout.index("e") == 4
    assert layout.codec.unpack(bytes(layout.codec.size))[layout.index("e")] == bytes(6)


def test_enumerators_count_on():
    found = abi.parse("enum x { A = 3, B, /* C = 9, */ D = 8, E, };")
    assert found.enums == {"x": {"A": 3, "B": 4, "D": 8, "E": 9}}
    assert found.constants == found.enums["x"]


@pytest.mark.parametrize("member", ["int a;", "u64 *a;", "u32 a[4];", "u8 a : 3;", "struct missing a;"])
def test_what_it_cannot_read_is_refused(member):
    with pytest.raises(ValueError, match="cannot read"):
        abi.parse(f"struct x {{ {member} }};")


def test_the_header_s_own_layouts_are_whole_words():
    for layout in abi.header().layouts.values():
        if layout.name != "settings":
            assert layout.codec.size % 8 == 0, "the ring's records are aligned to 8"


def test_a_class_holds_what_its_name_says():
    rooms = [abi.header().constants[f"CLASS{number}_BYTES"] for number in range(6)]
    assert rooms == sorted(rooms)
    assert all(room % 8 == 0 for room in rooms)
