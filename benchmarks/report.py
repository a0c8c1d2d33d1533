"""Tables of figures, and the facts of the machine that they were taken on, as Markdown."""

from __future__ import annotations

import os
import platform
import subprocess
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

MB = 1 << 20


@dataclass(frozen=True, slots=True)
class Row:
    """A line of a table: what was measured, the figure, and the goal with whether it was reached."""

    what: str
    figure: str
    goal: str = ""


@dataclass(frozen=True, slots=True)
class Table:
    """A heading, a sentence on how the figures came about, and the figures."""

    title: str
    method: str
    rows: Sequence[Row]

    def markdown(self) -> str:
        """The table as Markdown."""
        lines = [f"| {row.what} | {row.figure} | {row.goal} |" for row in self.rows]
        return "\n".join(
            [f"## {self.title}", "", self.method, "", "| | | goal |", "|---|---:|---|", *lines, ""]
        )


def goal(text: str, reached: bool) -> str:
    """A goal and whether it was reached."""
    return f"{text}: {'reached' if reached else '**missed**'}"


def first_line(*command: str) -> str:
    """The first line that a program prints, wherever it prints it."""
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=True)
    return done.stdout.partition("\n")[0].strip()


def machine() -> str:
    """What the figures depend on; the machine's name is no part of it."""
    processor = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.machine(),
    )
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // MB
    facts = (
        f"{datetime.now(UTC):%Y-%m-%d}",
        f"{processor}, {os.cpu_count()} processors, {memory:,} MB",
        f"Linux {platform.release()}",
        f"Python {platform.python_version()}",
        first_line("nginx", "-v").removeprefix("nginx version: "),
        first_line("openssl", "version"),
        first_line("curl", "--version").partition(" (")[0],
    )
    return "; ".join(facts) + "."


def document(tables: Sequence[Table]) -> str:
    """The whole report."""
    head = "# Benchmarks\n\nWritten by `make bench`: one run, competitors in turn.\n"
    return "\n".join([head, machine() + "\n", *(table.markdown() for table in tables)])
