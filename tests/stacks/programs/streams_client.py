"""Requests by hand over byte streams: ``streams_client.py URL CERTIFICATE UPLOAD KIND``."""

import ssl
import sys
from pathlib import Path
from urllib.parse import urlsplit

url, certificate, upload, kind = sys.argv[1:]
parts = urlsplit(url)
host, port = parts.hostname, parts.port
body = Path(upload).read_bytes()
HEADS = (
    f"GET /download HTTP/1.1\r\nHost: {parts.netloc}\r\n\r\n".encode(),
    f"PUT /upload/body HTTP/1.1\r\nHost: {parts.netloc}\r\nContent-Length: {len(body)}\r\n"
    "Connection: close\r\n\r\n".encode()
    + body,
)


def context() -> ssl.SSLContext:
    return ssl.create_default_context(cafile=certificate)


def missing(received: bytearray) -> int:
    """How many bytes of a response are still to come."""
    head, separator, rest = bytes(received).partition(b"\r\n\r\n")
    if not separator:
        return 1
    fields = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:])
    return int(fields.get(b"content-length", 0)) - len(rest)


async def with_asyncio() -> None:
    import asyncio

    reader, writer = await asyncio.open_connection(host, port, ssl=context())
    for request in HEADS:
        writer.write(request)
        await writer.drain()
        received = bytearray()
        while missing(received) > 0:
            received += await reader.read(65536)
    writer.close()
    await writer.wait_closed()


async def with_trio() -> None:
    import trio

    stream = await trio.open_ssl_over_tcp_stream(host, port, ssl_context=context())
    for request in HEADS:
        await stream.send_all(request)
        received = bytearray()
        while missing(received) > 0:
            received += await stream.receive_some(65536)
    await stream.aclose()


def with_gevent() -> None:
    from gevent import monkey

    monkey.patch_all()
    import socket

    with context().wrap_socket(socket.create_connection((host, port)), server_hostname=host) as connection:
        blocking(connection)


def with_pyopenssl() -> None:
    import socket

    from OpenSSL import SSL

    # The second name is what pyOpenSSL had before its 21st version.
    settings = SSL.Context(getattr(SSL, "TLS_CLIENT_METHOD", SSL.SSLv23_METHOD))
    settings.load_verify_locations(certificate)
    connection = SSL.Connection(settings, socket.create_connection((host, port)))
    connection.set_tlsext_host_name(host.encode())
    connection.set_connect_state()
    connection.do_handshake()
    blocking(connection)
    connection.shutdown()
    connection.close()


def with_utls() -> None:
    import socket

    import utls

    settings = utls.create_default_context(cafile=certificate)
    with settings.wrap_socket(socket.create_connection((host, port)), server_hostname=host) as connection:
        blocking(connection)


def with_utls_bio() -> None:
    """BIOs in memory, which a program fills and empties itself."""
    import socket

    import utls

    settings = utls.create_default_context(cafile=certificate)
    incoming, outgoing = utls.MemoryBIO(), utls.MemoryBIO()
    session = settings.wrap_bio(incoming, outgoing, server_hostname=host)
    with socket.create_connection((host, port)) as connection:

        def until_done(call, *arguments):
            while True:
                try:
                    result = call(*arguments)
                except utls.SSLWantReadError:
                    result = None
                if sent := outgoing.read():
                    connection.sendall(sent)
                if result is not None:
                    return result
                incoming.write(connection.recv(65536))

        until_done(lambda: session.do_handshake() or True)
        for request in HEADS:
            for start in range(0, len(request), 16384):
                until_done(session.write, request[start : start + 16384])
            received = bytearray()
            while missing(received) > 0:
                received += until_done(session.read, 65536)


def blocking(connection) -> None:
    for request in HEADS:
        connection.sendall(request)
        received = bytearray()
        while missing(received) > 0:
            received += connection.recv(65536)


if kind == "asyncio":
    import asyncio

    asyncio.run(with_asyncio())
elif kind == "uvloop":
    import uvloop

    uvloop.run(with_asyncio())
elif kind == "trio":
    import trio

    trio.run(with_trio)
else:
    {"gevent": with_gevent, "pyopenssl": with_pyopenssl, "utls": with_utls, "utls-bio": with_utls_bio}[kind]()
