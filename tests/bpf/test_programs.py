"""The kernel side's programs, by their bytecode and by the kernel's verifier, for uprobe_multi and without."""

from __future__ import annotations

import errno
import os
import re
import signal
import struct
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
from clients import curl_command
from kernel_state import UNMOUNT_TRACEFS, verified_instructions
from processes import PYTHON
from recording import entries, path_of, warnings

from bpf import abi, below, compiled, program, system
from bpf.probes import RAW_TRACEPOINTS, TRACEPOINTS, Probes
from bpf.program import IN_PAIRS, Kernel
from bpf.tables import Tables
from capture.streams import StreamOpened
from exporters.reassembly import read_streams

# bcc warns of every str that it takes for bytes.
pytestmark = pytest.mark.kernel

RING_BYTES = 1 << 20
# Linux 6.13 gives a program of kprobe type a private stack from here on, unless a tail call is reachable in it.
PRIVATE_STACK_BYTES = 64
MAX_STACK_BYTES = 512
# The verifier's limit is 1,000,000. How many it looks at differs from kernel to kernel, and with each change of ours.
MAX_VERIFIED_INSTRUCTIONS = 300_000
TAIL_CALL = 12
FRAME_POINTER = 10
# Linux that has a helper, by its number (include/uapi/linux/bpf.h); all below are older than 5.3.
HELPERS = {109: (5, 3), 112: (5, 5), 113: (5, 5), 114: (5, 5), 115: (5, 5), 117: (5, 6), 131: (5, 8), 132: (5, 8),
           133: (5, 8), 158: (5, 11), 173: (5, 15), 174: (5, 15), 175: (5, 15)}  # fmt: skip
OLD_HELPERS = {1, 2, 3, 5, 6, 12, 14, 15, 16, 35, 37, 80}
# What an atomic addition needs whose result is used.
FETCH_SINCE = (5, 12)
OLDEST = (5, 15)
SOURCES = ("enter_by_cookie", "return_by_cookie", "go_enter_by_cookie", "go_return_by_cookie")


def functions(architecture="x86_64"):
    """Every program of the translation unit, by the C preprocessor's reading."""
    text = re.sub(r"^#include <.*$", "", program.source(), flags=re.MULTILINE)
    command = ["gcc", "-E", "-P", "-U__x86_64__", f"-D__{architecture}__", "-"]
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=True)
    return set(re.findall(r"\bint (\w+)\((?:void|struct \w+) \*ctx\)", done.stdout))


def loaded():
    return Kernel(RING_BYTES, unix=True)


@pytest.fixture(scope="module")
def kernel():
    found = loaded()
    yield found
    found.close()


def instructions(kernel, name):
    """(code, destination, source, offset, immediate) of each instruction."""
    for code, registers, offset, immediate in struct.iter_unpack("<BBhi", kernel.instructions(name)):
        yield code, registers & 15, registers >> 4, offset, immediate


def stack_bytes(kernel, name):
    """How deep a program reaches: offsets of loads and stores at r10, and of copies of it."""
    deepest = 0
    copies = set()
    for code, to, of, offset, immediate in instructions(kernel, name):
        kind = code & 7
        if (kind in (2, 3) and to == FRAME_POINTER) or (kind == 1 and of == FRAME_POINTER):
            deepest = min(deepest, offset)
        if code == 0xBF and of == FRAME_POINTER:
            copies.add(to)
        elif code == 0x07 and to in copies:
            deepest = min(deepest, immediate)
            copies.discard(to)
        elif code == 0xBF:
            copies.discard(to)
    return -deepest


def helpers(kernel, name):
    """Calls of helpers, by number."""
    return Counter(
        immediate for code, _, of, _, immediate in instructions(kernel, name) if code == 0x85 and not of
    )


def kinds(kernel):
    """Programs that are not uprobes, and bcc's name of what they are."""
    raw = (*RAW_TRACEPOINTS, *kernel.below.raw_tracepoints())
    return (
        dict.fromkeys((name for _, name in TRACEPOINTS), "TRACEPOINT")
        | dict.fromkeys(("continue_from_tracepoint", "tell_step_from_tracepoint", "exit_keyed"), "TRACEPOINT")
        | dict.fromkeys((name for _, name in raw), "RAW_TRACEPOINT")
        | {
            name.replace("WANTED_", "wanted_"): kind
            for kind in ("TRACEPOINT", "RAW_TRACEPOINT")
            for name in abi.header().enums[f"wanted_{kind.lower()}"]
        }
        | dict.fromkeys(
            ("continue_from_raw_tracepoint", "move_below_program", "check_below_program", "calibrate"),
            "RAW_TRACEPOINT",
        )
    )


def test_every_program_is_known_and_every_known_one_is_there(kernel):
    found = functions()
    attached = {name for _, name in (*TRACEPOINTS, *RAW_TRACEPOINTS)}
    assert attached < found
    assert {"continue_from_tracepoint", "continue_from_uprobe"} < found
    assert set(SOURCES) < found
    assert all(kernel.instructions(name) for name in found)


@pytest.mark.parametrize("uprobes", system.Uprobes, ids=lambda uprobes: uprobes.name.lower())
def test_the_verifier_accepts_every_program(uprobes, monkeypatch):
    if uprobes > system.newest_uprobes():
        pytest.skip("this kernel does not know that way")
    # Arrays of programs belong to those that were loaded first, and to their way.
    monkeypatch.setattr(program, "_newest_uprobes", lambda: uprobes)
    own = loaded()  # what bcc has loaded stays until it is closed
    for name in sorted(functions()):
        if name in kinds(own):
            assert own.load(name, kinds(own)[name]) > 0
        else:
            os.close(system.load_uprobe_program(own.instructions(name), name, uprobes))
    own.close()


def test_a_kernel_side_that_cannot_be_loaded_leaves_nothing(monkeypatch):
    def refuse(*_):
        raise OSError(errno.EACCES, "Permission denied")

    before = descriptors()
    monkeypatch.setattr(system, "load_program", refuse)
    with pytest.raises(program.ProgramError):
        Kernel(RING_BYTES, unix=True)
    assert descriptors() == before


def test_a_signal_does_not_end_a_load(kernel):
    """Ctrl-C while a program is verified: the kernel asks to try again (EAGAIN)."""
    came = []
    before = signal.signal(signal.SIGALRM, lambda *_: came.append(time.monotonic()))
    try:
        for after in (0.01, 0.03, 0.06):
            signal.setitimer(signal.ITIMER_REAL, after)
            os.close(
                system.load_program("TRACEPOINT", kernel.instructions("wanted_exit_io"), "wanted_exit_io")
            )
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert came


def test_the_verifier_says_why_it_refuses_a_program(monkeypatch, capsys):
    monkeypatch.setenv("PLAINTAP_BPF_LOG", "1")
    with pytest.raises(OSError, match="Permission denied"):
        system.load_program("TRACEPOINT", struct.pack("<BBhi", 0x95, 0, 0, 0), "bare_exit")
    assert "R0 !read_ok" in capsys.readouterr().err


@pytest.mark.parametrize("unix", [False, True], ids=["", "unix"])
def test_the_verifier_is_far_from_its_limit(unix):
    own = Kernel(RING_BYTES, unix=unix)
    looked_at = {name: verified_instructions(own.load(name, kind)) for name, kind in kinds(own).items()}
    own.close()
    assert {name: number for name, number in looked_at.items() if number > MAX_VERIFIED_INSTRUCTIONS} == {}
    assert max(looked_at.values()) > MAX_VERIFIED_INSTRUCTIONS // 10, "these are the numbers"


def test_a_uprobe_program_has_a_small_stack_or_can_reach_a_tail_call(kernel):
    for name in sorted(functions()):
        depth = stack_bytes(kernel, name)
        assert depth <= MAX_STACK_BYTES
        if name not in kinds(kernel):
            assert depth < PRIVATE_STACK_BYTES or helpers(kernel, name)[TAIL_CALL], f"{name}: {depth} bytes"


def test_no_uprobe_program_asks_for_a_return_that_it_does_not_mean():
    """The kernel changes the stack of any function for a 0, Go's too. What is for one process is attached otherwise."""
    found = re.findall(
        r"^int (\w+)\(struct pt_regs \*ctx\)\n\{\n(.*?)^\}", program.source(), re.MULTILINE | re.DOTALL
    )
    assert len(found) >= 15
    for name, body in found:
        if "place" not in name:
            for value in re.findall(r"\breturn (.*?);", body, re.DOTALL):
                assert re.match(
                    r"(is_switched\(.*\) \? )?NO_RETURN|SHOW_RETURN|finish_uprobe\(|shows_return\(", value
                ), name


def test_the_stack_is_measured(kernel):
    assert stack_bytes(kernel, "wanted_exit_io") > PRIVATE_STACK_BYTES
    assert helpers(kernel, "wanted_exit_io")[TAIL_CALL] == 1


@pytest.mark.parametrize("name", [name.removeprefix("WANTED_") for kind in ("tracepoint", "raw_tracepoint")
                                  for name in abi.header().enums[f"wanted_{kind}"]])  # fmt: skip
def test_what_is_on_everybodys_way_is_short(kernel, name):
    code = kernel.instructions(name)
    assert len(code) < len(kernel.instructions(f"wanted_{name}"))
    assert stack_bytes(kernel, name) <= 32
    assert helpers(kernel, name)[TAIL_CALL] == 1
    # Nothing is looked up: the address of the one map that is asked is in the code.
    assert helpers(kernel, name)[1] == 0


def test_nothing_needs_a_newer_kernel_than_is_said(kernel):
    for name in sorted(functions()):
        used = set(helpers(kernel, name))
        assert used <= OLD_HELPERS | set(HELPERS), name
        assert all(HELPERS[number] <= OLDEST for number in used & set(HELPERS)), name
        fetches = [i for code, _, _, _, i in instructions(kernel, name) if code in (0xDB, 0xC3) and i & 1]
        assert not fetches or OLDEST >= FETCH_SINCE
        # Calls between functions and 32-bit jumps are what BCC's compiler could add.
        assert not [code for code, _, of, _, _ in instructions(kernel, name) if code == 0x85 and of == 1]


COMPILING = """
from bpf import below
from bpf.program import Kernel
below.probe = lambda unix=False: below.Features(*{shown}, unix_packets=unix and {shown}[0])
Kernel({ring}, unix={unix}).close()
"""


@pytest.mark.parametrize("unix", [False, True], ids=["", "unix"])
@pytest.mark.parametrize(
    "shown", [(False, False), (True, False), (True, True)], ids=["no-below", "Linux 6.3", "Linux 6.16"]
)
def test_every_choice_of_a_user_compiles_for_every_kernel(shown, unix):
    """In a process of its own: the compiler ends it where a program's stack is too deep."""
    compiling = COMPILING.format(shown=shown, unix=unix, ring=RING_BYTES)
    done = subprocess.run([PYTHON, "-c", compiling], capture_output=True, text=True, timeout=180, check=False)
    assert (done.returncode, done.stderr) == (0, "")


COMPILING_FOR_ARM64 = """
import platform
from bpf import below, btf, compiled, compiler, program, system
features = below.probe(unix=True)
types = btf.read_vmlinux({*program.OFFSETS, *features.offsets, "page"})
platform.machine = lambda: "aarch64"
flags = program.compiler_flags(types, features, system.Uprobes.SESSIONS, unix=True)
print(compiled.to_json(compiler.compile_source(program.source(), flags)))
"""
# struct pt_regs there: the first argument, which is also the result, Go's goroutine, and the stack pointer.
ARM64_FIRST, ARM64_GOROUTINE, ARM64_STACK = 0, 28 * 8, 31 * 8


def context_offsets(code):
    """Where a program first reads in what it is called with: r1, or its copy, until that register has another value."""
    found, context = set(), 1
    for opcode, registers, offset, _ in struct.iter_unpack("<BBhi", code):
        to, of = registers & 15, registers >> 4
        if opcode == 0xBF and of == context == 1:
            context = to
        elif opcode & 7 == 1 and of == context:
            found.add(offset)
        elif opcode & 7 in (0, 1, 4, 7) and to == context:
            break
    return found


def test_the_kernel_side_compiles_for_arm64():
    """By bcc's own choice of target; it cannot be loaded here, for its struct pt_regs is longer than this machine's."""
    environment = os.environ | {"ARCH": "arm64"}
    command = [PYTHON, "-c", COMPILING_FOR_ARM64]
    done = subprocess.run(command, capture_output=True, env=environment, timeout=180, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
    programs = compiled.from_json(done.stdout).programs
    assert functions("aarch64") <= programs.keys()
    offsets = {name: context_offsets(programs[name]) for name in SOURCES}
    assert ARM64_FIRST in offsets["enter_by_cookie"]
    assert {ARM64_FIRST, ARM64_STACK} <= offsets["return_by_cookie"]
    assert {ARM64_FIRST, ARM64_GOROUTINE} <= offsets["go_enter_by_cookie"]
    assert {ARM64_GOROUTINE, ARM64_STACK} <= offsets["go_return_by_cookie"]


def test_no_kernel_is_asked_for_what_only_newer_ones_have():
    assert "iov_iter" not in below.Features(lengths=True, messages=False).offsets, (
        "its members were renamed in 6.4"
    )
    assert "sk_buff" not in below.Features(lengths=False, messages=False).offsets


def descriptors():
    """How many this process has open."""
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.mark.parametrize(("release", "explained"), [("5.10.0-32-amd64", True), ("6.1.0", False)])
def test_what_an_old_kernel_refuses_is_explained(monkeypatch, release, explained):
    """Linux 5.10 refuses the first map, for memory that it thinks locked."""

    def refuse(_declaration):
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(program, "Map", refuse)
    monkeypatch.setattr("platform.release", lambda: release)
    with pytest.raises(program.ProgramError) as refused:
        loaded()
    assert ("plaintap needs Linux 5.15 or newer" in str(refused.value)) is explained


def test_tracepoints_attach_and_let_go():
    before = descriptors()
    own = loaded()
    probes = Probes(own)
    probes.attach_tracepoints()
    assert probes.missing == []
    attached = descriptors()
    probes.detach()
    covered = [event for event, _ in TRACEPOINTS if own.below.lengths and event in below.COVERED]
    below_them = list(own.below.raw_tracepoints())
    assert len(below_them) == 7, "this kernel shows lengths, messages, and packets of Unix sockets"
    # An event and a link each, and the map that holds the events.
    events = 2 * (len(TRACEPOINTS) - len(covered)) + 1
    assert descriptors() == attached - events - len(RAW_TRACEPOINTS) - len(IN_PAIRS) - len(below_them)
    probes.detach()
    own.close()
    assert descriptors() == before


def test_a_map_is_read_whole_and_once(kernel):
    table = kernel.table("connections")
    wanted = {}
    leaf = table.Leaf()
    for number in range(5000):
        leaf.id = number
        table[table.Key(number * 8)] = leaf
        wanted[(number * 8).to_bytes(8, sys.byteorder)] = number
    size = len(bytes(leaf))
    found = [
        (key, table.Leaf.from_buffer_copy(value).id)
        for key, value in system.read_hash_map(table.map_fd, 8, size)
    ]
    table.clear()
    assert dict(found) == wanted
    assert len(found) == 5000
    assert list(system.read_hash_map(table.map_fd, 8, size)) == []


def test_what_is_only_remembered_never_fills_up(kernel):
    tables = Tables(kernel)
    for number in range(1, 70_000):
        tables.know_file(os.makedev(8, 1), number, (1, 2))
    for number in range(1, 140_000):
        tables.mirror(number, mirrored=True)
    known = kernel.table("known_files")
    latest = known.Key()
    latest.inode, latest.device, latest.changed, latest.size = 69_999, 8 << 20 | 1, 1, 2
    assert known[latest].value == 1


WITHOUT_MULTI = """
from bpf import system
system.newest_uprobes = lambda: system.Uprobes.PERF
from capture.cli import main
main()
"""


@pytest.mark.slow
def test_without_uprobe_multi_curl_is_recorded_all_the_same(servers, tmp_path):
    capture = tmp_path / "perf.pcapng"
    curl = curl_command(servers, servers.url("https", "/bytes/70001"))
    command = [PYTHON, "-c", WITHOUT_MULTI, "record", "-w", capture, "--", *curl, "-o", tmp_path / "body"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert warnings(done.stderr) == []
    (entry,) = entries(capture)
    assert path_of(entry) == "/bytes/70001"
    assert entry["response"]["content"]["size"] == 70_001
    (opened,) = (item for item in read_streams(capture) if isinstance(item, StreamOpened))
    assert opened.tls.library.startswith("OpenSSL 3"), "cookies tell whose function it was"


def test_where_tracefs_is_not_mounted_none_is_left(tmp_path):
    record = f"{PYTHON.parent / 'plaintap'} record -w {tmp_path / 'x.pcapng'} -- true"
    script = f"{UNMOUNT_TRACEFS}; cat /proc/self/mountinfo >{tmp_path}/before; {record}; "
    script += f"cat /proc/self/mountinfo >{tmp_path}/after; test ! -e /sys/kernel/tracing/events"
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-ec", script], capture_output=True, text=True, timeout=180, check=False
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "before").read_text() == (tmp_path / "after").read_text()
