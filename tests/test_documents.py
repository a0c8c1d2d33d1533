"""The documents: what they link to is there."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
LINK = re.compile(r"\]\((?!\w+:)([^)#\s]+)")
DOCUMENTS = [
    *sorted(path for path in ROOT.glob("*.md")),
    *sorted(path for folder in ("benchmarks", "docs", "samples") for path in (ROOT / folder).glob("**/*.md")),
]


def links(document: Path) -> list[str]:
    """The files that a document links to, pictures too."""
    return LINK.findall(document.read_text())


def test_links_are_found() -> None:
    assert {"docs/architecture.md", "docs/images/wireshark.png"} <= set(links(ROOT / "README.md"))


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_what_is_linked_is_there(document: Path) -> None:
    for link in links(document):
        assert (document.parent / link).exists(), f"{document.name} links to {link}"


def test_commands_of_the_readme_are_targets() -> None:
    wanted = set(re.findall(r"(?:^|`)make ([a-z]+)", (ROOT / "README.md").read_text(), re.MULTILINE))
    assert {"demo", "test", "install", "bench"} <= wanted
    for target in sorted(wanted):
        done = subprocess.run(
            ["make", "--dry-run", "--silent", target], cwd=ROOT, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
