"""Real servers for the tests: the project's sample server and nginx, each on free loopback ports."""

from __future__ import annotations

import contextlib
import json
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from processes import PYTHON, ROOT, children, free_port, running, wait_for_port, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

NGINX_CONFIGURATION = """
daemon off;
user root;
pid {folder}/nginx.pid;
error_log {folder}/error.log;
worker_processes {workers};
events {{ worker_connections 1024; }}
http {{
    access_log off;
    keepalive_requests 1000000;
    client_max_body_size 1g;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    server {{
        listen 127.0.0.1:{https} ssl backlog=1024;
        listen 127.0.0.1:{http} backlog=1024;
        ssl_certificate {certificate};
        ssl_certificate_key {key};
        root {root};
        add_header X-Client-Port $remote_port;
        location /files/ {{ dav_methods PUT; create_full_put_path on; }}
        location = /status {{ stub_status; }}
    }}
}}
"""


@dataclass(frozen=True, slots=True)
class Servers:
    """One program that serves HTTP and HTTPS; ``worker_pids`` hold the connections."""

    pid: int
    worker_pids: tuple[int, ...]
    http: int
    https: int
    certificate: Path
    root: Path | None = None

    def port(self, scheme: str) -> int:
        """The port of ``http`` or ``https``."""
        return {"http": self.http, "https": self.https}[scheme]

    def url(self, scheme: str, path: str) -> str:
        """An absolute URL; the certificate is for localhost."""
        return f"{scheme}://localhost:{self.port(scheme)}{path}"


@contextlib.contextmanager
def sample_servers(
    address: str = "127.0.0.1", program: Sequence[object] = (PYTHON, ROOT / "samples/server.py")
) -> Iterator[Servers]:
    """samples/server.py; it also stops when its standard input ends, so it cannot outlive the test run."""
    command = [*program, "--until-stdin-closes", "--bind", address]
    with running(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        ready = json.loads(process.stdout.readline())
        pid = ready["pid"]
        yield Servers(pid, (pid,), ready["http"], ready["https"], Path(ready["certificate"]))


@contextlib.contextmanager
def nginx(folder: Path, certificate: Path, workers: int = 1) -> Iterator[Servers]:
    """nginx with a configuration of its own; it serves ``folder/root``, and PUT writes below ``/files/``.

    ``certificate`` lies beside its ``key.pem``.
    """
    root = folder / "root"
    (root / "files").mkdir(parents=True)
    http, https = free_port(), free_port()
    configuration = folder / "nginx.conf"
    configuration.write_text(
        NGINX_CONFIGURATION.format(
            folder=folder,
            root=root,
            http=http,
            https=https,
            workers=workers,
            certificate=certificate,
            key=certificate.with_name("key.pem"),
        )
    )
    command = ["nginx", "-p", folder, "-e", folder / "error.log", "-c", configuration]
    with running(command, stderr=subprocess.DEVNULL) as process:
        wait_for_port(https)
        workers_pids = wait_until(
            lambda: pids if len(pids := children(process.pid)) == workers else None, "nginx's workers"
        )
        yield Servers(process.pid, tuple(workers_pids), http, https, certificate, root)
