"""tornado's own HTTP client: ``tornado_client.py URL CERTIFICATE UPLOAD``."""

import asyncio
import sys
from pathlib import Path

from tornado.httpclient import AsyncHTTPClient

url, certificate, upload = sys.argv[1:]


async def main() -> None:
    client = AsyncHTTPClient()
    await client.fetch(f"{url}/download", ca_certs=certificate)
    await client.fetch(
        f"{url}/upload/body", method="PUT", body=Path(upload).read_bytes(), ca_certs=certificate
    )


asyncio.run(main())
