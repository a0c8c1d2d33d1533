"""DTLS: TLS libraries over sockets that have no stream. It is left alone, and nothing is said to be lost. Who uses QUIC
is said: its users take it for TLS.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest
from compiled import compile_library
from processes import free_port, running
from recording import plaintap, record, record_command, warnings

if TYPE_CHECKING:
    from pathlib import Path

    from servers import Servers

pytestmark = pytest.mark.kernel

# The client goes when its input ends: the answer is to come before.
CLIENT = "(echo hello; sleep 0.5; echo again; sleep 0.5) | gnutls-cli --udp --insecure -p {port} 127.0.0.1"


# As OpenSSL's QUIC does: sendmmsg and recvmmsg, preloaded in the place of the calls that GnuTLS makes.
SEVERAL = """
#define _GNU_SOURCE
#include <sys/socket.h>

ssize_t sendmsg(int fd, const struct msghdr *message, int flags)
{
	struct mmsghdr one = {*message};
	return sendmmsg(fd, &one, 1, flags) == 1 ? one.msg_len : -1;
}

ssize_t recvfrom(int fd, void *buffer, size_t length, int flags, struct sockaddr *address, socklen_t *size)
{
	struct iovec block = {buffer, length};
	struct mmsghdr one = {{address, size ? *size : 0, &block, 1}};
	int received = recvmmsg(fd, &one, 1, flags, 0);
	if (size && received == 1)
		*size = one.msg_hdr.msg_namelen;
	return received == 1 ? one.msg_len : -1;
}

ssize_t recv(int fd, void *buffer, size_t length, int flags)
{
	return recvfrom(fd, buffer, length, flags, 0, 0);
}

ssize_t sendto(int fd, const void *buffer, size_t length, int flags, const struct sockaddr *address, socklen_t size)
{
	struct iovec block = {(void *)buffer, length};
	struct msghdr message = {(void *)address, size, &block, 1};
	return sendmsg(fd, &message, flags);
}

ssize_t send(int fd, const void *buffer, size_t length, int flags)
{
	return sendto(fd, buffer, length, flags, 0, 0);
}
"""


@pytest.mark.skipif(shutil.which("gnutls-cli") is None, reason="GNUTLS-BIN IS NOT INSTALLED")
@pytest.mark.parametrize("calls", ["sendmsg", "sendmmsg"])
@pytest.mark.parametrize("end", ["client", "server"])
def test_dtls_is_no_loss(servers: Servers, tmp_path: Path, end: str, calls: str) -> None:
    port, key = free_port(), servers.certificate.with_name("key.pem")
    preload = f"LD_PRELOAD={compile_library(tmp_path, SEVERAL) if calls == 'sendmmsg' else ''}"
    server = ["env", preload, "gnutls-serv", "--udp", "--port", str(port), "--echo"]
    server += ["--x509keyfile", str(key), "--x509certfile", str(servers.certificate)]
    client = ["env", preload, "sh", "-c", CLIENT.format(port=port)]
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


# The first bytes of a client's Initial packet (RFC 9001, Appendix A.2; RFC 9369, Appendix A.2), and of what is none:
# a short header, a query of DNS, version negotiation, a Handshake packet.
INITIAL, INITIAL_2 = "c300000001088394c8f03e5157080000449e", "d36b3343cf088394c8f03e5157080000449e"
OTHERS = [
    "4cfe4189655e5cd55c41f6",
    "1234010000010000000000000765786d706c",
    "c3000000000883",
    "e300000001088394",
]
SENDTO, SENDMSG = "s.sendto(packet, address)", "s.sendmsg([packet, packet], [], 0, address)"
WRITE = "s.connect(address); os.write(s.fileno(), packet)"
SENDMMSG = "s.connect(address); sendmmsg(packet, b'')"
SENDER = """
import ctypes, os, socket, struct, sys
def sendmmsg(*packets):
    buffers = [ctypes.create_string_buffer(packet, len(packet)) for packet in packets]
    blocks = [ctypes.create_string_buffer(struct.pack("PN", ctypes.addressof(b), len(b))) for b in buffers]
    headers = [struct.pack("PIPNPNi4xI4x", 0, 0, ctypes.addressof(block), 1, 0, 0, 0, 0) for block in blocks]
    assert ctypes.CDLL(None).sendmmsg(s.fileno(), b"".join(headers), len(headers), 0) == len(packets)
s, peer = (socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(2))
peer.bind(("127.0.0.1", 0))
address = peer.getsockname()
for packet in sys.argv[1:]:
    packet = bytes.fromhex(packet).ljust(1200, b"\\0")
    """


@pytest.mark.parametrize(
    ("send", "packets"),
    [
        (SENDTO, [INITIAL]),
        (SENDMSG, [INITIAL_2]),
        (WRITE, [INITIAL, INITIAL_2]),
        (SENDMMSG, [INITIAL, INITIAL_2]),
        (f"{SENDTO}; {SENDMSG}; {WRITE}; {SENDMMSG}", OTHERS),
    ],
    ids=["sendto", "sendmsg", "write", "sendmmsg", "other packets"],
)
def test_who_uses_quic_is_said(tmp_path: Path, send: str, packets: list[str]) -> None:
    """Nothing of it is recorded, and a browser's requests would be missing without a word."""
    ledger, capture = tmp_path / "ledger.json", tmp_path / "quic.pcapng"
    command = [sys.executable, "-c", SENDER + send, *packets]
    done = plaintap("record", "-w", capture, "--ledger", ledger, "--", *command)
    assert done.returncode == 0, done.stderr
    users, said = json.loads(ledger.read_text())["quic"], warnings(done.stderr)
    if packets == OTHERS:
        assert (users, said) == ([], [])
    else:
        (user,), (warning,) = users, said
        assert user["comm"].startswith("python")
        assert f"{user['comm']} (pid {user['pid']})" in warning
        assert "QUIC" in warning
