"""The archive that is written while recording: whole at every moment, and its process gives way to what is recorded."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from archives import write_har
from processes import wait_until
from transcripts import METADATA, REQUEST, Transcript

from capture.live_har import LiveHar, LiveHarError
from capture.output_file import OutputFile
from exporters import live
from exporters.har import EntryMaker
from exporters.http import Limits, Notes, exchanges
from exporters.live import NICE
from exporters.packets import PcapngExporter
from exporters.reassembly import read_streams

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from capture.streams import StreamItem

OPTIONS = {"limits": {}, "sensitive": False, "redact": [], "bodies": True}

SAY = "import os; from exporters.live import give_way; give_way(); print(os.getpriority(os.PRIO_PROCESS, 0))"


@pytest.mark.parametrize(("recorder", "ours"), [(-10, NICE), (0, NICE), (12, 12)])
def test_it_is_nice_whatever_the_recorder_is(recorder, ours):
    before = os.getpriority(os.PRIO_PROCESS, 0)
    if recorder < before and os.geteuid() != 0:
        pytest.skip("only root can be more urgent")
    command = ["nice", "-n", str(recorder - before), sys.executable, "-c", SAY]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert int(done.stdout) == ours


def entries_of(archive: bytes) -> list[dict[str, Any]]:
    """The entries of an archive, which is whole."""
    return list(json.loads(archive)["log"]["entries"])


class GrowingCapture:
    """A capture at ``path`` that a recorder adds to."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = path.open("wb", buffering=0)
        self._exporter = PcapngExporter(self._file.write, METADATA)
        self._exporter.flush()

    def add(self, *items: StreamItem) -> None:
        """``items`` are in the file."""
        for item in items:
            self._exporter.write(item)
        self._exporter.flush()

    def add_bytes(self, data: bytes) -> None:
        """``data``, perhaps a part of a block, is in the file."""
        self._file.write(data)

    def close(self) -> None:
        """Nothing is added."""
        self._file.close()


@pytest.fixture
def capture(tmp_path: Path) -> Iterator[GrowingCapture]:
    """One without packets yet."""
    growing = GrowingCapture(tmp_path / "a.pcapng")
    yield growing
    growing.close()


class Watched(io.BytesIO):
    """An archive of which whoever reads it at any time finds a whole one: ``seen`` are its numbers of entries."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[int] = []

    def write(self, data: Any) -> int:
        """Each write leaves a whole archive."""
        written = super().write(data)
        self.seen.append(len(entries_of(self.getvalue())))
        return written


class Following:
    """``follow`` at work on a capture; ``archive`` is what it writes."""

    def __init__(self, capture: GrowingCapture) -> None:
        self.archive = Watched()
        self._reading, self._writing = os.pipe()
        self._file = capture.path.open("rb", buffering=0)
        self._pool = ThreadPoolExecutor(1)
        self._work = self._pool.submit(
            live.follow, self._file.fileno(), self.archive, self._reading, EntryMaker(), Limits()
        )

    def _wait_until(self, condition: Callable[[], Any], what: str) -> None:
        wait_until(lambda: self._work.done() or condition(), what, 30)
        assert not self._work.done(), self._work.result()

    def wait_for(self, entries: int) -> None:
        """So many entries are in the archive."""
        self._wait_until(lambda: (self.archive.seen or [0])[-1] >= entries, f"{entries} entries")

    def wait_until_read(self) -> None:
        """All that is in the file was read."""
        descriptor = self._file.fileno()
        self._wait_until(
            lambda: os.lseek(descriptor, 0, os.SEEK_CUR) == os.fstat(descriptor).st_size, "all to be read"
        )

    def end(self) -> list[dict[str, Any]]:
        """The recorder has ended: what the archive has."""
        os.close(self._writing)
        self._pool.shutdown()
        os.close(self._reading)
        self._file.close()
        self._work.result()
        return entries_of(self.archive.getvalue())


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """No waiting between looks at the file."""
    monkeypatch.setattr(live, "POLL_INTERVAL_S", 0.005)
    monkeypatch.setattr(live, "FLUSH_INTERVAL_S", 0)


@pytest.mark.usefixtures("quick")
def test_entries_are_in_the_archive_before_the_recording_ends(capture: GrowingCapture) -> None:
    following = Following(capture)
    try:
        for number in range(1, 6):
            capture.add(*Transcript(number).exchange().close().items)
            following.wait_for(number)
        unfinished = Transcript(6).client(REQUEST)
        capture.add(*unfinished.items)
    finally:
        found = following.end()
    assert len(found) == 6
    assert [entry.get("_outcome") for entry in found] == [None] * 5 + ["the recording ended"]
    assert following.archive.seen == sorted(following.archive.seen)
    assert set(following.archive.seen) == set(range(7))


@pytest.mark.usefixtures("quick")
def test_the_archive_is_that_of_an_export_wherever_the_file_ends_for_now(
    capture: GrowingCapture, tmp_path: Path
) -> None:
    whole = GrowingCapture(tmp_path / "whole.pcapng")
    begun = whole.path.stat().st_size
    whole.add(*(item for number in range(1, 4) for item in Transcript(number).exchange(2).close().items))
    whole.close()
    data = whole.path.read_bytes()
    following = Following(capture)
    try:
        for start in range(begun, len(data), 97):
            capture.add_bytes(data[start : start + 97])
            following.wait_until_read()
    finally:
        following.end()
    exported, notes = io.BytesIO(), Notes()
    write_har(exchanges(read_streams(whole.path), None, notes), exported, EntryMaker(), notes)
    live_log, log = (json.loads(archive.getvalue())["log"] for archive in (following.archive, exported))
    for each in (live_log, log):  # what is written as it comes in is not in order of time
        each["entries"].sort(key=lambda entry: (entry["_connectionId"], entry["startedDateTime"]))
    assert live_log == log
    assert len(log["entries"]) == 6


@pytest.mark.usefixtures("quick")
def test_a_capture_that_stops_inside_a_block_makes_a_whole_archive(capture: GrowingCapture) -> None:
    following = Following(capture)
    try:
        capture.add(*Transcript(1).exchange().close().items)
        capture.add_bytes(b"\x06\0\0\0\xff\0\0\0cut")
    finally:
        found = following.end()
    assert [entry["request"]["method"] for entry in found] == ["GET"]


def test_what_a_killed_process_has_written_is_whole_and_its_end_is_said(
    capture: GrowingCapture, tmp_path: Path
) -> None:
    archive = tmp_path / "a.har"
    with (
        OutputFile(str(archive), "--har") as output,
        pytest.raises(LiveHarError, match=r"a\.har could not be completed: make it from the capture"),
        LiveHar(capture.path, output, OPTIONS) as process,
    ):
        capture.add(*Transcript(1).exchange().close().items)
        wait_until(lambda: archive.stat().st_size and entries_of(archive.read_bytes()), "an entry")
        capture.add(*Transcript(2).exchange().close().items)
        os.kill(process._process.pid, signal.SIGKILL)
    assert entries_of(archive.read_bytes())


RECORD = """
import sys, time
from pathlib import Path
from capture.live_har import LiveHar
from capture.output_file import OutputFile
import json
live = LiveHar(Path(sys.argv[1]), OutputFile(sys.argv[2], "--har"), json.loads(sys.argv[3]))
print(live._process.pid, flush=True)
time.sleep(600)
"""


def test_the_archive_of_a_killed_recorder_is_completed(capture: GrowingCapture, tmp_path: Path) -> None:
    archive = tmp_path / "a.har"
    capture.add(*Transcript(1).exchange().close().items, *Transcript(2).client(REQUEST).items)
    command = [sys.executable, "-c", RECORD, str(capture.path), str(archive), json.dumps(OPTIONS)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as recorder:
        assert recorder.stdout is not None
        process = Path(f"/proc/{int(recorder.stdout.readline())}/stat")
        wait_until(lambda: archive.stat().st_size and entries_of(archive.read_bytes()), "an entry")
        assert len(entries_of(archive.read_bytes())) == 1
        recorder.kill()
    wait_until(lambda: len(entries_of(archive.read_bytes())) == 2, "what the recording left unfinished")
    wait_until(lambda: not process.exists() or process.read_text().split()[2] == "Z", "its end")
