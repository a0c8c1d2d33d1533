"""The other ends of the rows' connections: nginx for clients, curl for servers. Neither is recorded."""

from __future__ import annotations

import contextlib
import os
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING

from processes import children, free_port, running, wait_for_port, wait_until
from stacks import COMMAND_SECONDS, Stack, Truth, download_body, fill, told_by_curl, upload_body

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

NGINX = """
daemon off;
user root;
pid {folder}/nginx.pid;
error_log {folder}/error.log;
worker_processes 1;
events {{ worker_connections 1024; }}
http {{
    access_log off;
    keepalive_requests 1000000;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    server {{
        listen 127.0.0.1:{http} backlog=1024;
        listen 127.0.0.1:{https} ssl http2 backlog=1024;
        listen 127.0.0.1:{https1} ssl backlog=1024;
        server_name localhost;
        ssl_certificate {folder}/certificate.pem;
        ssl_certificate_key {folder}/key.pem;
        ssl_protocols TLSv1 TLSv1.1 TLSv1.2 TLSv1.3;
        ssl_early_data on;
        root {folder}/root;
        add_header X-Client-Port $remote_port;
        add_header X-Alpn $ssl_alpn_protocol;
        add_header X-Sni $ssl_server_name;
        location /upload/ {{ dav_methods PUT; }}
        location /tell {{ return 200 "$remote_port $request_uri\\n"; }}
    }}
}}
"""


@dataclass(frozen=True, slots=True)
class Peer:
    """nginx: ``https`` speaks HTTP/2 where asked, ``https1`` never does, ``http`` is cleartext."""

    folder: Path
    http: int
    https: int
    https1: int
    pid: int

    @property
    def certificate(self) -> Path:
        """For localhost, by itself."""
        return self.folder / "certificate.pem"

    @property
    def key(self) -> Path:
        """Its key."""
        return self.folder / "key.pem"

    @property
    def upload(self) -> Path:
        """The file that clients send."""
        return self.folder / "upload"

    @property
    def root(self) -> Path:
        """What is served: ``download``, and what was uploaded."""
        return self.folder / "root"

    def values(self, stack: Stack) -> dict[str, object]:
        """What a client's command may name."""
        port = self.https if stack.http2 else self.https1
        return {
            "url": f"https://localhost:{port}",
            "address": f"localhost:{port}",
            "port": port,
            "certificate": self.certificate,
            "upload": self.upload,
            "folder": self.folder,
        }


def make_certificate(folder: Path) -> None:
    """certificate.pem and key.pem, self-signed, for localhost."""
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"),
            *("-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"),
            *("-addext", "keyUsage=critical,digitalSignature,keyEncipherment,keyCertSign"),
            *("-keyout", str(folder / "key.pem"), "-out", str(folder / "certificate.pem")),
        ],
        check=True,
        capture_output=True,
    )
    both = (folder / "certificate.pem").read_bytes() + (folder / "key.pem").read_bytes()
    (folder / "both.pem").write_bytes(both)


@contextlib.contextmanager
def peer(folder: Path) -> Iterator[Peer]:
    """nginx with files in ``folder``."""
    make_certificate(folder)
    (folder / "root/upload").mkdir(parents=True)
    (folder / "root/download").write_bytes(download_body())
    (folder / "upload").write_bytes(upload_body())
    subprocess.run(["git", "init", "--quiet", "--bare", folder / "root/repository.git"], check=True)
    subprocess.run(["git", "update-server-info"], cwd=folder / "root/repository.git", check=True)
    http, https, https1 = free_port(), free_port(), free_port()
    configuration = folder / "nginx.conf"
    configuration.write_text(NGINX.format(folder=folder, http=http, https=https, https1=https1))
    command = ["nginx", "-p", folder, "-e", folder / "error.log", "-c", configuration]
    with running(command, stderr=subprocess.DEVNULL) as process:
        wait_for_port(https)
        yield Peer(folder, http, https, https1, process.pid)


@contextlib.contextmanager
def server_of(stack: Stack, folder: Path, backend: Peer) -> Iterator[tuple[list[int], int]]:
    """A row's server: the pids that may hold its connections, and its port."""
    port = free_port()
    values: dict[str, object] = {
        "port": port,
        "certificate": backend.certificate,
        "key": backend.key,
        "both": backend.folder / "both.pem",
        "root": backend.root,
        "download": backend.root / "download",
        "backend": backend.http,
        "folder": folder,
        "configuration": folder / "configuration",
    }
    (folder / "configuration").write_text(fill((stack.configuration,), values)[0])
    log = folder / "server.log"
    environment = [f"{name}={fill((value,), values)[0]}" for name, value in stack.environment.items()]
    command = ["env", f"--chdir={backend.root}", *environment, *fill(stack.command, values)]
    with log.open("wb") as output, running(command, stdout=output, stderr=output) as process:

        def answers() -> bool:
            assert process.poll() is None, f"the server ended: {log.read_text()}"
            command = ["curl", "--insecure", "--silent", "--fail", f"https://localhost:{port}/download"]
            return subprocess.run(command, stdout=subprocess.DEVNULL, check=False).returncode == 0

        # Only then have all the processes that serve been started.
        wait_until(answers, f"{stack.name} to answer")
        yield descendants(process.pid), port


def descendants(pid: int) -> list[int]:
    """The process and all below it."""
    return [pid, *(grandchild for child in children(pid) for grandchild in descendants(child))]


def ask(stack: Stack, port: int, peer_files: Peer) -> Truth:
    """Have curl make the row's exchanges on one connection."""
    version = "--http2" if stack.http2 else "--http1.1"
    shared = [
        *("--silent", "--show-error", "--verbose", "--fail", version, "--max-time", "60"),
        *("--cacert", str(peer_files.certificate), "--header", "Expect:"),
        *("--output", "/dev/null", "--write-out", "%{stderr}local port %{local_port}\n"),
    ]
    command = ["curl"]
    for path in stack.exchanges:
        command += ["--next"] if len(command) > 1 else []
        command += [*shared, f"https://localhost:{port}{path}"]
        command += ["--upload-file", str(peer_files.upload)] if path.startswith("/upload") else []
    done = subprocess.run(command, capture_output=True, timeout=COMMAND_SECONDS, check=False, env=os.environ)
    log = done.stderr.decode(errors="replace")
    assert done.returncode == 0, log
    return told_by_curl(log)
