"""What is watched: a flood of small HTTPS requests, and one large HTTPS download, both from nginx."""

from __future__ import annotations

import re
import subprocess
import time
import urllib.request
from dataclasses import dataclass
from typing import TYPE_CHECKING

from clients import curl_command
from https_client import sample_server

if TYPE_CHECKING:
    from pathlib import Path

    from servers import Servers

CONNECTIONS = 8
COMPLETED = re.compile(r"^\s*(\d+) requests in ", re.MULTILINE)
DURATION = re.compile(r"requests in ([\d.]+)(ms|s)")
FAILURES = re.compile(r"(Socket errors|Non-2xx).*")


@dataclass(frozen=True, slots=True)
class Flood:
    """What wrk saw complete, and what nginx served, which is up to CONNECTIONS more."""

    completed: int
    served: int
    seconds: float

    def __add__(self, other: Flood) -> Flood:
        return Flood(
            self.completed + other.completed, self.served + other.served, self.seconds + other.seconds
        )

    @property
    def per_second(self) -> float:
        """Completed requests a second."""
        return self.completed / self.seconds


def served(server: Servers) -> int:
    """How many requests nginx has answered before this one."""
    with urllib.request.urlopen(f"http://127.0.0.1:{server.http}/status") as answer:
        numbers = answer.read().split(b"\n")[2].split()
    return int(numbers[2]) - 1


def flood(server: Servers, path: str, seconds: int) -> Flood:
    """Ask for a path over keep-alive connections as fast as one thread can."""
    before = served(server)
    command = ["wrk", "--threads", "1", "--connections", str(CONNECTIONS), "--duration", f"{seconds}s"]
    done = subprocess.run(
        [*command, server.url("https", path)],
        capture_output=True,
        text=True,
        check=True,
        timeout=seconds + 30,
    )
    assert not FAILURES.search(done.stdout), done.stdout
    completed, duration = COMPLETED.search(done.stdout), DURATION.search(done.stdout)
    assert completed is not None, done.stdout
    assert duration is not None, done.stdout
    taken = float(duration[1]) / (1000 if duration[2] == "ms" else 1)
    # The query before counts as served since.
    return Flood(int(completed[1]), served(server) - before - 1, taken)


def download(server: Servers, path: str, expected_bytes: int) -> float:
    """The seconds that curl takes to fetch a path into nothing."""
    began = time.monotonic()
    counted = ("--output", "/dev/null", "--write-out", "%{size_download}")
    done = subprocess.run(
        curl_command(server, *counted, server.url("https", path)), capture_output=True, check=True
    )
    assert int(done.stdout) == expected_bytes
    return time.monotonic() - began


def write_sample(path: Path, length: int) -> str:
    """Write the sample body of that length; returns its SHA-256."""
    with path.open("wb") as file:
        for block in sample_server().sample_blocks(length):
            file.write(block)
    digest: str = sample_server().sample_sha256(length)
    return digest
