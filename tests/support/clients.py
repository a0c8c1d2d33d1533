"""Real clients for the tests: curl, and a Python client whose connection can be older than a recording."""

from __future__ import annotations

import contextlib
import json
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from processes import PYTHON, running

if TYPE_CHECKING:
    from collections.abc import Iterator

    from servers import Servers

CURL = ("curl", "--silent", "--show-error", "--fail", "--http1.1", "--max-time", "120")
CURL_SECONDS = 130


def curl_command(servers: Servers, *arguments: str) -> list[str]:
    """curl, trusting the servers' certificate."""
    return [*CURL, "--cacert", str(servers.certificate), *arguments]


def curl(servers: Servers, *arguments: str) -> bytes:
    """What curl prints; its failure is the test's."""
    done = subprocess.run(
        curl_command(servers, *arguments), capture_output=True, timeout=CURL_SECONDS, check=False
    )
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout


@dataclass(frozen=True, slots=True)
class KeepAliveClient:
    """A connected https_client.py: the process, and the port that its connection comes from."""

    pid: int
    local_port: int
    orders: IO[str]
    answers: IO[str]

    def request(self, path: str, method: str = "GET", upload: int | None = None) -> dict[str, Any]:
        """Have it send a request on its connection, with a sample body of ``upload`` bytes if given."""
        order = {"path": path, "method": method} | ({} if upload is None else {"upload": upload})
        print(json.dumps(order), file=self.orders, flush=True)
        answer: dict[str, Any] = json.loads(self.answers.readline())
        return answer


@contextlib.contextmanager
def keep_alive_client(servers: Servers, scheme: str = "https") -> Iterator[KeepAliveClient]:
    """A Python client with one connection to the servers, open until the end."""
    trust = [str(servers.certificate)] if scheme == "https" else []
    command = [PYTHON, Path(__file__).with_name("https_client.py"), str(servers.port(scheme)), *trust]
    with running(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        told = json.loads(process.stdout.readline())
        yield KeepAliveClient(told["pid"], told["local_port"], process.stdin, process.stdout)
