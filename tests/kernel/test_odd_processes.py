"""Processes that are not just started: setuid, traced, in a PID namespace of their own. And UDP, which is no TCP."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from https_client import sample_body
from processes import PYTHON
from recording import decoded, entries, path_of, plaintap, record, record_command, settle, warnings

if TYPE_CHECKING:
    from servers import Servers

pytestmark = pytest.mark.kernel

LENGTH = 50_021
# PTRACE_TRACEME is 0, PTRACE_CONT 7: every signal that stops the child is passed on, as a debugger does.
TRACER = """
import ctypes, os, sys
ptrace = ctypes.CDLL(None, use_errno=True).ptrace
ptrace.argtypes = (ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p)
child = os.fork()
if not child:
    ptrace(0, 0, None, None)
    os.execvp(sys.argv[1], sys.argv[1:])
while True:
    _, status = os.waitpid(child, 0)
    if not os.WIFSTOPPED(status):
        sys.exit(os.waitstatus_to_exitcode(status))
    signal = os.WSTOPSIG(status)
    ptrace(7, child, None, 0 if signal == 5 else signal)
"""
# A session over memory BIOs that a child goes on with.
INHERITED = """
import os, socket, ssl, sys
incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
session = ssl._create_unverified_context().wrap_bio(incoming, outgoing, server_hostname="localhost")
connection = socket.create_connection(("127.0.0.1", int(sys.argv[1])))

def complete(call, *arguments):
    while True:
        try:
            result = call(*arguments)
        except ssl.SSLWantReadError:
            result = None
        connection.sendall(outgoing.read())
        if result is not None:
            return result
        incoming.write(connection.recv(65536))

def ask(number):
    complete(session.write, b"GET /text?%d HTTP/1.1\\r\\nHost: localhost\\r\\n\\r\\n" % number)
    answer = b""
    while not answer.endswith(b"\\n"):
        answer += complete(session.read, 65536)

complete(lambda: session.do_handshake() or 0)
ask(0)
if not os.fork():
    ask(1)
    ask(2)
    os._exit(0)
sys.exit(os.waitstatus_to_exitcode(os.wait()[1]))
"""
UDP = """
import os, socket
one, other = (socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(2))
one.bind(("127.0.0.1", 0))
other.bind(("127.0.0.1", 0))
one.connect(other.getsockname())
other.connect(one.getsockname())
for _ in range(7):
    os.write(one.fileno(), b"GET / HTTP/1.1\\r\\nHost: udp\\r\\n\\r\\n")
    os.read(other.fileno(), 1000)
    other.send(b"HTTP/1.1 200 OK\\r\\nContent-Length: 0\\r\\n\\r\\n")
    one.recv(1000)
"""


@pytest.mark.parametrize(
    "wrapper",
    [
        pytest.param((PYTHON, "-c", TRACER), id="traced"),
        pytest.param(("unshare", "--pid", "--fork", "--mount-proc"), id="in a PID namespace"),
        pytest.param(("setpriv", "--reuid", "65534", "--clear-groups"), id="of another user"),
        pytest.param(("sh", "-c", 'exec "$0" "$@"'), id="after exec"),
    ],
)
def test_a_command(servers: Servers, tmp_path: Path, wrapper: tuple[str, ...]) -> None:
    # Another user cannot read the certificate.
    fetch = ["curl", "-sSk", "-o", "/dev/null", servers.url("https", f"/bytes/{LENGTH}")]
    done = record_command(tmp_path / "command.pcapng", [*wrapper, *fetch])
    assert done.returncode == 0, done.stderr
    assert warnings(done.stderr) == []
    (entry,) = entries(tmp_path / "command.pcapng")
    assert decoded(entry["response"]["content"]) == sample_body(LENGTH)


def test_a_program_that_takes_another_user_s_rights(servers: Servers, tmp_path: Path) -> None:
    with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:
        Path(folder).chmod(0o755)
        program = Path(folder) / "curl-setuid"
        shutil.copy(shutil.which("curl") or "", program)
        program.chmod(0o4755)
        with record(tmp_path / "setuid.pcapng", "-c", program.name, "--port", servers.https) as recording:
            command = ["setpriv", "--reuid", "65534", "--clear-groups", str(program), "-sk"]
            url = servers.url("https", f"/bytes/{LENGTH}")
            done = subprocess.run([*command, url], check=True, capture_output=True, timeout=180)
            settle()
            said = recording.stop()
    assert done.stdout == sample_body(LENGTH)
    assert warnings(said.stderr) == []
    (entry,) = entries(recording.path)
    assert path_of(entry) == f"/bytes/{LENGTH}"
    assert decoded(entry["response"]["content"]) == sample_body(LENGTH)


def test_a_session_that_a_child_inherits(servers: Servers, tmp_path: Path) -> None:
    path = tmp_path / "inherited.pcapng"
    done = record_command(path, [PYTHON, "-c", INHERITED, servers.https])
    assert done.returncode == 0, done.stderr
    assert warnings(done.stderr) == []
    assert [path_of(entry) for entry in entries(path)] == ["/text?0", "/text?1", "/text?2"]


def test_udp_is_left_alone(tmp_path: Path) -> None:
    done = plaintap("record", "-w", tmp_path / "udp.pcapng", "--protocol", "all", "--", PYTHON, "-c", UDP)
    assert done.returncode == 0, done.stderr
    assert "0 connections, 0 streams" in done.stderr
    assert "sockets: 0 bytes reported" in done.stderr
