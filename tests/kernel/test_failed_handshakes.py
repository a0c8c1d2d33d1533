"""A TLS handshake that comes to nothing is what people debug first: it is in the file, with the name asked for."""

from __future__ import annotations

import json
import os
import socket
import subprocess
from typing import TYPE_CHECKING

import pytest
from judges import expert_problems, rows
from recording import record, settle, warnings

if TYPE_CHECKING:
    from pathlib import Path

    from servers import Servers

pytestmark = pytest.mark.kernel

CANNOT_VERIFY = 60
WRONG_VERSION = 35
REFUSAL = b"HTTP/1.1 400 Bad Request\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhttps"


@pytest.mark.parametrize("ends", ["client", "both"])
def test_a_certificate_that_is_not_trusted(servers: Servers, tmp_path: Path, ends: str) -> None:
    options = ("--port", servers.https, *(("-c", "curl") if ends == "client" else ()))
    with record(tmp_path / "refused.pcapng", *options) as recording:
        command = ["curl", "-s", servers.url("https", "/text")]
        done = subprocess.run(command, check=False, capture_output=True, timeout=60)
        assert done.returncode == CANNOT_VERIFY
        settle()
        finished = recording.stop()
    flags = [flag for (flag,) in rows(recording.path, "tcp", "tcp.flags.str")]
    assert sum("S" in flag for flag in flags) == 2, finished.stderr
    assert any("F" in flag or "R" in flag for flag in flags)
    (comment,) = rows(recording.path, "tcp.flags.syn==1 && tcp.flags.ack==0", "frame.comment")
    assert "localhost" in comment[0]
    # Wireshark warns of every RST, and one is what curl sent: it left alerts unread.
    assert expert_problems(recording.path, "tcp.flags.reset==0") == []
    assert "1 stream written" in finished.stderr


@pytest.mark.parametrize("chosen", [("-p", os.getpid()), ()])
def test_an_answer_in_the_clear_is_not_taken_for_tls(tmp_path: Path, chosen: tuple[object, ...]) -> None:
    """Who asks for https on a port that is http's is told so. (curl takes five bytes of that.)"""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        with record(
            tmp_path / "mistaken.pcapng", "--port", port, "--ledger", tmp_path / "ledger.json", *chosen
        ) as recording:
            command = ["curl", "-s", f"https://localhost:{port}/"]
            with subprocess.Popen(command) as curl:
                connection, _ = listener.accept()
                with connection:
                    connection.recv(4096)
                    connection.sendall(REFUSAL)
                assert curl.wait(60) == WRONG_VERSION
            settle()
            finished = recording.stop()
    assert rows(recording.path, "http.response", "http.response.code") == [("400",)], finished.stderr
    assert rows(recording.path, "tls.handshake.type==1", "tls.handshake.extensions_server_name") == [
        ("localhost",)
    ]
    sockets = json.loads((tmp_path / "ledger.json").read_text())["sockets"]
    assert sockets["captured"] >= len(REFUSAL), finished.stderr
    assert sockets["residue"] == 0
    assert not warnings(finished.stderr)
