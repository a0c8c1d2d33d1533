"""The judges themselves: a tshark helper that never objects would make every other test worthless."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

import pytest
from handmade import conversation
from judges import EPHEMERAL_PROTOCOLS, expert_problems, mismatched_ports, requests

if TYPE_CHECKING:
    from pathlib import Path


def test_a_sound_conversation_passes(tmp_path: Path) -> None:
    capture = conversation(tmp_path / "sound.pcap")
    assert expert_problems(capture) == []
    assert requests(capture) == ["http://example.test/path"]
    assert requests(capture, [80]) == ["http://example.test/path"]
    assert requests(capture, [81]) == []
    assert mismatched_ports(capture) == []


@pytest.mark.parametrize("error", [1, 0x100])
def test_a_wrong_checksum_is_a_problem(tmp_path: Path, error: int) -> None:
    assert any("Bad checksum" in line for line in expert_problems(conversation(tmp_path / "bad.pcap", error)))


def test_a_response_on_another_port_than_the_server_saw_is_found(tmp_path: Path) -> None:
    assert len(mismatched_ports(conversation(tmp_path / "port.pcap", told_port=40001))) == 1


def test_no_protocol_is_seen_for_the_port_that_a_client_was_given() -> None:
    """Not a program's capture but its luck would be judged: EtherCAT has port 34980, and finds HTTP malformed."""
    printed = subprocess.run(
        ["tshark", "-G", "decodes"], capture_output=True, text=True, check=True, timeout=60
    ).stdout
    decodes = [line.split("\t") for line in printed.splitlines()]
    by_chance = {name for table, port, name in decodes if table == "tcp.port" and 32768 <= int(port) <= 60999}
    assert by_chance <= set(EPHEMERAL_PROTOCOLS)
