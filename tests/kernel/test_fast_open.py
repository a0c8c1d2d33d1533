"""TCP Fast Open (RFC 7413): what is sent with the SYN, by any call, and by a socket that was another connection."""

from __future__ import annotations

import json
import subprocess
from typing import TYPE_CHECKING

import pytest
from conformance_runs import streams_by_ports
from processes import PLAINTAP, PYTHON

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.kernel

# In a network namespace of its own, where servers take data of a SYN. The first connection gets the cookie.
COMMAND = 'ip link set lo up && echo 3 > /proc/sys/net/ipv4/tcp_fastopen && exec "$0" -c "$1"'
PROGRAM = """
import ctypes, json, os, socket, struct, time
TCP_FASTOPEN, TCP_FASTOPEN_CONNECT, MSG_FASTOPEN = 23, 30, 0x20000000
listener = socket.create_server(("127.0.0.1", 0))
listener.setsockopt(socket.IPPROTO_TCP, TCP_FASTOPEN, 9)
port = listener.getsockname()[1]
bound = socket.socket()
bound.bind(("127.0.0.1", 0))
libc = ctypes.CDLL(None, use_errno=True)

def talk(way, s, request):
    accepted, _ = listener.accept()
    s.setblocking(True)
    s.sendall(b"rest")
    assert accepted.recv(100)
    accepted.sendall(b"answer")
    assert s.recv(100) == b"answer"
    print(json.dumps([way, s.getsockname()[1], port, request + "rest"]), flush=True)

def again(s):
    assert not libc.connect(s.fileno(), struct.pack("H14x", socket.AF_UNSPEC), 16)

s = socket.socket()
s.sendto(b"first", MSG_FASTOPEN, ("127.0.0.1", port))
talk("cookie", s, "first")
again(s)
s.sendto(b"second", MSG_FASTOPEN, ("127.0.0.1", port))
talk("again", s, "second")
s = socket.socket()
s.setblocking(False)
s.sendto(b"refused", MSG_FASTOPEN, bound.getsockname())
print(json.dumps(["refused", s.getsockname()[1], bound.getsockname()[1], "refused"]), flush=True)
time.sleep(0.01)
s.setblocking(True)
try:
    s.connect(("127.0.0.1", port))
except ConnectionRefusedError:
    s.connect(("127.0.0.1", port))
talk("not refused", s, "")
s = socket.socket()
s.setsockopt(socket.IPPROTO_TCP, TCP_FASTOPEN_CONNECT, 1)
s.connect(("127.0.0.1", port))
reader, writer = os.pipe()
os.write(writer, b"spliced")
os.splice(reader, s.fileno(), 7)
talk("not shown", s, "spliced")
"""


def test_what_is_sent_with_the_syn(tmp_path: Path) -> None:
    path, account = tmp_path / "syn.pcapng", tmp_path / "ledger.json"
    command = [PLAINTAP, "record", "-w", path, "--protocol", "all", "--ledger", account]
    done = subprocess.run(
        [*map(str, command), "--", "unshare", "-n", "sh", "-c", COMMAND, str(PYTHON), str(PROGRAM)],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    truths = [json.loads(line) for line in done.stdout.splitlines()]
    assert [way for way, *_ in truths] == ["cookie", "again", "refused", "not refused", "not shown"]
    streams = streams_by_ports(path)
    for way, client, server, sent in truths:
        (stream,) = streams.pop((client, server))
        if way == "not shown":
            assert (stream.sent.lost, stream.sent.reasons) == (len("spliced"), {"not-in-user-space"})
            assert stream.sent.is_of(sent.encode())
        else:
            assert (way, bytes(stream.sent.data), stream.sent.lost) == (way, sent.encode(), 0)
    assert not streams
    ledger = json.loads(account.read_text())
    assert (ledger["sockets"]["residue"], ledger["tcp_totals"]["unseen_sent"]) == (0, 0)
    assert ledger["sockets"]["lost"] == {"not-in-user-space": len("spliced")}
