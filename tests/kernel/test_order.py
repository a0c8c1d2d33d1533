"""Several threads send on one socket: their bytes are in TCP's order, however long programs that see them take."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from conformance_runs import Peer, compile_program, run, streams_by_ports
from processes import PYTHON
from recording import record

if TYPE_CHECKING:
    from conformance_runs import Truth

pytestmark = pytest.mark.kernel

DAWDLING = Path(__file__).parents[1] / "support" / "dawdling.py"
CONNECTIONS = 40


def test_a_call_whose_exit_is_slow_overlaps_with_those_that_come_meanwhile(tmp_path: Path) -> None:
    program = compile_program(tmp_path, "lives.c", "lives-order", "-lpthread")
    sent: list[tuple[Truth, bytes]] = []
    with record(tmp_path / "order.pcapng", "-c", program.name, program=(PYTHON, DAWDLING)) as recording:
        for _ in range(CONNECTIONS):
            peer = Peer()
            (truth,) = run([program, "threads_send_messages", peer.where], peer)
            sent.append((truth, bytes(peer.bytes)))
        assert recording.stop().returncode == 0
    streams = streams_by_ports(recording.path)
    for truth, whole in sent:
        (stream,) = streams[truth.ports]
        assert (stream.sent.lost, bytes(stream.sent.data) == whole) == (0, True)
