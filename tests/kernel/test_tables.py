"""The kernel's tables, as Python reads them: bcc writes a value into a buffer whose size it derived itself."""

from __future__ import annotations

import ctypes
import os
import re
from pathlib import Path

import pytest
from processes import ROOT

from bpf.program import Kernel

pytestmark = [
    pytest.mark.kernel,
    # bcc takes its own encoding of text for its caller's mistake.
    pytest.mark.filterwarnings("ignore:not a bytes object:DeprecationWarning"),
]

DECLARED = re.compile(r"^BPF_(?:HASH|ARRAY)\((\w+)|^BPF_TABLE\([^,]+,[^,]+,[^,]+, (\w+)", re.MULTILINE)


def size(fd: int, what: str) -> int:
    """The kernel's ``key_size`` or ``value_size`` of an open map."""
    lines = Path(f"/proc/self/fdinfo/{fd}").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{what}:"))


def test_python_s_values_are_as_large_as_the_kernel_s() -> None:
    names = [hash_ or table for hash_, table in DECLARED.findall((ROOT / "bpf/maps.bpf.h").read_text())]
    assert "connections" in names
    kernel = Kernel(os.sysconf("SC_PAGE_SIZE"))
    try:
        for name in names:
            table = kernel.table(name)
            # A smaller buffer is overrun by the kernel, which corrupts the heap.
            assert ctypes.sizeof(table.Key) == size(table.map_fd, "key_size"), name
            assert ctypes.sizeof(table.Leaf) == size(table.map_fd, "value_size"), name
    finally:
        kernel.close()
