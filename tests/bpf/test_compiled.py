"""Bytecode that was kept is the bytecode that would be compiled, and nothing that others could have written."""

from __future__ import annotations

import errno
import os
import struct

import pytest

from bpf import compiled, compiler, program
from bpf.compiled import Compiled
from bpf.maps import Declaration
from capture import cache_folder

INSTRUCTION = struct.Struct("<BBhi")
LOAD_MAP, REST = INSTRUCTION.pack(0x18, 0x11, 0, 7), INSTRUCTION.pack(0, 0, 0, 0)
A, B = (Declaration(name, 1, 4, 8, 16, 0, '"unsigned int"', '"unsigned long"') for name in "ab")
LOAD_VALUE = INSTRUCTION.pack(0x18, 0x21, 0, 3)
PLAIN = INSTRUCTION.pack(0xB7, 0, 0, 7)  # r0 = 7: the same number, but no map


def test_maps_are_linked_by_number_and_nothing_else_is_touched():
    kept = Compiled.of({"p": LOAD_MAP + REST + PLAIN}, {3: A, 7: B})
    assert kept.maps == (A, B)
    assert kept.link([98, 99], {}) == {"p": INSTRUCTION.pack(0x18, 0x11, 0, 99) + REST + PLAIN}


def test_values_of_maps_are_linked_by_our_numbers_of_them():
    kept = Compiled.of({"p": LOAD_VALUE + REST + PLAIN}, {3: A, 7: B})
    assert kept.programs == {"p": LOAD_VALUE + REST + PLAIN}, "the number is no descriptor"
    assert kept.link([98, 99], {3: "b"}) == {"p": INSTRUCTION.pack(0x18, 0x21, 0, 99) + REST + PLAIN}


def test_a_map_that_is_missing_is_an_error():
    with pytest.raises(KeyError):
        Compiled.of({"p": LOAD_MAP}, {3: A})
    with pytest.raises(KeyError):
        Compiled((A,), {"p": LOAD_VALUE}).link([98], {3: "b"})


def test_the_key_depends_on_everything():
    keys = {compiled.key_of(*arguments) for arguments in (("a", ["-b"], "c"), ("b", ["-b"], "c"), ("a", ["-c"], "c"),
                                                          ("a", ["-b"], "d"), ("a", ["-b", "-b"], "c"))}  # fmt: skip
    assert len(keys) == 5


def test_what_was_kept_is_read_again(tmp_path):
    folder = tmp_path / "cache"
    compiled.write("k", Compiled((A, B), {"p": PLAIN}), folder)
    assert compiled.read("k", folder) == Compiled((A, B), {"p": PLAIN})
    assert compiled.read("other", folder) is None
    (file,) = folder.iterdir()
    assert file.stat().st_mode & 0o777 == 0o600
    assert folder.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("harm", ["file mode", "folder mode", "cut", "changed", "another map", "no json"])
def test_what_cannot_be_trusted_is_not_read(tmp_path, harm):
    folder = tmp_path / "cache"
    compiled.write("k", Compiled((A, B), {"p": PLAIN}), folder)
    (file,) = folder.iterdir()
    text = file.read_text()
    if harm == "file mode":
        file.chmod(0o622)
    elif harm == "folder mode":
        folder.chmod(0o777)
    else:
        harmed = {
            "cut": text[:-9],
            "changed": text.replace("b7", "b4"),
            "another map": text.replace("16", "17"),
            "no json": "[]",
        }[harm]
        assert harmed != text
        file.write_text(harmed)
    assert compiled.read("k", folder) is None


def test_old_ones_go(tmp_path):
    for number in range(compiled.MAX_FILES + 5):
        compiled.write(str(number), Compiled((), {}), tmp_path)
        os.utime(tmp_path / f"programs-{number}.json", (number, number))
    # Of a recorder that was killed while it wrote.
    (tmp_path / "programs-0.4711").touch()
    os.utime(tmp_path / "programs-0.4711", (0, 0))
    compiled.write("last", Compiled((), {}), tmp_path)
    assert len(list(tmp_path.iterdir())) == compiled.MAX_FILES
    assert compiled.read("last", tmp_path) is not None


def test_a_disk_that_is_full_is_left_as_it_was(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(compiled, "to_json", full)
    compiled.write("k", Compiled((), {}), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_is_no_error(tmp_path):
    (tmp_path / "file").touch()
    compiled.write("k", Compiled((), {}), tmp_path / "file" / "folder")
    assert compiled.read("k", tmp_path / "file" / "folder") is None


def test_who_is_not_root_compiles_once_too(tmp_path, monkeypatch):
    monkeypatch.setattr(cache_folder.os, "geteuid", lambda: 1000)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(program.bcc_module, "identity", lambda: "bcc")
    compiling = [Compiled((A,), {"p": PLAIN})]
    monkeypatch.setattr(compiler, "compile_source", lambda *_: compiling.pop())
    said = []
    first, second = (program._compiled("text", [], lambda: said.append(1)) for _ in range(2))
    assert first == second == Compiled((A,), {"p": PLAIN})
    assert said == [1]
    assert [path.parent for path in tmp_path.rglob("programs-*")] == [tmp_path / "plaintap"]


@pytest.mark.kernel
@pytest.mark.parametrize("below_calls", [False, True])
def test_the_second_kernel_side_is_the_first_one(tmp_path, monkeypatch, below_calls):
    monkeypatch.setattr(program, "cache_folder", lambda: tmp_path)
    kernels = [program.Kernel(1 << 16, below_calls=below_calls)]
    assert len(list(tmp_path.iterdir())) == 1
    monkeypatch.setattr(compiler, "compile_source", lambda *_: pytest.fail("compiled again"))
    try:
        kernels.append(program.Kernel(1 << 16, below_calls=below_calls))
        first, second = kernels
        assert first.table("connections").Leaf._fields_ == second.table("connections").Leaf._fields_
        (kept,) = (
            compiled.read(file.stem.removeprefix("programs-"), tmp_path) for file in tmp_path.iterdir()
        )
        for kernel in kernels:
            descriptors = [m.map_fd for m in kernel._maps.values()]
            assert kernel._code == kept.link(descriptors, program._values())
    finally:
        for kernel in kernels:
            kernel.close()
