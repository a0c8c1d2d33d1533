"""A TLS handshake that comes to nothing is what people debug first: it is in the file, with the name asked for."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

import pytest
from judges import expert_problems, rows
from recording import record, settle

if TYPE_CHECKING:
    from pathlib import Path

    from servers import Servers

pytestmark = pytest.mark.kernel

CANNOT_VERIFY = 60


@pytest.mark.parametrize("ends", ["client", "both"])
def test_a_certificate_that_is_not_trusted(servers: Servers, tmp_path: Path, ends: str) -> None:
    options = ("--port", servers.https, *(("-c", "curl") if ends == "client" else ()))
    with record(tmp_path / "refused.pcapng", *options) as recording:
        command = ["curl", "-s", servers.url("https", "/text")]
        done = subprocess.run(command, check=False, capture_output=True, timeout=60)
        assert done.returncode == CANNOT_VERIFY
        settle()
        finished = recording.stop()
    flags = [flag for (flag,) in rows(recording.path, "tcp", "tcp.flags.str")]
    assert sum("S" in flag for flag in flags) == 2, finished.stderr
    assert any("F" in flag or "R" in flag for flag in flags)
    (comment,) = rows(recording.path, "tcp.flags.syn==1 && tcp.flags.ack==0", "frame.comment")
    assert "localhost" in comment[0]
    # Wireshark warns of every RST, and one is what curl sent: it left alerts unread.
    assert expert_problems(recording.path, "tcp.flags.reset==0") == []
    assert "1 stream written" in finished.stderr
