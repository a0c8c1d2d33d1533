"""Finding the distribution's bcc, and saying what is wrong where there is none."""

from __future__ import annotations

import subprocess
import sys

import pytest

from bpf import bcc_module

LOAD = "from bpf.bcc_module import load_bcc, BccError\nimport sys\ntry:\n    print(load_bcc().__name__)\n"
LOAD += "except BccError as error:\n    sys.exit(str(error))\n"


def loaded(*, no_distribution=False, path=None):
    """What a fresh interpreter finds."""
    script = (
        "from bpf import bcc_module\nbcc_module._candidate_folders = lambda: []\n" * no_distribution
    ) + LOAD
    environment = {"PYTHONPATH": str(path)} if path else {}
    command = [sys.executable, "-c", script]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=180, check=False)


@pytest.mark.skipif(not bcc_module._candidate_folders(), reason="the distribution's bcc is not installed")
def test_the_distribution_s_is_found_and_leaves_the_path_alone():
    before = list(sys.path)
    assert hasattr(bcc_module.load_bcc(), "BPF")
    assert sys.path == before


def test_without_any_the_package_is_named():
    done = loaded(no_distribution=True)
    assert done.returncode == 1
    assert "python3-bpfcc" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_one_of_pypi_is_told_apart(tmp_path):
    (tmp_path / "bcc").mkdir()
    (tmp_path / "bcc/__init__.py").write_text("class Lattice: pass\n")
    done = loaded(no_distribution=True, path=tmp_path)
    assert done.returncode == 1
    assert "pip uninstall bcc" in done.stderr
    assert str(tmp_path) in done.stderr


@pytest.mark.skipif(not bcc_module._candidate_folders(), reason="the distribution's bcc is not installed")
def test_the_distribution_s_comes_before_the_one_of_pypi(tmp_path):
    (tmp_path / "bcc").mkdir()
    (tmp_path / "bcc/__init__.py").write_text("class Lattice: pass\n")
    done = loaded(path=tmp_path)
    assert done.stdout == "bcc\n", done.stderr
