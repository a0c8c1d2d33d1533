"""What of root's rights this process has: capabilities(7), by name."""

from __future__ import annotations

import re
from pathlib import Path

# The kernel's numbers (include/uapi/linux/capability.h) of those that a recording asks for.
_NUMBERS = {
    "CAP_DAC_READ_SEARCH": 2,
    "CAP_KILL": 5,
    "CAP_SYS_PTRACE": 19,
    "CAP_SYS_ADMIN": 21,
    "CAP_PERFMON": 38,
    "CAP_BPF": 39,
}
_EFFECTIVE = re.compile(r"^CapEff:\s*([0-9a-f]+)", re.MULTILINE)


def held() -> frozenset[str]:
    """Those of them that are effective."""
    found = _EFFECTIVE.search(Path("/proc/self/status").read_text())
    mask = int(found[1], 16) if found else 0
    return frozenset(name for name, number in _NUMBERS.items() if mask >> number & 1)
