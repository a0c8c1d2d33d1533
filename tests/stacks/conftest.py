"""The peer that rows share, and the table that their results make."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from stacks_peer import Peer, peer
from stacks_rows import CLIENTS, SERVERS
from stacks_table import Results, write_table

if TYPE_CHECKING:
    from collections.abc import Iterator

    from stacks import Stack
    from stacks_table import Note


@pytest.fixture(scope="session")
def nginx_peer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Peer]:
    """nginx for the whole run."""
    with peer(tmp_path_factory.mktemp("peer")) as running:
        yield running


@pytest.fixture(scope="session")
def results() -> Iterator[Results]:
    """What the run has seen; at its end the table, in the file that STACKS_TABLE names."""
    seen = Results()
    yield seen
    if table := os.environ.get("STACKS_TABLE"):
        write_table(Path(table), seen, (("Clients", CLIENTS), ("Servers", SERVERS)))


@pytest.fixture
def note(results: Results) -> Note:
    """Take down that a row was read."""

    def take_down(stack: Stack, label: str) -> None:
        kind = "Clients" if stack in CLIENTS else "Servers"
        results.labels[kind, stack.name] = label

    return take_down
