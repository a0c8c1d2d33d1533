"""Maps as the kernel has them, and their types as bcc describes them."""

from __future__ import annotations

import ctypes
import json

import pytest

from bpf.maps import Declaration, Map, ctype_of

_HASH, _ARRAY = 1, 2


def test_types_have_the_layout_of_c():
    inner = ["inner", [["a", "unsigned char"], ["__pad_1", "char", [3]], ["b", "unsigned int"]], "struct"]
    described = [
        "outer",
        [
            ["first", "unsigned long long"],
            ["bits", "unsigned int", 3],
            ["rest", "unsigned int", 29],
            ["name", "char", [16]],
            inner,
            ["", [["whole", "unsigned int"], ["half", "unsigned short"]], "union"],
        ],
        "struct",
    ]
    made = ctype_of(json.loads(json.dumps(described)))
    assert ctypes.sizeof(made) == 8 + 4 + 16 + 8 + 4
    value = made(first=1, rest=5, name=b"comm", whole=0x10002)
    assert (value.rest, value.name, value.half) == (5, b"comm", 2)
    assert made.inner.offset == 28
    assert value.inner.b == 0


def test_what_is_packed_has_no_padding():
    assert (
        ctypes.sizeof(ctype_of(["p", [["a", "unsigned char"], ["b", "unsigned int"]], "struct_packed"])) == 5
    )


@pytest.mark.parametrize("member", [["a", "char", [2, 16]], ["a"], ["a", "char", "char"]])
def test_a_member_of_no_known_form_is_an_error(member):
    with pytest.raises(ValueError, match="no known form"):
        ctype_of(["s", [member], "struct"])


@pytest.mark.kernel
def test_a_type_that_is_smaller_than_the_map_s_values_is_an_error():
    """The kernel would write past it."""
    table = Map(
        Declaration("test", _HASH, 4, 32, 4, 0, '"unsigned int"', '["s", [["a", "char", [2]]], "struct"]')
    )
    try:
        with pytest.raises(TypeError, match="test has 32 bytes"):
            table[table.Key(1)]
    finally:
        table.close()


def test_a_type_that_c_has_not_is_an_error():
    with pytest.raises(KeyError):
        ctype_of("int128")


@pytest.mark.kernel
def test_entries_of_a_hash_map():
    table = Map(Declaration("test", _HASH, 4, 8, 4, 0, '"unsigned int"', '"unsigned long"'))
    try:
        table[table.Key(1)] = table.Leaf(2)
        table[table.Key(3)] = table.Leaf(4)
        assert table[table.Key(3)].value == 4
        assert sorted(key.value for key in table) == [1, 3]
        assert table.Key(3) in table
        assert table.Key(2) not in table
        del table[table.Key(1)]
        with pytest.raises(KeyError):
            table[table.Key(1)]
        with pytest.raises(KeyError):
            del table[table.Key(1)]
        table.clear()
        assert list(table) == []
        for number in range(4):
            table[table.Key(number)] = table.Leaf(0)
        with pytest.raises(OSError, match="Argument list too long"):
            table[table.Key(4)] = table.Leaf(0)
    finally:
        table.close()


@pytest.mark.kernel
def test_a_map_that_the_kernel_does_not_make_is_an_error():
    with pytest.raises(OSError, match="Invalid argument"):
        Map(Declaration("test", _ARRAY, 8, 8, 4, 0, '"unsigned long"', '"unsigned long"'))
