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
# What a thread may wait in; arm64 has not all of them.
WAITING_CALLS: dict[str, tuple[int, int | None]] = {
    "poll": (7, None),
    "ppoll": (271, 73),
    "select": (23, None),
    "pselect6": (270, 72),
    "epoll_wait": (232, None),
    "epoll_pwait": (281, 22),
}
# (fd, buffer, length, flags, …)
CALLS_WITH_FLAGS = frozenset({"sendto", "recvfrom"})


def _numbers() -> dict[str, int]:
    """Those of all these calls that this architecture has."""
    arm = platform.machine() == "aarch64"
    known = (MOVING_CALLS | DATAGRAM_CALLS | OTHER_CALLS | WAITING_CALLS).items()
    return {call: number for call, numbers in known if (number := numbers[arm]) is not None}


def call_numbers(*calls: str) -> frozenset[int]:
    """The numbers of system calls on this architecture, of those that it has."""
    return frozenset(number for call, number in _numbers().items() if call in calls)


def call_number_flags() -> list[str]:
    """-D flags for the numbers of system calls on this architecture."""
    numbers = _numbers()
    return [f"-DNR_{call}={numbers[call]}" for call in MOVING_CALLS | DATAGRAM_CALLS | OTHER_CALLS]
