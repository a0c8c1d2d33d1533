"""What ``export`` and ``show`` say about files that are no captures, are cut off, or hold no HTTP."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
from typing import TYPE_CHECKING

import pytest
from handmade import conversation
from processes import PLAINTAP
from recording import plaintap

if TYPE_CHECKING:
    from pathlib import Path

COMMANDS = ("export", "show")
NO_CAPTURES = {
    "empty": b"",
    "text": b"GET / HTTP/1.1\r\n\r\n" * 20,
    "zeros": bytes(4096),
    "har": b'{"log": {}}',
    "a magic number and no more": b"\x0a\x0d\x0d\x0a",
    "a block length beyond all bounds": b"\x0a\x0d\x0d\x0a" + b"\xff" * 28,
    "every byte": bytes(range(256)) * 16,
    "gzip of text": gzip.compress(b"no capture" * 100),
    "broken gzip": gzip.compress(b"no capture" * 100)[:30],
    "broken zstd": b"\x28\xb5\x2f\xfd" + b"\xff" * 40,
}
MAX_LINES = 3


def run(command: str, path: Path) -> subprocess.CompletedProcess[str]:
    """The command on a file; ``export`` writes beside it."""
    output = ("-o", path.with_name("out.har")) if command == "export" else ()
    return plaintap(command, path, *output, seconds=30)


def message(done: subprocess.CompletedProcess[str], *codes: int) -> str:
    """What it says, once its form is checked."""
    assert done.returncode in codes, done.stderr
    assert "Traceback" not in done.stderr
    assert 1 <= len(done.stderr.strip().splitlines()) <= MAX_LINES, done.stderr
    return done.stderr


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("content", NO_CAPTURES.values(), ids=NO_CAPTURES)
def test_a_file_that_is_no_capture(tmp_path: Path, command: str, content: bytes) -> None:
    path = tmp_path / "file.pcapng"
    path.write_bytes(content)
    assert "file.pcapng" in message(run(command, path), 1)
    assert not (tmp_path / "out.har").exists()


@pytest.mark.parametrize("command", COMMANDS)
def test_a_file_that_is_not_there_or_a_folder(tmp_path: Path, command: str) -> None:
    for path in (tmp_path / "absent.pcapng", tmp_path):
        done = run(command, path)
        assert path.name in message(done, 1, 2)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_capture_without_http(tmp_path: Path, command: str) -> None:
    whole = conversation(tmp_path / "whole.pcap").read_bytes()
    path = tmp_path / "silent.pcap"
    path.write_bytes(whole[: 24 + 3 * (16 + 40)])  # the file's header and the three packets of the handshake
    assert "HTTP" in message(run(command, path), 1)


def test_a_capture_that_is_cut_off_gives_what_is_in_it(tmp_path: Path) -> None:
    whole = conversation(tmp_path / "whole.pcap").read_bytes()
    path = tmp_path / "cut.pcap"
    path.write_bytes(whole[:-10])
    done = run("export", path)
    assert "cut" in done.stderr or "truncated" in done.stderr
    assert "Traceback" not in done.stderr
    (entry,) = json.loads((tmp_path / "out.har").read_text())["log"]["entries"]
    assert entry["request"]["url"] == "http://example.test/path"
    assert entry["response"]["status"] == 204


@pytest.mark.parametrize("command", COMMANDS)
def test_every_truncation_is_met_with_a_sentence(tmp_path: Path, command: str) -> None:
    whole = conversation(tmp_path / "whole.pcap").read_bytes()
    path = tmp_path / "cut.pcap"
    for length in (1, 23, 24, 30, 41, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        done = run(command, path)
        assert done.returncode in {0, 1}
        assert "Traceback" not in done.stderr
        assert done.stderr.strip()


def test_the_har_goes_to_standard_output(tmp_path: Path) -> None:
    path = conversation(tmp_path / "whole.pcap")
    done = plaintap("export", path, "-o", "-", seconds=30)
    assert done.returncode == 0, done.stderr
    assert len(json.loads(done.stdout)["log"]["entries"]) == 1


def test_output_that_cannot_be_written(tmp_path: Path) -> None:
    path = conversation(tmp_path / "whole.pcap")
    done = plaintap("export", path, "-o", "/no/such/folder/out.har", seconds=30)
    assert "/no/such/folder/out.har" in message(done, 1, 2)


@pytest.mark.parametrize("form", ["har", "jsonl"])
def test_an_export_to_a_full_disk_names_the_file(tmp_path: Path, form: str) -> None:
    path = conversation(tmp_path / "whole.pcap")
    done = plaintap("export", path, "--format", form, "-o", "/dev/full", seconds=30)
    assert "/dev/full failed (No space left on device)" in message(done, 1)


@pytest.mark.parametrize(
    "arguments",
    [
        ("show", "FILE"),
        ("show", "--stats", "FILE"),
        ("export", "FILE", "-o", "-"),
        ("doctor", "1", "--json"),
        ("--help",),
        ("export", "--help"),
        ("--version",),
    ],
)
@pytest.mark.parametrize(
    ("end", "said"),
    [
        (">/dev/full", "stdout failed (No space left on device)"),
        (">&-", "stdout is closed"),
        ("| true", ""),
    ],
)
def test_output_that_nobody_takes_is_told_by_name(
    tmp_path: Path, arguments: tuple[str, ...], end: str, said: str
) -> None:
    path = conversation(tmp_path / "whole.pcap")
    if end == ">&-" and arguments[-1] in ("--help", "--version"):
        said = ""  # who asks, and closes the ears, is none the worse
    words = [str(path) if word == "FILE" else word for word in arguments]
    script = f'set -o pipefail; sleep 0.01; "$@" {end}'
    done = subprocess.run(
        ["bash", "-c", script, "bash", PLAINTAP, *words], capture_output=True, text=True, check=False
    )
    if said:
        assert said in message(done, 1, 2)
        assert done.returncode == (2 if arguments[0] == "export" and end == ">&-" else 1)
    else:  # there is no one to tell
        assert (done.returncode in (0, 1), done.stderr.replace("Wrote 1 exchange to -\n", "")) == (True, "")


@pytest.mark.parametrize(
    ("closed", "arguments", "code"),
    [
        ("<&-", ("show", "-"), 1),
        (">&-", ("show", "FILE"), 1),
        ("2>&-", ("show", "FILE"), 0),
        (">&-", ("export", "FILE", "-o", "-"), 2),
        ("<&- >&- 2>&-", ("export", "FILE", "-o", "OUT"), 0),
    ],
)
def test_standard_streams_that_are_closed(
    tmp_path: Path, closed: str, arguments: tuple[str, ...], code: int
) -> None:
    """Their numbers are nobody else's: a message does not land in the archive."""
    names = {"FILE": conversation(tmp_path / "whole.pcap"), "OUT": tmp_path / "out.har"}
    script = f'"$@" {closed}'
    command = [str(PLAINTAP), *(str(names.get(word, word)) for word in arguments)]
    done = subprocess.run(["sh", "-c", script, "sh", *command], capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    if "OUT" in arguments:
        assert len(json.loads(names["OUT"].read_text())["log"]["entries"]) == 1


@pytest.mark.parametrize("command", ["show", "export"])
def test_a_locale_that_is_not_utf_8(tmp_path: Path, command: str) -> None:
    path = conversation(tmp_path / "wörld.pcap")
    locale = {
        "LC_ALL": "C",
        "PYTHONUTF8": "0",
        "PYTHONCOERCECLOCALE": "0",
        "PYTHONIOENCODING": "ascii:strict",
    }
    done = subprocess.run(
        [PLAINTAP, command, os.fsencode(path)], env=os.environ | locale, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert b"Traceback" not in done.stderr


@pytest.mark.parametrize("arguments", [(), ("no-such-command",), ("export",), ("show", "--no-such-option")])
def test_usage_errors_exit_with_2(arguments: tuple[str, ...]) -> None:
    done = plaintap(*arguments, seconds=30)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("command", ["record", "export", "show"])
def test_every_command_has_help_with_an_example(command: str) -> None:
    done = plaintap(command, "--help", seconds=30)
    assert done.returncode == 0
    assert f"plaintap {command} " in done.stdout
