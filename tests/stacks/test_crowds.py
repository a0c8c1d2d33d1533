"""Fifty connections at once on memory BIOs: every exchange on the stream that it happened on."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest
from processes import PYTHON
from recording import entries, record_command
from stacks import fill

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
CROWDS = {
    # Needs nothing but Python, so that it runs with all tests.
    "asyncio": (str(PYTHON), "{programs}/crowd.py"),
    "aiohttp": _PYTHON,
    "uvloop": _PYTHON,
    "trio": _PYTHON,
    "gevent": _PYTHON,
    "https": _NODE,
}


@pytest.mark.parametrize(
    "kind",
    ["asyncio", *(pytest.param(kind, marks=pytest.mark.stacks) for kind in CROWDS if kind != "asyncio")],
)
def test_fifty_connections(kind: str, nginx_peer: Peer, tmp_path: Path) -> None:
    capture = tmp_path / "crowd.pcapng"
    url = f"https://localhost:{nginx_peer.https1}"
    command = [*fill(CROWDS[kind], {}), kind, url, nginx_peer.certificate, CONNECTIONS, REQUESTS]
    done = record_command(capture, command)
    assert done.returncode == 0, done.stderr
    conversations = {}
    for item in read_streams(capture):
        if isinstance(item, StreamOpened):
            conversations[item.stream] = (item.client.port, bytearray())
        elif isinstance(item, Data) and item.sender is Side.SERVER:
            conversations[item.stream][1].extend(item.data)
    assert len(conversations) == CONNECTIONS
    # nginx says which connection an answer went over, and to which question it is one.
    numbers = set()
    for port, said in conversations.values():
        (number,) = set(re.findall(rb"^\d+ /tell\?c=(\d+)", said, re.MULTILINE))
        answers = re.findall(rb"^\d+ /tell.*\n", said, re.MULTILINE)
        assert answers == [b"%d /tell?c=%s&r=%d\n" % (port, number, request) for request in range(REQUESTS)]
        numbers.add(int(number))
    assert numbers == set(range(CONNECTIONS))
    assert len(entries(capture)) == CONNECTIONS * REQUESTS
