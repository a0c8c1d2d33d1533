"""Where a recording goes: a reader that pauses or goes away, a disk that fills up, and what was there before."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from typing import IO, TYPE_CHECKING, Any

import pytest
from clients import curl
from processes import PLAINTAP, PYTHON, running, wait_until
from recording import entries, plaintap

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from servers import Servers

pytestmark = pytest.mark.kernel

BODY_BYTES = 1 << 20  # a pipe holds 64 KiB
# The grace that a reader is given after the end, and then some for a busy machine.
END_SECONDS = 60.0


def say_recording(log: Path, process: subprocess.Popen[Any]) -> None:
    """Return when its probes are attached."""

    def ready() -> bool:
        assert process.poll() is None, log.read_text()
        return "Recording" in log.read_text()

    wait_until(ready, "the recording to begin")


def test_a_command_that_cannot_be_run_leaves_older_files_as_they_were(tmp_path: Path) -> None:
    capture, archive = tmp_path / "keep.pcapng", tmp_path / "keep.har"
    for file in (capture, archive):
        file.write_text("old")
    done = plaintap("record", "-w", capture, "--har", archive, "--", "/no/such/command")
    assert done.returncode == 127
    assert "/no/such/command" in done.stderr
    assert (capture.read_text(), archive.read_text()) == ("old", "old")


@pytest.mark.parametrize("how", [signal.SIGINT, None], ids=["SIGINT", "duration"])
def test_a_reader_that_pauses_holds_up_no_end(
    servers: Servers, tmp_path: Path, how: signal.Signals | None
) -> None:
    log = tmp_path / "stderr"
    options = ["-w", "-", "--port", servers.http, *(["-d", "3"] if how is None else [])]
    with (
        log.open("wb") as stderr,
        running([PLAINTAP, "record", *options], stdout=subprocess.PIPE, stderr=stderr) as process,
    ):
        say_recording(log, process)
        curl(servers, servers.url("http", f"/bytes/{BODY_BYTES}"))
        if how is not None:
            time.sleep(1)  # longer than anything is kept back
            process.send_signal(how)
        assert process.wait(END_SECONDS) == 1
    said = log.read_text()
    assert "were not taken by its reader" in said
    assert "none lost" in said
    assert "Traceback" not in said


def test_a_reader_that_pauses_misses_nothing(servers: Servers, tmp_path: Path) -> None:
    log, capture = tmp_path / "stderr", tmp_path / "a.pcapng"
    with (
        log.open("wb") as stderr,
        running(
            [PLAINTAP, "record", "-w", "-", "--port", servers.http], stdout=subprocess.PIPE, stderr=stderr
        ) as process,
    ):
        say_recording(log, process)
        for _ in range(8):
            curl(servers, servers.url("http", f"/bytes/{BODY_BYTES}"))
        time.sleep(1)
        process.send_signal(signal.SIGINT)
        stdout: IO[bytes] = process.stdout  # type: ignore[assignment] # it is a pipe
        capture.write_bytes(stdout.read())
        assert process.wait(END_SECONDS) == 0, log.read_text()
    assert [entry["response"]["content"]["size"] for entry in entries(capture)] == [BODY_BYTES] * 8


NO_ROOM = "import capture.spool as s; s.MAX_SPOOLED_BYTES = 0; import capture.cli as c; c.main()"


@pytest.mark.parametrize("program", [[PLAINTAP], [PYTHON, "-c", NO_ROOM]], ids=["room", "no room"])
def test_new_programs_run_while_the_reader_pauses(
    servers: Servers, tmp_path: Path, program: Sequence[object]
) -> None:
    log = tmp_path / "stderr"
    # Files that were never executed: each is held until it was looked at.
    copies = [tmp_path / f"true{number}" for number in range(3)]
    fetch = f"curl -s {servers.url('http', f'/bytes/{BODY_BYTES}')} -o /dev/null"
    script = "; ".join(
        [
            *([fetch] * 8),  # more than memory takes
            "sleep 1",
            *(f"cp /bin/true {copy}; echo {copy} >> {copy}; {copy}" for copy in copies),
        ]
    )
    with (
        log.open("wb") as stderr,
        running(
            [*program, "record", "-w", "-", "--", "sh", "-c", f"{{ {script}; }} >/dev/null; echo over >&2"],
            stdout=subprocess.PIPE, stderr=stderr,
        ) as process,
    ):  # fmt: skip
        assert process.wait(END_SECONDS) == 0, log.read_text()
    assert "over" in log.read_text()


def test_a_reader_that_goes_away_costs_no_exit_code(servers: Servers, tmp_path: Path) -> None:
    log, marker = tmp_path / "stderr", tmp_path / "marker"
    url = servers.url("http", f"/bytes/{BODY_BYTES}")
    script = f"curl -s {url} -o /dev/null; sleep 1; curl -s {url} -o /dev/null; touch {marker}; exit 7"
    reading, writing = os.pipe()
    with (
        log.open("wb") as stderr,
        running([PLAINTAP, "record", "-w", "-", "--", "sh", "-c", script], stdout=writing, stderr=stderr)
        as process,
    ):  # fmt: skip
        os.close(writing)
        os.read(reading, 1000)
        os.close(reading)
        assert process.wait(END_SECONDS) == 7, log.read_text()
    assert marker.exists()
    assert "reader of the capture has gone" in log.read_text()
    assert "Make room" not in log.read_text()
    assert "Traceback" not in log.read_text()


def test_a_recording_ends_when_its_reader_does(servers: Servers, tmp_path: Path) -> None:
    log = tmp_path / "stderr"
    reading, writing = os.pipe()
    with (
        log.open("wb") as stderr,
        running([PLAINTAP, "record", "-w", "-", "--port", servers.http], stdout=writing, stderr=stderr)
        as process,
    ):  # fmt: skip
        os.close(writing)
        say_recording(log, process)
        os.close(reading)
        curl(servers, servers.url("http", "/text"))
        assert process.wait(END_SECONDS) == 0, log.read_text()


def test_what_the_command_prints_is_not_in_the_capture(servers: Servers, tmp_path: Path) -> None:
    capture = tmp_path / "a.pcapng"
    with capture.open("wb") as stdout:
        done = subprocess.run(
            [PLAINTAP, "record", "-w", "-", "--", "curl", "-s", servers.url("http", "/text")],
            stdout=stdout, stderr=subprocess.PIPE, check=False,
        )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (entry,) = entries(capture)
    assert entry["response"]["content"]["text"].encode() in done.stderr


@pytest.mark.parametrize("full", ["a.pcapng", "a.har"])
def test_a_full_disk_is_named_for_what_it_is(servers: Servers, tmp_path: Path, full: str) -> None:
    folder, roomy = tmp_path / "small", tmp_path / "roomy"
    folder.mkdir()
    roomy.mkdir()
    names = [str((folder if name == full else roomy) / name) for name in ("a.pcapng", "a.har")]
    fetch = f"curl -s {servers.url('http', f'/bytes/{BODY_BYTES}')} -o /dev/null; sleep 2; exit 7"
    command = f"{PLAINTAP} record -w {names[0]} --har {names[1]} -- sh -c '{fetch}'"
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-ec", f"mount -t tmpfs -o size=64k none {folder}; exec {command}"],
        capture_output=True, text=True, timeout=180, check=False,
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr
    assert "No space left" in done.stderr
    assert full in done.stderr
    assert ("plaintap export" in done.stderr) == (full == "a.har"), "the remedy is for what failed"


@pytest.mark.parametrize("code", [0, 7])
def test_a_capture_that_is_deleted_meanwhile_is_not_said_to_be_written(tmp_path: Path, code: int) -> None:
    folder = tmp_path / "gone"
    folder.mkdir()
    capture = folder / "a.pcapng"
    script = f"until test -s {capture}; do sleep 0.1; done; rm -r {folder}; exit {code}"
    done = plaintap("record", "-w", capture, "--", "sh", "-c", script)
    assert done.returncode == (code or 1), done.stderr
    assert "deleted" in done.stderr
    assert f"Wrote {capture}" not in done.stderr


def test_closed_standard_streams_are_nobody_else_s(tmp_path: Path) -> None:
    capture = tmp_path / "a.pcapng"
    script = '"$@" <&- >&- 2>&-'
    command = [
        str(PLAINTAP),
        "record",
        "-w",
        str(capture),
        "--",
        "sh",
        "-c",
        "echo out; echo err >&2; exit 3",
    ]
    done = subprocess.run(["sh", "-c", script, "sh", *command], capture_output=True, check=False)
    assert done.returncode == 3
    assert "no TCP streams" in plaintap("show", capture).stderr, "it is a capture, and no message is in it"
