"""Fifty connections at once on memory BIOs: every exchange on the stream that it happened on."""

from __future__ import annotations

import re
import subprocess
from typing import TYPE_CHECKING

import pytest
from processes import PYTHON
from recording import COMMAND_SECONDS, entries, record, record_command, settle
from stacks import fill
from stacks_build import build_for
from stacks_peer import server_of
from stacks_servers import SERVERS

from capture.streams import Data, Side, StreamOpened
from exporters.reassembly import read_streams

if TYPE_CHECKING:
    from pathlib import Path

    from stacks_peer import Peer

pytestmark = pytest.mark.kernel

CONNECTIONS = 50
REQUESTS = 20
_PYTHON = ("{python}", "{programs}/crowd.py")
_NODE = ("node", "{programs}/crowd.mjs")
RUSTLS_CROWD = "{built}/rustls/target/release/rustls_reqwest"
_BUN = ("{node_modules}/bun/bin/bun.exe", "{programs}/crowd.mjs")
CROWDS = {
    # Needs nothing but Python, so that it runs with all tests.
    "asyncio": (str(PYTHON), "{programs}/crowd.py"),
    "aiohttp": _PYTHON,
    "uvloop": _PYTHON,
    "trio": _PYTHON,
    "gevent": _PYTHON,
    "https": _NODE,
    "bun": _BUN,
    # No memory BIO, but objects that move about, on four threads.
    "reqwest": (RUSTLS_CROWD,),
}


@pytest.mark.parametrize(
    "kind",
    ["asyncio", *(pytest.param(kind, marks=pytest.mark.stacks) for kind in CROWDS if kind != "asyncio")],
)
def test_fifty_connections(kind: str, nginx_peer: Peer, tmp_path: Path) -> None:
    capture = tmp_path / "crowd.pcapng"
    url = f"https://localhost:{nginx_peer.https1}"
    build_for(CROWDS[kind])
    names = [] if kind == "reqwest" else [kind]
    command = [*fill(CROWDS[kind], {}), *names, url, nginx_peer.certificate, CONNECTIONS, REQUESTS]
    done = record_command(capture, command)
    assert done.returncode == 0, done.stderr
    judge_crowd(capture)


@pytest.mark.stacks
@pytest.mark.parametrize("name", ["Bun.serve", "hyper"])
def test_fifty_connections_to_a_server(name: str, nginx_peer: Peer, tmp_path: Path) -> None:
    """Of Bun's, no BIOs can be found, and the order of calls alone tells; of rustls's, the records alone."""
    stack = next(stack for stack in SERVERS if stack.name == name)
    build_for(stack.command)
    with server_of(stack, tmp_path, nginx_peer) as (pids, port):
        url = f"https://localhost:{port}"
        command = [*fill(_PYTHON, {}), "aiohttp", url, nginx_peer.certificate, CONNECTIONS, REQUESTS]
        with record(tmp_path / "crowd.pcapng", "-p", pids[0], "--port", port) as recording:
            subprocess.run([str(part) for part in command], check=True, timeout=COMMAND_SECONDS)
            settle()
    judge_crowd(recording.path)


def judge_crowd(capture: Path) -> None:
    """Every answer is on the connection that the server says it is, and answers a question of the same client."""
    conversations = {}
    for item in read_streams(capture):
        if isinstance(item, StreamOpened):
            conversations[item.stream] = (item.client.port, bytearray())
        elif isinstance(item, Data) and item.sender is Side.SERVER:
            conversations[item.stream][1].extend(item.data)
    assert len(conversations) == CONNECTIONS
    # The server says which connection an answer went over, and to which question it is one.
    numbers = set()
    for port, said in conversations.values():
        (number,) = set(re.findall(rb"^\d+ /tell\?c=(\d+)", said, re.MULTILINE))
        answers = re.findall(rb"^\d+ /tell.*\n", said, re.MULTILINE)
        assert answers == [b"%d /tell?c=%s&r=%d\n" % (port, number, request) for request in range(REQUESTS)]
        numbers.add(int(number))
    assert numbers == set(range(CONNECTIONS))
    assert len(entries(capture)) == CONNECTIONS * REQUESTS
