"""aiohttp, on asyncio's loop or uvloop: ``aiohttp_client.py URL CERTIFICATE UPLOAD asyncio|uvloop``."""

import asyncio
import ssl
import sys
from pathlib import Path

import aiohttp
import uvloop

url, certificate, upload, loop = sys.argv[1:]
context = ssl.create_default_context(cafile=certificate)
body = Path(upload).read_bytes()


async def main() -> None:
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=context)) as session:
        async with session.get(f"{url}/download") as response:
            response.raise_for_status()
            await response.read()
        async with session.put(f"{url}/upload/body", data=body) as response:
            response.raise_for_status()


uvloop.run(main()) if loop == "uvloop" else asyncio.run(main())
