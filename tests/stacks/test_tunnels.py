"""TLS in TLS: what goes through a proxy that itself speaks TLS is shown, and its records are not."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from processes import PYTHON, free_port, running, wait_for_port
from recording import decoded, entries, path_of, record_command
from stacks import PROGRAMS, digest, download_body, problems

if TYPE_CHECKING:
    from pathlib import Path

    from stacks_peer import Peer

pytestmark = pytest.mark.kernel


def test_https_over_an_https_proxy(nginx_peer: Peer, tmp_path: Path) -> None:
    capture = tmp_path / "tunnel.pcapng"
    port = free_port()
    proxy = [PYTHON, PROGRAMS / "https_proxy.py", port, nginx_peer.certificate, nginx_peer.key]
    trust = ["--proxy-cacert", nginx_peer.certificate, "--cacert", nginx_peer.certificate]
    url = f"https://localhost:{nginx_peer.https1}"
    with running(proxy):
        wait_for_port(port)
        command = ["curl", "-sS", "--fail", *trust, "-x", f"https://localhost:{port}", "-o", "/dev/null"]
        done = record_command(capture, [*command, f"{url}/download", "-o", "/dev/null", f"{url}/tell?again"])
    assert done.returncode == 0, done.stderr
    connect, *found = entries(capture)
    assert connect["request"]["method"] == "CONNECT"
    assert [path_of(entry) for entry in found] == ["/download", "/tell?again"]
    assert {entry["request"]["url"][:6] for entry in found} == {"https:"}
    assert digest(decoded(found[0]["response"]["content"])) == digest(download_body())
    assert problems(capture, port) == []
