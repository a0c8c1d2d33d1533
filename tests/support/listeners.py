"""Connections that only listen: ``listeners.py server PORT CERTIFICATE KEY`` and ``client PORT CERTIFICATE NUMBER``.

Each connection says its number once. When the server is told to (a line on its standard input), it sends EVENTS to
each of them in turn, and closes. Both on asyncio, which uses memory BIOs.
"""

from __future__ import annotations

import asyncio
import ssl
import sys

EVENTS = 20


def event(number: int, index: int) -> bytes:
    """What the connection of that number is sent."""
    return b"connection %d event %d %s\n" % (number, index, b"." * (number * 7 + index))


async def serve(port: int, certificate: str, key: str) -> None:
    """Collect connections until told to talk to them."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    found: dict[int, asyncio.StreamWriter] = {}

    async def welcome(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        number = int(await reader.readline() or -1)
        if number >= 0:
            found[number] = writer
            writer.write(b"welcome\n")

    await asyncio.start_server(welcome, "127.0.0.1", port, ssl=context)
    await asyncio.to_thread(sys.stdin.readline)
    for index in range(EVENTS):
        for number, writer in found.items():
            writer.write(event(number, index))
            await writer.drain()
    for writer in found.values():
        writer.close()
        await writer.wait_closed()


async def listen(port: int, certificate: str, connections: int) -> None:
    """Open the connections, say so, and read them to their ends."""
    context = ssl.create_default_context(cafile=certificate)

    async def connect(number: int) -> asyncio.StreamReader:
        reader, writer = await asyncio.open_connection("localhost", port, ssl=context)
        writer.write(b"%d\n" % number)
        assert await reader.readline() == b"welcome\n"
        writers.append(writer)
        return reader

    writers: list[asyncio.StreamWriter] = []
    readers = [await connect(number) for number in range(connections)]
    print("listening", flush=True)
    for number, reader in enumerate(readers):
        said = await reader.read()
        assert said == b"".join(event(number, index) for index in range(EVENTS))


if __name__ == "__main__":
    role, *arguments = sys.argv[1:]
    if role == "server":
        asyncio.run(serve(int(arguments[0]), *arguments[1:]))
    else:
        asyncio.run(listen(int(arguments[0]), arguments[1], int(arguments[2])))
