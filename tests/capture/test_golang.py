"""Go's crypto/tls by its table: in small programs of each layout, and in real ones where there is a Go compiler."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from dataclasses import replace

import pytest
from compiled import LIBSSL, SHARED, compile_library, symbols, without_section_headers
from go_like import (
    MAGIC_2,
    MAGIC_16,
    MAGIC_18,
    MAGIC_20,
    OLD,
    PROMOTED,
    READ,
    SMALL,
    UNDECODABLE,
    WRITE,
    GoLike,
)

from capture import golang
from capture.call_shapes import Call, Returns
from capture.elf import ElfFile, Symbol
from capture.golang import GO_FUNCTIONS, PACKAGE, find_go_tls
from capture.tls_libraries import probes_for
from capture.unreadable_tls import MIN_BYTES, unreadable_by_content

LINKED = {"fixed address": ("-static", "-no-pie"), "position independent": SHARED}
PROGRAM = """
package main
import ("crypto/tls"; "os")
func main() {
    conn, err := tls.Dial("tcp", os.Args[1], nil)
    if err != nil { os.Exit(1) }
    conn.Write([]byte("x")); conn.Read(make([]byte, 1)); conn.Close()
    tls.Server(conn, nil).Handshake()
}
"""


def assembled(folder, program, linkage=LINKED["fixed address"]):
    path = compile_library(folder, program.source(), "-nostdlib", kind="s", linkage=linkage)
    return path, symbols(path)


def found_in(path):
    """What is found, and the program's file offset of an address."""
    with ElfFile(str(path)) as elf:
        return find_go_tls(elf), elf.offset_of


def returns(path, start, end):
    """The addresses of RET instructions, by objdump."""
    command = [
        "objdump",
        "-d",
        "--no-show-raw-insn",
        f"--start-address={start}",
        f"--stop-address={end}",
        path,
    ]
    text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return [int(place, 16) for place in re.findall(r"^ *([0-9a-f]+):\s+ret", text, re.MULTILINE)]


@pytest.mark.parametrize("linkage", LINKED.values(), ids=LINKED)
@pytest.mark.parametrize(
    "program",
    [
        GoLike(MAGIC_16),
        GoLike(MAGIC_18),
        GoLike(MAGIC_20),
        GoLike(MAGIC_20, text_in_header=False, module=True),
    ],
    ids=["1.17", "1.18", "1.20", "1.26"],
)
@pytest.mark.parametrize("stripped", [False, True])
def test_each_layout(tmp_path, program, linkage, stripped):
    path, names = assembled(tmp_path, program, linkage)
    judged = {
        READ: returns(path, names["f0"], names["f1"]),
        WRITE: returns(path, names["f1"], names["f2"]),
    }
    assert [len(places) for places in judged.values()] == [2, 1]
    if stripped:
        subprocess.run(["strip", path], check=True)
    found, offset_of = found_in(path)
    assert (found.version, found.notes) == ("1.21.3", ())
    assert [(site.symbol, site.call) for site in found.sites] == [
        (READ, Call.GO_READ),
        (WRITE, Call.GO_WRITE),
    ]
    read, write = found.sites
    # The branch after the comparison, and after the comparison of a large frame.
    assert read.entry_offset == offset_of(names["f0"]) + 4
    assert write.entry_offset == offset_of(names["f1"]) + 12
    for site in found.sites:
        assert list(site.results_offsets) == [offset_of(place) for place in judged[site.symbol]]
        assert site.return_offset is None


@pytest.mark.parametrize("magic", [MAGIC_16, MAGIC_18, MAGIC_20])
def test_without_section_headers(tmp_path, magic):
    path, names = assembled(tmp_path, GoLike(magic))
    bare = without_section_headers(path, tmp_path / "bare")
    found, offset_of = found_in(bare)
    assert found.version is None
    assert [site.entry_offset for site in found.sites] == [
        offset_of(names["f0"]) + 4,
        offset_of(names["f1"]) + 12,
    ]


# A frame as Go makes them: to 1.20, from 1.21 on, of 128 bytes and of more; then the frame's bytes with RBP's.
FRAMES = {
    "sub $0x68, %rsp": 0x68,
    "push %rbp\n    mov %rsp, %rbp\n    sub $0x58, %rsp": 0x60,
    "add $-128, %rsp": 128,
    "sub $0x1a8, %rsp": 0x1A8,
}
SPILLING = """
    cmp 16(%r14), %rsp
    jbe 9f
    {frame}
    mov %rcx, {length}(%rsp)
    mov %rbx, {buffer}(%rsp)
    movups %xmm15, 0x20(%rsp)
    mov %rax, {conn}(%rsp)
    call restart
    mov {buffer}(%rsp), %rax
    {more}
    add ${bytes}, %rsp
    ret
9:  mov %rax, 8(%rsp)
    mov %rbx, 16(%rsp)
    mov %rcx, 24(%rsp)
    call restart
    jmp {name}
"""


def spilling(frame="sub $0x68, %rsp", more="", **places):
    bytes_ = FRAMES[frame]
    values = {"conn": bytes_ + 8, "buffer": bytes_ + 16, "length": bytes_ + 24, **places}
    return SPILLING.format(frame=frame, bytes=bytes_, more=more.format(**values), name="{name}", **values)


def read_call(folder, body):
    path, _ = assembled(folder, GoLike(functions=((READ, body), (WRITE, SMALL))))
    return found_in(path)[0].sites[0].call


@pytest.mark.parametrize("frame", FRAMES)
def test_a_read_that_leaves_its_arguments_with_its_caller(tmp_path, frame):
    assert read_call(tmp_path, spilling(frame)) is Call.GO_READ_SPILLED


@pytest.mark.parametrize(
    "body",
    [
        spilling(conn=0x18),
        spilling(buffer=0x68 + 24, length=0x68 + 16),
        spilling(more="mov %rdx, {buffer}(%rsp)"),
        spilling(more="movups %xmm15, {conn}(%rsp)"),
        spilling(more="movq $0, {length}(%rsp)"),
        spilling().replace("call restart\n", "", 1).replace("mov %rcx", "call restart\n mov %rcx", 1),
    ],
    ids=["elsewhere", "exchanged", "replaced", "by a vector", "by a number", "too late"],
)
def test_a_read_of_which_that_is_not_certain(tmp_path, body):
    assert read_call(tmp_path, body) is Call.GO_READ


def test_the_probes_of_a_go_program(tmp_path):
    path, _ = assembled(tmp_path, GoLike())
    with path.open("ab") as file:
        file.write(bytes(MIN_BYTES))
    found = probes_for(str(path))
    assert (found.library, found.level) == ("Go 1.21.3 crypto/tls", "exports")
    assert unreadable_by_content(str(path)) is None
    unknown = assembled(tmp_path, GoLike(build_info=None))[0]
    assert probes_for(str(unknown)).library == "Go crypto/tls"


@pytest.mark.parametrize("magic", [MAGIC_2, MAGIC_16])
@pytest.mark.parametrize("section", [".gopclntab", ".data.rel.ro"])
def test_a_go_before_1_17_is_named_and_not_probed(tmp_path, magic, section):
    functions = ((READ, OLD), (WRITE, OLD))
    path, _ = assembled(tmp_path, GoLike(magic, functions=functions, table_section=section), SHARED)
    found = probes_for(str(path))
    assert (found.library, found.sites) == ("Go 1.21.3 crypto/tls", ())
    assert "before 1.17" in found.notes[0]
    # A smaller program is not looked into.
    large = path.rename(tmp_path / "large")
    with large.open("ab") as file:
        file.write(bytes(MIN_BYTES))
    assert unreadable_by_content(str(large)) == "Go 1.21.3 crypto/tls"
    path, _ = assembled(tmp_path, GoLike(magic, functions=(("main.main", OLD),), table_section=section))
    assert probes_for(str(path)) is None


def test_a_wrong_text_start_is_noticed(tmp_path):
    """Functions taken from elsewhere don't begin as Go's: the section and the module data are asked."""
    path, names = assembled(tmp_path, GoLike(text_in_header=False, module=True))
    found, offset_of = found_in(path)
    assert found.sites[0].entry_offset == offset_of(names["f0"]) + 4
    lost, _ = assembled(tmp_path, GoLike(text_in_header=False))
    assert found_in(lost)[0].sites == ()


def test_what_does_not_decode_is_left_out(tmp_path):
    path, _ = assembled(tmp_path, GoLike(functions=((READ, UNDECODABLE), (WRITE, SMALL))))
    found, _ = found_in(path)
    assert [site.symbol for site in found.sites] == [WRITE]
    assert found.notes == (f"{READ} can't be decoded",)


def test_copies_of_the_package_count(tmp_path):
    """uTLS: known by functions that no other Conn has; those of a wrapper go to the Conn in it."""
    copy = "github.com/example/utls"
    names = (READ, WRITE, f"{copy}.(*Conn).Read", f"{copy}.(*Conn).Write", f"{copy}.(*Conn).clientHandshake")
    names += (
        f"{copy}.(*UConn).Write",
        "example.com/websocket.(*Conn).Read",
        "example.com/websocket.(*Conn).Write",
    )
    path, _ = assembled(tmp_path, GoLike(functions=tuple((name, SMALL) for name in names)))
    found, _ = found_in(path)
    assert [site.symbol for site in found.sites] == list(names[:6])
    assert found.sites[-1].call is Call.GO_WRITE_WRAPPED


def test_a_wrapper_that_only_jumps_needs_no_probe(tmp_path):
    """The function that it jumps to has one. A wrapper of which that is not certain speaks against all of them."""
    copy = "github.com/example/utls"
    own = (f"{copy}.(*Conn).Read", f"{copy}.(*Conn).Write", f"{copy}.(*Conn).clientHandshake")
    functions = tuple((name, SMALL) for name in own)
    wrapper = f"{copy}.(*UConn).Read"
    path, _ = assembled(tmp_path, GoLike(functions=(*functions, (wrapper, PROMOTED))))
    assert [site.symbol for site in found_in(path)[0].sites] == list(own)
    path, _ = assembled(
        tmp_path, GoLike(functions=(*functions, (wrapper, PROMOTED.replace("f0", "restart"))))
    )
    assert found_in(path)[0].sites == ()


def test_a_table_that_no_section_names(tmp_path):
    """C's linker, which makes a shared library of Go, leaves the table somewhere in the data."""
    path, names = assembled(tmp_path, GoLike(table_section=".data.rel.ro"), SHARED)
    subprocess.run(["strip", path], check=True)
    found, offset_of = found_in(path)
    assert [site.entry_offset for site in found.sites] == [
        offset_of(names["f0"]) + 4,
        offset_of(names["f1"]) + 12,
    ]


def test_no_go_program_has_none(tmp_path):
    assert found_in(LIBSSL)[0] is None
    path, _ = assembled(tmp_path, GoLike(functions=(("main.main", SMALL), ("net.Read", SMALL))))
    assert found_in(path)[0] is None
    path, _ = assembled(tmp_path, replace(GoLike(), magic=0xFFFFFFF7))
    assert found_in(path)[0] is None


@pytest.mark.skipif(not shutil.which("go"), reason="no Go compiler here")
@pytest.mark.parametrize("flags", [(), ("-ldflags=-s -w",), ("-buildmode=pie",)], ids=" ".join)
def test_a_real_program(tmp_path, flags):
    (tmp_path / "main.go").write_text(PROGRAM)
    subprocess.run(["go", "mod", "init", "example"], cwd=tmp_path, check=True, capture_output=True)
    subprocess.run(["go", "build", *flags, "-o", "program", "."], cwd=tmp_path, check=True)
    version = subprocess.run(["go", "env", "GOVERSION"], check=True, capture_output=True, text=True).stdout
    found, offset_of = found_in(tmp_path / "program")
    assert found.version == version.strip().removeprefix("go")
    names = {f"{PACKAGE}.{name}" for name in GO_FUNCTIONS if "UConn" not in name}
    assert {site.symbol for site in found.sites} == names
    assert Call.GO_READ_SPILLED in {site.call for site in found.sites}
    with ElfFile(str(tmp_path / "program")) as elf:
        for name, symbol in elf.local(names).items():
            site = next(site for site in found.sites if site.symbol == name)
            assert 0 <= site.entry_offset - offset_of(symbol.address) <= 16
            if site.call.returns is Returns.EACH_RET:
                judged = returns(tmp_path / "program", symbol.address, symbol.address + symbol.size)
                assert list(site.results_offsets) == [offset_of(place) for place in judged]


@pytest.mark.skipif(not shutil.which("go"), reason="no Go compiler here")
def test_a_program_for_arm64(tmp_path):
    """Its entry is the function's first instruction; judged by Go's own disassembler."""
    (tmp_path / "main.go").write_text(PROGRAM)
    subprocess.run(["go", "mod", "init", "example"], cwd=tmp_path, check=True, capture_output=True)
    environment = os.environ | {"GOARCH": "arm64", "CGO_ENABLED": "0"}
    subprocess.run(["go", "build", "-o", "program", "."], cwd=tmp_path, check=True, env=environment)
    command = ["go", "tool", "objdump", "-s", r"^crypto/tls\.\(\*Conn\)", "program"]
    text = subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, text=True).stdout
    judged = {
        name: (int(first, 16), [int(place, 16) for place in re.findall(r"0x(\w+)\t\t\w+\t\tRET", body)])
        for name, first, body in re.findall(
            r"^TEXT (\S+)\(SB\).*\n.*?0x(\w+)\t((?:.+\n)+)", text, re.MULTILINE
        )
    }
    found, offset_of = found_in(tmp_path / "program")
    names = {f"{PACKAGE}.{name}" for name in GO_FUNCTIONS if "UConn" not in name}
    assert {site.symbol for site in found.sites} == names
    for site in found.sites:
        first, places = judged[site.symbol]
        assert site.entry_offset == offset_of(first)
        if site.call.returns is Returns.EACH_RET:
            assert places
            assert list(site.results_offsets) == [offset_of(place) for place in places]


def test_nothing_is_read_of_a_function_that_is_too_long():
    """Its size is what the file says, and files may be anyone's."""

    class Elf:
        machine = golang.X86_64

        def read_at(self, _address, _length):
            pytest.fail("it was read")

    function = Symbol("crypto/tls.(*Conn).Read", 0x1000, golang.MAX_FUNCTION_BYTES + 1)
    found = golang._sites(Elf(), None, [function])
    assert found.sites == ()
    assert found.notes == ("crypto/tls.(*Conn).Read can't be decoded",)
