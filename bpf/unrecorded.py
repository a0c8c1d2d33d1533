"""Who uses what is in no recording (unrecorded.bpf.h)."""

from __future__ import annotations

import ctypes
import struct
from typing import TYPE_CHECKING

from bpf import abi, system

if TYPE_CHECKING:
    from bpf.program import Kernel

_KEY = struct.Struct("=II")  # struct unrecorded_key


def users(kernel: Kernel, what: str) -> tuple[tuple[int, str], ...]:
    """Processes that used it, by pid and name. ``what`` is QUIC or UNIX, as in events.h."""
    table = kernel.table("unrecorded_users")
    number = abi.header().enums["unrecorded"][f"UNRECORDED_{what}"]
    found = []
    for key, comm in system.read_hash_map(table.map_fd, _KEY.size, ctypes.sizeof(table.Leaf)):
        pid, kind = _KEY.unpack(key)
        if kind == number:
            found.append((pid, comm.partition(b"\0")[0].decode(errors="backslashreplace")))
    return tuple(sorted(found))
