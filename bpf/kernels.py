"""The oldest kernels that recording is made for. Distributions bring newer things to older ones, so a version refuses
nothing: it explains what failed.
"""

from __future__ import annotations

import platform
import re

# With atomic additions that return the value before; the kernel's compiler for arm64 lacked them.
OLDEST = {"x86_64": (5, 15), "aarch64": (5, 18)}


def remedy() -> str | None:
    """What a user of an older kernel is to know; None where the kernel is new enough."""
    release = platform.release()
    oldest = OLDEST.get(platform.machine(), OLDEST["x86_64"])
    if tuple(int(part) for part in re.findall(r"\d+", release)[:2]) >= oldest:
        return None
    return f"plaintap needs Linux {'.'.join(map(str, oldest))} or newer"
