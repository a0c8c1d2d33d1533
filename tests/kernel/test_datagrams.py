"""DTLS: TLS libraries over sockets that have no stream. It is left alone, and nothing is said to be lost."""

from __future__ import annotations

import shutil
import subprocess
import time
from typing import TYPE_CHECKING

import pytest
from processes import free_port, running
from recording import record, record_command, warnings

if TYPE_CHECKING:
    from pathlib import Path

    from servers import Servers

pytestmark = pytest.mark.kernel

# The client goes when its input ends: the answer is to come before.
CLIENT = "(echo hello; sleep 0.5; echo again; sleep 0.5) | gnutls-cli --udp --insecure -p {port} 127.0.0.1"


@pytest.mark.skipif(shutil.which("gnutls-cli") is None, reason="GNUTLS-BIN IS NOT INSTALLED")
@pytest.mark.parametrize("end", ["client", "server"])
def test_dtls_is_no_loss(servers: Servers, tmp_path: Path, end: str) -> None:
    port, key = free_port(), servers.certificate.with_name("key.pem")
    server = ["gnutls-serv", "--udp", "--port", str(port), "--echo"]
    server += ["--x509keyfile", str(key), "--x509certfile", str(servers.certificate)]
    client = ["sh", "-c", CLIENT.format(port=port)]
    capture = tmp_path / "dtls.pcapng"
    with running(server, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        time.sleep(0.5)
        if end == "client":
            done = record_command(capture, client)
            said, heard = done.stderr, done.stdout
        else:
            with record(capture, "-p", process.pid) as recording:
                heard = subprocess.run(client, capture_output=True, text=True, check=False).stdout
            said = recording.stderr
    assert "again" in heard
    assert warnings(said) == []
    assert "unknown-association" not in said
    assert "0 bytes returned by TLS libraries" not in said, "its functions were seen"
