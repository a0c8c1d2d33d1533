"""Probe points of hand-written functions: how far a probe may move in, and what keeps it back."""

from __future__ import annotations

from pathlib import Path

import pytest
from compiled import compile_library, symbols

from capture.elf import ElfFile
from capture.probe_points import Place, probe_place

# name: (instructions, offset for entry and return, offset for entry only)
FUNCTIONS = {
    "push_first": ("push %rbp; pop %rbp; ret", 0, 0),
    "endbr_push": ("endbr64; push %rbp; pop %rbp; ret", 4, 4),
    "test_jump": ("test %edx, %edx; js 1f; mov %rdi, %rax; 1: ret", 2, 2),
    "endbr_cmp_nop_push": ("endbr64; cmp $5, %rdi; nopl (%rax); push %rbx; pop %rbx; ret", 11, 11),
    # A uretprobe below a moved stack pointer would overwrite a local variable.
    "sub_test_jump": ("sub $24, %rsp; test %edx, %edx; js 1f; nop; 1: add $24, %rsp; ret", 0, 6),
    "copy_push": ("mov %rdi, %rax; push %rbx; pop %rbx; ret", 0, 3),
    # The argument that the probe reads would be gone.
    "argument_lost": ("mov %rsi, %rdi; push %rbx; pop %rbx; ret", 0, 0),
    "argument_loaded": ("mov (%rdi), %rsi; push %rbx; pop %rbx; ret", 0, 0),
    "stored": ("mov %rdi, (%rsi); push %rbx; pop %rbx; ret", 0, 0),
    # Each time round the loop would be a call.
    "loop_to_point": ("test %rdi, %rdi; 1: nop; dec %edi; jnz 1b; ret", 0, 0),
    "loop_to_start": ("1: test %rdi, %rdi; nop; dec %edi; jnz 1b; ret", 0, 0),
    "loop_further_in": ("test %rdi, %rdi; nop; 1: dec %edi; jnz 1b; ret", 3, 3),
    "never_cheap": ("mov %rdi, %rax; ret", 0, 0),
    "undecodable_rest": ("endbr64; push %rbx; pop %rbx; ret; .byte 0x06", 0, 0),
    "far_in": ("; ".join(["test %rdi, %rdi"] * 12) + "; push %rbx; pop %rbx; ret", 0, 0),
}
# As assemblers fill up, so that no branch crosses 32 bytes: Linux takes no probe on the first instruction. The
# place behind it (offset, those of the returns, words pushed) for entry and return, and for entry only.
_LEAVE = "pop %rbx; pop %r12; ret"
REFUSED = {
    "filled_push": (
        f"cs push %r12; push %rbx; test %rdi, %rdi; je 1f; nop; 1: {_LEAVE}",
        (3, (13,), 1),
        (3, (), 1),
    ),
    "filled_twice": (
        f".byte 0x2e; cs push %r12; cs push %rbx; sub $8, %rsp; test %rdi, %rdi; je 1f; nop; 1: add $8, %rsp; {_LEAVE}",
        (13, (23,), 3),
        (13, (), 3),
    ),
    # Nothing cheap is near.
    "filled_copy": ("ds push %rbx; mov %rdi, %rax; pop %rbx; ret", (2, (6,), 1), (2, (), 1)),
    "two_returns": (
        "cs push %rbx; test %rdi, %rdi; je 1f; pop %rbx; ret; 1: pop %rbx; ret",
        (5, (8, 10), 1),
        (5, (), 1),
    ),
    # Its caller's return is somebody else's RET.
    "tail_call": ("cs push %rbx; test %rdi, %rdi; pop %rbx; jmp push_first", None, (2, (), 1)),
    "indirect": ("cs push %rbx; test %rdi, %rdi; pop %rbx; jmp *%rax", None, (2, (), 1)),
    "all_filled": ("cs mov %rdi, %rax; ret", None, None),
    "loop_behind": ("cs push %rbx; 1: nop; dec %edi; jnz 1b; pop %rbx; ret", None, None),
}


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    source = ".text\n"
    for name, (body, _, _) in {**FUNCTIONS, **REFUSED}.items():
        lines = "\n".join(part.strip() for part in body.split(";"))
        source += f".globl {name}\n.type {name}, @function\n.p2align 4\n{name}:\n.cfi_startproc\n{lines}\n"
        source += f".cfi_endproc\n.size {name}, .-{name}\n"
    path = compile_library(tmp_path_factory.mktemp("points"), source, "-nostdlib", kind="s")
    with ElfFile(str(path)) as elf:
        yield elf, symbols(path)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_the_probe_moves_in_only_where_that_is_exact(library, name):
    elf, addresses = library
    start = addresses[name]
    symbol = elf.exported([name])[name]
    _, both, entry = FUNCTIONS[name]
    assert probe_place(elf, start, symbol.size, returns=True) == Place(start + both)
    assert probe_place(elf, start, symbol.size, returns=False) == Place(start + entry)


@pytest.mark.parametrize("name", REFUSED)
def test_where_the_first_instruction_takes_no_probe(library, name):
    elf, addresses = library
    start = addresses[name]
    symbol = elf.exported([name])[name]
    _, both, entry = REFUSED[name]
    places = [probe_place(elf, start, symbol.size, returns=returns) for returns in (True, False)]
    expected = [
        place and Place(start + place[0], tuple(start + offset for offset in place[1]), place[2])
        for place in (both, entry)
    ]
    assert places == expected


def test_on_aarch64_nothing_moves(library):
    elf, addresses = library
    content = bytearray(Path(elf.path).read_bytes())
    content[18:20] = (183).to_bytes(2, "little")
    other = Path(elf.path).with_name("aarch64.so")
    other.write_bytes(content)
    with ElfFile(str(other)) as foreign:
        symbol = foreign.exported(["endbr_push"])["endbr_push"]
        assert symbol.address == addresses["endbr_push"]
        assert probe_place(foreign, symbol.address, symbol.size, returns=True) == Place(symbol.address)


def test_without_an_extent_nothing_moves(library):
    elf, addresses = library
    inside = addresses["endbr_push"] + 1
    assert probe_place(elf, inside, 0, returns=False) == Place(inside)
