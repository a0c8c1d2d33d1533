"""Programs that end inside of a TLS library's write: what they have sent is in the capture, though it never returns."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

import pytest
from judges import rows
from processes import ROOT
from recording import decoded, entries, record_command

if TYPE_CHECKING:
    from pathlib import Path

    from servers import Servers

pytestmark = pytest.mark.kernel

SOURCES = ROOT / "tests/support/leaving"
LONG = 40_009  # three records


@pytest.fixture(scope="module", params=["OpenSSL", "Go"])
def program(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One that leaves from below a write."""
    found = tmp_path_factory.mktemp("leaving") / "leaving"
    builders: dict[str, list[str | Path]] = {
        "OpenSSL": ["gcc", "-o", found, SOURCES / "main.c", "-lssl", "-lcrypto"],
        "Go": ["go", "build", "-o", found, SOURCES / "main.go"],
    }
    subprocess.run(builders[request.param], check=True)
    return found


@pytest.mark.parametrize(("writes", "length"), [(1, 17), (3, LONG)])
def test_what_was_sent(servers: Servers, tmp_path: Path, program: Path, writes: int, length: int) -> None:
    capture = tmp_path / "left.pcapng"
    done = record_command(capture, [program, servers.https, writes, length, "first"])
    assert done.returncode == 0, done.stderr
    (entry,) = entries(capture)
    assert (entry["request"]["method"], entry["connection"]) == ("PUT", str(servers.https))
    assert decoded(entry["request"]["postData"]) == b"x" * length


@pytest.mark.parametrize(
    ("writes", "length", "handshake"),
    [(1, 17, "within"), (2, LONG, "first")],
    ids=["in the handshake", "in the middle"],
)
def test_what_was_not_sent(
    servers: Servers, tmp_path: Path, program: Path, writes: int, length: int, handshake: str
) -> None:
    """A ClientHello alone, and two records of three."""
    capture = tmp_path / "left.pcapng"
    done = record_command(capture, [program, servers.https, writes, length, handshake])
    assert done.returncode == 0, done.stderr
    assert rows(capture, 'tcp contains "PUT"', "tcp.len") == []
