"""The instruction decoder against objdump, on whole libraries; and what the kernel emulates."""

from __future__ import annotations

import re
import subprocess

import pytest
from compiled import LIBC, LIBSSL
from hypothesis import given
from hypothesis import strategies as st

from capture import x86
from capture.elf import ElfFile

_LINE = re.compile(r"\s*([0-9a-f]+):\t((?:[0-9a-f]{2} )+)\s*\t(.*)$")


def disassembled(path: str) -> list[tuple[int, int, str]]:
    """(address, length, text) of every instruction in .text, by objdump."""
    command = ["objdump", "-d", "-w", "--section=.text", "-Mintel", "--insn-width=16", path]
    lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    matches = filter(None, map(_LINE.match, lines))
    return [(int(m[1], 16), len(m[2].split()), m[3]) for m in matches]


@pytest.mark.parametrize("path", [LIBSSL, LIBC], ids=lambda p: p.name)
def test_lengths_and_targets_are_objdumps(path):
    with ElfFile(str(path)) as elf:
        text = elf.section(".text")
        code = elf.view.read(text.offset, text.size)
    judged = disassembled(str(path))
    assert len(judged) > 50_000
    for address, length, line in judged:
        instruction = x86.decode(code, address - text.address, address)
        assert instruction is not None, line
        assert instruction.length == length, line
        mnemonic = line.replace("bnd ", "").replace("notrack ", "").split(maxsplit=1)
        if instruction.target is not None:
            assert (
                int(mnemonic[1].split()[0].removesuffix(",pn").removesuffix(",pt"), 16) == instruction.target
            )
        else:
            direct = re.fullmatch(r"(?:j\w+|call|loop\w*)(?:,p[nt])? +[0-9a-f]+ <.*", line)
            assert not direct, line
        assert instruction.is_return == (mnemonic[0] == "ret" or "repz ret" in line), line
        assert instruction.is_comparison == (mnemonic[0] in ("cmp", "test")), line
        comment = re.search(r"# ([0-9a-f]+)", line)
        assert instruction.rip_target == (int(comment[1], 16) if comment else None), line


@given(st.binary(max_size=40))
def test_any_bytes_decode_or_do_not(code):
    decoded = list(x86.instructions(code, 0x1000))
    assert sum(i.length for i in decoded) <= len(code)
    assert all(1 <= i.length <= x86.MAX_INSTRUCTION_BYTES for i in decoded)


@given(st.binary(min_size=1, max_size=20))
def test_cutting_an_instruction_short_decodes_to_none(code):
    instruction = x86.decode(code, 0, 0)
    if instruction:
        assert all(x86.decode(code[:size], 0, 0) is None for size in range(instruction.length))


@pytest.mark.parametrize(
    ("code", "emulated"),
    [
        ("55", True),  # push rbp
        ("4155", True),  # push r13
        ("4055", False),  # push rbp with an empty REX: push_setup_xol_ops wants 0x41
        ("90", True),
        ("6690", False),  # 66 prefix
        ("eb05", True),
        ("e900000000", True),
        ("e800000000", True),
        ("7405", True),
        ("0f8400000000", True),
        ("0f1f00", False),
        ("f30f1efa", False),  # endbr64
        ("85d2", False),
        ("4883ec18", False),
        ("c3", False),
        ("6a01", False),  # push 1
        ("ff30", False),  # push [rax]
        ("c5f877", False),  # vzeroupper
    ],
)
def test_what_the_kernel_emulates(code, emulated):
    instruction = x86.decode(bytes.fromhex(code), 0, 0)
    assert instruction is not None
    assert x86.is_emulated(instruction) is emulated
