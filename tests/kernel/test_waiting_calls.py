"""Calls that were waiting when the recording began: the first thing that comes is received by one of them, and nobody
sees it entered. Threads of servers and clients wait in them for as long as a connection is idle.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from processes import running
from recording import decoded, entries, path_of, record, settle

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from servers import Servers

pytestmark = pytest.mark.kernel

SUPPORT = Path(__file__).parents[1] / "support" / "waiting"
SECONDS = 120
PATHS = [f"/{number}" for number in range(1, 6)]


def say(program: subprocess.Popen[str], line: str) -> str:
    """A line of input, and the line that answers it."""
    assert program.stdin is not None
    assert program.stdout is not None
    print(line, file=program.stdin, flush=True)
    return program.stdout.readline().rstrip("\n")


@pytest.fixture(scope="module")
def go_program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """tests/support/waiting/main.go."""
    folder = tmp_path_factory.mktemp("go")
    environment = {"GOCACHE": str(folder / "cache"), **os.environ, "GO111MODULE": "off"}
    program = folder / "gone-waiting"
    subprocess.run(
        ["go", "build", "-o", program, SUPPORT / "main.go"], env=environment, check=True, timeout=SECONDS
    )
    return program


@pytest.fixture
def go_pair(go_program: Path, servers: Servers) -> Iterator[tuple[int, int, subprocess.Popen[str]]]:
    """A server in Go and a client in Go that has asked it once: pids, and the client."""
    certificate = servers.certificate
    serve = [go_program, "serve", certificate, certificate.with_name("key.pem")]
    with running(serve, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        url = f"https://localhost:{server.stdout.readline().strip()}"
        ask = [go_program, "ask", url, certificate]
        with running(ask, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as client:
            assert say(client, "/before") == "answer to /before"
            yield server.pid, client.pid, client


def answers(found: Sequence[dict[str, Any]]) -> list[tuple[str, bytes]]:
    """Paths and bodies."""
    return [(path_of(entry), decoded(entry["response"]["content"])) for entry in found]


@pytest.mark.parametrize("who", ["server", "client"])
def test_go_s_goroutines(go_pair: tuple[int, int, subprocess.Popen[str]], tmp_path: Path, who: str) -> None:
    server, pid, client = go_pair
    account = tmp_path / "ledger.json"
    options = ["-p", server if who == "server" else pid, "--ledger", account]
    with record(tmp_path / "go.pcapng", *options) as recording:
        for path in PATHS:
            assert say(client, path) == f"answer to {path}"
        settle()
        done = recording.stop()
    assert answers(entries(recording.path)) == [(path, f"answer to {path}".encode()) for path in PATHS]
    assert "Warning" not in done.stderr
    # A write and a read for each message; those that were waiting were not seen entered.
    assert json.loads(account.read_text())["probe_hits"] >= 2 * len(PATHS) - 1
