"""``plaintap`` run as a user runs it: recordings, exports, and what came out of them."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import re
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from processes import PLAINTAP, POLL_SECONDS, running, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

READY = "Recording"
READY_SECONDS = 90.0
STOP_SECONDS = 90.0
COMMAND_SECONDS = 180
HIGH_WATER = re.compile(r"^VmHWM:\s+(\d+) kB", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Finished:
    """A recording that has ended; ``peak_bytes`` is the recorder's largest resident set."""

    returncode: int
    stderr: str
    seconds: float
    peak_bytes: int


@dataclass(slots=True)
class Recording:
    """A recording that runs; ``ready_seconds`` is how long it took until its probes were attached."""

    path: Path
    process: subprocess.Popen[Any]
    log: Path
    ready_seconds: float
    finished: Finished | None = None

    @property
    def stderr(self) -> str:
        """What it has said so far."""
        return self.log.read_text()

    def stop(self, how: signal.Signals = signal.SIGINT) -> Finished:
        """Send the signal, and wait for the end."""
        began = time.monotonic()
        self.process.send_signal(how)
        return self.wait(began)

    def wait(self, began: float | None = None, seconds: float = STOP_SECONDS) -> Finished:
        """Wait for the end, with the resources that it used."""
        began = time.monotonic() if began is None else began
        try:
            peak = peak_until_end(self.process, "the recording to end", seconds)
        except AssertionError as error:
            raise AssertionError(f"{error}; {self._what_it_does()}") from None
        taken = time.monotonic() - began
        self.finished = Finished(self.process.returncode, self.stderr, taken, peak)
        return self.finished

    def _what_it_does(self) -> str:
        """Of a recorder that does not end: where its threads are, in the kernel and in Python. It dies of it."""
        where = []
        for thread in sorted(Path(f"/proc/{self.process.pid}/task").iterdir()):
            with contextlib.suppress(OSError):
                where.append(f"{(thread / 'comm').read_text()}{(thread / 'stack').read_text()}")
        self.process.send_signal(signal.SIGABRT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(STOP_SECONDS)
        return "\n".join([*where, self.stderr])


def peak_until_end(process: subprocess.Popen[Any], what: str, seconds: float) -> int:
    """Wait for a process; returns its peak resident bytes.

    As the kernel shows them while it runs: rusage's ru_maxrss begins with that of the process that forked it.
    """
    peak = 0

    def ended() -> bool:
        nonlocal peak
        with contextlib.suppress(OSError):
            if line := HIGH_WATER.search(Path(f"/proc/{process.pid}/status").read_text()):
                peak = max(peak, int(line[1]) * 1024)
        return process.poll() is not None

    wait_until(ended, what, seconds)
    return peak


@contextlib.contextmanager
def record(path: Path, *options: object, program: Sequence[object] = (PLAINTAP,)) -> Iterator[Recording]:
    """``plaintap record -w path options`` with its probes attached; SIGINT ends it unless it has ended."""
    log = path.with_suffix(".stderr")
    began = time.monotonic()
    with (
        log.open("wb") as stderr,
        running([*program, "record", "-w", path, *options], stderr=stderr) as process,
    ):

        def ready() -> bool:
            said = log.read_text()
            assert process.poll() is None, f"the recording ended with {process.returncode}: {said}"
            return any(line.startswith(READY) for line in said.splitlines())

        wait_until(ready, f"a line that begins with {READY!r}", READY_SECONDS)
        recording = Recording(path, process, log, time.monotonic() - began)
        yield recording
        if recording.finished is None and process.poll() is None:
            done = recording.stop()
            assert done.returncode == 0, done.stderr


def plaintap(*arguments: object, seconds: float = COMMAND_SECONDS) -> subprocess.CompletedProcess[str]:
    """Run the command to its end."""
    command = [str(PLAINTAP), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=seconds, check=False)


def record_command(path: Path, command: Sequence[object]) -> subprocess.CompletedProcess[str]:
    """``plaintap record -w path -- command``."""
    return plaintap("record", "-w", path, "--", *command)


def export(capture: Path) -> dict[str, Any]:
    """The HAR that ``plaintap export`` makes of the capture."""
    archive = capture.with_suffix(".har")
    done = plaintap("export", capture, "-o", archive)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    har: dict[str, Any] = json.loads(archive.read_bytes())
    return har


def entries(capture: Path, port: int | None = None) -> list[dict[str, Any]]:
    """The HAR's exchanges in the order of their beginning, those with a server's port if given."""
    found: list[dict[str, Any]] = export(capture)["log"]["entries"]
    found.sort(key=lambda entry: str(entry["startedDateTime"]))
    return [entry for entry in found if port in (None, urlsplit(entry["request"]["url"]).port)]


def path_of(entry: dict[str, Any]) -> str:
    """A request's path and query."""
    url = urlsplit(entry["request"]["url"])
    return f"{url.path}?{url.query}" if url.query else url.path


def decoded(content: dict[str, Any]) -> bytes:
    """A body's bytes, from ``response.content`` or ``request.postData``."""
    text: str = content.get("text", "")
    return base64.b64decode(text) if content.get("encoding") == "base64" else text.encode()


def response_sha256(entry: dict[str, Any]) -> str:
    """The SHA-256 of a response's decoded body."""
    return hashlib.sha256(decoded(entry["response"]["content"])).hexdigest()


def request_sha256(entry: dict[str, Any]) -> str:
    """The SHA-256 of a request's body, which may be none."""
    return hashlib.sha256(decoded(entry["request"].get("postData", {}))).hexdigest()


def header(message: dict[str, Any], name: str) -> str | None:
    """A field's first value in a HAR request or response."""
    fields = message["headers"]
    return next((field["value"] for field in fields if field["name"].lower() == name.lower()), None)


def warnings(stderr: str) -> list[str]:
    """What a recording warned of, but for files of processes that are no concern of the test."""
    lines = [line for line in stderr.splitlines() if line.startswith("Warning: ")]
    return [line for line in lines if ": no probes (" not in line]


def settle(seconds: float = 20 * POLL_SECONDS) -> None:
    """Let programs do what follows their last visible step, such as closing a connection."""
    time.sleep(seconds)
