"""Processes and their files, on real ones: deleted, replaced, in memory, and in another mount namespace."""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
import sys
import time
from pathlib import Path

import pytest
from compiled import LIBSSL, compile_library
from processes import running, wait_until

from capture.errors import UsageError
from capture.older_connections import wanted_processes
from capture.processes import (
    discover_files,
    executable_mappings,
    loader_cache_libraries,
    mappings_of_code,
    process_ids,
    read_process,
    require_process,
    running_processes,
)
from capture.targets import Selection, Targets

# Loads the library named by its argument and says so; then waits for its input to end.
HOLDER = "import ctypes, sys; ctypes.CDLL(sys.argv[1]); print('ready', flush=True); sys.stdin.read()"


def holding(library, *prefix):
    command = [*prefix, sys.executable, "-c", HOLDER, library]
    return running(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


@pytest.fixture
def library(tmp_path):
    return compile_library(tmp_path, "int fixture(void) { return 1; }")


def found(pid, name):
    files = [file for file in discover_files([pid]) if file.name == str(name)]
    assert len(files) == 1, files
    return files[0]


def test_this_process_as_proc_shows_it():
    process = read_process(os.getpid())
    assert process.pid == os.getpid()
    assert process.comm == Path("/proc/self/comm").read_text().strip()
    assert process.exe == os.path.realpath(sys.executable)
    assert process.command_line.split()[0] == sys.orig_argv[0]
    started = process.start_ticks / os.sysconf("SC_CLK_TCK")
    assert 0 < started <= time.clock_gettime(time.CLOCK_BOOTTIME)


def test_odd_names_and_arguments(tmp_path):
    program = tmp_path / "a) R 1\n\xff"
    shutil.copy("/bin/sleep", program)
    with subprocess.Popen([program, "60"]) as child:
        # Exec closes Popen's pipe before it says what the arguments are.
        wait_until(Path(f"/proc/{child.pid}/cmdline").read_bytes, "its arguments")
        process = read_process(child.pid)
        child.kill()
    assert process.comm == "a) R 1\n\xff"
    assert process.start_ticks >= read_process(os.getpid()).start_ticks
    assert process.exe == str(program)
    assert process.command_line == f"'{program}' 60"


# The kernel writes no \n into a name; Python ends lines at nine others.
@pytest.mark.parametrize("end", ["\r", "\v", "\x1c"])
def test_names_in_which_a_line_seems_to_end(tmp_path, end):
    program = tmp_path / f"a{end}Uid:{end}x"
    shutil.copy("/bin/sleep", program)
    with subprocess.Popen([program, "60"]) as child:
        try:
            wait_until(Path(f"/proc/{child.pid}/cmdline").read_bytes, "its arguments")
            assert wanted_processes(Targets(Selection(pids=(child.pid,)))) == {child.pid: program.name}
            assert os.fsencode(program) in {mapping.name for mapping in mappings_of_code(child.pid)}
        finally:
            child.kill()


def test_a_path_that_is_no_text_is_shown_with_escapes(tmp_path):
    program = tmp_path / os.fsdecode(b"\xff") / os.fsdecode(b"odd\xfe")
    program.parent.mkdir()
    shutil.copy("/bin/sleep", program)
    with subprocess.Popen([program, "60"]) as child:
        process = read_process(child.pid)
        child.kill()
    assert process.exe == f"{tmp_path}/\\xff/odd\\xfe"
    assert process.comm == "odd\\xfe"


def test_zeros_behind_a_title_are_no_arguments():
    with subprocess.Popen([sys.executable, "-c", "input()", "", ""], stdin=subprocess.PIPE) as child:
        # exec closes what Popen waits for before it says where the arguments are.
        wait_until(lambda: read_process(child.pid).command_line, "the program to run")
        process = read_process(child.pid)
    assert process.command_line == f"{sys.executable} -c 'input()'"


def test_running_processes_are_all_of_them():
    pids = [process.pid for process in running_processes()]
    assert pids == sorted(pids)
    assert {os.getpid(), os.getppid(), 1} <= set(pids) <= set(process_ids()) | set(pids)
    kernel_thread = next((p for p in running_processes() if p.command_line is None), None)
    assert kernel_thread is None or executable_mappings(kernel_thread.pid) == []


def test_a_process_that_ended_is_not_there():
    with subprocess.Popen(["true"]) as child:
        child.wait()
    assert read_process(child.pid) is None
    assert discover_files([child.pid]) == []
    with pytest.raises(UsageError, match=f"no process {child.pid}"):
        require_process(child.pid)
    assert require_process(os.getpid()).pid == os.getpid()


def test_a_thread_is_no_process():
    script = "import threading; threading.Thread(target=input).start(); print('ready', flush=True)"
    command = [sys.executable, "-c", script]
    with running(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout.readline() == "ready\n"
        threads = [int(t.name) for t in Path(f"/proc/{child.pid}/task").iterdir()]
        others = [t for t in threads if t != child.pid]
        assert read_process(child.pid) is not None
        assert [read_process(thread) for thread in others] == [None]


def test_a_mapped_library_by_its_own_path(library):
    with holding(library) as child, holding(library) as other:
        assert child.stdout.readline() == other.stdout.readline() == "ready\n"
        file = found(child.pid, library)
        assert file.path == str(library)
        assert file.pids == (child.pid,)
        both = [f for f in discover_files([child.pid, other.pid]) if f.name == str(library)]
        assert [f.pids for f in both] == [(child.pid, other.pid)]


@pytest.mark.parametrize("replaced", [False, True])
def test_a_deleted_or_replaced_library_still_opens(library, replaced):
    content = library.read_bytes()
    with holding(library) as child:
        assert child.stdout.readline() == "ready\n"
        library.unlink()
        if replaced:
            library.write_bytes(b"another file")
        file = found(child.pid, library)
        assert Path(file.path).read_bytes() == content
        assert "map_files" in file.path


def test_a_library_in_memory_opens(library):
    memory = os.memfd_create("plugin")
    os.write(memory, library.read_bytes())
    with holding(f"/proc/{os.getpid()}/fd/{memory}") as child:
        assert child.stdout.readline() == "ready\n"
        file = found(child.pid, "/memfd:plugin")
        assert Path(file.path).read_bytes() == library.read_bytes()
    os.close(memory)


@pytest.mark.skipif(os.geteuid() != 0, reason="mount namespaces need root")
def test_a_library_in_another_mount_namespace(library, tmp_path):
    """Two different files under one path: ours, and one that only the other namespace has."""
    inner = tmp_path / "inner"
    inner.mkdir()
    shutil.copy(library, inner / "fixture.so")
    shared = tmp_path / "shared"
    shared.mkdir()
    shutil.copy(library, shared / "fixture.so")
    script = f'mount --bind {inner} {shared} && exec "$@"'
    with holding(shared / "fixture.so", "unshare", "--mount", "sh", "-c", script, "sh") as child:
        if child.stdout.readline() != "ready\n":
            pytest.skip("mount namespaces are not allowed here")
        file = found(child.pid, shared / "fixture.so")
        assert file.path == f"/proc/{child.pid}/root{shared}/fixture.so"
        assert file.inode == (inner / "fixture.so").stat().st_ino
        assert file.inode != (shared / "fixture.so").stat().st_ino


def test_files_of_all_processes_and_others_beside():
    files = discover_files(also=(str(LIBSSL), "/nonexistent", "a\0b", sys.executable))
    ours = LIBSSL.stat()
    assert [file.inode for file in files if file.device == ours.st_dev].count(ours.st_ino) == 1
    assert len({(file.device, file.inode) for file in files}) == len(files)
    own = [file for file in files if os.getpid() in file.pids]
    assert os.path.realpath(sys.executable) in {file.name for file in own}


def test_the_loaders_cache_is_ldconfigs():
    out = subprocess.run(["/sbin/ldconfig", "-p"], check=True, capture_output=True, text=True).stdout
    judged = [line.rsplit(" => ", 1)[1] for line in out.splitlines() if " => " in line]
    assert set(loader_cache_libraries()) == set(judged)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"ld.so-1.7.0\0",
        b"glibc-ld.so.cache1.1",
        b"glibc-ld.so.cache1.1" + struct.pack("<II20x", 1 << 31, 7),
        b"glibc-ld.so.cache1.1" + struct.pack("<II20x", 1, 7) + struct.pack("<iIIIQ", 1, 0, 1 << 31, 0, 0),
    ],
)
def test_a_cache_of_another_kind_names_nothing(tmp_path, content):
    path = tmp_path / "ld.so.cache"
    path.write_bytes(content)
    assert loader_cache_libraries(path) == []
    assert loader_cache_libraries(tmp_path / "missing") == []
