"""Calls drawn by lot on connections of all kinds, whose sockets change descriptors, threads, programs and processes.

What each flow holds at each place is known (``noise``), so the truth is how many bytes the calls said they moved.
"""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
from conformance_runs import SECONDS, compile_program, streams_by_ports
from kernel_state import table_entries
from processes import wait_until
from recording import record

from capture.streams import Side
from capture.unix_streams import client_address

if TYPE_CHECKING:
    from pathlib import Path

    from conformance_runs import Flow, Stream

pytestmark = pytest.mark.kernel

CONNECTIONS = 40
CLIENT, SERVER = "mix-c", "mix-s"
# As mixes.c has them.
PERIOD, UNIX = 8388593, 3
BY_CONNECTION, BY_DIRECTION = 48611, 4194301
RING_BYTES = 256 << 20
TABLES = ("connections", "drafts", "syscalls", "jobs", "pieces", "splits", "mirrored")


@dataclass(frozen=True, slots=True)
class Truth:
    """A connection as both programs saw it: bytes that calls moved, and that one moved at most which did not return."""

    said: dict[str, Any]
    folder: Path
    noise: bytes

    @property
    def ports(self) -> tuple[int, int]:
        """The server's is told by the stream where it is AF_UNIX's."""
        if self.said["kind"] == UNIX:
            return client_address(self.said["inode"])[1], 0
        return self.said["client_port"], self.said["port"]

    def moved(self, end: str) -> list[list[int]]:
        """Of each flow of an end (c, s), what it moved."""
        return [self.said[name] for name in (f"{end}s", f"{end}r", f"{end}s2") if name in self.said]

    def flow(self, side: Side, direction: int) -> tuple[int, int, bytes]:
        """The least and the most bytes that an end moved in a direction, and which they are."""
        end, verb = ("c", "sr"[direction]) if side is Side.CLIENT else ("s", "rs"[direction])
        least, more = self.said[end + verb]
        if self.said["two_writers"]:
            if verb == "s":
                least += self.said[f"{end}s2"][0]
                more += self.said[f"{end}s2"][1]
            raw = self.folder / f"raw.{self.said['id']}.{direction}"
            received = raw.read_bytes() if raw.exists() else b""
            # What came in was sent, also by a call that was interrupted and said that it had sent less.
            return least, max(least + more, len(received)), received
        key = (self.said["id"] * BY_CONNECTION + direction * BY_DIRECTION) % PERIOD
        return least, least + more, self.noise[key : key + least + more]

    def is_of(self, stream: Stream) -> bool:
        """Whether that is what the stream has, but for what is known not to be seen."""
        return all(
            self._is_flow(stream.side, direction, flow)
            for direction, flow in enumerate((stream.sent, stream.received))
        )

    def beside(self, stream: Stream) -> list[object]:
        """What a stream has of each direction, where it first differs, and how much that was to be."""
        told: list[object] = [stream.side.name]
        for direction, flow in enumerate((stream.sent, stream.received)):
            least, most, whole = self.flow(stream.side, direction)
            pairs = enumerate(zip(flow.data, whole, strict=False))
            differs = next((at for at, (one, other) in pairs if one != other), None)
            told.append((least, most, len(flow.data), flow.reasons, flow.holes[:5], differs))
        return told

    def _is_flow(self, side: Side, direction: int, flow: Flow) -> bool:
        least, most, whole = self.flow(side, direction)
        received = side is not (Side.CLIENT, Side.SERVER)[direction]
        splices = received and self.said["splices"][side is Side.SERVER]
        on_unix = self.said["kind"] == UNIX
        allowed = {"not-in-user-space", "fault"} if on_unix else {"not-in-user-space"} if splices else set()
        # The peer need not have received all.
        known = min(len(whole), len(flow.data))
        expected = bytearray(whole[:known])
        for begin, end in flow.holes:
            expected[begin:end] = bytes(len(expected[begin:end]))
        return least <= len(flow.data) <= most and flow.reasons <= allowed and flow.data[:known] == expected


@pytest.mark.parametrize(
    ("seed", "ends", "on_unix"),
    [(51, (CLIENT,), 0), (54, (CLIENT, SERVER), 0), (57, (SERVER,), 1)],
    ids=["client", "killed", "unix-server"],
)
def test_every_byte_of_a_mix(tmp_path: Path, seed: int, ends: tuple[str, ...], on_unix: int) -> None:
    program = compile_program(tmp_path, "mixes.c", "mixes", "-luring", "-lpthread")
    for name in (CLIENT, SERVER):
        os.link(program, tmp_path / name)
    account = tmp_path / "ledger.json"
    options = [option for name in ends for option in ("-c", name)] + ["--unix"] * on_unix
    with record(
        tmp_path / "mix.pcapng", *options, "--protocol", "all", "--ledger", account, "--ring-size", RING_BYTES
    ) as recording:
        command = [str(program), str(seed), str(CONNECTIONS), str(on_unix), str(tmp_path)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
        assert (done.returncode, done.stderr) == (0, "")
        wait_until(lambda: not any(table_entries(recording.process.pid, *TABLES).values()), "empty tables")
        assert recording.stop().returncode == 0
    noise = (tmp_path / "noise").read_bytes()
    truths = [Truth(json.loads(line), tmp_path, noise) for line in done.stdout.splitlines()]
    streams = streams_by_ports(recording.path)
    left = [(ports, stream) for ports, found in streams.items() for stream in found]
    for truth in truths:
        # Ports are those of others, in another network namespace.
        of_ports = [
            (ports, stream)
            for ports, stream in left
            if ports == truth.ports or (truth.said["kind"] == UNIX and ports[0] == truth.ports[0])
        ]
        found = [stream for stream in of_ports if truth.is_of(stream[1])]
        has_moved = any(least for end in ends for least, _ in truth.moved(end[-1]))
        assert found or not (has_moved or of_ports), (truth.said, [truth.beside(one) for _, one in of_ports])
        if found:
            left.remove(found[0])
    assert left == []
    ledger = json.loads(account.read_text())
    moved = [flow for truth in truths for end in ends for flow in truth.moved(end[-1])]
    least = sum(flow[0] for flow in moved)
    assert least <= ledger["sockets"]["reported"] <= least + sum(flow[1] for flow in moved)
    totals = ledger["tcp_totals"]
    assert (ledger["sockets"]["residue"], totals["excess"]) == (0, 0)
    assert (totals["unseen_sent"], totals["unseen_received"]) == (0, 0)
    assert (ledger["orphan_bytes"], ledger["table_overflows"]) == (0, 0)
