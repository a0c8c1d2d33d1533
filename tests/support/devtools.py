"""The real devtools front end of Chromium as a judge of HAR files.

It needs Debian's chromium and nodejs, and puppeteer-core in build/devtools, which is installed with

    mkdir -p build/devtools && cp tests/support/package*.json build/devtools/ && npm ci --prefix build/devtools
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
MODULES = ROOT / "build" / "devtools" / "node_modules"
HERE = Path(__file__).parent
DEVTOOLS_SECONDS = 120


def missing() -> str | None:
    """What of the judge is not installed; None if it is there."""
    for command in ("chromium", "node"):
        if shutil.which(command) is None:
            return f"{command} is not installed"
    if not (MODULES / "puppeteer-core").is_dir():
        return "puppeteer-core is not in build/devtools: see tests/support/devtools.py"
    return None


def import_har(archive: Path, screenshot: Path | None = None) -> dict[str, Any]:
    """What the network panel holds after the import: ``requests``, the grid's visible ``rows``, ``problems``.

    Without the judge the test is skipped; in continuous integration it fails.
    """
    found: dict[str, Any] = json.loads(_run("devtools.js", archive, *filter(None, [screenshot])))
    return found


def load_command(url: str, archive: Path) -> list[str]:
    """Loads a page under the network panel, which saves ``archive``; what the page has to say is printed."""
    _require()
    return ["env", f"NODE_PATH={MODULES}", "node", str(HERE / "devtools_load.js"), url, str(archive)]


def _require() -> None:
    if reason := missing():
        if os.environ.get("CI") == "true":
            pytest.fail(f"the devtools test must run in CI: {reason}", pytrace=False)
        pytest.skip(f"DEVTOOLS WERE NOT ASKED: {reason}")


def _run(driver: str, *arguments: Path) -> str:
    _require()
    done = subprocess.run(
        ["node", str(HERE / driver), *map(str, arguments)],
        env={**os.environ, "NODE_PATH": str(MODULES)},
        capture_output=True,
        text=True,
        timeout=DEVTOOLS_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
