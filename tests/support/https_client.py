"""An HTTP client that obeys: one connection, requests as lines of JSON on stdin, results on stdout.

Run as ``python https_client.py PORT [CERTIFICATE]``; with a certificate it speaks TLS, through OpenSSL's
SSL_read_ex and SSL_write_ex as every Python program does. It first tells its own port and process::

    {"pid": 4711, "local_port": 40123}

then takes lines such as ``{"method": "PUT", "path": "/echo", "upload": 70000}``, whose body is the sample
server's for that length, and answers each with the response's status, length, SHA-256 and headers.
It needs nothing but Python, so that any interpreter can run it.
"""

from __future__ import annotations

import hashlib
import http.client
import importlib.util
import json
import os
import ssl
import sys
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from types import ModuleType

SERVER = Path(__file__).resolve().parents[2] / "samples/server.py"


@cache
def sample_server() -> ModuleType:
    """samples/server.py as a module."""
    specification = importlib.util.spec_from_file_location("sample_server", SERVER)
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    sys.modules["sample_server"] = module
    specification.loader.exec_module(module)
    return module


def sample_body(length: int) -> bytes:
    """The sample server's body of that length."""
    return b"".join(sample_server().sample_blocks(length))


def perform(connection: http.client.HTTPConnection, order: dict[str, Any]) -> dict[str, Any]:
    """Send one request and read its response."""
    length = order.get("upload")
    body = None if length is None else sample_body(length)
    connection.request(order.get("method", "GET"), order["path"], body)
    response = connection.getresponse()
    content = response.read()
    return {
        "status": response.status,
        "length": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
        "headers": dict(response.getheaders()),
    }


def main() -> None:
    """Connect, then obey until stdin ends."""
    port, *certificate = sys.argv[1:]
    if certificate:
        context = ssl.create_default_context(cafile=certificate[0])
        connection: http.client.HTTPConnection = http.client.HTTPSConnection(
            "localhost", int(port), context=context
        )
    else:
        connection = http.client.HTTPConnection("localhost", int(port))
    connection.connect()
    told = {"pid": os.getpid(), "local_port": connection.sock.getsockname()[1]}
    print(json.dumps(told), flush=True)
    for line in sys.stdin:
        print(json.dumps(perform(connection, json.loads(line))), flush=True)
    connection.close()


if __name__ == "__main__":
    main()
