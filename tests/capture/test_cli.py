"""The command line itself: help with examples, formats, and errors that name the thing."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from processes import PLAINTAP
from recording import plaintap

from capture import doctor
from capture.cli import COMMANDS, main
from capture.console import say
from capture.ledger import Account, Ledger
from capture.output_file import beside
from capture.streams import Data, Endpoint, Side, StreamOpened
from exporters.packets import PcapngExporter
from exporters.pcapng import SectionMetadata

README = Path(__file__).parents[2] / "README.md"
NOTHING = Account(0, 0, 0, 0, 0, {})


@pytest.fixture(scope="module")
def capture(tmp_path_factory) -> Path:
    """A capture of one exchange with a credential."""
    path = tmp_path_factory.mktemp("cli") / "a.pcapng"
    request = b"GET /a?token=t0p HTTP/1.1\r\nHost: h\r\nAuthorization: Basic c2VjcmV0\r\n\r\n"
    response = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Type: text/plain\r\n\r\nhello"
    ends = Endpoint(b"\x0a\0\0\1", 40000), Endpoint(b"\x0a\0\0\2", 80)
    with path.open("wb") as file:
        exporter = PcapngExporter(file.write, SectionMetadata("test"))
        exporter.write(StreamOpened(1, 10**18, 10**18 + 1, *ends, Side.CLIENT, handshake_seen=True))
        exporter.write(Data(1, 10**18 + 2, Side.CLIENT, request))
        exporter.write(Data(1, 10**18 + 3, Side.SERVER, response))
        exporter.finish()
    return path


@pytest.mark.parametrize("name", COMMANDS)
def test_help_ends_its_prose_with_examples_and_explains_every_option(name):
    done = plaintap(name, "--help")
    assert done.returncode == 0
    prose = done.stdout.split("Options:")[0]
    assert re.search(rf"Examples:\n(\s+.*plaintap {name}.*\n)+", prose)
    for parameter in main.get_command(click.Context(main), name).params:
        if isinstance(parameter, click.Option):
            assert parameter.help
            assert parameter.opts[0] in done.stdout


@pytest.mark.parametrize("name", COMMANDS)
def test_the_readme_knows_every_command(name):
    assert f"plaintap {name}" in README.read_text()


@pytest.mark.parametrize(
    ("form", "ending"), [("har", ".har"), ("jsonl", ".jsonl"), ("curl", ".sh"), ("text", ".txt")]
)
def test_each_format_has_its_ending(capture, form, ending):
    done = plaintap("export", "--format", form, capture)
    assert done.returncode == 0, done.stderr
    written = capture.with_suffix(ending)
    assert f"Wrote 1 exchange to {written}" in done.stderr
    assert done.stdout == ""
    assert "c2VjcmV0" not in written.read_text()
    assert written.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("a.pcapng", "a.har"),
        ("x/a.pcap.gz", "x/a.har"),
        ("a.b.zst", "a.har"),
        ("a", "a.har"),
        ("a.gz", "a.har"),
        (".", "capture.har"),
        ("-", "-"),
    ],
)
def test_the_archive_of_a_packed_capture_is_named_as_that_of_the_capture(source, name):
    assert beside(source, ".har") == name


@pytest.fixture(scope="module")
def damaged(tmp_path_factory) -> Path:
    """A capture that ends in a request's first bytes, a body's, and what is no block."""
    path = tmp_path_factory.mktemp("damaged") / "b.pcapng"
    with path.open("wb") as file:
        exporter = PcapngExporter(file.write, SectionMetadata("test"))
        for stream, request in enumerate((b"GET /whole HTTP/1.1\r\nHost: h\r\n\r\n", b"GE"), 1):
            ends = Endpoint(b"\x0a\0\0\1", 40000 + stream), Endpoint(b"\x0a\0\0\2", 80)
            exporter.write(StreamOpened(stream, 10**18, 10**18 + 1, *ends, Side.CLIENT, handshake_seen=True))
            exporter.write(Data(stream, 10**18 + 2, Side.CLIENT, request))
        exporter.write(Data(1, 10**18 + 3, Side.SERVER, b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhel"))
        exporter.flush()
        file.write(b"\x06\0\0\0\x03\0\0\0" * 4)
    return path


@pytest.mark.parametrize("arguments", [("show",), ("export", "-o", "-")])
def test_what_comes_before_the_damage_is_shown_and_what_could_not_be_read_is_said(damaged, arguments):
    done = plaintap(*arguments, damaged)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "/whole" in done.stdout
    assert "Note: of what may be HTTP: bytes that could not be read: 2." in done.stderr


def test_lines_can_be_piped_to_jq(capture):
    done = plaintap("export", "--format", "jsonl", "-o", "-", capture)
    (line,) = done.stdout.splitlines()
    assert json.loads(line)["request"]["url"].endswith("/a?token=t0p")


def test_a_command_that_is_exported_can_be_parsed_by_a_shell(capture):
    done = plaintap("export", "--format", "curl", "--sensitive", "-o", "-", capture)
    subprocess.run(["sh", "-n", "-c", done.stdout], check=True)
    assert "Basic c2VjcmV0" in done.stdout


@pytest.mark.parametrize(
    ("options", "present", "absent"),
    [
        ((), "t0p", "c2VjcmV0"),
        (("--sensitive",), "c2VjcmV0", "(redacted)"),
        (("--redact", "token"), "(redacted)", "t0p"),
        (("--no-bodies",), "t0p", "hello"),
        (("--max-body", "2"), '"he"', "hello"),
    ],
)
def test_what_is_shown_is_chosen(capture, options, present, absent):
    done = plaintap("export", *options, "-o", "-", capture)
    assert done.returncode == 0, done.stderr
    assert present in done.stdout
    assert absent not in done.stdout


@pytest.mark.parametrize(
    ("options", "count"),
    [
        (("--method", "get"), 1),
        (("--method", "POST"), 0),
        (("--status", "2xx"), 1),
        (("--status", "404"), 0),
        (("--url", "*token=*"), 1),
        (("--url", "*nothing*"), 0),
        (("--host", "h"), 1),
        (("--pid", "1"), 0),
    ],
)
def test_exchanges_are_chosen(capture, options, count):
    done = plaintap("export", *options, "-o", "-", capture)
    assert len(json.loads(done.stdout)["log"]["entries"]) == count


def test_a_status_that_is_none_is_named(capture):
    done = plaintap("export", "--status", "many", "-o", "-", capture)
    assert done.returncode == 2
    assert "many" in done.stderr


def test_a_live_archive_needs_a_file_to_follow(tmp_path):
    done = plaintap("record", "-w", "-", "--har", tmp_path / "a.har", "-d", "1")
    assert done.returncode == 2
    assert "--har" in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize("how", ["by name", "by default", "hard link", "symbolic link", "stdin", "stdout"])
def test_an_export_does_not_write_over_what_it_reads(capture, tmp_path, how):
    source, other = tmp_path / "a.har", tmp_path / "b.har"
    before = capture.read_bytes()
    source.write_bytes(before)
    if how == "hard link":
        other.hardlink_to(source)
    elif how == "symbolic link":
        other.symlink_to(source)
    arguments = {
        "by name": [source, "-o", source],
        "by default": [source],
        "stdin": ["-", "-o", source],
        "stdout": [source, "-o", "-"],
    }.get(how, [source, "-o", other])
    with source.open("rb") as stdin, source.open("ab") as stdout:
        done = subprocess.run(
            [PLAINTAP, "export", *arguments],
            stdin=stdin, stdout=stdout if how == "stdout" else subprocess.PIPE, stderr=subprocess.PIPE,
            text=True, check=False,
        )  # fmt: skip
    assert done.returncode == 2, done.stderr
    assert source.read_bytes() == before
    for name in (arguments[0], arguments[-1]):
        assert str(name) in done.stderr


@pytest.mark.parametrize(
    "options", [("-w", "X", "--har", "X"), ("-w", "X", "--ledger", "X"), ("--har", "X", "--ledger", "X")]
)
def test_a_recording_s_outputs_are_different_files(tmp_path, options):
    old = tmp_path / "X"
    old.write_text("old")
    capture = () if "-w" in options else ("-w", tmp_path / "Y")
    done = plaintap("record", *capture, *(o.replace("X", str(old)) for o in options), "--", "true")
    assert done.returncode == 2, done.stderr
    assert old.read_text() == "old"
    assert all(f"{option} {old}" in done.stderr for option in options[::2])
    assert not (tmp_path / "Y").exists()


@pytest.mark.parametrize(
    "options", [("--redact", "token"), ("--sensitive",), ("--no-bodies",), ("--max-body", "0")]
)
def test_what_an_archive_shows_is_not_asked_of_a_capture(tmp_path, options):
    done = plaintap("record", "-w", tmp_path / "a.pcapng", *options, "--", "true")
    assert done.returncode == 2, done.stderr
    assert options[0] in done.stderr
    assert "--har" in done.stderr
    assert not (tmp_path / "a.pcapng").exists()
    help_text = " ".join(plaintap("record", "--help").stdout.split())
    assert re.search(rf"{options[0]} [^.]* of --har\.", help_text)


def test_bytes_that_found_no_connection_in_the_file_are_told(monkeypatch, tmp_path):
    class Late:
        """Records bytes of a connection that is over."""

        def __init__(self, plan, exporter, say):
            self._exporter = exporter

        def run(self):
            self._exporter.write(Data(7, 10**18, Side.CLIENT, b"too late"))
            ledger = Ledger(NOTHING, NOTHING, 0, 0, 0, 0, 0, ())
            self._exporter.finish(ledger)
            return ledger

    monkeypatch.setattr("capture.commands.record.Recorder", Late)
    path, account = tmp_path / "a.pcapng", tmp_path / "ledger.json"
    arguments = ["-w", str(path), "--ledger", str(account)]
    said = CliRunner().invoke(main, ["record", *arguments]).output
    told = "8 bytes came after the end of their connection had been written"
    assert f"Warning: {told}" in said
    assert json.loads(account.read_text())["orphan_bytes"] == 8
    assert told.encode() in path.read_bytes()


ESCAPE = "\x1b]0;gotcha\x07\x9b2J"
ESCAPED = r"\x1b]0;gotcha\x07\x9b2J"


def test_what_others_call_themselves_is_nothing_that_a_terminal_obeys(monkeypatch, capsys):
    """A process's name and a file's may hold any bytes."""
    monkeypatch.setattr(doctor, "examine_machine", lambda: [doctor.Check("kernel", "6.1", None)])
    finding = doctor.Finding(1, ESCAPE, f"/tmp/{ESCAPE}", "OpenSSL", "3", f"{ESCAPE} is missed")
    monkeypatch.setattr(doctor, "examine_processes", lambda *_: [finding])
    said = CliRunner().invoke(main, ["doctor"]).output
    assert said.count(ESCAPED) == 3
    assert ESCAPE[0] not in said
    say(f"Warning: /tmp/{ESCAPE}: no probes.\nMore.")
    assert capsys.readouterr().err == f"Warning: /tmp/{ESCAPED}: no probes.\nMore.\n"


@pytest.mark.parametrize(
    "options", [("-d", "nan"), ("-d", "0"), ("--ring-size", "0"), ("--ring-size", str((1 << 31) + 1))]
)
def test_a_number_that_cannot_be_meant_is_wrong_usage(tmp_path, options):
    done = plaintap("record", "-w", tmp_path / "a.pcapng", *options, "--", "true")
    assert done.returncode == 2, done.stderr
    assert options[0] in done.stderr
    assert options[1].split(".")[0] in done.stderr
    assert not (tmp_path / "a.pcapng").exists()


@pytest.mark.parametrize(
    "option", ["--comm", "--user", "--host", "--cgroup", "--container", "--exclude-comm"]
)
def test_an_empty_target_is_a_variable_that_was_not_set(tmp_path, option):
    """Not the root of all control groups, nor a name that no process has."""
    done = plaintap("record", "-w", tmp_path / "a.pcapng", option, "", "--", "true")
    assert done.returncode == 2, done.stderr
    assert option in done.stderr
    assert not (tmp_path / "a.pcapng").exists()
