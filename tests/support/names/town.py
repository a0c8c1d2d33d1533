"""A network of its own: a name server that takes its time, a web server, and clients one after the other.

    unshare --net --mount town.py FOLDER DELAY_MS HOST COMMAND...

``{host}`` and ``{port}`` in a command are the web server's. What each command prints goes to stdout, a line each.
"""

from __future__ import annotations

import http.server
import shlex
import socketserver
import subprocess
import sys
import threading
import time
from pathlib import Path

PORT = 8080
MANY = 40
"""How many addresses names that begin with "many" have."""


class Names(socketserver.BaseRequestHandler):
    """A name server (RFC 1035 §4): every name has address 127.0.0.1, and none of IPv6."""

    delay_s = 0.0

    def handle(self) -> None:
        """Answer one question, late."""
        question, socket = self.request
        end = 12 + question[12:].index(b"\0") + 5
        wanted = question[12:end]
        numbers = range(1, 1 + (MANY if wanted[1:5] == b"many" else 1))
        addresses = [] if wanted[-4:-2] != b"\0\1" else [bytes((127, 0, 0, number)) for number in numbers]
        head = question[:2] + b"\x85\x80\0\1" + len(addresses).to_bytes(2, "big") + bytes(4)
        records = b"".join(b"\xc0\x0c\0\1\0\1\0\0\0\5\0\4" + address for address in addresses)
        time.sleep(self.delay_s)
        socket.sendto(head + wanted + records, self.client_address)


class Web(http.server.BaseHTTPRequestHandler):
    """Says hello."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        """Two bytes."""
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"hi")

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  (the base class's name)
        """Nothing."""


def main(folder: str, delay_ms: str, host: str, *commands: str) -> None:
    """Run the commands."""
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    resolver = Path(folder) / "resolv.conf"
    resolver.write_text("nameserver 127.0.0.53\noptions timeout:5\n")
    order = Path(folder) / "nsswitch.conf"
    order.write_text("hosts: files dns\n")
    for file in (resolver, order):
        subprocess.run(["mount", "--bind", str(file), f"/etc/{file.name}"], check=True)
    Names.delay_s = int(delay_ms) / 1000
    names = socketserver.ThreadingUDPServer(("127.0.0.53", 53), Names)
    web = http.server.ThreadingHTTPServer(("", PORT), Web)
    for server in (names, web):
        threading.Thread(target=server.serve_forever, daemon=True).start()
    for command in commands:
        words = [word.format(host=host, port=PORT) for word in shlex.split(command)]
        done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
        print(
            done.stdout.strip() if not done.returncode else f"exit {done.returncode}: {done.stderr}",
            flush=True,
        )


if __name__ == "__main__":
    main(*sys.argv[1:])
