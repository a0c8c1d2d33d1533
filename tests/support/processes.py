"""Other people's programs, started so that none outlives the test that wanted it.

Each is killed at the end of its ``with`` block and, through PR_SET_PDEATHSIG, when the test run itself is
killed. All of them carry RUN_VARIABLE in their environment, by which a leftover is recognised as ours.
"""

from __future__ import annotations

import contextlib
import signal
import socket
import subprocess
import time
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

ROOT = Path(__file__).resolve().parents[2]
PYTHON = ROOT / ".venv/bin/python"
PLAINTAP = ROOT / ".venv/bin/plaintap"
RUN_VARIABLE = "PLAINTAP_TEST_RUN"
POLL_SECONDS = 0.005
STOP_SECONDS = 20.0


@contextlib.contextmanager
def running(
    command: Sequence[object],
    *,
    stdin: int | IO[Any] | None = subprocess.DEVNULL,
    stdout: int | IO[Any] | None = None,
    stderr: int | IO[Any] | None = None,
    text: bool = False,
) -> Iterator[subprocess.Popen[Any]]:
    """A program that is running; at the end SIGTERM, and SIGKILL where that does not do."""
    guarded = ["setpriv", "--pdeathsig", "TERM", *map(str, command)]
    with subprocess.Popen(guarded, stdin=stdin, stdout=stdout, stderr=stderr, text=text) as process:
        try:
            yield process
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGCONT)
                process.terminate()
                try:
                    process.wait(STOP_SECONDS)
                except subprocess.TimeoutExpired:
                    process.kill()


def wait_until(condition: Callable[[], Any], what: str, seconds: float = 60.0) -> Any:
    """The condition's first true value; an AssertionError that names ``what`` when time is up."""
    end = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < end, f"waited {seconds} s in vain for {what}"
        time.sleep(POLL_SECONDS)
    return value


def free_port(address: str = "127.0.0.1") -> int:
    """A TCP port that nobody listens on now."""
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET) as probe:
        probe.bind((address, 0))
        port: int = probe.getsockname()[1]
        return port


def wait_for_port(port: int, address: str = "127.0.0.1") -> None:
    """Return when the port accepts connections."""

    def accepts() -> bool:
        with contextlib.suppress(OSError), socket.create_connection((address, port), 1):
            return True
        return False

    wait_until(accepts, f"{address} to accept connections on port {port}")


def children(pid: int) -> list[int]:
    """The processes that ``pid`` started and that still run."""
    tasks = Path(f"/proc/{pid}/task")
    return [int(child) for task in tasks.iterdir() for child in (task / "children").read_text().split()]


def processes_of_run(run: str) -> dict[int, str]:
    """The command line of every process that descends from the test run of that name, without the run."""
    found = {}
    wanted = f"{RUN_VARIABLE}={run}".encode()
    for folder in Path("/proc").glob("[0-9]*"):
        # A process may end, or be another user's, between the listing and the reading.
        with contextlib.suppress(OSError):
            if wanted in (folder / "environ").read_bytes().split(b"\0"):
                command = (folder / "cmdline").read_bytes().replace(b"\0", b" ")
                found[int(folder.name)] = command.decode(errors="replace").strip()
    return found
