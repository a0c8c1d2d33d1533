"""Clients of every TLS stack, each recorded alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from recording import record_command
from stacks import Stack, fill, judge_client, judge_unreadable, problems
from stacks_build import build_for
from stacks_rows import CLIENTS
from stacks_table import parameters

if TYPE_CHECKING:
    from pathlib import Path

    from stacks_peer import Peer
    from stacks_table import Note

# The longest is Java's, which compiles.
CLIENT_SECONDS = "60"


@pytest.mark.parametrize("stack", parameters(CLIENTS))
def test_a_client_is_read(stack: Stack, nginx_peer: Peer, tmp_path: Path, note: Note) -> None:
    capture = tmp_path / "client.pcapng"
    values = nginx_peer.values(stack)
    build_for(stack.command)
    environment = [f"{name}={fill((value,), values)[0]}" for name, value in stack.environment.items()]
    command = ["timeout", CLIENT_SECONDS, "env", *environment, *fill(stack.command, values)]
    done = record_command(capture, command)
    assert done.returncode == 0, done.stderr
    if not stack.readable:
        note(stack, judge_unreadable(done.stderr, stack))
        return
    port = int(str(values["port"]))
    note(stack, judge_client(capture, stack, port))
    assert problems(capture, port) == []
