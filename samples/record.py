#!/usr/bin/env python3
"""Records the sample captures anew, as root, and exports them.

``PYTHONPATH=tests/support .venv/bin/python samples/record.py`` does both; with the argument ``export`` it only
exports the captures that are there, which is what to do when an exporter changes on purpose.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from clients import keep_alive_client
from processes import PLAINTAP, PYTHON, running, wait_until
from recording import plaintap, record, settle
from servers import sample_servers

if TYPE_CHECKING:
    from collections.abc import Callable

    from servers import Servers

SAMPLES = Path(__file__).resolve().parent
CURL = ("curl", "--silent", "--show-error", "--http1.1")
# A record of 16 KiB and little else: a body of several records overflows it.
SMALL_RING_BYTES = 32_768


def run(*command: str) -> None:
    """Run a program whose output is of no interest."""
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def record_command(capture: Path, *command: object) -> None:
    """Record a command from its first byte."""
    run(str(PLAINTAP), "record", "-w", *map(str, (capture, *command)))


def https(servers: Servers, capture: Path) -> None:
    """curl over HTTPS: an exchange for each thing that HTTP/1.1 does."""
    options = (f"https://localhost:{servers.https}", "--cacert", "cert.pem")
    record_command(capture, "--", "sh", "endpoints.sh", *options)


def http(servers: Servers, capture: Path) -> None:
    """The same in the clear."""
    record_command(capture, "--", "sh", "endpoints.sh", f"http://localhost:{servers.http}")


def both_ends(servers: Servers, capture: Path) -> None:
    """Client and server recorded at once: one stream."""
    with record(capture, "--port", servers.https):
        run(
            *CURL,
            "--cacert",
            "cert.pem",
            servers.url("https", "/text"),
            servers.url("https", "/json?both=ends"),
        )
        settle()


def server(servers: Servers, capture: Path) -> None:
    """The server alone, on a connection that is older than the recording."""
    with keep_alive_client(servers) as client:
        client.request("/json?before=yes")
        with record(capture, "-p", servers.pid):
            for path in ("/json?before=no", "/bytes/20000", "/chunked/3000"):
                client.request(path)
            settle()


def losses(servers: Servers, capture: Path) -> None:
    """A ring that cannot hold what comes at once: holes."""
    urls = (
        servers.url("http", "/text"),
        servers.url("http", "/bytes/90000"),
        servers.url("http", "/json?after=loss"),
    )
    record_command(capture, "--ring-size", SMALL_RING_BYTES, "--", *CURL, *urls)


def foreign(servers: Servers, capture: Path) -> None:
    """What another program makes of cleartext: dumpcap, in libpcap's format."""
    dumpcap = ["dumpcap", "-q", "-P", "-i", "lo", "-f", f"tcp port {servers.http}", "-w", capture]
    with running(dumpcap, stderr=subprocess.DEVNULL) as process:
        # It has written its header when it listens.
        wait_until(lambda: capture.exists() and capture.stat().st_size, "dumpcap to listen")
        paths = ("/text", "/encoded/gzip", "/bytes/9000", "/json?q=1")
        run(*CURL, *(servers.url("http", path) for path in paths))
        settle(1)
        process.terminate()
        process.wait()


RECORDINGS: dict[str, Callable[[Servers, Path], None]] = {
    "https.pcapng": https,
    "http.pcapng": http,
    "both-ends.pcapng": both_ends,
    "server.pcapng": server,
    "losses.pcapng": losses,
    "foreign.pcap": foreign,
}


def record_all() -> None:
    """Record where names are short and our own: a capture tells what programs were called with."""
    os.environ["PATH"] = f"{PYTHON.parent}:{os.environ['PATH']}"
    with tempfile.TemporaryDirectory() as name, contextlib.chdir(name):
        for file in ("server.py", "endpoints.sh"):
            shutil.copy(SAMPLES / file, file)
        with sample_servers(program=("python", "server.py")) as servers:
            shutil.copy(servers.certificate, "cert.pem")
            run(*CURL, "--output", "pixel.png", servers.url("http", "/pixel.png"))
            for capture, make in RECORDINGS.items():
                make(servers, Path(capture))
                shutil.copyfile(capture, SAMPLES / capture)


def export_all() -> None:
    """Export every capture beside itself."""
    for capture in RECORDINGS:
        path = SAMPLES / capture
        done = plaintap("export", path, "-o", path.with_suffix(".har"))
        assert done.returncode == 0, done.stderr
        print(done.stderr.strip())
        path.with_suffix(".har").chmod(0o644)


if __name__ == "__main__":
    if sys.argv[1:] not in ([], ["export"]):
        sys.exit("usage: record.py [export]")
    if not sys.argv[1:]:
        record_all()
    export_all()
