"""Targets are decided in the kernel: what is not asked for is neither copied nor shown, and counted as filtered."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from clients import curl, curl_command
from processes import PYTHON
from recording import entries, path_of, plaintap, record, record_command, settle
from servers import nginx

if TYPE_CHECKING:
    from collections.abc import Iterator

    from servers import Servers

pytestmark = pytest.mark.kernel


def shown(path: Path, servers: Servers) -> list[str]:
    """The lines of the exchanges with these servers: others use curl on this machine, too."""
    done = plaintap("show", path)
    ports = (f":{servers.http}/", f":{servers.https}/")
    return [line for line in done.stdout.splitlines() if any(port in line for port in ports)]


def recorded(path: Path, servers: Servers, *options: object) -> tuple[int, str]:
    """curl over HTTP and HTTPS, recorded with these options: exchanges shown, and what was said."""
    with record(path, *options) as recording:
        curl(servers, servers.url("http", "/bytes/17"))
        curl(servers, servers.url("https", "/bytes/17"))
        settle()
        finished = recording.stop()
    return len(shown(path, servers)), finished.stderr


@pytest.mark.parametrize(
    ("options", "exchanges"),
    [
        (("-c", "curl"), 2),
        (("-c", "curl", "-c", "wget"), 2),
        (("-c", "wget"), 0),
        (("-c", "curl", "-u", "root"), 2),
        (("-c", "curl", "-u", "nobody"), 0),
        (("-c", "curl", "--exclude-user", "root"), 0),
        (("-c", "curl", "--host", "127.0.0.1"), 2),
        (("-c", "curl", "--host", "::1"), 0),
        (("-c", "curl", "--exclude-host", "127.0.0.1"), 0),
        (("-c", "curl", "--host", "127.0.0.0/8"), 2),
        (("-c", "curl", "--host", "10.0.0.0/8", "--host", "::/0"), 0),
        (("-c", "curl", "--host", "127.0.0.1", "--exclude-host", "126.0.0.0/7"), 0),
        (("-c", "curl", "--protocol", "http"), 1),
        (("-c", "curl", "--protocol", "tls"), 1),
    ],
)
def test_a_target_lets_through_what_fits(
    servers: Servers, tmp_path: Path, options: tuple[str, ...], exchanges: int
) -> None:
    count, said = recorded(tmp_path / "a.pcapng", servers, *options)
    assert count == exchanges, said


def test_tls_that_is_not_asked_for_leaves_no_stream(servers: Servers, tmp_path: Path) -> None:
    capture = tmp_path / "a.pcapng"
    url = servers.url("https", "/bytes/17")
    done = plaintap(
        "record", "-w", capture, "--protocol", "http", "--", *curl_command(servers, url, "-o", os.devnull)
    )
    assert done.returncode == 0, done.stderr
    assert ", 0 streams written" in done.stderr
    assert re.search(
        r"TLS: ([\d,]+) bytes returned by .* = 0 bytes captured \+ \1 bytes filtered", done.stderr
    )
    assert "cannot be read" not in done.stderr


def test_ports_at_either_end(servers: Servers, tmp_path: Path) -> None:
    count, said = recorded(tmp_path / "a.pcapng", servers, "--port", servers.http)
    assert count == 1, said
    count, said = recorded(tmp_path / "b.pcapng", servers, "-c", "curl", "--exclude-port", servers.http)
    assert count == 1, said
    assert re.search(r"sockets: .* bytes filtered", said)


def test_an_excluded_process_is_left_out_with_its_children(servers: Servers, tmp_path: Path) -> None:
    inside = " ".join(curl_command(servers, servers.url("https", "/bytes/17"), "-o", os.devnull))
    with (
        subprocess.Popen(["sh", "-c", 'read go; eval "$go"'], stdin=subprocess.PIPE, text=True) as shell,
        record(tmp_path / "a.pcapng", "--exclude-pid", shell.pid, "-c", "curl") as recording,
    ):
        shell.communicate(inside + "\n")
        curl(servers, servers.url("https", "/bytes/18"))
        settle()
        recording.stop()
    (line,) = shown(tmp_path / "a.pcapng", servers)
    assert "/bytes/18" in line


@pytest.fixture
def control_group() -> Iterator[Path]:
    """A new control group of version 2."""
    roots = [Path(root) for root in ("/sys/fs/cgroup/unified", "/sys/fs/cgroup")]
    root = next((root for root in roots if (root / "cgroup.controllers").is_file()), None)
    if root is None:
        pytest.skip("no control groups of version 2 are mounted here")
    folder = root / f"plaintap-test-{os.getpid()}" / "below"
    folder.mkdir(parents=True)
    yield folder.parent
    folder.rmdir()
    folder.parent.rmdir()


@pytest.mark.parametrize("option", ["--cgroup", "--exclude-cgroup"])
def test_a_control_group_and_those_below(
    servers: Servers, tmp_path: Path, control_group: Path, option: str
) -> None:
    inside = " ".join(curl_command(servers, servers.url("https", "/bytes/17"), "-o", os.devnull))
    enter = f"echo $$ > {control_group}/below/cgroup.procs; exec {inside}"
    with record(tmp_path / "a.pcapng", option, control_group, "-c", "curl") as recording:
        subprocess.run(["sh", "-c", enter], check=True)
        curl(servers, servers.url("https", "/bytes/18"))
        settle()
        recording.stop()
    (line,) = shown(tmp_path / "a.pcapng", servers)
    assert ("/bytes/17" in line) == (option == "--cgroup")


def test_any_cleartext_protocol_on_demand(tmp_path: Path) -> None:
    script = (
        "import socket, threading\n"
        "s = socket.create_server(('127.0.0.1', 0))\n"
        "def serve():\n"
        "    c, _ = s.accept(); c.recv(100); c.sendall(b'+PONG\\r\\n'); c.close()\n"
        "t = threading.Thread(target=serve); t.start()\n"
        "c = socket.create_connection(s.getsockname()); c.sendall(b'PING\\r\\n'); print(c.recv(100)); t.join()\n"
    )
    path = tmp_path / "a.pcapng"
    record_command(path, ["python3", "-c", script])
    assert b"PONG" not in path.read_bytes()
    with record(path, "--protocol", "all") as recording:
        subprocess.run(["python3", "-c", script], check=True, stdout=subprocess.DEVNULL)
        settle()
        recording.stop()
    assert b"PING\r\n" in path.read_bytes()
    assert b"+PONG\r\n" in path.read_bytes()


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (("--host", "nowhere.invalid"), "nowhere.invalid"),
        (("--host", "10.0.0.0/33"), "'10.0.0.0/33' is no network"),
        (("--cgroup", "/no/such"), "/no/such"),
        (("--container", "no-such"), "no-such"),
        (("--protocol", "gopher"), "gopher"),
    ],
)
def test_what_is_not_there_is_named(tmp_path: Path, options: tuple[str, ...], named: str) -> None:
    done = plaintap("record", "-w", tmp_path / "a.pcapng", *options, "-d", "1")
    assert done.returncode == 2
    assert named in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "a.pcapng").exists()


@pytest.mark.parametrize(("option", "exchanges"), [("--follow", 2), ("--no-follow", 0)])
def test_children_that_a_process_already_has(
    servers: Servers, tmp_path: Path, option: str, exchanges: int
) -> None:
    with nginx(tmp_path, servers.certificate) as running:
        assert running.root
        (running.root / "page").write_text("by a worker")
        with record(tmp_path / "master.pcapng", "-p", running.pid, option) as recording:
            curl(running, running.url("http", "/page"))
            curl(running, running.url("https", "/page"))
            settle()
            recording.stop()
        assert len(shown(recording.path, running)) == exchanges


# Asks for /before-… as one that is not recorded, for /after-… as one that is, and for /again-… as before.
CHANGING = """
import http.client, os, sys, time
how, port = sys.argv[1], int(sys.argv[2])
connection = http.client.HTTPConnection("127.0.0.1", port)
def ask(word):
    for number in range(3):
        connection.request("GET", f"/{word}-{number}")
        connection.getresponse().read()
        time.sleep(0.03)
def become(other):
    if how == "name":
        with open("/proc/self/comm", "w") as comm:
            comm.write("becoming" if other else "not-asked-for")
    elif how == "user":
        os.setresuid(65534 if other else 0, -1, 0)
    else:
        with open((how if other else os.path.dirname(how)) + "/cgroup.procs", "w") as group:
            group.write(str(os.getpid()))
become(False)
ask("before")
become(True)
ask("after")
become(False)
ask("again")
"""


@pytest.mark.parametrize("how", ["name", "user", "control group"])
def test_a_process_is_what_it_is_at_the_moment(
    servers: Servers, tmp_path: Path, control_group: Path, how: str
) -> None:
    options = {
        "name": ("-c", "becoming"),
        "user": ("-u", "nobody"),
        "control group": ("--cgroup", control_group),
    }
    place = control_group if how == "control group" else how
    with record(tmp_path / "a.pcapng", *options[how]) as recording:
        subprocess.run([PYTHON, "-c", CHANGING, place, str(servers.http)], check=True)
        settle()
        recording.stop()
    found = [path_of(entry) for entry in entries(recording.path, servers.http)]
    assert found == [f"/after-{number}" for number in range(3)]


UNREADABLE = """
import http.client, sys
with open("/proc/self/comm", "wb") as comm:
    comm.write(b"\\xff\\xfe")
connection = http.client.HTTPConnection("127.0.0.1", int(sys.argv[1]))
connection.request("GET", "/asked-for")
connection.getresponse().read()
"""


def test_a_name_that_is_no_text(servers: Servers, tmp_path: Path) -> None:
    with record(tmp_path / "a.pcapng", "-c", os.fsdecode(b"\xff\xfe")) as recording:
        subprocess.run([PYTHON, "-c", UNREADABLE, str(servers.http)], check=True)
        settle()
        recording.stop()
    assert [path_of(entry) for entry in entries(recording.path, servers.http)] == ["/asked-for"]


OTHER_PROTOCOL = r"""
import socket
with socket.create_server(("127.0.0.1", 0)) as listener:
    with socket.create_connection(listener.getsockname()) as client, listener.accept()[0] as server:
        client.sendall(b"*1\r\n$4\r\nPING\r\n")
        server.recv(100)
"""


@pytest.mark.parametrize("protocol", ["http,tls", "all"])
def test_who_records_neither_http_nor_tls_learns_how(tmp_path: Path, protocol: str) -> None:
    options = ("--protocol", protocol)
    done = plaintap("record", "-w", tmp_path / "x.pcapng", *options, "--", PYTHON, "-c", OTHER_PROTOCOL)
    note = "Note: 28 bytes were of neither HTTP nor TLS. --protocol all records any protocol over TCP."
    assert (note in done.stderr.splitlines()) == (protocol != "all"), done.stderr
