"""TLS that ends before its connection does: FTP's CCC (RFC 4217 §12.3), LDAP's closure of StartTLS (RFC 4511 §4.14.3),
SQL Server's protocol where it encrypts the log-in alone.
"""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

import memory_session
import pytest
from conformance_runs import streams_by_ports
from judges import expert_problems, rows
from recording import warnings
from two_programs import ENDS, record_end

if TYPE_CHECKING:
    from pathlib import Path

    from conformance_runs import Stream
    from recording import Finished
    from servers import Servers

pytestmark = pytest.mark.kernel

# A turn is what the client says and what the server answers; None: TLS begins, or ends.
PROGRAM = (
    memory_session.source()
    + """
import json, socket, sys
server = sys.argv[1] == "server"
with open(sys.argv[2]) as script:
    turns = json.load(script)
memory = sys.argv[3] == "memory"
if server:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(*sys.argv[4:])
    listener = socket.create_server(("127.0.0.1", 0))
    print(listener.getsockname()[1], flush=True)
    connection, _ = listener.accept()
else:
    context = ssl._create_unverified_context()
    sys.stdin.readline()
    connection = socket.create_connection(("127.0.0.1", int(sys.argv[4])))

def record_from(connection):
    head = connection.recv(5, socket.MSG_WAITALL | socket.MSG_PEEK)
    return connection.recv(5 + int.from_bytes(head[3:], "big"), socket.MSG_WAITALL)

class InMemory(MemorySession):
    def __init__(self, connection):
        # No reference to itself: the session is freed when it is over, not some time later.
        super().__init__(context, connection.sendall, lambda: record_from(connection), server_side=server)
        self.connection = connection
        self.do("do_handshake")
    def sendall(self, data):
        self.do("write", data)
    def recv(self, size):
        return self.do("read", size)
    def unwrap(self):
        self.do("unwrap")
        return self.connection

def heard(text):
    so_far = b""
    while len(so_far) < len(text):
        so_far += connection.recv(len(text) - len(so_far))
    assert so_far == text.encode()

secure = False
for turn in turns:
    if turn is None:
        if secure:
            connection = connection.unwrap()
        elif memory:
            connection = InMemory(connection)
        else:
            connection = context.wrap_socket(connection, server_side=server)
        secure = not secure
        continue
    said, answered = turn
    for mine, text in ((not server, said), (server, answered)):
        if mine:
            connection.sendall(text.encode())
        else:
            heard(text)
connection.close()
"""
)
Turns = list[tuple[str, str] | None]
FTP: Turns = [
    ("AUTH TLS\r\n", "234 go ahead\r\n"),
    None,
    ("USER a\r\nPASS b\r\n", "331 more\r\n230 you are in\r\n"),
    ("CCC\r\n", "200 in the clear\r\n"),
    None,
    ("PASV\r\n", "227 Entering Passive Mode (127,0,0,1,4,1)\r\n"),
    ("SYST\r\n", "215 UNIX\r\n" * 2000),
    ("AUTH TLS\r\n", "234 once more\r\n"),
    None,
    ("PWD\r\n", '257 "/"\r\n'),
    ("CCC\r\n", "200 once more\r\n"),
    None,
    ("QUIT\r\n", "221 bye\r\n"),
]


ANSWER = "\x04\x01\0\x1d\0\0\1\0" + "it is in clear " * 2
LOG_IN: Turns = [
    None,
    ("user and password", ""),
    None,
    ("", ANSWER[:0x1D]),
    ("\1\1\0\x0d\0\0\1\0 next", ANSWER[:0x1D]),
]
SCRIPTS = {"FTP": FTP, "log-in": LOG_IN}


def said_by(turns: Turns, who: int) -> bytes:
    """What the client (0) or the server (1) says in all."""
    return "".join(turn[who] for turn in turns if turn).encode()


def recorded(
    servers: Servers, folder: Path, turns: Turns, transport: str, end: str, *options: object
) -> tuple[Finished, Stream]:
    """One end's recording, and the only stream that is in it."""
    script, key = folder / "turns.json", servers.certificate.with_name("key.pem")
    script.write_text(json.dumps(turns))
    program, path = [sys.executable, "-c", PROGRAM], folder / "again.pcapng"
    done, port = record_end(
        path,
        end,
        [*program, "server", script, transport, servers.certificate, key],
        lambda port: [*program, "client", script, transport, port],
        *options,
    )
    ((ports, (stream,)),) = streams_by_ports(path).items()
    assert ports[1] == port
    assert expert_problems(path) == []
    assert warnings(done.stderr) == []
    assert "lost (" not in done.stderr
    assert (stream.sent.lost, stream.received.lost) == (0, 0)
    return done, stream


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("transport", ["socket", "memory"])
@pytest.mark.parametrize("script", SCRIPTS)
def test_every_byte_before_and_after(
    servers: Servers, tmp_path: Path, script: str, transport: str, end: str
) -> None:
    turns = SCRIPTS[script]
    done, stream = recorded(servers, tmp_path, turns, transport, end, "--protocol", "all")
    assert bytes(stream.sent.data) == said_by(turns, 0), done.stderr
    assert bytes(stream.received.data) == said_by(turns, 1)
    # Wireshark leaves no TLS that has begun: there it is said, and dissected all the same.
    told = rows(tmp_path / "again.pcapng", 'frame.comment contains "cleartext=after-tls"', "frame.comment")
    assert len(told) == turns.count(None) // 2


@pytest.mark.parametrize("end", ENDS)
def test_what_is_not_http_is_not_shown(servers: Servers, tmp_path: Path, end: str) -> None:
    """Without ``--protocol all`` cleartext is what it would be on any connection."""
    spoken = ("GET /in HTTP/1.1\r\nHost: a\r\n\r\n", "HTTP/1.1 204 N\r\n\r\n")
    done, stream = recorded(
        servers, tmp_path, [None, spoken, None, ("neither\r\n", "nor\r\n")], "socket", end
    )
    assert (bytes(stream.sent.data), bytes(stream.received.data)) == tuple(map(str.encode, spoken)), (
        done.stderr
    )
    assert "14 bytes" in done.stderr, done.stderr
