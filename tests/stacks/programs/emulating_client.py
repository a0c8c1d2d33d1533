"""rnet and wreq, whose wheels have a static BoringSSL: ``emulating_client.py URL CERTIFICATE UPLOAD PACKAGE``."""

import asyncio
import importlib
import sys
from pathlib import Path

url, _, upload, package = sys.argv[1:]
module = importlib.import_module(package)


async def main() -> None:
    client = module.Client(**{"tls_verify" if package == "wreq" else "verify": False})
    await (await client.get(f"{url}/download")).bytes()
    await (await client.put(f"{url}/upload/body", body=Path(upload).read_bytes())).bytes()


asyncio.run(main())
