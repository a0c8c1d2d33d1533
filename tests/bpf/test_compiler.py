"""The compiler is a process: what it says comes back as an error, and nothing of it stays."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

from bpf import compiled, compiler, program
from bpf.compiled import Compiled

MAP = "BPF_HASH(seen, u32, u64, 64);\n"
PROGRAM = MAP + "int program(void *ctx) { u32 key = 1; u64 one = 1; seen.update(&key, &one); return 0; }\n"

pytestmark = pytest.mark.kernel


@pytest.fixture
def interpreter(monkeypatch, tmp_path):
    """Puts a script in the place of Python."""

    def replace(script: str) -> None:
        path = tmp_path / "python"
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
        monkeypatch.setattr(sys, "executable", str(path))

    return replace


def test_programs_and_maps(monkeypatch):
    folder = Path.cwd()
    monkeypatch.delitem(sys.modules, "bcc", raising=False)
    made = compiler.compile_source(PROGRAM, ["-w"])
    (seen,) = made.maps
    assert (seen.name, seen.key_bytes, seen.value_bytes, seen.entries) == ("seen", 4, 8, 64)
    assert set(made.programs) == {"program"}
    assert made.link([77], {})["program"].count((77).to_bytes(4, "little")) == 1
    assert Path.cwd() == folder
    assert "bcc" not in sys.modules


def test_what_is_no_c_is_an_error_and_no_log(capfd):
    with pytest.raises(compiler.CompilerError, match="cannot be compiled"):
        compiler.compile_source("int program(void *ctx) { return nothing; }", [])
    assert capfd.readouterr() == ("", "")


def test_the_log_is_for_who_asks(monkeypatch, capfd):
    monkeypatch.setenv("PLAINTAP_BPF_LOG", "1")
    with pytest.raises(compiler.CompilerError):
        compiler.compile_source("int program(void *ctx) { return nothing; }", [])
    assert "nothing" in capfd.readouterr().err


def test_a_compiler_that_crashes_is_told_apart(interpreter):
    interpreter("kill -SEGV $$")
    with pytest.raises(compiler.CompilerError, match="SIGSEGV"):
        compiler.compile_source(PROGRAM, [])


def test_what_is_compiled_is_kept_by_what_it_includes(monkeypatch, tmp_path):
    keys = []
    monkeypatch.setattr(compiled, "read", lambda key, _: keys.append(key) or Compiled((), {}))
    folder = tmp_path / "headers"
    shutil.copytree(compiler._HEADERS, folder)
    monkeypatch.setattr(compiler, "_HEADERS", folder)
    program._compiled("", [], lambda: None)
    next(folder.rglob("*.h")).write_text("typedef int another;\n")
    program._compiled("", [], lambda: None)
    assert keys[0] != keys[1]


@pytest.mark.parametrize(
    "end", ["kill -KILL $$", "echo 'could not create map: Cannot allocate memory' >&2; exit 1"]
)
def test_no_memory_is_told_apart(interpreter, end):
    """Where a control group limits it, the kernel kills the compiler, or makes no maps for it."""
    interpreter(end)
    with pytest.raises(MemoryError):
        compiler.compile_source(PROGRAM, [])
