"""Servers of every TLS stack, each recorded alone by its processes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from recording import entries, record, settle
from stacks import Stack, judge_bodies, judge_streams, judge_unreadable, problems
from stacks_build import build_for
from stacks_peer import ask, server_of
from stacks_rows import SERVERS
from stacks_table import parameters

if TYPE_CHECKING:
    from pathlib import Path

    from stacks_peer import Peer
    from stacks_table import Note


@pytest.mark.parametrize("stack", parameters(SERVERS))
def test_a_server_is_read(stack: Stack, nginx_peer: Peer, tmp_path: Path, note: Note) -> None:
    build_for(stack.command)
    with server_of(stack, tmp_path, nginx_peer) as (pids, port):
        chosen = [part for pid in pids for part in ("-p", pid)]
        with record(tmp_path / "server.pcapng", "--port", port, *chosen) as recording:
            truth = ask(stack, port, nginx_peer)
            settle()
    if not stack.readable:
        assert recording.finished
        note(stack, judge_unreadable(recording.finished.stderr, stack))
        return
    judge_bodies(entries(recording.path), stack)
    note(stack, judge_streams(recording.path, stack, port, [truth]))
    assert problems(recording.path, port) == []
