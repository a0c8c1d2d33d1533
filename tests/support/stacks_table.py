"""The table of stacks in docs/tls.md: rows become test parameters, and their results lines."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest
from stacks import Stack, version_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from _pytest.mark import ParameterSet

# Called by a test that has seen a row work, with the label that the recording gave.
Note = Callable[[Stack, str], None]

HEAD = """# TLS stacks that are read

Made by `make test-stacks`, which runs every program below against a peer of another make. Only the program's own
end is recorded, so that probes on its peer cannot hide a miss. A row counts as read if the SHA-256 of every body, the
addresses, SNI and ALPN are what the peer saw, and Wireshark has nothing to complain about. Programs with the name of a
release of Debian behind them are that release's, in a root folder of their own, as in a container.
"""


@dataclass(slots=True)
class Results:
    """What was seen, by kind of row (clients, servers) and row."""

    labels: dict[tuple[str, str], str] = field(default_factory=dict)

    def line(self, kind: str, stack: Stack) -> str:
        """A row of the table."""
        label = self.labels.get((kind, stack.name))
        result = label or (f"no: {stack.gap}" if stack.gap else "not shown by this run")
        return f"| {stack.name} | {version_of(stack.version)} | {result} |"


def parameters(stacks: Iterable[Stack]) -> list[ParameterSet]:
    """A parameter for each row: the quick ones run with all tests, the others on demand."""
    return [
        pytest.param(
            stack,
            id=stack.name,
            marks=[
                pytest.mark.kernel,
                *([] if stack.quick else [pytest.mark.stacks]),
                *([pytest.mark.xfail(reason=stack.gap, strict=True)] if stack.gap else []),
            ],
        )
        for stack in stacks
    ]


def write_table(path: Path, results: Results, tables: Sequence[tuple[str, Sequence[Stack]]]) -> None:
    """docs/tls.md."""
    text = HEAD
    for kind, stacks in tables:
        text += f"\n## {kind}\n\n| Program | Version | Read as |\n|---|---|---|\n"
        text += "".join(f"{results.line(kind, stack)}\n" for stack in stacks)
    path.write_text(text)
