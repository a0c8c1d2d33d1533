"""The system calls that move bytes, a row each, and what else is recognised, with numbers on x86-64 and arm64."""

from __future__ import annotations

import platform

# Calls that move bytes share one program at entry and one at exit. Their numbers on x86-64 and arm64.
MOVING_CALLS: dict[str, tuple[int, int]] = {
    "read": (0, 63),
    "write": (1, 64),
    "readv": (19, 65),
    "writev": (20, 66),
    "sendfile64": (40, 71),
    "splice": (275, 76),
    "sendto": (44, 206),
    "recvfrom": (45, 207),
    "sendmsg": (46, 211),
    "recvmsg": (47, 212),
}
# Which are looked at for datagrams only: at entry.
DATAGRAM_CALLS: dict[str, tuple[int, int]] = {"sendmmsg": (307, 269), "recvmmsg": (299, 243)}
# What has no tracepoint of ours.
OTHER_CALLS: dict[str, tuple[int, int]] = {"getsockopt": (55, 209)}
# (fd, buffer, length, flags, …)
CALLS_WITH_FLAGS = frozenset({"sendto", "recvfrom"})


def call_number_flags() -> list[str]:
    """-D flags for the numbers of system calls on this architecture."""
    arm = platform.machine() == "aarch64"
    known = MOVING_CALLS | DATAGRAM_CALLS | OTHER_CALLS
    return [f"-DNR_{call}={numbers[arm]}" for call, numbers in known.items()]
