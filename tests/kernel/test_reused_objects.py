"""A library's object for one session after the other: what it is cleared of is another connection's."""

from __future__ import annotations

import socket
import ssl
import subprocess
import threading
from typing import TYPE_CHECKING

import pytest
from compiled import compile_library
from conformance_runs import streams_by_ports
from processes import PYTHON
from recording import record

if TYPE_CHECKING:
    from pathlib import Path

    from servers import Servers

pytestmark = pytest.mark.kernel

# With memory BIOs, so that no call inside of the library's tells the connection; that of before is still open.
CLIENT = """
import ctypes, socket, sys
from ctypes import c_void_p
ssl, crypto = ctypes.CDLL("libssl.so.3"), ctypes.CDLL("libcrypto.so.3")

def pointer(function, *arguments):
    function.restype = c_void_p
    return c_void_p(function(*arguments))

context = pointer(ssl.SSL_CTX_new, pointer(ssl.TLS_client_method))
session, room, connections = pointer(ssl.SSL_new, context), ctypes.create_string_buffer(1 << 16), []

def complete(connection, incoming, outgoing, function, *arguments):
    while True:
        result = function(session, *arguments)
        if (length := crypto.BIO_read(outgoing, room, len(room))) > 0:
            connection.sendall(room.raw[:length])
        if result > 0:
            return result
        received = connection.recv(1 << 16)
        crypto.BIO_write(incoming, received, len(received))

for word in (b"first", b"second"):
    connection = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
    connections.append(connection)
    print(connection.getsockname()[1])
    ways = [pointer(crypto.BIO_new, pointer(crypto.BIO_s_mem)) for _ in range(2)]
    ssl.SSL_set_bio(session, *ways)
    ssl.SSL_set_connect_state(session)
    complete(connection, *ways, ssl.SSL_do_handshake)
    complete(connection, *ways, ssl.SSL_write, word, len(word))
    answer = ctypes.create_string_buffer(100)
    length = complete(connection, *ways, ssl.SSL_read, answer, 100)
    assert answer.raw[:length] == word.upper()
    complete(connection, *ways, ssl.SSL_shutdown)
    assert ssl.SSL_clear(session) == 1
"""
# The same of a program without symbols, in which the function that clears an object is not found, and the
# handshake's is called by nobody, as where a compiler has put it into its callers. It has closed the socket.
UNTOLD_CLIENT = r"""
#include <arpa/inet.h>
#include <openssl/ssl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

int ossl_statem_connect(SSL *session);

static SSL *session;
static BIO *incoming, *outgoing;
static int connection;
static char room[1 << 16];

static int again(int result)
{
    int length = BIO_read(outgoing, room, sizeof(room));

    if (length > 0 && write(connection, room, length) != length)
        abort();
    if (result > 0)
        return 0;
    length = read(connection, room, sizeof(room));
    if (length <= 0 || BIO_write(incoming, room, length) != length)
        abort();
    return 1;
}

int main(int count, char **arguments)
{
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(atoi(arguments[1])),
                             .sin_addr = {htonl(INADDR_LOOPBACK)}}, own;
    const char *words[] = {"first", "second"};
    char answer[100];
    int n;

    session = SSL_new(SSL_CTX_new(TLS_client_method()));
    for (int i = 0; i < 2; i++) {
        socklen_t size = sizeof(own);
        connection = socket(AF_INET, SOCK_STREAM, 0);
        if (connect(connection, (void *)&to, sizeof(to)) || getsockname(connection, (void *)&own, &size))
            abort();
        printf("%d\n", ntohs(own.sin_port));
        incoming = BIO_new(BIO_s_mem());
        outgoing = BIO_new(BIO_s_mem());
        SSL_set_bio(session, incoming, outgoing);
        SSL_set_connect_state(session);
        while (again(ossl_statem_connect(session)))
            ;
        while (again(SSL_write(session, words[i], 5 + i)))
            ;
        do
            n = SSL_read(session, answer, sizeof(answer));
        while (again(n));
        if (n != 5 + i)
            abort();
        SSL_shutdown(session);
        again(1);
        close(connection);
        if (!SSL_clear(session))
            abort();
    }
    return 0;
}
"""


@pytest.mark.parametrize("told", [True, False])
def test_each_session_is_on_its_own_connection(servers: Servers, tmp_path: Path, *, told: bool) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(servers.certificate, servers.certificate.with_name("key.pem"))
    open_connections: list[socket.socket] = []
    client: list[object] = [PYTHON, "-c", CLIENT]
    if not told:
        linkage = ("-static-pie", "-s")
        client = [
            compile_library(tmp_path, UNTOLD_CLIENT, "-lssl", "-lcrypto", name="client", linkage=linkage)
        ]

    def serve() -> None:
        for _ in range(2):
            accepted, _ = listener.accept()
            with context.wrap_socket(accepted, server_side=True) as secure:
                secure.sendall(secure.recv(100).upper())
                open_connections.append(secure.unwrap())

    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        server = threading.Thread(target=serve, daemon=True)
        server.start()
        with record(tmp_path / "reused.pcapng", "--port", port, "--protocol", "tls", "--hold") as recording:
            done = subprocess.run(
                [*map(str, client), str(port)], check=True, capture_output=True, text=True, timeout=60
            )
            server.join()
    for connection in open_connections:
        connection.close()
    found = streams_by_ports(recording.path)
    seen = [
        [(bytes(stream.sent.data), bytes(stream.received.data)) for stream in found[int(local), port]]
        for local in done.stdout.split()
    ]
    assert seen == [[(b"first", b"FIRST")], [(b"second", b"SECOND")]]
