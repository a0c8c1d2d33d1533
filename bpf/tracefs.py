"""Ids of tracepoints, from tracefs wherever it is, or from an instance of our own if it is mounted nowhere."""

from __future__ import annotations

import os
from pathlib import Path

from bpf import system
from capture.errors import PlaintapError

_MOUNT_POINTS = (Path("/sys/kernel/tracing"), Path("/sys/kernel/debug/tracing"))


class TracefsError(PlaintapError):
    """The kernel's tracing file system cannot be read."""


class Tracefs:
    """Tracing events by name. Holds a descriptor while tracefs is mounted nowhere: close() it."""

    def __init__(self) -> None:
        self._own: int | None = None
        root = next((point for point in _MOUNT_POINTS if _has_events(point)), None)
        if root is None:
            try:
                self._own = system.open_filesystem("tracefs")
            except OSError as error:
                raise TracefsError(
                    f"tracefs is not mounted and cannot be opened ({error.strerror}): "
                    "mount -t tracefs nodev /sys/kernel/tracing, or run as root."
                ) from None
            root = Path(f"/proc/self/fd/{self._own}")
        self._events = root / "events"

    def event_id(self, name: str) -> int | None:
        """The id of ``system/event`` for perf_event_open; None if the kernel has no such event."""
        try:
            return int((self._events / name / "id").read_text())
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise TracefsError(
                f"tracefs cannot be read ({error}): run as root, or with CAP_DAC_READ_SEARCH."
            ) from None

    def close(self) -> None:
        """Let go of an own instance."""
        if self._own is not None:
            os.close(self._own)
            self._own = None


def _has_events(point: Path) -> bool:
    try:
        return (point / "events").is_dir()
    except PermissionError:  # tracefs is root's, and so is the folder of debugfs
        return False
