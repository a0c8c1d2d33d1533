"""Code that is first used while recording: it gets its probes, in time, and nobody stays stopped."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from clients import curl_command
from kernel_state import has_probes
from processes import PLAINTAP, running, wait_until
from recording import entries, path_of, plaintap, record, record_command, response_sha256, settle

if TYPE_CHECKING:
    from servers import Servers

pytestmark = pytest.mark.kernel


def library_of_its_own(folder: Path) -> dict[str, str]:
    """An environment in which programs load a copy of libssl that nobody has seen."""
    folder.mkdir()
    found = subprocess.run(["ldconfig", "-p"], check=True, capture_output=True, text=True).stdout
    path = next(line.split("=> ")[1] for line in found.splitlines() if "libssl.so.3 " in line)
    shutil.copy(path, folder / "libssl.so.3")
    return {**os.environ, "LD_LIBRARY_PATH": str(folder)}


def stopped(pids: list[int]) -> list[int]:
    """Those of the processes that are stopped."""
    found = []
    for pid in pids:
        stat = Path(f"/proc/{pid}/stat")
        if stat.exists() and stat.read_text().rpartition(")")[2].split()[0] in "Tt":
            found.append(pid)
    return found


# Runs a command as a debugger does, and prints the signals that stop it.
DEBUGGER = """
import ctypes, os, sys
PTRACE_TRACEME, PTRACE_CONT, SIGTRAP = 0, 7, 5
ptrace = ctypes.CDLL(None).ptrace
ptrace.argtypes = [ctypes.c_long, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p]
if not (child := os.fork()):
    ptrace(PTRACE_TRACEME, 0, 0, 0)
    os.execv(sys.argv[1], sys.argv[1:])
while os.WIFSTOPPED(status := os.waitpid(child, 0)[1]):
    stopped_by = os.WSTOPSIG(status)
    print("stopped by", stopped_by)
    ptrace(PTRACE_CONT, child, 0, 0 if stopped_by == SIGTRAP else stopped_by)
print("ended with", os.waitstatus_to_exitcode(status))
"""

# Runs a program as fish does, which waits for stops of what is in its own group, too, and one as script(1) does, which
# is told by SIGCHLD of what it has given a terminal, and loses the end if that comes soon after a stop.
WATCHFUL = """
import ctypes, os, pty, signal, sys
def watch(child):
    while os.WIFSTOPPED(status := os.waitpid(child, os.WUNTRACED)[1]):
        print("stopped")
    print("ended with", os.waitstatus_to_exitcode(status))
ctypes.CDLL(None).prctl(15, b"fish")  # PR_SET_NAME
watch(os.spawnv(os.P_NOWAIT, sys.argv[1], ["ls", "/dev/null"]))
ctypes.CDLL(None).prctl(15, b"script")
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGCHLD])
child, _ = pty.fork()
if not child:
    os.execv(sys.argv[2], ["ls", "/dev/null"])
watch(child)
"""


def test_a_command_s_own_library_loses_not_a_byte(servers: Servers, tmp_path: Path) -> None:
    for attempt in range(5):
        environment = library_of_its_own(tmp_path / f"lib{attempt}")
        path = tmp_path / f"{attempt}.pcapng"
        command = curl_command(servers, servers.url("https", "/bytes/257"), "-o", os.devnull)
        inside = ["env", f"LD_LIBRARY_PATH={environment['LD_LIBRARY_PATH']}", *command]
        done = record_command(path, inside)
        assert done.returncode == 0, done.stderr
        (entry,) = entries(path)
        assert entry["response"]["status"] == 200
        assert response_sha256(entry) in [h["value"] for h in entry["response"]["headers"]]


def test_held_processes_that_anyone_starts(servers: Servers, tmp_path: Path) -> None:
    path = tmp_path / "a.pcapng"
    with record(path, "--hold", "--port", servers.https) as recording:
        environment = library_of_its_own(tmp_path / "lib")
        subprocess.run(
            curl_command(servers, servers.url("https", "/bytes/257"), "-o", os.devnull),
            env=environment,
            check=True,
        )
        settle()
        recording.stop()
    assert [entry["_comm"] for entry in entries(path)] == ["curl"]


def test_held_in_a_session_and_a_group_of_its_own(servers: Servers, tmp_path: Path) -> None:
    script = "import subprocess, sys; subprocess.run(sys.argv[2:], check=True, **eval(sys.argv[1]))"
    for number, how in enumerate(("{'start_new_session': True}", "{'process_group': 0}")):
        library = library_of_its_own(tmp_path / f"lib{number}")["LD_LIBRARY_PATH"]
        command = curl_command(servers, servers.url("https", "/bytes/257"), "-o", os.devnull)
        inside = ["env", f"LD_LIBRARY_PATH={library}", *command]
        path = tmp_path / f"{number}.pcapng"
        done = record_command(path, [sys.executable, "-c", script, how, *inside])
        assert done.returncode == 0, done.stderr
        (entry,) = entries(path)
        assert response_sha256(entry) in [h["value"] for h in entry["response"]["headers"]]


def test_who_may_not_wake_another_s_process_does_not_stop_it(tmp_path: Path) -> None:
    """Root without CAP_KILL stands for a user with capabilities: both may not signal another user."""
    path, log = tmp_path / "a.pcapng", tmp_path / "stderr"
    command = [PLAINTAP, "record", "-w", path, "-u", "nobody", "--port", 9, "--hold"]
    with tempfile.TemporaryDirectory() as folder, log.open("wb") as stderr:
        Path(folder).chmod(0o755)
        new = shutil.copy("/bin/true", f"{folder}/true")
        another = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", new]
        with running(["setpriv", "--bounding-set=-kill", *command], stderr=stderr) as recorder:
            wait_until(lambda: "Recording" in log.read_text(), "a recording")
            with subprocess.Popen(another, start_new_session=True) as victim:
                try:
                    assert victim.wait(20) == 0
                finally:
                    victim.send_signal(signal.SIGCONT)
            recorder.send_signal(signal.SIGINT)
            assert recorder.wait(60) == 0
    assert "CAP_KILL" in log.read_text()
    assert "Traceback" not in log.read_text()


def test_a_recorder_that_is_stopped_stops_nobody_else(tmp_path: Path) -> None:
    with record(tmp_path / "a.pcapng", "--hold", "-u", "root", "--port", 9) as recording:
        recording.process.send_signal(signal.SIGSTOP)
        try:
            for number in range(3):
                new = tmp_path / f"true{number}"
                shutil.copy("/bin/true", new)
                assert subprocess.run([new], timeout=60, check=False).returncode == 0
        finally:
            recording.process.send_signal(signal.SIGCONT)
        wait_until(lambda: "not held" in recording.stderr, "a warning")
        assert recording.stop().returncode == 0


def test_a_recorder_that_waits_for_its_reader_stops_nobody_else(servers: Servers, tmp_path: Path) -> None:
    new, ended = tmp_path / "true", tmp_path / "ended"
    big = " ".join(map(str, curl_command(servers, servers.url("https", "/bytes/5000000"), "-o", os.devnull)))
    script = f"{big}; sleep 1; cp /bin/true {new}; {new} && touch {ended}"
    command = [str(PLAINTAP), "record", "-w", "-", "--", "sh", "-c", script]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as recorder:
        wait_until(ended.exists, "a program that was new", 60)
        written, said = recorder.communicate()
    assert recorder.returncode == 0, said
    assert len(written) > 5_000_000
    assert b"not held" not in said


def test_a_first_run_that_is_too_short_does_not_hide_the_next(servers: Servers, tmp_path: Path) -> None:
    path = tmp_path / "a.pcapng"
    client, curl = tmp_path / "client", shutil.which("curl")
    assert curl
    with record(path, "--no-hold", "-c", "client", "--port", servers.https) as recording:
        shutil.copy(curl, client)
        command = [
            str(client),
            *map(str, curl_command(servers, servers.url("https", "/bytes/257"), "-o", os.devnull)[1:]),
        ]
        environment = library_of_its_own(tmp_path / "lib")
        recording.process.send_signal(signal.SIGSTOP)
        subprocess.run(command, env=environment, check=True)
        recording.process.send_signal(signal.SIGCONT)
        settle()
        for _ in range(3):
            time.sleep(0.5)
            subprocess.run(command, env=environment, check=True)
        settle()
        done = recording.stop()
    assert len(entries(path)) >= 2
    assert "cannot be read" not in done.stderr


# Asks three times on one connection, and says when it has asked first.
ASKS = """
import socket, ssl, sys
context = ssl.create_default_context(cafile=sys.argv[2])
with context.wrap_socket(socket.create_connection(("localhost", int(sys.argv[1]))), server_hostname="localhost") as tls:
    for number in range(1, 4):
        tls.sendall(b"GET /%d HTTP/1.1\\r\\nHost: localhost\\r\\n\\r\\n" % number)
        print("asked", flush=True)
        assert tls.recv(99).endswith(b"%d" % number)
"""


def test_probes_that_come_between_a_request_and_its_answer(servers: Servers, tmp_path: Path) -> None:
    """The answer is nobody else's."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(servers.certificate, servers.certificate.with_name("key.pem"))
    listener = socket.create_server(("localhost", 0))
    port = listener.getsockname()[1]
    folder = library_of_its_own(tmp_path / "lib")["LD_LIBRARY_PATH"]
    command = ["env", f"LD_LIBRARY_PATH={folder}", sys.executable, "-c", ASKS, port, servers.certificate]
    targets = ("--no-hold", "--port", port, "-c", Path(sys.executable).name)
    with record(tmp_path / "a.pcapng", *targets) as recording, listener:
        recording.process.send_signal(signal.SIGSTOP)
        with running(command, stdout=subprocess.PIPE) as client:
            with context.wrap_socket(listener.accept()[0], server_side=True) as tls:
                assert client.stdout
                assert client.stdout.readline() == b"asked\n"
                recording.process.send_signal(signal.SIGCONT)
                library = Path(folder) / "libssl.so.3"
                wait_until(lambda: has_probes(recording.process.pid, library), "its library's probes")
                time.sleep(0.5)  # then it is looked at what waits
                for number in range(1, 4):
                    assert tls.recv(99).startswith(b"GET /%d" % number)
                    tls.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n%d" % number)
                assert not tls.recv(99)
            assert client.wait(10) == 0
        settle()
        recording.stop()
    found = entries(recording.path)
    assert "/1" not in found[0]["request"]["url"]
    assert [path_of(entry) for entry in found[1:]] == ["/2", "/3"]
    assert [entry["response"]["content"]["text"] for entry in found] == ["1", "2", "3"]


def test_without_hold_a_library_is_found_soon(servers: Servers, tmp_path: Path) -> None:
    path = tmp_path / "a.pcapng"
    with record(path, "-c", "curl", "--port", servers.https) as recording:
        environment = library_of_its_own(tmp_path / "lib")
        for number in range(5):
            command = curl_command(servers, servers.url("https", f"/bytes/257?{number}"), "-o", os.devnull)
            subprocess.run(command, env=environment, check=True)
            time.sleep(0.2)
        settle()
        recording.stop()
    # curl takes 15 ms, and so does a look at the thirty libraries of the first one: the second may come too early.
    assert {2, 3, 4} <= {int(path_of(entry).partition("?")[2]) for entry in entries(path)}


def test_whatever_kills_the_recorder_nobody_stays_stopped(servers: Servers, tmp_path: Path) -> None:
    script = (
        "import os, shutil, subprocess, sys\n"
        "for n in range(400):\n"
        "    new = f'{sys.argv[1]}/true{n}'\n"
        "    shutil.copy('/bin/true', new)\n"
        "    subprocess.run([new])\n"
        "    os.unlink(new)\n"
    )
    for attempt in range(3):
        with (
            record(tmp_path / f"{attempt}.pcapng", "--hold", "-u", "root") as recording,
            subprocess.Popen(["python3", "-c", script, tmp_path]) as busy,
        ):
            time.sleep(0.1 + random.random() / 2)
            recording.process.send_signal(signal.SIGKILL)
            recording.wait()
            assert busy.wait(30) == 0
    children = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdecimal()]
    assert stopped(children) == []


def test_a_live_archive_is_whole_at_every_moment(servers: Servers, tmp_path: Path) -> None:
    path, archive = tmp_path / "a.pcapng", tmp_path / "a.har"
    command = curl_command(servers, servers.url("https", "/bytes/257"), "-o", os.devnull)
    with record(path, "--port", servers.https, "--har", archive) as recording:
        wait_until(lambda: archive.stat().st_size > 0, "the archive's beginning")
        for count in range(1, 4):
            subprocess.run(command, check=True)
            deadline = time.monotonic() + 10
            while len(json.loads(archive.read_bytes())["log"]["entries"]) < count:
                assert time.monotonic() < deadline
                time.sleep(0.1)
        recording.process.send_signal(signal.SIGKILL)
        recording.wait()
    deadline = time.monotonic() + 10
    while len(json.loads(archive.read_bytes())["log"]["entries"]) != 3:
        assert time.monotonic() < deadline
    assert archive.stat().st_mode & 0o777 == 0o600
    exported = plaintap("export", path, "-o", tmp_path / "b.har")
    assert exported.returncode == 0, exported.stderr
    later = json.loads((tmp_path / "b.har").read_bytes())["log"]["entries"]
    live = json.loads(archive.read_bytes())["log"]["entries"]
    assert [e["request"]["url"] for e in live] == [e["request"]["url"] for e in later]
    assert [e["response"]["content"] for e in live] == [e["response"]["content"] for e in later]


def test_parents_that_watch_for_stops_are_none_the_wiser(tmp_path: Path) -> None:
    for name in ("ls", "bash"):
        shutil.copy(f"/bin/{name}", tmp_path / f"new-{name}")
    job = record_command(
        tmp_path / "a.pcapng", ["bash", "-c", f"set -m; {tmp_path}/new-ls / > /dev/null; echo ended with $?"]
    )
    assert job.stdout == "ended with 0\n"
    assert "Stopped" not in job.stderr
    other_user = record_command(
        tmp_path / "b.pcapng", ["su", "root", "-s", tmp_path / "new-bash", "-c", "echo in a shell"]
    )
    assert (other_user.returncode, other_user.stdout) == (0, "in a shell\n")
    shutil.copy("/bin/ls", tmp_path / "newer-ls")
    debugged = record_command(
        tmp_path / "c.pcapng", [sys.executable, "-c", DEBUGGER, tmp_path / "newer-ls", "/dev/null"]
    )
    assert [line for line in debugged.stdout.splitlines() if line != "/dev/null"] == [
        f"stopped by {signal.SIGTRAP}",
        "ended with 0",
    ]
    for name in ("a", "b"):
        shutil.copy("/bin/ls", tmp_path / f"watched-{name}")
    watched = record_command(
        tmp_path / "d.pcapng",
        [sys.executable, "-c", WATCHFUL, tmp_path / "watched-a", tmp_path / "watched-b"],
    )
    assert [line for line in watched.stdout.splitlines() if line != "/dev/null"] == ["ended with 0"] * 2
