"""httpx with threads or asyncio, HTTP/1.1 or 2: ``httpx_client.py URL CERTIFICATE UPLOAD sync|async 1|2``."""

import asyncio
import ssl
import sys
from pathlib import Path

import httpx

url, certificate, upload, style, version = sys.argv[1:]
context = ssl.create_default_context(cafile=certificate)
body = Path(upload).read_bytes()


async def asynchronous() -> None:
    async with httpx.AsyncClient(verify=context, http2=version == "2") as client:
        (await client.get(f"{url}/download")).raise_for_status()
        (await client.put(f"{url}/upload/body", content=body)).raise_for_status()


if style == "async":
    asyncio.run(asynchronous())
else:
    with httpx.Client(verify=context, http2=version == "2") as client:
        client.get(f"{url}/download").raise_for_status()
        client.put(f"{url}/upload/body", content=body).raise_for_status()
