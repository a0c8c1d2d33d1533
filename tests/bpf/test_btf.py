"""Offsets from BTF: the running kernel's against bpftool's reading, and small blobs that break each rule."""

from __future__ import annotations

import json
import shutil
import struct
import subprocess

import pytest

from bpf import btf
from bpf.btf import VMLINUX, Btf, BtfError, read_vmlinux
from bpf.program import OFFSETS

needs_kernel_types = pytest.mark.skipif(
    not VMLINUX.exists() or not shutil.which("bpftool"), reason="no BTF of the kernel, or no bpftool"
)


@pytest.fixture(scope="module")
def types():
    """The kernel's types as bpftool reads them, by number."""
    command = ["bpftool", "--json", "btf", "dump", "file", VMLINUX]
    dumped = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    return {entry["id"]: entry for entry in dumped["types"]}


def bits_of(types, entry, name):
    """A member's offset in bits and its type, looked for in anonymous members too; None if there is none."""
    for member in entry.get("members", ()):
        if member["name"] == name:
            return member["bits_offset"], member["type_id"]
        if member["name"] == "(anon)":
            inner = bits_of(types, resolved(types, member["type_id"]), name)
            if inner:
                return member["bits_offset"] + inner[0], inner[1]
    return None


def resolved(types, number):
    while types[number]["kind"] in {"TYPEDEF", "CONST", "VOLATILE", "RESTRICT", "TYPE_TAG"}:
        number = types[number]["type_id"]
    return types[number]


@needs_kernel_types
@pytest.mark.parametrize("struct_name", OFFSETS)
def test_every_offset_is_the_one_that_bpftool_finds(types, struct_name):
    mine = read_vmlinux([struct_name])
    (entry, *others) = [t for t in types.values() if t["kind"] == "STRUCT" and t["name"] == struct_name]
    assert not others
    for path in OFFSETS[struct_name]:
        at, inside = 0, entry
        for part in path.split("."):
            bits, type_id = bits_of(types, inside, part)
            at, inside = at + bits, resolved(types, type_id)
        assert mine.offset(struct_name, path) == at // 8, path


@needs_kernel_types
def test_what_the_kernel_has_not_is_named():
    types = read_vmlinux(["sock"])
    with pytest.raises(BtfError, match="sock has no member sk_nothing"):
        types.offset("sock", "sk_nothing")
    with pytest.raises(BtfError, match="no struct nothing"):
        types.offset("nothing", "x")
    with pytest.raises(BtfError, match="no member"):
        types.offset("sock", "sk_protocol.x")


def test_without_btf_the_remedy_is_named(monkeypatch, tmp_path):
    monkeypatch.setattr(btf, "VMLINUX", tmp_path / "none")
    with pytest.raises(BtfError, match="CONFIG_DEBUG_INFO_BTF"):
        read_vmlinux(["sock"])


class Blob:
    """A BTF blob, made type by type (Documentation/bpf/btf.rst)."""

    def __init__(self):
        self.types = b""
        self.strings = b"\0"
        self.count = 0

    def name(self, text):
        if not text:
            return 0
        at = len(self.strings)
        self.strings += text.encode() + b"\0"
        return at

    def add(self, kind, name="", size=0, trailer=b"", vlen=0, flag=0):
        self.types += struct.pack("<III", self.name(name), flag << 31 | kind << 24 | vlen, size) + trailer
        self.count += 1
        return self.count

    def struct(self, name, *members, flag=0, kind=4):
        packed = [struct.pack("<III", self.name(member), type_id, bits) for member, type_id, bits in members]
        return self.add(kind, name, 64, b"".join(packed), len(packed), flag)

    def bytes(self):
        head = struct.pack(
            "<HBBIIIII", 0xEB9F, 1, 0, 24, 0, len(self.types), len(self.types), len(self.strings)
        )
        return head + self.types + self.strings


def test_members_of_anonymous_members_and_through_aliases():
    blob = Blob()
    number = blob.add(1, "int", 4, bytes(4))
    inner = blob.struct("", ("deep", number, 32))
    union = blob.struct("", ("", inner, 0), ("other", number, 0), kind=5)
    typedef = blob.add(8, "alias", union)
    const = blob.add(10, "", typedef)
    named = blob.struct("named", ("x", number, 64))
    alias = blob.add(8, "named_t", named)
    blob.struct("outer", ("first", number, 0), ("", const, 128), ("inside", alias, 256))
    found = Btf(blob.bytes(), ["outer"])
    assert [found.offset("outer", path) for path in ("first", "deep", "other", "inside", "inside.x")] == [
        0, 20, 16, 32, 40,
    ]  # fmt: skip


def test_bit_fields_have_their_size_in_the_upper_byte():
    blob = Blob()
    number = blob.add(1, "int", 4, bytes(4))
    blob.struct("flags", ("a", number, 3 << 24 | 0), ("b", number, 0 << 24 | 64), flag=1)
    found = Btf(blob.bytes(), ["flags"])
    assert (found.offset("flags", "a"), found.offset("flags", "b")) == (0, 8)


@pytest.mark.parametrize("kind", sorted(btf._TRAILER))
def test_every_kind_is_passed_by_with_its_own_length(kind):
    blob = Blob()
    fixed, each = btf._TRAILER[kind]
    blob.add(kind, "before", 1, bytes(fixed + 3 * each), vlen=3 if each else 0)
    number = blob.add(1, "int", 4, bytes(4))
    blob.struct("wanted", ("pad", number, 0), ("m", number, 96))
    assert Btf(blob.bytes(), ["wanted"]).offset("wanted", "m") == 12


def test_a_kind_of_the_future_is_refused_by_number():
    blob = Blob()
    blob.add(25, "new")
    with pytest.raises(BtfError, match="25"):
        Btf(blob.bytes(), ["x"])


@pytest.mark.parametrize("blob", [b"", b"\x9f\xeb", b"ELF" + bytes(64), bytes(64)])
def test_what_is_no_btf_is_said_to_be_none(blob):
    with pytest.raises(BtfError, match="not in the known format"):
        Btf(blob, ["sock"])
