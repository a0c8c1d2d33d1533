"""Where one recording keeps what the next one need not find out again: where probes sit, and compiled programs."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """Root's in /var/cache, another user's in the XDG cache folder."""
    if os.geteuid() == 0:
        return Path("/var/cache/plaintap")
    folder = os.environ.get("XDG_CACHE_HOME", "")
    base = Path(folder) if folder.startswith("/") else Path.home() / ".cache"
    return base / "plaintap"
