"""Between the look at a file and its probes, its process may end and its path with it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from compiled import LIBSSL

from capture.probe_catalog import ProbeCatalog
from capture.processes import discover_files
from capture.tls_probes import TlsFiles, TlsProbes

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from bpf.probes import UprobeSite

LOAD = "import ctypes, sys; ctypes.CDLL(sys.argv[1]); print('loaded', flush=True); sys.stdin.read()"


class Attached:
    """Where probes would go: the inodes behind the paths."""

    def __init__(self) -> None:
        self.inodes: list[int] = []

    def attach_uprobes(self, path: str, sites: Sequence[UprobeSite], library: int) -> None:
        assert sites
        assert library == 1
        self.inodes.append(os.stat(path).st_ino)  # noqa: PTH116 - as the kernel resolves it


@pytest.mark.kernel  # for the right to open files in /proc/PID/map_files
@pytest.mark.parametrize("looked", [True, False], ids=["after the look", "before the look"])
def test_a_process_that_ends_leaves_no_warning(tmp_path: Path, looked: bool) -> None:
    library = tmp_path / "own.so"
    shutil.copy(LIBSSL, library)
    inode = library.stat().st_ino
    files, attached = TlsFiles(ProbeCatalog()), Attached()
    probes = TlsProbes(attached, lambda _device, _inode: None)  # type: ignore[arg-type]
    command = [sys.executable, "-c", LOAD, str(library)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout
        assert child.stdout.readline() == b"loaded\n"
        library.unlink()
        (found,) = [file for file in discover_files((child.pid,)) if file.name == str(library)]
        looks = files._look([found]) if looked else []
        child.communicate()
    probes.attach(looks or files._look([found]))
    assert probes.warnings == []
    assert attached.inodes == ([inode] if looked else [])
