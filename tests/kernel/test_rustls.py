"""Keys that seal and open records, as rustls has them: what they tell is on their records' connection."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

import pytest
from processes import running
from recording import STOP_SECONDS, record, record_command
from rustls_like import NEW, OLD, compile_program, echoing_peer

from capture.streams import Data, Gap, Side, StreamOpened
from exporters.reassembly import read_streams

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.kernel

SAID = b"connection %d: first; connection %d: second; connection %d: third"


def talk(folder: Path, layout: str, *arguments: str) -> tuple[list[dict[Side, bytes]], str]:
    """What ``read_said`` reads, and what the recorder said."""
    program = compile_program(folder, layout)
    capture = folder / "keys.pcapng"
    with echoing_peer() as port:
        done = record_command(capture, [program, port, *arguments])
    assert done.returncode == 0, done.stderr
    return read_said(capture), done.stderr


def read_said(capture: Path) -> list[dict[Side, bytes]]:
    """Plaintext by side, of each connection by its own number: which is told of first is chance."""
    said: dict[int, dict[Side, bytes]] = {}
    for item in read_streams(capture):
        assert not isinstance(item, Gap)
        if isinstance(item, StreamOpened):
            assert item.tls
            assert item.tls.library == "rustls"
            said[item.stream] = {Side.CLIENT: b"", Side.SERVER: b""}
        elif isinstance(item, Data):
            said[item.stream][item.sender] += item.data
    return sorted(said.values(), key=lambda sides: sides[Side.CLIENT])


@pytest.mark.parametrize("layout", [OLD, NEW])
def test_each_record_is_on_its_own_connection(tmp_path: Path, layout: str) -> None:
    said, stderr = talk(tmp_path, layout)
    first, second = (SAID % (number, number, number) for number in range(2))
    assert said == [
        dict.fromkeys(Side, first + b"; and more"),
        dict.fromkeys(Side, second),
    ]
    told = 2 * (len(first) + len(second) + len(b"; and more"))
    assert f"TLS: {told} bytes returned by TLS libraries = {told} bytes captured + none lost" in stderr


@pytest.mark.parametrize("layout", [OLD, NEW])
def test_results_without_a_record_end_the_belief(tmp_path: Path, layout: str) -> None:
    said, stderr = talk(tmp_path, layout, "wrong")
    assert said == [dict.fromkeys(Side, SAID % (number, number, number)) for number in range(2)]
    assert "program: its rustls returned what none of its kind returns: its probes are ignored" in stderr


def test_keys_may_be_older_than_the_recording(tmp_path: Path) -> None:
    program = compile_program(tmp_path, NEW)
    with (
        echoing_peer() as port,
        running([program, port, "wait"], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process,
    ):
        assert process.stdin
        assert process.stdout
        assert process.stdout.readline() == b"ready\n"
        with record(tmp_path / "keys.pcapng", "-p", process.pid) as recording:
            process.stdin.close()
            assert process.wait(STOP_SECONDS) == 0
    # They have sent what comes back now.
    assert read_said(recording.path) == [
        {Side.CLIENT: b"", Side.SERVER: b"; connection 1: third"},
        {Side.CLIENT: b"; and more", Side.SERVER: b"; connection 0: third; and more"},
    ]
