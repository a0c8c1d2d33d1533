"""Where the kernel's direct map of all memory begins: needed to read pages that no program maps.

Bytes of sendfile, splice and received packets lie in pages. A page's address follows from its frame number, and
that from the place of its struct page, once it is known where both tables begin (KASLR moves them). A page of our
own tells: its frame is in /proc/self/pagemap (Documentation/admin-guide/mm/pagemap.rst), its struct page in a pipe
that it was given to by vmsplice(2), and its content is recognised where the direct map has it.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import struct
from pathlib import Path
from typing import TYPE_CHECKING

from bpf import system

if TYPE_CHECKING:
    from bpf.program import Kernel

_FRAME_MASK = (1 << 55) - 1
# The direct map begins at a multiple of this (x86-64: KASLR moves it by whole top-level entries of 1 GiB).
_ALIGNMENT = 1 << 30
# A task's struct, which is in the direct map, is at most this far from its beginning, in steps of _ALIGNMENT: 16 TiB.
_MOST_STEPS = 1 << 14


class _Block(ctypes.Structure):
    _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))


def calibrate(kernel: Kernel) -> bool:
    """Find both beginnings and tell the kernel side. False where this kernel, or our rights, do not allow it."""
    try:
        found = _Search(kernel).run()
    except OSError:
        return False
    if found is None:
        return False
    table = kernel.table("direct_maps")
    leaf = table.Leaf()
    leaf.pages, leaf.base = found
    table[table.Key(0)] = leaf
    return True


class _Search:
    def __init__(self, kernel: Kernel) -> None:
        self._found = kernel.table("calibrations")
        self._program = kernel.load("calibrate", "RAW_TRACEPOINT")
        self._page_struct_bytes = kernel.page_struct_bytes
        self._page_bytes = os.sysconf("SC_PAGE_SIZE")

    def run(self) -> tuple[int, int] | None:
        """(struct page of frame 0, address of frame 0), or None."""
        with mmap.mmap(-1, self._page_bytes) as page:
            secret = os.urandom(8)
            page[:8] = secret
            address = ctypes.c_char.from_buffer(page)
            try:
                return self._with_page(ctypes.addressof(address), int.from_bytes(secret, "little"))
            finally:
                del address

    def _with_page(self, address: int, secret: int) -> tuple[int, int] | None:
        reader, writer = os.pipe()
        try:
            block = _Block(address, self._page_bytes)
            libc = ctypes.CDLL(None, use_errno=True)
            if libc.vmsplice(writer, ctypes.byref(block), 1, 0) != self._page_bytes:
                return None
            frame = _frame_of(address, self._page_bytes)
            page, task, _ = self._look(reader, 0)
            if not frame or not page:
                return None
            base = task & -_ALIGNMENT
            for _ in range(_MOST_STEPS):
                if self._look(reader, base + frame * self._page_bytes)[2] == secret:
                    return page - frame * self._page_struct_bytes, base
                base -= _ALIGNMENT
            return None
        finally:
            os.close(reader)
            os.close(writer)

    def _look(self, pipe: int, address: int) -> tuple[int, int, int]:
        """The page in the pipe, our task's struct, and the word at an address (0: there is nothing)."""
        system.run_raw_tracepoint(self._program, (pipe, address))
        found = self._found[self._found.Key(0)]
        return int(found.page), int(found.task), int(found.word)


def _frame_of(address: int, page_bytes: int) -> int:
    """A page's frame number; 0 without CAP_SYS_ADMIN."""
    with Path("/proc/self/pagemap").open("rb", buffering=0) as pagemap:
        pagemap.seek(address // page_bytes * 8)
        (entry,) = struct.unpack("<Q", pagemap.read(8))
    return int(entry) & _FRAME_MASK
