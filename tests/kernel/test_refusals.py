"""What ``record`` says where it cannot work: one clear sentence with the remedy, an exit code, no traceback.

The machines that lack something are this one, seen through a private mount or user namespace.
"""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from clients import curl
from kernel_state import UNMOUNT_TRACEFS
from processes import PLAINTAP, RUN_VARIABLE, running
from recording import entries, path_of, plaintap, record_command

from bpf import below

if TYPE_CHECKING:
    from servers import Servers

pytestmark = pytest.mark.kernel

DIST_PACKAGES = "/usr/lib/python3/dist-packages"
MAX_LINES = 3


def said(done: subprocess.CompletedProcess[str], code: int) -> str:
    """Its message, once its form is checked."""
    assert done.returncode == code, done.stderr
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    lines = done.stderr.strip().splitlines()
    assert 1 <= len(lines) <= MAX_LINES, done.stderr
    return done.stderr


def within(preparation: str, tmp_path: Path, wrapper: tuple[str, ...] = ("unshare", "--mount")) -> str:
    """What ``record -- true`` says, after the preparation, in namespaces of its own."""
    command = shlex.join([str(PLAINTAP), "record", "-w", str(tmp_path / "x.pcapng"), "--", "true"])
    script = f"{preparation}exec {command}"
    done = subprocess.run(
        [*wrapper, "sh", "-ec", script], capture_output=True, text=True, timeout=180, check=False
    )
    assert not (tmp_path / "x.pcapng").exists(), "a recording that cannot begin makes no file"
    return said(done, 1)


@pytest.mark.parametrize(
    "wrapper",
    [
        ("unshare", "--user"),
        ("setpriv", "--bounding-set=-all", "--inh-caps=-all"),
        ("setpriv", "--bounding-set=-bpf,-perfmon,-sys_admin"),
    ],
    ids=["no user of this machine", "root without capabilities", "root in a container"],
)
def test_without_the_rights(tmp_path: Path, wrapper: tuple[str, ...]) -> None:
    message = within("", tmp_path, wrapper)
    assert "root" in message or "CAP_BPF" in message


def test_as_another_user(tmp_path: Path) -> None:
    nobody = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")
    if subprocess.run([*nobody, "test", "-x", PLAINTAP], check=False).returncode:
        wrapper: tuple[str, ...] = ("unshare", "--user")  # the project lies where only root may look
    else:
        wrapper = nobody
    with tempfile.TemporaryDirectory() as folder:  # pytest's folders are their owner's only
        Path(folder).chmod(0o777)
        assert "root" in within("", Path(folder), wrapper)


def test_without_bcc(tmp_path: Path) -> None:
    message = within(f"mount -t tmpfs none {DIST_PACKAGES}; ", tmp_path)
    assert "python3-bpfcc" in message


def test_with_the_bcc_of_pypi(tmp_path: Path) -> None:
    # A lattice library that has nothing in common with ours but the name.
    impostor = tmp_path / "impostor"
    (impostor / "bcc").mkdir(parents=True)
    (impostor / "bcc/__init__.py").write_text("class Lattice: pass\n")
    message = within(f"mount --bind {impostor} {DIST_PACKAGES}; export PYTHONPATH={impostor}; ", tmp_path)
    assert "python3-bpfcc" in message


def test_without_btf(tmp_path: Path) -> None:
    assert "BTF" in within("mount -t tmpfs none /sys/kernel/btf; ", tmp_path)


def test_tracefs_need_not_be_mounted(servers: Servers, tmp_path: Path) -> None:
    capture = tmp_path / "x.pcapng"
    url = servers.url("https", "/text")
    fetch = f"curl -s --http1.1 --cacert {servers.certificate} {url}"
    script = f"{UNMOUNT_TRACEFS}; exec {PLAINTAP} record -w {capture} -- {fetch}"
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-ec", script], capture_output=True, text=True, timeout=180, check=False
    )
    assert done.returncode == 0, done.stderr
    assert [path_of(entry) for entry in entries(capture)] == ["/text"]


def test_without_the_right_to_read_pages_it_is_said_what_is_lost(tmp_path: Path) -> None:
    capture = tmp_path / "x.pcapng"
    script = f"mount -t tracefs nodev /sys/kernel/tracing; exec setpriv --bounding-set=-sys_admin {PLAINTAP} record"
    for options, lost in (("", True), ("--no-below", False)):
        done = subprocess.run(
            ["unshare", "--mount", "sh", "-ec", f"{script} {options} -w {capture} -- true"],
            capture_output=True, text=True, timeout=180, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert ("CAP_SYS_ADMIN" in done.stderr) is (lost and below.probe().lengths)


def free_pid() -> int:
    """The number of a process that has just ended."""
    with subprocess.Popen(["true"]) as process:
        process.wait()
    return process.pid


@pytest.mark.parametrize("value", ["0", "-3", "curl"])
def test_a_pid_that_is_none(tmp_path: Path, value: str) -> None:
    done = plaintap("record", "-w", tmp_path / "x.pcapng", "-p", value)
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr


def test_no_such_pid(tmp_path: Path) -> None:
    pid = free_pid()
    done = plaintap("record", "-w", tmp_path / "x.pcapng", "-p", pid)
    assert str(pid) in said(done, 2)


def test_no_such_user(tmp_path: Path) -> None:
    done = plaintap("record", "-w", tmp_path / "x.pcapng", "-u", "no-such-user")
    assert done.returncode == 2
    assert "no-such-user" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("path", ["/no/such/folder/x.pcapng", "/proc/x.pcapng", "/"])
def test_a_path_that_cannot_be_written(path: str) -> None:
    done = plaintap("record", "-w", path, "--", "true")
    assert path in said(done, 2)


@pytest.mark.parametrize("port", ["0", "65536", "http"])
def test_a_port_that_is_none(tmp_path: Path, port: str) -> None:
    done = plaintap("record", "-w", tmp_path / "x.pcapng", "--port", port)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


def test_a_full_disk_is_said_and_stops_nothing_else(servers: Servers, tmp_path: Path) -> None:
    folder = tmp_path / "small"
    folder.mkdir()
    options = f"-w {folder}/x.pcapng --port {servers.http}"
    script = f"mount -t tmpfs -o size=64k none {folder}; exec {PLAINTAP} record {options}"
    log = tmp_path / "stderr"
    with (
        log.open("wb") as stderr,
        running(["unshare", "--mount", "sh", "-ec", script], stderr=stderr) as process,
    ):
        while b"Recording" not in log.read_bytes():
            assert process.poll() is None, log.read_text()
        curl(servers, servers.url("http", "/bytes/1048576"))
        curl(servers, servers.url("http", "/bytes/1048576"))
        try:
            code = process.wait(5)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGINT)
            code = process.wait(60)
    assert code == 1, log.read_text()
    assert "No space left" in log.read_text()
    assert "Traceback" not in log.read_text()


def test_the_command_does_not_hold_our_descriptors(tmp_path: Path) -> None:
    capture = tmp_path / "x.pcapng"
    done = record_command(capture, ["sh", "-c", "ls -l /proc/self/fd"])
    assert done.returncode == 0
    assert "bpf" not in done.stdout
    assert str(capture) not in done.stdout
    assert RUN_VARIABLE in os.environ


def test_in_a_pid_namespace_of_its_own(tmp_path: Path) -> None:
    capture = tmp_path / "a.pcapng"
    done = subprocess.run(
        ["unshare", "--pid", "--fork", "--mount-proc", PLAINTAP, "record", "-w", capture, "-d", "1"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert "--pid=host" in done.stderr
    assert "Traceback" not in done.stderr
    assert not capture.exists()
