"""Many at once: short-lived processes one after the other, and connections that interleave."""

from __future__ import annotations

import json
import subprocess
from collections import Counter, defaultdict
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, urlsplit

import pytest
from clients import curl_command
from judges import expert_problems, mismatched_ports, rows
from processes import PYTHON
from recording import entries, record, settle

if TYPE_CHECKING:
    from servers import Servers

pytestmark = pytest.mark.kernel

PROCESSES = 1000
AT_ONCE = 4
CONNECTIONS = 50
REQUESTS = 37
CROWD = Path(__file__).resolve().parents[1] / "support/crowd.py"


@pytest.mark.slow
def test_a_thousand_short_lived_processes(servers: Servers, tmp_path: Path) -> None:
    command = curl_command(servers, "--output", "/dev/null", servers.url("https", "/json?number={}"))
    numbers = "\n".join(map(str, range(PROCESSES))).encode()
    with record(tmp_path / "thousand.pcapng", "-c", "curl") as recording:
        parallel = ["xargs", "--max-procs", str(AT_ONCE), "--replace={}", *command]
        subprocess.run(parallel, input=numbers, check=True, timeout=180)
    found = entries(recording.path, servers.https)
    asked = sorted(int(parse_qs(urlsplit(entry["request"]["url"]).query)["number"][0]) for entry in found)
    assert asked == list(range(PROCESSES))
    answered = Counter(
        (
            entry["request"]["url"].rpartition("=")[2],
            json.loads(entry["response"]["content"]["text"])["query"]["number"],
        )
        for entry in found
    )
    assert answered == Counter((str(number), str(number)) for number in range(PROCESSES))
    assert len({entry["_pid"] for entry in found}) == PROCESSES
    assert mismatched_ports(recording.path) == []
    assert expert_problems(recording.path, f"tcp.port=={servers.https}") == []


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_fifty_connections_interleave(servers: Servers, tmp_path: Path, scheme: str) -> None:
    port = servers.port(scheme)
    trust = [servers.certificate] if scheme == "https" else []
    command = [str(part) for part in (PYTHON, CROWD, port, CONNECTIONS, REQUESTS, *trust)]
    with record(tmp_path / "crowd.pcapng", "--port", port) as recording:
        done = subprocess.run(command, capture_output=True, check=True, timeout=180)
        settle()
    ports = {int(number): local for number, local in json.loads(done.stdout).items()}
    seen = defaultdict(list)
    streams = defaultdict(set)
    for stream, local, uri in rows(
        recording.path, "http.request", "tcp.stream", "tcp.srcport", "http.request.uri"
    ):
        query = parse_qs(urlsplit(uri).query)
        number = int(query["connection"][0])
        seen[number].append(int(query["request"][0]))
        streams[number].add((stream, int(local)))
    assert dict(seen) == {number: list(range(REQUESTS)) for number in range(CONNECTIONS)}
    assert all(len(found) == 1 for found in streams.values()), "a connection was split"
    assert {number: local for number, ((_, local),) in streams.items()} == ports
    assert len({stream for ((stream, _),) in streams.values()}) == CONNECTIONS, "connections were merged"
    assert mismatched_ports(recording.path) == []
    assert expert_problems(recording.path) == []
    assert len(entries(recording.path)) == CONNECTIONS * REQUESTS
