"""Finds the distribution's bcc, the one place that imports it.

bcc's Python bindings are not on PyPI (the project of that name there is a lattice library): they are the
distribution's package, pure Python over libbcc, so any interpreter can load them from its folder.
"""

from __future__ import annotations

import contextlib
import importlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from capture.errors import PlaintapError

if TYPE_CHECKING:
    from types import ModuleType

_REMEDY = (
    "Install the distribution's package: apt install python3-bpfcc (Debian, Ubuntu) "
    "or dnf install python3-bcc (Fedora)."
)


class BccError(PlaintapError):
    """bcc is missing, or is not the BPF Compiler Collection."""


def _candidate_folders() -> list[Path]:
    """Where distributions put bindings for their own Python 3."""
    folders = [Path("/usr/lib/python3/dist-packages")]
    for pattern in ("usr/lib/python3*/site-packages", "usr/lib64/python3*/site-packages"):
        folders += sorted(Path("/").glob(pattern), reverse=True)
    return [folder for folder in folders if (folder / "bcc" / "libbcc.py").is_file()]


def identity() -> str:
    """Which one load_bcc() will load: where it is, and its version."""
    for folder in _candidate_folders():
        with contextlib.suppress(OSError):
            return f"{folder} {(folder / 'bcc' / 'version.py').read_text()}"
    return "none of a distribution"


def load_bcc() -> ModuleType:
    """The ``bcc`` module. Raises BccError if it cannot be had."""
    folders = _candidate_folders()
    if not folders:
        try:
            module = importlib.import_module("bcc")
        except ImportError:
            raise BccError(f"bcc is not installed. {_REMEDY}") from None
    else:
        sys.path.insert(0, str(folders[0]))
        try:
            module = importlib.import_module("bcc")
        except (ImportError, OSError) as error:
            raise BccError(f"bcc cannot be loaded ({error}). {_REMEDY}") from None
        finally:
            sys.path.remove(str(folders[0]))
    if not hasattr(module, "BPF"):
        raise BccError(
            f"The module bcc found at {getattr(module, '__file__', 'an unknown place')} is not the BPF Compiler "
            f"Collection but PyPI's project of the same name: pip uninstall bcc. {_REMEDY}"
        )
    return module
