"""An ASGI application: GET /download, PUT /upload/body."""

import os
from pathlib import Path

DOWNLOAD = Path(os.environ.get("STACKS_DOWNLOAD", "download")).read_bytes()


async def application(scope, receive, send) -> None:
    if scope["type"] == "lifespan":
        while (message := await receive())["type"] != "lifespan.shutdown":
            await send({"type": f"{message['type']}.complete"})
        await send({"type": "lifespan.shutdown.complete"})
        return
    more = True
    while more:
        more = (await receive()).get("more_body", False)
    body = DOWNLOAD if scope["path"] == "/download" else b"stored\n"
    fields = [(b"content-type", b"application/octet-stream"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": fields})
    await send({"type": "http.response.body", "body": body})
