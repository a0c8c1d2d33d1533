"""Many connections at once: crowd.py KIND URL CERTIFICATE CONNECTIONS REQUESTS.

Each connection asks for ``/tell?c=C&r=R``, R counting up; the answer names the client's port and the request.
"""

import asyncio
import ssl
import sys
from urllib.parse import urlsplit

kind, url, certificate, connections, requests = sys.argv[1:]
parts = urlsplit(url)
host, port = parts.hostname, parts.port
tls = ssl.create_default_context(cafile=certificate)


def paths(number: int) -> list[str]:
    return [f"/tell?c={number}&r={request}" for request in range(int(requests))]


def ask(path: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: {parts.netloc}\r\n\r\n".encode()


async def with_asyncio() -> None:
    async def converse(number: int) -> None:
        reader, writer = await asyncio.open_connection(host, port, ssl=tls)
        for path in paths(number):
            writer.write(ask(path))
            await reader.readuntil(path.encode() + b"\n")
        writer.close()
        await writer.wait_closed()

    await asyncio.gather(*map(converse, range(int(connections))))


async def with_aiohttp() -> None:
    import aiohttp

    async def converse(number: int) -> None:
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=tls, limit=1)) as session:
            for path in paths(number):
                async with session.get(url + path) as response:
                    await response.read()

    await asyncio.gather(*map(converse, range(int(connections))))


async def with_trio() -> None:
    import trio

    async def converse(number: int) -> None:
        stream = await trio.open_ssl_over_tcp_stream(host, port, ssl_context=tls)
        for path in paths(number):
            await stream.send_all(ask(path))
            received = b""
            while not received.endswith(path.encode() + b"\n"):
                received += await stream.receive_some(65536)
        await stream.aclose()

    async with trio.open_nursery() as nursery:
        for number in range(int(connections)):
            nursery.start_soon(converse, number)


def with_gevent() -> None:
    from gevent import joinall, monkey, spawn

    monkey.patch_all()
    import socket

    patched = ssl.create_default_context(cafile=certificate)

    def converse(number: int) -> None:
        with patched.wrap_socket(socket.create_connection((host, port)), server_hostname=host) as connection:
            for path in paths(number):
                connection.sendall(ask(path))
                received = b""
                while not received.endswith(path.encode() + b"\n"):
                    received += connection.recv(65536)

    joinall([spawn(converse, number) for number in range(int(connections))], raise_error=True)


if kind == "asyncio":
    asyncio.run(with_asyncio())
elif kind == "uvloop":
    import uvloop

    uvloop.run(with_asyncio())
elif kind == "aiohttp":
    asyncio.run(with_aiohttp())
elif kind == "trio":
    import trio

    trio.run(with_trio)
else:
    with_gevent()
