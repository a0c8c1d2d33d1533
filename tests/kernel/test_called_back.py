"""Programs that a TLS library calls back from within its functions, and what they then do with other connections."""

from __future__ import annotations

import json
import socket
import ssl
import subprocess
import threading
from typing import TYPE_CHECKING

import pytest
from conformance_runs import streams_by_ports
from processes import PYTHON, running
from recording import record

if TYPE_CHECKING:
    from pathlib import Path

    from servers import Servers

pytestmark = pytest.mark.kernel

# Who comes is announced to those that are there: by its name, and when its handshake is done. Node calls back for
# either from within SSL_read or SSL_do_handshake, and what is written there is sent there: also to a store of
# certificates, before the session has written anything.
CHAT = """
const tls = require('tls'), fs = require('fs');
const [cert, key] = process.argv.slice(1, 3).map((path) => fs.readFileSync(path));
const store = require('net').connect(Number(process.argv[3]), '127.0.0.1');
const present = [];
const say = (what) => present.forEach((socket) => socket.write(what));
const SNICallback = (name, found) => {
  store.write(`*2\\r\\n$3\\r\\nGET\\r\\n$9\\r\\n${name}\\r\\n`);
  say(`${name} comes\\n`);
  found(null, null);
};
const server = tls.createServer({ cert, key, SNICallback }, (socket) => {
  say('is there\\n');
  present.push(socket);
  socket.on('data', (said) => socket.write(String(said).toUpperCase()));
});
store.on('connect', () => server.listen(0, '127.0.0.1', () => console.log(server.address().port)));
"""

# A server whose cache of sessions is another process, as memcached may be. It is asked when all else of a handshake is
# done, in TLS 1.2.
CACHING = """
import ctypes, socket, sys, threading
from ctypes import c_int, c_uint64, c_void_p
ssl = ctypes.CDLL("libssl.so.3")
NO_TICKET = 1 << 14

def pointer(function, *arguments):
    function.restype = c_void_p
    return c_void_p(function(*arguments))

@ctypes.CFUNCTYPE(c_int, c_void_p, c_void_p)
def keep(session, what):
    cache.sendall(b"set session\\r\\n")
    assert cache.recv(99)
    return 0

cache = socket.create_connection(("127.0.0.1", int(sys.argv[3])))
context = pointer(ssl.SSL_CTX_new, pointer(ssl.TLS_server_method))
ssl.SSL_CTX_set_options(context, c_uint64(NO_TICKET))
ssl.SSL_CTX_sess_set_new_cb(context, keep)
assert ssl.SSL_CTX_use_certificate_chain_file(context, sys.argv[1].encode()) == 1
assert ssl.SSL_CTX_use_PrivateKey_file(context, sys.argv[2].encode(), 1) == 1
listener = socket.create_server(("127.0.0.1", 0))
print(listener.getsockname()[1], flush=True)
connection = listener.accept()[0]
session, said = pointer(ssl.SSL_new, context), ctypes.create_string_buffer(99)
ssl.SSL_set_fd(session, connection.fileno())
assert ssl.SSL_accept(session) == 1
while (length := ssl.SSL_read(session, said, 99)) > 0:
    ssl.SSL_write(session, said.raw.upper(), length)
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


def _store(asked: socket.socket) -> None:
    """A store's part."""
    if asked.recv(99):
        asked.sendall(b"STORED\r\n")


def test_what_node_writes_to_others_when_it_is_called_back_takes_no_session_there(
    servers: Servers, tmp_path: Path
) -> None:
    key = servers.certificate.with_name("key.pem")
    context = ssl.create_default_context(cafile=str(servers.certificate))
    guests: list[Guest] = []
    store = socket.create_server(("127.0.0.1", 0))
    command = ["node", "-e", CHAT, servers.certificate, key, store.getsockname()[1]]
    with store, running(command, stdout=subprocess.PIPE) as server:
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
    assert set(found) == {(guest.port, port) for guest in guests}
    for guest in guests:
        (stream,) = found[guest.port, port]
        assert (bytes(stream.sent.data), bytes(stream.received.data)) == (guest.sent, guest.received)


def test_what_a_server_asks_its_cache_of_sessions_is_no_tls(servers: Servers, tmp_path: Path) -> None:
    """The connection to it is older than the recording, so that nobody knows how it began."""
    key = servers.certificate.with_name("key.pem")
    context = ssl.create_default_context(cafile=str(servers.certificate))
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with socket.create_server(("127.0.0.1", 0)) as cache:
        command = [PYTHON, "-c", CACHING, servers.certificate, key, cache.getsockname()[1]]
        with (
            running(command, stdout=subprocess.PIPE) as server,
            cache.accept()[0] as asked,
            record(tmp_path / "cache.pcapng", "-p", server.pid) as recording,
        ):
            assert server.stdout
            port = json.loads(server.stdout.readline())
            answers = threading.Thread(target=_store, args=(asked,))
            answers.start()
            guest = Guest(context, port, 1)
            guest.talk()
            guest.talk()
            guest.socket.close()
            answers.join()
            server.wait(10)
    ((ports, (stream,)),) = streams_by_ports(recording.path).items()
    assert ports == (guest.port, port)
    assert (bytes(stream.sent.data), bytes(stream.received.data)) == (guest.sent, guest.received)
