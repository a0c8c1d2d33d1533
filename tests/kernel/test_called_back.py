"""Programs that a TLS library calls back from within its functions, and what they then do with other connections."""

from __future__ import annotations

import json
import socket
import ssl
import subprocess
from typing import TYPE_CHECKING

import pytest
from conformance_runs import streams_by_ports
from processes import running
from recording import record

if TYPE_CHECKING:
    from pathlib import Path

    from servers import Servers

pytestmark = pytest.mark.kernel

# Who comes is announced to those that are there: by its name, and when its handshake is done. Node calls back for
# either from within SSL_read or SSL_do_handshake, and what is written there is sent there.
CHAT = """
const tls = require('tls'), fs = require('fs');
const [cert, key] = process.argv.slice(1).map((path) => fs.readFileSync(path));
const present = [];
const say = (what) => present.forEach((socket) => socket.write(what));
const SNICallback = (name, found) => { say(`${name} comes\\n`); found(null, null); };
const server = tls.createServer({ cert, key, SNICallback }, (socket) => {
  say('is there\\n');
  present.push(socket);
  socket.on('data', (said) => socket.write(String(said).toUpperCase()));
});
server.listen(0, '127.0.0.1', () => console.log(server.address().port));
"""


class Guest:
    """A client, and what it and the server have said to each other."""

    def __init__(self, context: ssl.SSLContext, port: int, number: int) -> None:
        self.number = number
        self.socket = context.wrap_socket(
            socket.create_connection(("127.0.0.1", port)), server_hostname="localhost"
        )
        self.port = self.socket.getsockname()[1]
        self.sent = self.received = b""

    def hear(self, expected: bytes) -> None:
        heard = b""
        while len(heard) < len(expected):
            heard += self.socket.recv(99)
        assert heard == expected
        self.received += heard

    def talk(self) -> None:
        said = b"guest %d, %d\n" % (self.number, len(self.sent))
        self.socket.sendall(said)
        self.sent += said
        self.hear(said.upper())


def test_what_node_writes_to_others_when_it_is_called_back_takes_no_session_there(
    servers: Servers, tmp_path: Path
) -> None:
    key = servers.certificate.with_name("key.pem")
    context = ssl.create_default_context(cafile=str(servers.certificate))
    guests: list[Guest] = []
    with running(["node", "-e", CHAT, servers.certificate, key], stdout=subprocess.PIPE) as server:
        assert server.stdout
        port = json.loads(server.stdout.readline())
        with record(tmp_path / "chat.pcapng", "-p", server.pid) as recording:
            for number in range(3):
                guests.append(Guest(context, port, number))
                for guest in guests[:-1]:
                    guest.hear(b"localhost comes\nis there\n")
                for guest in guests:
                    guest.talk()
            for guest in guests:
                guest.socket.close()
    found = streams_by_ports(recording.path)
    for guest in guests:
        (stream,) = found[guest.port, port]
        assert (bytes(stream.sent.data), bytes(stream.received.data)) == (guest.sent, guest.received)
