"""gRPC by grpcio, whose BoringSSL is inside its own library: every call, from either end recorded alone."""

from __future__ import annotations

import contextlib
import json
import subprocess
from typing import TYPE_CHECKING, Any

import pytest
from processes import ROOT, running, wait_until
from recording import entries, record

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from servers import Servers

pytestmark = [pytest.mark.kernel, pytest.mark.stacks]

PYTHON = ROOT / "build/stacks/python/bin/python"
PROGRAMS = ROOT / "tests/stacks/programs"
PREFIX_BYTES = 5
CALLS = 104


@contextlib.contextmanager
def server(certificate: Path, folder: Path) -> Iterator[tuple[int, int]]:
    """The pid and the port of a server."""
    out = folder / "port"
    command = [PYTHON, PROGRAMS / "grpc_server.py", certificate.with_name("key.pem"), certificate]
    with out.open("w") as file, running(command, stdin=subprocess.PIPE, stdout=file) as process:
        wait_until(lambda: out.read_text().endswith("\n"), "the server's port")
        yield process.pid, int(out.read_text())


def client(port: int, certificate: Path) -> list[dict[str, Any]]:
    """What the client tells of its calls."""
    command = [PYTHON, PROGRAMS / "grpc_client.py", str(port), certificate]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    return [json.loads(line) for line in done.stdout.splitlines()]


def described(entry: dict[str, Any]) -> tuple[Any, ...]:
    """A call as the client tells it."""
    call = entry["_grpc"]
    assert call["service"] == "stacks.Peer"
    assert call["complete"]
    sizes = [[message["size"] for message in call[f"{side}Messages"]] for side in ("request", "response")]
    return call["method"], *map(tuple, sizes), call["statusName"]


@pytest.mark.parametrize("end", ["client", "server"])
def test_every_call(end: str, servers: Servers, tmp_path: Path) -> None:
    capture = tmp_path / "a.pcapng"
    with server(servers.certificate, tmp_path) as (pid, port):
        only = ("-p", pid) if end == "server" else ("--exclude-pid", pid, "--hold", "--port", port)
        with record(capture, *only):
            told = client(port, servers.certificate)
    found = [entry for entry in entries(capture) if entry["_side"] == end]
    assert len(told) == len(found) == CALLS
    assert sorted(map(described, found)) == sorted(
        (call["method"], tuple(call["sent"]), tuple(call["received"]), call["status"]) for call in told
    )
    assert all(entry["_tlsLibrary"].startswith("BoringSSL") for entry in found)
    assert {entry["_connectionId"] for entry in found} == {found[0]["_connectionId"]}
    (refused,) = [entry for entry in found if entry["_grpc"]["method"] == "Refuse"]
    assert refused["_grpc"]["message"] == "nö, not now"
    echoes = [entry for entry in found if entry["_grpc"]["method"] == "Echo"]
    for entry in echoes:
        trailers = {field["name"]: field["value"] for field in entry["response"]["_trailers"]}
        assert int(trailers["x-length"]) == entry["_grpc"]["responseMessages"][0]["size"]
        assert entry["response"]["bodySize"] >= int(trailers["x-length"]) + PREFIX_BYTES
